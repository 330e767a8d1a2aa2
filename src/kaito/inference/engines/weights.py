"""Where the files of a model are."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from kaito.inference.errors import ConfigError, ModelError

_PACKAGE = "package:"


def template(text: str) -> str:
    """A chat template: ``text`` itself where it is one, else what the file of that name holds. Raises ConfigError."""
    if "{" in text or "\n" in text:
        return text
    try:
        return Path(text).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--chat-template: {text}: cannot be read: {error}") from None


def locate(model: str, *, revision: str = "", patterns: list[str] | None = None) -> Path:
    """The file or directory of ``model``; one that is on the hub is downloaded.

    ``model`` is a path, ``package:NAME`` for the GGUF file in an installed Python package, or ``owner/name`` on the hub, of
    which the files that match ``patterns`` are taken. Raises ModelError.
    """
    if model.startswith(_PACKAGE):
        return _in_package(model.removeprefix(_PACKAGE))
    if not on_hub(model):
        return Path(model)
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise ModelError(f"--model: {model}: is no path, and huggingface_hub is not installed to download it") from None
    try:
        return Path(snapshot_download(model, revision=revision or None, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(f"--model: {model}: cannot be downloaded: {' '.join(str(error).split())}") from error


def on_hub(model: str) -> bool:
    """``model`` is a name on the hub, not something that is here; raises ModelError where it can be neither."""
    path = Path(model)
    if model.startswith(_PACKAGE) or path.exists():
        return False
    if path.is_absolute() or model.count("/") != 1:
        raise ModelError(f"--model: {model}: there is no such file or directory")
    return True


def gguf_in(path: Path) -> Path | None:
    """The GGUF file that is ``path``, or the only one in the directory ``path``."""
    if path.is_file():
        return path if path.suffix == ".gguf" else None
    files = sorted(path.glob("*.gguf"))
    if len(files) > 1:
        raise ModelError(f"--model: {path}: holds {len(files)} GGUF files: name one of them")
    return files[0] if files else None


def _in_package(name: str) -> Path:
    spec = find_spec(name)
    for directory in (spec.submodule_search_locations or ()) if spec else ():
        if found := gguf_in(Path(directory)):
            return found
    raise ModelError(f"--model: {_PACKAGE}{name}: there is no installed package of that name with a GGUF file in it")
