"""Pushing and pulling, with a registry that does as told and with Debian's."""

from __future__ import annotations

import base64
import gzip
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kaito.oci import (
    ArchiveError,
    AuthError,
    ImageNotFound,
    IntegrityError,
    Keychain,
    Reference,
    RegistryError,
    pull,
    push,
)
from support.docker_registry import docker_registry
from support.registry import PASSWORD, USER, Registry, digest, registry


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kaito.oci.registry.PAUSE", 0.001)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"r": 8}')
    (folder / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 400)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def keychain(tmp_path: Path, name: str, password: str = PASSWORD) -> Keychain:
    auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"auths": {name: {"auth": auth}}}))
    return Keychain.load([file])


def named(held: Registry, tag: str = "v1") -> Reference:
    return Reference.parse(f"{held.name}/team/adapter:{tag}")


@pytest.mark.parametrize("auth", ["", "basic", "bearer"])
async def test_what_is_pushed_comes_back_the_same(tmp_path: Path, adapter: Path, auth: str) -> None:
    async with registry(auth) as held:
        keys = keychain(tmp_path, held.name)
        pushed = await push(adapter, named(held), keys, annotations={"sh.kaito.model.name": "phi-3"})
        again = await push(adapter, named(held, "v2"), keys, annotations={"sh.kaito.model.name": "phi-3"})
        assert pushed.uploaded
        assert not again.uploaded, "the registry has the layer already"
        assert again.digest == pushed.digest, "the same files are the same image"
        for reference in (named(held), Reference.parse(f"{held.name}/team/adapter@{pushed.digest}")):
            target = tmp_path / reference.version.replace(":", "-")
            pulled = await pull(reference, target, keys)
            assert content(target) == content(adapter)
            assert (pulled.digest, pulled.files) == (pushed.digest, 2)
        index = json.loads(held.manifests["v1"][0])
        assert {entry["platform"]["architecture"] for entry in index["manifests"]} == {"amd64", "arm64"}
        assert index["annotations"] == {"sh.kaito.model.name": "phi-3"}
    if auth == "bearer":
        assert set(held.scopes) == {"repository:team/adapter:pull,push"}


@pytest.mark.parametrize("auth", ["basic", "bearer"])
async def test_a_wrong_password_is_said_and_not_shown(tmp_path: Path, adapter: Path, auth: str) -> None:
    async with registry(auth) as held:
        for keys in (keychain(tmp_path, held.name, "wrong-secret"), Keychain()):
            with pytest.raises(AuthError, match=r"check the registry's secret") as caught:
                await push(adapter, named(held), keys)
            assert "wrong-secret" not in str(caught.value)
        assert held.manifests == {}


async def test_a_large_blob_goes_in_pieces(tmp_path: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kaito.oci.registry.CHUNK", 1000)
    (adapter / "noise").write_bytes(random_bytes(5000))
    async with registry() as held:
        await push(adapter, named(held), Keychain())
        assert sum(method == "PATCH" for method, _ in held.requests) >= 5
        await pull(named(held), tmp_path / "back", Keychain())
    assert content(tmp_path / "back") == content(adapter)


def random_bytes(count: int) -> bytes:
    import random

    return random.Random(1).randbytes(count)


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "GET"])
async def test_what_passes_is_tried_again(tmp_path: Path, adapter: Path, method: str) -> None:
    async with registry() as held:
        held.failures[method] = 2
        await push(adapter, named(held), Keychain())
        await pull(named(held), tmp_path / "back", Keychain())
        assert held.failures[method] == 0
    assert content(tmp_path / "back") == content(adapter)


async def test_what_does_not_pass_is_given_up_and_leaves_nothing(tmp_path: Path, adapter: Path) -> None:
    async with registry() as held:
        await push(adapter, named(held), Keychain())
        held.failures["GET"] = 1000
        with pytest.raises(RegistryError, match=r"given up after 5 attempts.*503: try later"):
            await pull(named(held), tmp_path / "back", Keychain())
    assert not (tmp_path / "back").exists()
    with pytest.raises(RegistryError, match="given up after 5 attempts"):
        await pull(named(held), tmp_path / "back", Keychain())


async def test_a_download_that_breaks_off_goes_on_where_it_was(tmp_path: Path, adapter: Path) -> None:
    (adapter / "noise").write_bytes(random_bytes(50_000))
    async with registry() as held:
        await push(adapter, named(held), Keychain())
        held.cut = 20_000
        before = len(held.requests)
        await pull(named(held), tmp_path / "back", Keychain())
        assert sum("/blobs/" in path for _, path in held.requests[before:]) == 2
    assert content(tmp_path / "back") == content(adapter)


