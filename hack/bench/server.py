"""An API server in a process of its own: ``python -m hack.bench.server KUBECONFIG`` until standard input ends."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvloop
import yaml

from kaito.devcluster.apiserver import ApiServer, ApiServerOptions


async def serve(kubeconfig: Path) -> None:
    async with ApiServer(ApiServerOptions(window=200_000, watch_buffer=200_000)) as server:
        staged = kubeconfig.with_suffix(".tmp")
        staged.write_text(yaml.safe_dump(server.kubeconfig()))
        staged.replace(kubeconfig)
        await asyncio.to_thread(sys.stdin.read)


uvloop.run(serve(Path(sys.argv[1])))
