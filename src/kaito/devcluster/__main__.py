"""``python -m kaito.devcluster``: a local cluster in the foreground, until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kaito.devcluster.cluster import ClusterFailed, ClusterOptions, LocalCluster
from kaito.devcluster.kubelet import images_that_run
from kaito.devcluster.process import end_operator
from kaito.devcluster.state import Running, StateFolder
from kaito.runtime import configure_logging, format_time, get_logger
from kaito.scratch import hold

_log = get_logger("local-cluster")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m kaito.devcluster", description="Run a local cluster in the foreground."
    )
    parser.add_argument("--directory", type=Path, required=True, help="folder for kubeconfig and state")
    parser.add_argument("--port", type=int, default=0, help="port of the API server (default: a free one)")
    parser.add_argument("--attached", action="store_true", help="end when standard input does")
    parser.add_argument("--pretend", action="store_true", help="let every pod only play its part")
    parser.add_argument("--image", action="append", default=[], help="glob of further images with kaito's programs")
    parser.add_argument("--allow-host-commands", action="store_true", help="run the commands of manifests")
    arguments = parser.parse_args()
    configure_logging()
    options = ClusterOptions(
        port=arguments.port,
        images=images_that_run(
            pretend=arguments.pretend, more=arguments.image, host_commands=arguments.allow_host_commands
        ),
    )
    return _runner()(_serve(StateFolder(arguments.directory), options, attached=arguments.attached))


def _runner() -> Callable[[Coroutine[Any, Any, int]], int]:
    if sys.platform == "win32":
        return asyncio.run
    import uvloop

    return uvloop.run


async def _serve(folder: StateFolder, options: ClusterOptions, *, attached: bool) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    folder.create()
    hold(folder.path)
    cluster = LocalCluster(options)
    running = asyncio.create_task(_run(cluster, folder), name="local cluster")
    waits = [running, asyncio.create_task(stopping.wait(), name="signals")]
    if attached:
        waits.append(asyncio.create_task(_end_of_input(), name="standard input"))
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await running
    except (ClusterFailed, OSError) as error:
        _log.error("the local cluster failed", error=str(error), cause=repr(error.__cause__))
        return 1
    finally:
        folder.clear()
        for task in waits:
            task.cancel()
        await asyncio.wait(waits)
        await asyncio.to_thread(end_operator, folder)
        await cluster.stop()
    return 0


async def _run(cluster: LocalCluster, folder: StateFolder) -> None:
    await cluster.start()
    folder.write_kubeconfig(cluster.kubeconfig)
    folder.announce(
        Running(
            pid=os.getpid(),
            server=cluster.server.url,
            cloud=cluster.cloud.url,
            started=format_time(datetime.now(UTC)),
        )
    )
    _log.info("serving", server=cluster.server.url, cloud=cluster.cloud.url)
    await cluster.wait()


async def _end_of_input() -> None:
    """Return when whoever started this process has closed its end of the pipe, or is gone."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    try:
        while await reader.read(4096):
            pass
    finally:
        transport.close()


if __name__ == "__main__":
    sys.exit(main())
