"""What a manager is told when it is made, and what it runs beside its controllers."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kaito.runtime.cache.cache import SYNC_TIMEOUT
from kaito.runtime.manager.elector import ElectionConfig


@dataclass(frozen=True, slots=True)
class ManagerOptions:
    metrics_address: str = ":8080"
    """``host:port`` of ``/metrics``; "0" for none."""
    metrics_secure: bool = False
    """Serve metrics over TLS, and only to those whom the cluster lets ``get`` their path."""
    metrics_certificates: Path | None = None
    """Folder with ``tls.crt`` and ``tls.key`` for secure metrics; None for a certificate made at the start."""
    health_address: str = ":8081"
    """``host:port`` of ``/healthz``, ``/readyz`` and ``/debug/tasks``; "0" for none."""
    election: ElectionConfig | None = None
    """None: this process leads from the start."""
    grace_period: float = 30.0
    """Seconds for reconciles in progress to end when the manager stops. One second later the process is ended."""
    sync_timeout: float = SYNC_TIMEOUT
    field_manager: str = "kaito"
    """Owner of the fields that the manager's clients write, in ``managedFields`` and for server-side apply."""
    own_process: bool = False
    """This process runs nothing but the manager, which may set up its memory: what has been loaded when its caches have
    synced is left out of garbage collections, which would hold the event loop longer the more that is; buffers are kept, and
    pages are large."""
    namespaces: Sequence[str] = ()
    """Namespaces that the cache holds where nothing else is said; empty for all of them."""


class Server(Protocol):
    """Serves the cluster rather than this process, such as ``WebhookServer``."""

    async def start(self) -> None: ...

    async def run(self) -> None:
        """Keep up to date what it serves with, until cancelled."""
        ...

    async def check(self) -> None:
        """Raises where it cannot be reached."""
        ...

    async def stop(self) -> None:
        """Also called where ``start`` was not, or failed."""
        ...


def default_identity() -> str:
    """``hostname_uuid``: unique for each process."""
    return f"{socket.gethostname()}_{uuid.uuid4()}"
