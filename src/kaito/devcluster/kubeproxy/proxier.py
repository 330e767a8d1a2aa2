"""The controller: keeps a listener for each port of each Service that has somewhere to go."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Any, final

from kaito.devcluster.kubeproxy.listener import Connections, Listener
from kaito.devcluster.kubeproxy.routes import NO_ROUTES, Address, Routes, routes_of
from kaito.runtime import (
    ENDPOINT_SLICES,
    SERVICES,
    Controller,
    EventRecorder,
    Key,
    Lister,
    Manager,
    Manifest,
    ObjectReference,
    Request,
    Result,
    Stored,
    Watch,
    get_logger,
)

NAME = "kube-proxy"
RETRY = 15.0
"""Seconds after which an address that could not be had is tried again."""
_SERVICE_NAME = "kubernetes.io/service-name"
_API_SERVER = Key("default", "kubernetes")
"""Pods are told where it listens itself: its Service has the same address in every cluster, and a port that is not for all."""
_log = get_logger(NAME)


@final
class Proxier:
    """A context: leaving it closes every socket."""

    def __init__(self, services: Lister[Manifest], slices: Lister[Manifest], recorder: EventRecorder) -> None:
        self._services = services
        self._slices = slices
        self._recorder = recorder
        self._connections = Connections()
        self._listeners: dict[Key, dict[Address, Listener]] = {}
        self._said: dict[Key, str] = {}
        """What each Service was last told that it lacks."""

    async def __aenter__(self) -> Proxier:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for listeners in self._listeners.values():
            for listener in listeners.values():
                listener.close()
        self._listeners.clear()
        await self._connections.close()

    async def reconcile(self, request: Request) -> Result | None:
        key = request.key
        stored = self._services.stored(key.name, key.namespace)
        routes = NO_ROUTES
        if stored is not None and not stored.meta.deleting and key != _API_SERVER:
            routes = self._routes(stored)
        held = self._listeners.setdefault(key, {})
        for frontend in held.keys() - routes.served.keys():
            held.pop(frontend).close()
        refused = [f"{port}: only TCP is forwarded" for port in routes.unserved]
        failed = False
        for frontend, route in routes.served.items():
            if frontend in held:
                held[frontend].forward_to(route)
                continue
            try:
                held[frontend] = Listener(frontend, route, self._connections)
            except OSError as error:
                failed = True
                refused.append(f"{frontend}: {why(frontend, error)}")
        if not held:
            del self._listeners[key]
        self._tell(key, stored, "; ".join(refused))
        return Result(requeue_after=RETRY) if failed else None

    def _routes(self, stored: Stored[Manifest]) -> Routes:
        key = stored.key
        slices = self._slices.decoded(self._slices.by_label(_SERVICE_NAME, key.name, key.namespace))
        return routes_of(stored.decode(), slices)

    def _tell(self, key: Key, stored: Stored[Manifest] | None, lacks: str) -> None:
        """Once for each thing that is lacking."""
        if stored is None or not lacks:
            self._said.pop(key, None)
        elif self._said.get(key) != lacks:
            self._said[key] = lacks
            text = f"Cannot serve {lacks}. kubectl port-forward and kubectl proxy work."
            _log.warning("a Service is not reachable at its address", service=str(key), problem=lacks)
            self._recorder.event(ObjectReference.of(SERVICES, stored), "Warning", "ClusterIPNotServed", text)


def why(frontend: Address, error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"this user may not listen at port {frontend.port} (`sudo sysctl net.ipv4.ip_unprivileged_port_start="
            f"{frontend.port}` allows it)"
        )
    if error.errno == errno.EADDRINUSE:
        return "another program listens there"
    return str(error)


def _service_of(stored: Stored[Any]) -> Iterable[Key]:
    name = stored.labels.get(_SERVICE_NAME)
    return (Key(stored.key.namespace, name),) if name else ()


def setup(manager: Manager) -> None:
    cache = manager.cache
    proxier = Proxier(cache.lister(SERVICES), cache.lister(ENDPOINT_SLICES), manager.recorder(NAME))
    manager.add_context(NAME + " sockets", proxier)
    manager.add(Controller(NAME, proxier, primary=SERVICES, watches=(Watch(ENDPOINT_SLICES, _service_of),)))
