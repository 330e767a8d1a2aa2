"""The emulator as a program of its own: pools come and go, and no Node comes of them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from kaito.devcluster.arm.pools import Pool
from kaito.devcluster.arm.server import ArmEmulator, ArmOptions


async def serve(options: ArmOptions, started: Callable[[str, str], None]) -> None:
    """Serve until SIGINT or SIGTERM; ``started`` is told the URL and the resource id of the cluster. Raises OSError."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with ArmEmulator(options, on_pool_ready=_nothing, on_pool_gone=_nothing) as emulator:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopping.set)
        try:
            started(emulator.url, options.site.cluster_id)
            await stopping.wait()
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)


async def _nothing(pool: Pool) -> None:
    """There is no cluster that the machines could join."""
