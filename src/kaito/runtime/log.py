"""Structured logs: JSON in a cluster, coloured lines on a terminal, each bound to the reconcile it belongs to."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import MutableMapping
from contextvars import ContextVar
from importlib import import_module
from types import ModuleType
from typing import Any, TextIO, final


def _structlog() -> ModuleType:
    """structlog, loaded when something is logged, which a short command never does.

    It would load rich, where that is installed, for tracebacks that are not printed here.
    """
    if found := sys.modules.get("structlog"):
        return found
    blocked = sys.modules.setdefault("rich", None) is None  # type: ignore[arg-type]  # the documented way to block one
    try:
        return import_module("structlog")
    finally:
        if blocked:
            del sys.modules["rich"]


@final
class ReconcileScope:
    """What a line logged during a reconcile is about."""

    __slots__ = ("_id", "controller", "name", "namespace", "writes")

    def __init__(self, controller: str, namespace: str, name: str, reconcile_id: str = "") -> None:
        self.controller = controller
        self.namespace = namespace
        self.name = name
        self.writes: set[str] = set()
        """What the reconcile has written so far: resource versions, and the uids of what it deleted."""
        self._id = reconcile_id

    @property
    def reconcile_id(self) -> str:
        """16 hexadecimal digits of its own; made when something is logged."""
        if not self._id:
            self._id = f"{random.getrandbits(64):016x}"
        return self._id


reconcile_scope: ContextVar[ReconcileScope | None] = ContextVar("reconcile_scope", default=None)


def _bind_scope(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    scope = reconcile_scope.get()
    if scope is not None:
        event.setdefault("controller", scope.controller)
        event.setdefault("namespace", scope.namespace)
        event.setdefault("name", scope.name)
        event.setdefault("reconcileID", scope.reconcile_id)
    return event


def configure_logging(level: str = "info", *, json: bool | None = None, stream: TextIO | None = None) -> None:
    """Set up logging for the process; libraries' records go the same way, from ``warning`` up.

    ``json`` None means JSON unless ``stream`` (standard error by default) is a terminal. Raises ValueError for an
    unknown level.
    """
    structlog = _structlog()
    stream = stream or sys.stderr
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"{level!r} is not a log level: use debug, info, warning or error")
    shared: list[Any] = [
        _bind_scope,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    as_json = not stream.isatty() if json is None else json
    if as_json:
        # The values of local variables, which structlog shows by default, hold credentials and the content of Secrets.
        frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        tail: list[Any] = [structlog.processors.ExceptionRenderer(frames), structlog.processors.JSONRenderer()]
    else:
        colors = stream.isatty()
        tail = [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)]
    structlog.configure(
        processors=[*shared, *tail],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *tail]
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(number, logging.WARNING))


@final
class _Logger:
    """A logger that is made anew for each line, so that it follows ``configure_logging``, whichever comes first."""

    __slots__ = ("_component",)

    def __init__(self, component: str) -> None:
        self._component = component

    def __getattr__(self, method: str) -> Any:
        return getattr(_structlog().get_logger(component=self._component), method)


def get_logger(name: str) -> Any:
    """A structlog logger that names its part of the program as ``component``."""
    return _Logger(name)
