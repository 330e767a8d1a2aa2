"""``kaito-inference``: the model server as a program."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

from kaito.termination import Termination, leave

if TYPE_CHECKING:
    import socket

    from kaito.inference.adapters import Models
    from kaito.inference.settings import Settings

log = logging.getLogger("kaito.inference")

_LEAVING = 3.0
"""Seconds after the time for running requests in which the process has to be gone."""


def main() -> NoReturn:
    """Exits with 0 after SIGTERM, 1 where the model cannot be served and 2 where a setting cannot work."""
    status = 1
    try:
        status = run(sys.argv[1:], os.environ, Termination(0))
    except Exception:
        log.exception("the server failed")
    finally:
        # A model that is half loaded is nothing to wait for.
        leave(status)


def run(arguments: Sequence[str], environ: Mapping[str, str], termination: Termination) -> int:
    from kaito.inference import adapters
    from kaito.inference.errors import ConfigError, ServerError
    from kaito.inference.hugepages import ask_for_huge_pages
    from kaito.inference.settings import parse

    level = logging.DEBUG if environ.get("DEBUG_MODE", "").lower() == "true" else logging.INFO
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        settings = parse(arguments, environ)
        if settings.engine == "openvino":
            ask_for_huge_pages(environ)
        models = adapters.Models(settings.name, adapters.discover(settings.adapters_dir, environ))
        for name in adapters.empty(settings.adapters_dir):
            log.warning("%s/%s holds no %s: not an adapter", settings.adapters_dir, name, adapters.CONFIG_FILE)
        if settings.engine == "vllm":
            from kaito.inference.engines.vllm import run as become_vllm

            become_vllm(settings, models, environ, termination)
        from kaito.inference.server import listen

        asyncio.run(_serve(settings, models, listen(settings), termination))
    except ServerError as error:
        log.error("%s", error)  # noqa: TRY400  # the words say it all
        return 2 if isinstance(error, ConfigError) else 1
    return 0


async def _serve(settings: Settings, models: Models, listener: socket.socket, termination: Termination) -> None:
    from kaito.inference import engines
    from kaito.inference.server import Server
    from kaito.inference.service import Service

    if settings.stand_in:
        log.warning("%s stands in for %s: the answers are its own", settings.stand_in, settings.name)
    server = Server(Service(engines.create(settings), models, max_queue=settings.max_queue), settings, listener)
    loop = asyncio.get_running_loop()
    termination.ask(lambda: loop.call_soon_threadsafe(server.stop), within=settings.drain_timeout + _LEAVING)
    await server.run()


if __name__ == "__main__":
    main()