@pytest.mark.parametrize(
    ("lie", "complaint"),
    [
        (lambda data: data[:-1] + b"?" if data[:2] == b"\x1f\x8b" else data, "where .* was asked for"),
        (lambda data: data + b"more" if data[:2] == b"\x1f\x8b" else data, "larger than"),
        (lambda data: b'{"layers": []}', "asked for|no layers"),
        (lambda data: b"not json" if data[:1] == b"{" else data, "asked for|not JSON"),
        (lambda data: b" " * (5 << 20), "more than 4 MiB"),
    ],
    ids=["other bytes", "more bytes", "no layers", "no manifest", "an endless manifest"],
)
async def test_a_registry_that_lies_is_found_out(tmp_path: Path, adapter: Path, lie: object, complaint: str) -> None:
    async with registry() as held:
        await push(adapter, named(held), Keychain())
        held.lie = lie  # type: ignore[assignment]
        with pytest.raises(IntegrityError, match=complaint):
            await pull(named(held), tmp_path / "back", Keychain())
    assert not (tmp_path / "back").exists()


async def test_a_push_that_arrives_as_something_else_is_an_error(adapter: Path) -> None:
    async with registry() as held:
        held.lie = lambda data: data + b"?"
        with pytest.raises(IntegrityError, match="the registry calls"):
            await push(adapter, named(held), Keychain())


async def test_what_is_not_there_and_what_is_in_the_way(tmp_path: Path, adapter: Path) -> None:
    async with registry() as held:
        with pytest.raises(ImageNotFound, match="manifest unknown"):
            await pull(named(held), tmp_path / "back", Keychain())
        await push(adapter, named(held), Keychain())
        with pytest.raises(ArchiveError, match="not empty"):
            await pull(named(held), adapter, Keychain())
        with pytest.raises(ArchiveError, match="no folder /models"):
            await pull(named(held), tmp_path / "back", Keychain(), path="/models")
        with pytest.raises(ArchiveError, match="more than is allowed"):
            await pull(named(held), tmp_path / "back", Keychain(), max_unpacked=10)
    assert content(adapter).keys() == {"adapter_config.json", "adapter_model.safetensors"}


async def test_an_image_that_docker_has_built_is_pulled(tmp_path: Path) -> None:
    """Docker's own media types, several layers, a whiteout, and a folder that is a mount of its own and has to stay."""
    async with registry() as held:
        layers = []
        for entries in ({"data/a": b"1", "data/b": b"1"}, {"data/.wh.a": b"", "data/c": b"2"}):
            plain = io.BytesIO()
            with tarfile.open(fileobj=plain, mode="w") as tar:
                for name, data in entries.items():
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
            blob = gzip.compress(plain.getvalue())
            held.blobs[digest(blob)] = blob
            kind = "application/vnd.docker.image.rootfs.diff.tar.gzip"
            layers.append({"mediaType": kind, "digest": digest(blob), "size": len(blob)})
        kind = "application/vnd.docker.distribution.manifest.v2+json"
        held.manifests["v1"] = (json.dumps({"schemaVersion": 2, "layers": layers}).encode(), kind)
        target = tmp_path / "mount"
        target.mkdir()
        await pull(named(held), target, Keychain())
    assert content(target) == {"b": b"1", "c": b"2"}


# A real registry


@pytest.fixture
def real_registry(tmp_path: Path) -> Iterator[str]:
    with docker_registry(tmp_path) as address:
        yield address


async def test_a_real_registry_takes_it_and_gives_it_back(tmp_path: Path, adapter: Path, real_registry: str) -> None:
    reference = Reference.parse(f"{real_registry}/team/adapter:v1")
    keys = keychain(tmp_path, real_registry)
    pushed = await push(adapter, reference, keys)
    again = await push(adapter, reference, keys)
    assert (again.digest, again.uploaded) == (pushed.digest, False)
    await pull(Reference.parse(f"{real_registry}/team/adapter@{pushed.digest}"), tmp_path / "back", keys)
    assert content(tmp_path / "back") == content(adapter)
    with pytest.raises(AuthError):
        await pull(reference, tmp_path / "other", keychain(tmp_path, real_registry, "wrong"))
    with pytest.raises(ImageNotFound):
        await pull(Reference.parse(f"{real_registry}/team/none:v1"), tmp_path / "other", keys)
