"""The API server over HTTP."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from aiohttp import hdrs, web
from multidict import CIMultiDict

from kaito.devcluster.apiserver.auth.identity import DEFAULT_TOKEN_SECONDS, User
from kaito.devcluster.apiserver.auth.impersonation import impersonate
from kaito.devcluster.apiserver.auth.rbac import Attributes
from kaito.devcluster.apiserver.cluster import Cluster
from kaito.devcluster.apiserver.connect.connector import Connector, Handover
from kaito.devcluster.apiserver.objects.meta import utc_now
from kaito.devcluster.apiserver.serving import pki
from kaito.devcluster.apiserver.serving.api import Api, Call
from kaito.devcluster.apiserver.serving.faults import ConnectionDropped, Faults
from kaito.devcluster.apiserver.store import Backup, encode
from kaito.devcluster.apiserver.verbs.reads import find
from kaito.devcluster.apiserver.wire.negotiation import compress
from kaito.devcluster.apiserver.wire.replies import Reply, Stream
from kaito.devcluster.apiserver.wire.requests import Query, RequestInfo
from kaito.runtime import ApiError, InternalError, NotFound, RequestTooLarge

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from kaito.devcluster.apiserver.connect.attach import AttachProvider
    from kaito.devcluster.apiserver.verbs.subresources import LogProvider

MAX_BODY = 3 * 1024 * 1024
"""Bytes of the largest request, as of kube-apiserver."""
EXPIRY_INTERVAL = 60.0
_log = logging.getLogger("kaito.devcluster.apiserver")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiServerOptions:
    host: str = "127.0.0.1"
    port: int = 0
    """0 takes a free one."""
    tls: bool = True
    tls_folder: Path | None = None
    """Where the CA and the server's key are kept between runs; None makes new ones in memory."""
    bookmark_interval: float = 60.0
    """Seconds between the bookmarks of a watch that asks for them."""
    window: int = 10_000
    """Changes of each resource that are remembered for watches and pages."""
    watch_buffer: int = 10_000
    """Events that a watch may lag behind before it is cut."""
    tokens: Mapping[str, User] = field(default_factory=dict)
    """Further bearer tokens and whose they are."""
    clock: Callable[[], datetime] = utc_now


