"""``kaito-inference``: the model server as a program."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from kaito.inference import adapters
from kaito.inference.adapters import Models
from kaito.inference.errors import ConfigError, ServerError
from kaito.inference.settings import Settings, parse

if TYPE_CHECKING:
    import socket

log = logging.getLogger("kaito.inference")


def main() -> None:
    """Exits with 0 after SIGTERM, 1 where the model cannot be served and 2 where a setting cannot work."""
    sys.exit(run(sys.argv[1:], os.environ))


def run(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    level = logging.DEBUG if environ.get("DEBUG_MODE", "").lower() == "true" else logging.INFO
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        settings = parse(arguments, environ)
        models = Models(settings.name, adapters.discover(settings.adapters_dir, environ))
        for name in adapters.empty(settings.adapters_dir):
            log.warning("%s/%s holds no %s: not an adapter", settings.adapters_dir, name, adapters.CONFIG_FILE)
        if settings.engine == "vllm":
            from kaito.inference.engines.vllm import run as become_vllm

            become_vllm(settings, models, environ)
            return 0
        from kaito.inference.server import listen

        asyncio.run(_serve(settings, models, listen(settings)))
    except ServerError as error:
        log.error("%s", error)  # noqa: TRY400  # the words say it all
        return 2 if isinstance(error, ConfigError) else 1
    return 0


async def _serve(settings: Settings, models: Models, listener: socket.socket) -> None:
    from kaito.inference import engines
    from kaito.inference.server import Server
    from kaito.inference.service import Service

    if settings.stand_in:
        log.warning("%s stands in for %s: the answers are its own", settings.stand_in, settings.name)
    server = Server(Service(engines.create(settings), models, max_queue=settings.max_queue), settings, listener)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    await server.run()


if __name__ == "__main__":
    main()
