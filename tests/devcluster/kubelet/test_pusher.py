"""What stands in for the pusher beside a trainer."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kaito.devcluster.kubelet.host.watcher import VARIABLE
from kaito.devcluster.registry import registry
from kaito.oci import Keychain, Reference, pull
from kaito.tuning.outcome import ADAPTER, Outcome

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pods are processes on Linux")


@asynccontextmanager
async def pushing(results: Path, image: str, pod: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "kaito.devcluster.kubelet.host.pusher", str(results), image, "phi", str(results / "none"),
        env={**os.environ, "HOME": str(results), VARIABLE: f"{pod}.pusher"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def said(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(30):
        text = (await process.stdout.read()).decode()
        await process.wait()
    return text


async def test_it_pushes_what_is_complete(tmp_path: Path) -> None:
    results, blobs = tmp_path / "results", tmp_path / "blobs"
    results.mkdir()
    blobs.mkdir()
    async with registry(blobs) as host:
        image = f"{host}/team/adapter:v1"
        async with pushing(results, image, tmp_path.name) as process:
            for name in ADAPTER:
                (results / name).write_text(name)
            Outcome(results).complete()
            assert "Upload complete" in await said(process)
            assert process.returncode == 0
        await pull(Reference.parse(image), tmp_path / "pulled", Keychain())
    assert sorted(path.name for path in (tmp_path / "pulled").iterdir()) == sorted(ADAPTER)


async def test_it_ends_with_a_training_that_has_failed(tmp_path: Path) -> None:
    Outcome(tmp_path).fail("there is no data")
    async with pushing(tmp_path, "127.0.0.1:1/a:1", tmp_path.name) as process:
        assert "there is no data" in await said(process)
        assert process.returncode == 1


async def test_it_ends_with_a_training_that_has_gone(tmp_path: Path) -> None:
    mark = {**os.environ, VARIABLE: f"{tmp_path.name}.trainer"}
    trainer = await asyncio.create_subprocess_exec("sleep", "600", env=mark)
    try:
        async with pushing(tmp_path, "127.0.0.1:1/a:1", tmp_path.name) as process:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"the training runs\n"
            trainer.kill()
            await trainer.wait()
            assert "ended without a result" in await said(process)
            assert process.returncode == 1
    finally:
        if trainer.returncode is None:
            trainer.kill()
            await trainer.wait()
