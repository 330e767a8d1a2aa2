"""The local cluster's registry, with kaito's own pusher and puller."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import aiohttp
import pytest

from kaito.devcluster.registry import registry
from kaito.oci import Keychain, OciError, Reference, pull, push

LOGIN = ("user", "pa:ss")


def keychain(folder: Path, host: str) -> Keychain:
    folder.mkdir()
    auth = base64.b64encode(":".join(LOGIN).encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    return Keychain.load([folder])


async def test_what_is_pushed_is_pulled(tmp_path: Path) -> None:
    source, blobs = tmp_path / "source", tmp_path / "blobs"
    source.mkdir()
    blobs.mkdir()
    (source / "weights").write_bytes(bytes(range(256)) * 4096)
    async with registry(blobs, LOGIN) as host:
        image = Reference.parse(f"{host}/team/adapter:v1")
        keys = keychain(tmp_path / "login", host)
        pushed = await push(source, image, keys)
        assert (await push(source, image, keys)).digest == pushed.digest
        await pull(image, tmp_path / "pulled", keys)
        with pytest.raises(OciError):
            await pull(image, tmp_path / "refused", Keychain())
        with pytest.raises(OciError):
            await pull(Reference.parse(f"{host}/team/adapter:v2"), tmp_path / "absent", keys)
    assert (tmp_path / "pulled" / "weights").read_bytes() == (source / "weights").read_bytes()


async def test_what_is_not_what_it_says_is_refused(tmp_path: Path) -> None:
    async with registry(tmp_path) as host, aiohttp.ClientSession(f"http://{host}") as session:
        async with session.post("/v2/a/b/blobs/uploads/") as begun:
            assert begun.status == 202
        async with session.put(begun.headers["Location"], params={"digest": "sha256:" + "0" * 64}, data=b"x") as answer:
            assert (answer.status, (await answer.json())["errors"][0]["code"]) == (400, "DIGEST_INVALID")
        async with session.get("/v2/a/b/blobs/sha256:..%2f..%2fetc") as answer:
            assert answer.status == 404
        async with session.put("/v2/a/b/blobs/uploads/none", data=b"x") as answer:
            assert answer.status == 404
    assert list(tmp_path.iterdir()) == []
