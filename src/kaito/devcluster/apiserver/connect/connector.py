"""Which connection a request asks for, and whether it can be had."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from kaito.devcluster.apiserver.connect import attach, portforward
from kaito.devcluster.apiserver.connect.attach import AttachOptions, AttachProvider
from kaito.devcluster.apiserver.connect.backends import Target, pod_address, pod_origin, service_origin
from kaito.devcluster.apiserver.connect.links import SPDY, WEBSOCKET, upgrade_of
from kaito.devcluster.apiserver.connect.proxy import Proxy
from kaito.devcluster.apiserver.verbs.reads import find
from kaito.devcluster.apiserver.verbs.subresources import container_of
from kaito.runtime import BadRequest, MethodNotAllowed, NotImplementedByServer

if TYPE_CHECKING:
    from aiohttp import web

    from kaito.devcluster.apiserver.objects.registry import Kind, Registry
    from kaito.devcluster.apiserver.store import Object
    from kaito.devcluster.apiserver.wire.requests import RequestInfo

NO_EXEC: Final = (
    "exec is not possible: no container of the local cluster has a file system or programs of its own. What runs there is a "
    "process of this machine, or only pretended. kubectl logs, attach and port-forward reach the processes"
)
NO_ATTACH: Final = "attach is not possible: this API server has no kubelet to ask for processes"


@dataclass(frozen=True, slots=True)
class Handover:
    """An answer that is the connection itself. ``serve`` returns when it has ended; raises ApiError before it has begun."""

    serve: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Connector:
    def __init__(self, registry: Registry) -> None:
        self.attach_provider: AttachProvider | None = None
        self._pods = registry.builtin("pods")
        self._services = registry.builtin("services")
        self._endpoints = registry.builtin("endpoints")
        self._proxy = Proxy()

    async def aclose(self) -> None:
        await self._proxy.aclose()

    def takes(self, info: RequestInfo) -> bool:
        """Whether the request is for a connection."""
        if info.group or info.version != "v1":
            return False
        for kind in (self._pods, self._services):
            if info.plural == kind.info.plural:
                subresource = kind.info.subresources.get(info.subresource)
                return subresource is not None and subresource.connects
        return False

    def open(self, info: RequestInfo, request: web.BaseRequest) -> Handover:
        """Raises ApiError."""
        if info.subresource == "proxy":
            return self._proxied(info)
        if request.method not in ("GET", "POST"):
            raise MethodNotAllowed("the server does not allow this method on the requested resource")
        pod = self._read(self._pods, info.namespace, info.name)
        if info.subresource == "exec":
            raise NotImplementedByServer(NO_EXEC)
        if upgrade_of(request.headers) not in (SPDY, WEBSOCKET):
            raise BadRequest("unable to upgrade: missing upgrade headers in request")
        if info.subresource == "attach":
            return self._attached(info, pod)
        return Handover(partial(portforward.serve, pod=pod_address(pod)))

    def _attached(self, info: RequestInfo, pod: Object) -> Handover:
        if self.attach_provider is None:
            raise NotImplementedByServer(NO_ATTACH)
        query = info.query
        options = AttachOptions(
            container_of(query, pod), query.flag("stdin"), query.flag("stdout"), query.flag("stderr"), query.flag("tty")
        )
        if not (options.stdin or options.stdout or options.stderr):
            raise BadRequest("at least one of stdin, stdout, stderr must be true")
        attachment = self.attach_provider(pod, options)
        return Handover(partial(attach.serve, options=options, attachment=attachment))

    def _proxied(self, info: RequestInfo) -> Handover:
        target = Target.parse(info.name)
        if info.plural == "pods":
            origin = pod_origin(self._read(self._pods, info.namespace, target.name), target)
        else:
            service = self._read(self._services, info.namespace, target.name)
            held = self._endpoints.collection.get(f"{info.namespace}/{target.name}")
            origin = service_origin(service, self._endpoints.read(held) if held is not None else None, target)
        prefix = f"/api/v1/namespaces/{info.namespace}/{info.plural}/{info.name}/proxy"
        return Handover(partial(self._proxy.serve, origin=origin, prefix=prefix, path=info.proxied))

    def _read(self, kind: Kind, namespace: str, name: str) -> Object:
        return kind.read(find(kind, namespace, name))