class ApiServer:
    """A Kubernetes API server in this process, on loopback; ``start`` and ``stop`` may each be called twice.

    State lives as long as the object: a stopped server that is started again serves what it held, with a new port
    unless one was given.
    """

    def __init__(self, options: ApiServerOptions | None = None) -> None:
        self.options = options or ApiServerOptions()
        self._cluster = Cluster(
            clock=self.options.clock,
            tokens=self.options.tokens,
            window=self.options.window,
            bookmark_interval=self.options.bookmark_interval,
            watch_buffer=self.options.watch_buffer,
        )
        self._api = Api(self._cluster)
        self._connector = Connector(self._cluster.registry)
        self.faults = Faults()
        self._identity: pki.ServerIdentity | None = None
        self._runner: web.ServerRunner | None = None
        self._janitor: asyncio.Task[None] | None = None
        self._port = self.options.port

    async def __aenter__(self) -> ApiServer:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        if self._runner is not None:
            return
        context = None
        if self.options.tls:
            if self._identity is None:
                folder = self.options.tls_folder
                self._identity = pki.ServerIdentity.create() if folder is None else pki.ServerIdentity.load(folder)
            context = self._identity.ssl_context()
        server = web.Server(
            cast("Any", self._serve), request_factory=self._request, access_log=None, handler_cancellation=True
        )
        runner = web.ServerRunner(server, shutdown_timeout=1.0)
        await runner.setup()
        self._runner = runner
        try:
            site = web.TCPSite(runner, self.options.host, self.options.port, ssl_context=context, backlog=512)
            await site.start()
        except BaseException:
            await self.stop()
            raise
        address, self._port = runner.addresses[0][0], int(runner.addresses[0][1])
        self._cluster.publish(address, self._port)
        self._janitor = asyncio.create_task(self._drop_expired(), name="apiserver-expiry")

    async def stop(self) -> None:
        """Close every connection and leave nothing running."""
        janitor, self._janitor = self._janitor, None
        if janitor is not None:
            janitor.cancel()
            await asyncio.gather(janitor, return_exceptions=True)
        runner, self._runner = self._runner, None
        if runner is not None:
            self._cluster.watches.close_all()
            await runner.cleanup()
        await self._connector.aclose()
        await self._cluster.webhooks.aclose()

    @property
    def url(self) -> str:
        host = f"[{self.options.host}]" if ":" in self.options.host else self.options.host
        return f"{'https' if self.options.tls else 'http'}://{host}:{self._port}"

    @property
    def ca_pem(self) -> bytes:
        """The certificate to trust, PEM; empty without TLS. Known once the server has started."""
        return self._identity.ca if self._identity is not None else b""

    @property
    def admin_token(self) -> str:
        """A bearer token of the group system:masters."""
        return self._cluster.authenticator.admin_token

    @property
    def log_provider(self) -> LogProvider | None:
        """Where ``pods/log`` gets its bytes; None refuses it."""
        return self._api.log_provider

    @log_provider.setter
    def log_provider(self, provider: LogProvider | None) -> None:
        self._api.log_provider = provider

    @property
    def attach_provider(self) -> AttachProvider | None:
        """Where ``pods/attach`` finds the processes; None refuses it."""
        return self._connector.attach_provider

    @attach_provider.setter
    def attach_provider(self, provider: AttachProvider | None) -> None:
        self._connector.attach_provider = provider

    def issue_token(self, namespace: str, name: str, audience: str = "", expiry: int = DEFAULT_TOKEN_SECONDS) -> str:
        """A token for a service account, valid for ``expiry`` seconds. Raises NotFound."""
        accounts = self._cluster.registry.builtin("serviceaccounts")
        uid = accounts.read(find(accounts, namespace, name))["metadata"]["uid"]
        audiences = (audience,) if audience else ()
        return self._cluster.authenticator.issue(namespace, name, uid, audiences, expiry)[0]

    def kubeconfig(self, *, user: str = "kubernetes-admin", token: str = "") -> dict[str, Any]:
        """A kubeconfig for this server; without a token the admin's."""
        return pki.kubeconfig(self.url, self.ca_pem, token or self.admin_token, user=user)

    @property
    def revision(self) -> int:
        """The resource version of the latest write."""
        return self._cluster.store.revision

    @property
    def open_watches(self) -> int:
        return len(self._cluster.watches)

    def compact(self) -> None:
        """Forget all history: earlier resource versions and continue tokens are expired from now on."""
        self._cluster.store.compact()

    def shrink_window(self, window: int) -> None:
        """Remember only so many changes of each resource, from the next write of each on."""
        self._cluster.store.window = window

    def back_up(self) -> Backup:
        """All objects as of now, for ``restore``."""
        return self._cluster.store.back_up()

    def restore(self, backup: Backup) -> None:
        """Go back to ``backup``, as a control plane whose etcd is restored does, and end every open watch.

        Raises ValueError where custom resource definitions have changed since.
        """
        self._cluster.store.restore(backup)
        self._cluster.watches.close_all()

    def cut_watches(self) -> None:
        """End every open watch."""
        self._cluster.watches.close_all()

    def _request(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        loop = asyncio.get_running_loop()
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MAX_BODY)

    async def _drop_expired(self) -> None:
        while True:
            await asyncio.sleep(EXPIRY_INTERVAL)
            self._cluster.drop_expired()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        dropped = False
        try:
            reply, dropped = await self._answer(request)
            if isinstance(reply, Handover):
                return await reply.serve(request)
        except ApiError as error:
            reply = _failure(error)
        except ConnectionDropped:
            reply, dropped = _failure(InternalError("dropped")), True
        except Exception:
            _log.exception("%s %s failed", request.method, request.path)
            reply = _failure(InternalError("the server failed to answer this request; its log says why"))
        if dropped:
            # aiohttp finds the connection closed when it comes to send the answer.
            _abort(request)
        if isinstance(reply, Stream):
            return await _send_stream(request, reply)
        return _response(request, reply)

    async def _answer(self, request: web.BaseRequest) -> tuple[Reply | Stream | Handover, bool]:
        """The reply, and whether the connection is to be cut instead of sending it. Raises ApiError."""
        headers = request.headers
        raw_path, _, query = request.path_qs.partition("?")
        info = RequestInfo.parse(
            request.method, request.rel_url.raw_path or raw_path, Query.parse(query, headers.get(hdrs.USER_AGENT, ""))
        )
        user = self._cluster.authenticator.authenticate(headers.get(hdrs.AUTHORIZATION, ""))
        user = impersonate(user, headers, self._cluster.authorizer)
        fault = await self.faults.before(info, user.name)
        self._cluster.authorizer.check(user, Attributes.of(info))
        if not info.is_resource:
            accept, known = headers.get(hdrs.ACCEPT, ""), headers.get(hdrs.IF_NONE_MATCH, "")
            found = self._cluster.discovery.reply(info, accept, known) if request.method in ("GET", "HEAD") else None
            if found is None:
                raise NotFound("the server could not find the requested resource")
            return found, False
        if self._connector.takes(info):
            return self._connector.open(info, request), False
        try:
            body = await request.read() if request.body_exists else b""
        except web.HTTPRequestEntityTooLarge:
            raise RequestTooLarge(f"Request entity too large: limit is {MAX_BODY}") from None
        reply = await self._api.handle(Call(info, user, headers, body, partial(_abort, request)))
        return reply, fault is not None and fault.drop == "after"


def _abort(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.abort()


def _failure(error: ApiError) -> Reply:
    headers = {"Retry-After": str(max(1, round(error.retry_after)))} if error.retry_after is not None else {}
    return Reply(encode(error.status()), error.code, headers=headers)


def _headers(warnings: Sequence[str]) -> CIMultiDict[str]:
    headers = CIMultiDict({hdrs.CACHE_CONTROL: "no-cache, private"})
    for warning in warnings:
        escaped = warning.replace("\\", "\\\\").replace('"', '\\"')
        headers.add("Warning", f'299 - "{escaped}"')
    return headers


def _response(request: web.BaseRequest, reply: Reply) -> web.Response:
    headers = _headers(reply.warnings)
    headers.update(reply.headers)
    headers[hdrs.CONTENT_TYPE] = reply.content_type
    body = reply.body
    compressed = compress(body, request.headers.get(hdrs.ACCEPT_ENCODING, ""))
    if compressed is not None:
        headers[hdrs.CONTENT_ENCODING] = "gzip"
        body = compressed
    return web.Response(body=body, status=reply.status, headers=headers)


async def _send_stream(request: web.BaseRequest, reply: Stream) -> web.StreamResponse:
    headers = _headers(reply.warnings)
    headers[hdrs.CONTENT_TYPE] = reply.content_type
    response = web.StreamResponse(headers=headers)
    response.enable_chunked_encoding()
    async with aclosing(reply.chunks) as chunks:
        await response.prepare(request)
        try:
            async for chunk in chunks:
                if chunk:
                    await response.write(chunk)
            await response.write_eof()
        except ConnectionError:
            _log.debug("%s: the client went away", request.path)
    return response
