"""Push a directory as an image, pull an image into a directory."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kaito.oci.archive import Layer, Unpacker, build_layer
from kaito.oci.credentials import Keychain
from kaito.oci.errors import ArchiveError, IntegrityError
from kaito.oci.reference import DIGEST, Reference
from kaito.oci.registry import Repository, connect
from kaito.scratch import Scratch

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
_DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_ACCEPT = ", ".join((INDEX, MANIFEST, _DOCKER_LIST, _DOCKER_MANIFEST))
_LAYERS = (LAYER, "application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar.gzip")
ARCHITECTURES = ("amd64", "arm64")
DATA = "data"
"""The folder of an image that adapters and datasets are in."""
MAX_UNPACKED = 256 << 30
"""Bytes that an image may unpack to where nothing else is said."""

Say = Callable[[str], None]


def _nothing(_: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Pushed:
    digest: str
    """Of the image's index: what pins it."""
    size: int
    """Bytes of the layer."""
    uploaded: bool
    """False where the registry had the layer already."""


@dataclass(frozen=True, slots=True)
class Pulled:
    digest: str
    """Of what the reference names."""
    files: int


async def push(
    source: Path,
    reference: Reference,
    keychain: Keychain,
    *,
    annotations: Mapping[str, str] | None = None,
    plain: bool = False,
    say: Say = _nothing,
) -> Pushed:
    """Push the files of ``source`` as the image ``reference``. Raises OciError.

    Nothing but the last step makes the image visible, so that a push that ends early leaves no half of one.
    """
    login = keychain.login(reference.registry)
    with Scratch("oci") as work:
        layer = await asyncio.to_thread(build_layer, source, work / "layer.tar.gz", prefix=DATA)
        async with connect(reference, login, plain=plain) as repository:
            say(f"{reference}: layer of {_mb(layer.size)}")
            uploaded = await repository.upload(layer.path, layer.digest)
            manifests = [
                await _put_platform(repository, layer, architecture, annotations or {})
                for architecture in ARCHITECTURES
            ]
            index = _json({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests} | _noted(annotations or {}))
            await repository.put_manifest(reference.tag or _digest(index), index, INDEX)
    return Pushed(_digest(index), layer.size, uploaded)


async def _put_platform(
    repository: Repository, layer: Layer, architecture: str, annotations: Mapping[str, str]
) -> dict[str, Any]:
    config = _json(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        }
    )
    await repository.upload(config, _digest(config))
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": _digest(config), "size": len(config)},
            "layers": [{"mediaType": LAYER, "digest": layer.digest, "size": layer.size}],
        }
        | _noted(annotations)
    )
    await repository.put_manifest(_digest(manifest), manifest, MANIFEST)
    return {
        "mediaType": MANIFEST,
        "digest": _digest(manifest),
        "size": len(manifest),
        "platform": {"architecture": architecture, "os": "linux"},
    }


async def pull(
    reference: Reference,
    target: Path,
    keychain: Keychain,
    *,
    path: str = DATA,
    plain: bool = False,
    max_unpacked: int = MAX_UNPACKED,
    say: Say = _nothing,
) -> Pulled:
    """Bring what the image has under ``path`` into ``target``, which is made, or must be empty. Raises OciError.

    ``target`` has all of it in the end, or nothing.
    """
    login = keychain.login(reference.registry)
    with _staging(target) as work:
        async with connect(reference, login, plain=plain) as repository:
            manifest, digest = await _resolve(repository, reference)
            root = work / "root"
            root.mkdir()
            unpacker = Unpacker(root, limit=max_unpacked)
            for number, layer in enumerate(_layers(manifest, reference), start=1):
                say(f"{reference}: layer {number} of {_mb(layer['size'])}")
                archive = work / "layer"
                await repository.download(layer["digest"], layer["size"], archive)
                await asyncio.to_thread(unpacker.unpack, archive)
                archive.unlink()
        return Pulled(digest, _take_over(root, path, target, reference))


@contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """A folder to work in, within ``target``: that may be a mount of its own, and only so can files be moved there rather
    than copied. After an error ``target`` is as it was."""
    made = not target.exists()
    target.mkdir(parents=True, exist_ok=True)
    if any(target.iterdir()):
        raise ArchiveError(f"{target} is not empty: name a new or an empty directory")
    work = Path(tempfile.mkdtemp(prefix=".kaito-oci-", dir=target))
    try:
        yield work
    except BaseException:
        for item in target.iterdir():
            _remove(item)
        if made:
            target.rmdir()
        raise
    _remove(work)


def _take_over(root: Path, path: str, target: Path, reference: Reference) -> int:
    """Move what is under ``path`` of the image at ``root``; how many files that are."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    found = root.joinpath(*parts)
    if ".." in parts or found.is_symlink() or not found.is_dir():
        raise ArchiveError(f"{reference} has no folder /{'/'.join(parts)}")
    files = sum(1 for item in found.rglob("*") if not item.is_dir())
    for item in sorted(found.iterdir()):
        item.rename(target / item.name)
    return files


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


async def _resolve(repository: Repository, reference: Reference) -> tuple[dict[str, Any], str]:
    """The manifest for Linux, of whatever processor: the files are the same on all."""
    body, digest = await repository.manifest(reference.version, _ACCEPT)
    document = _parsed(body, reference)
    for _ in range(2):
        entries = document.get("manifests")
        if not isinstance(entries, list):
            return document, digest
        chosen = [entry for entry in entries if isinstance(entry, dict) and _fits(entry)]
        if not chosen:
            raise IntegrityError(f"{reference} is an index without an image for Linux")
        version = str(chosen[0].get("digest"))
        if not DIGEST.match(version):
            raise IntegrityError(f"{reference}: {version!r} is not a digest")
        body, _digest_of_image = await repository.manifest(version, _ACCEPT)
        document = _parsed(body, reference)
    raise IntegrityError(f"{reference} is an index of indexes")


def _fits(entry: Mapping[str, Any]) -> bool:
    platform = entry.get("platform") or {}
    return platform.get("os", "linux") == "linux" and "vnd.docker.reference.type" not in (
        entry.get("annotations") or {}
    )


def _parsed(body: bytes, reference: Reference) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except ValueError:
        raise IntegrityError(f"{reference}: its manifest is not JSON") from None
    if not isinstance(document, dict):
        raise IntegrityError(f"{reference}: its manifest is not an object")
    return document


def _layers(manifest: Mapping[str, Any], reference: Reference) -> list[dict[str, Any]]:
    layers = manifest.get("layers")
    if not isinstance(layers, list) or not layers:
        raise IntegrityError(f"{reference} has no layers: it is not an image")
    for layer in layers:
        known = isinstance(layer, dict) and isinstance(layer.get("size"), int) and layer["size"] >= 0
        if not known or not DIGEST.match(str(layer.get("digest"))):
            raise IntegrityError(f"{reference}: its manifest describes a layer without digest or size")
        if layer.get("mediaType") not in _LAYERS:
            raise ArchiveError(
                f"{reference}: a layer is of the type {layer.get('mediaType')!r}, which cannot be unpacked here"
            )
    return layers


def _noted(annotations: Mapping[str, str]) -> dict[str, Any]:
    return {"annotations": dict(sorted(annotations.items()))} if annotations else {}


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
