"""The HTTPS server that the API server calls."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Any, final

import msgspec
from aiohttp import web

from kaito.runtime.errors import ApiError, BadRequest, ConfigError, RequestTooLarge, ServerTimeout
from kaito.runtime.metrics.runtime import RuntimeMetrics
from kaito.runtime.metrics.series import Number
from kaito.runtime.serving.certificates import Certificates
from kaito.runtime.serving.health import Handler, HttpServer
from kaito.runtime.serving.webhook import admission, conversion
from kaito.runtime.serving.webhook.answer import Answer

BODY_TIMEOUT = 32.0
"""Seconds for a request's body to arrive; longer than any timeout of a webhook configuration."""
DIAL_TIMEOUT = 10.0


@final
class WebhookServer:
    """Serves admission and conversion webhooks over TLS.

    Give it to ``Manager.add_server``: it then starts before the caches, which cannot sync resources whose conversion it
    does, and its ``check`` is part of the readiness of the process.
    """

    def __init__(self, certificates: Certificates, metrics: RuntimeMetrics, address: str = ":9443") -> None:
        self._certificates = certificates
        self._metrics = metrics
        self._address = address
        self._routes: dict[str, Handler] = {}
        self._server: HttpServer | None = None
        self.port = 0
        """The port it listens on while running."""

    def add_admission(self, path: str, handler: admission.AdmissionHandler) -> None:
        """Answer admission reviews at ``path``; see ``validating`` and ``defaulting``. Raises ConfigError."""
        panics = self._metrics.webhook_panics_total
        self._add(path, lambda body: admission.review(handler, body), admission.refuse, admission.LIMIT, panics)

    def add_conversion(self, path: str, convert: conversion.Converter) -> None:
        """Answer conversion reviews at ``path``. Raises ConfigError."""
        panics = self._metrics.conversion_webhook_panics_total
        self._add(path, lambda body: conversion.review(convert, body), conversion.refuse, conversion.LIMIT, panics)

    def _add(
        self,
        path: str,
        review: Callable[[bytes], Awaitable[Answer]],
        refuse: Callable[[ApiError], dict[str, Any]],
        limit: int,
        panics: Number,
    ) -> None:
        if not path.startswith("/"):
            raise ConfigError(f"the path of a webhook starts with a slash, {path!r} does not")
        if path in self._routes:
            raise ConfigError(f"there is already a webhook at {path}")
        if self._server is not None:
            raise ConfigError(f"the webhook at {path} comes too late: the server has started")
        metrics = self._metrics
        latency = metrics.webhook_latency.labels(path)
        in_flight = metrics.webhook_requests_in_flight.labels(path)
        answered, failed = (metrics.webhook_requests_total.labels(path, code) for code in ("200", "500"))

        async def handle(request: web.Request) -> web.StreamResponse:
            outcome, began = failed, time.perf_counter()
            in_flight.inc()
            try:
                try:
                    body = await _body(request, limit)
                except ApiError as error:
                    answer = Answer(refuse(error))
                else:
                    answer = await review(body)
                if answer.bug is not None:
                    panics.inc()
                encoded = msgspec.json.encode(answer.review)
                outcome = answered
            finally:
                outcome.inc()
                latency.observe(time.perf_counter() - began)
                in_flight.dec()
            return web.Response(body=encoded, content_type="application/json")

        self._routes[path] = handle

    async def start(self) -> None:
        """Obtain the certificate and listen. Raises ConfigError, and what ``Certificates.start`` raises."""
        await self._certificates.start()
        self._server = HttpServer(self._address, self._routes, method="POST", tls=self._certificates.context)
        await self._server.start()
        self.port = self._server.port

    async def run(self) -> None:
        """Keep the certificate up to date until cancelled."""
        await self._certificates.run()

    async def stop(self) -> None:
        """Answer what has been asked, then close. Does nothing where it was not started."""
        if self._server is not None:
            await self._server.stop()

    async def check(self) -> None:
        """Do a TLS handshake with itself. Raises ConfigError before ``start``, OSError or TimeoutError where it fails."""
        if not self.port:
            raise ConfigError("the webhook server has not started")
        host = self._address.rpartition(":")[0].strip("[]")
        if host in ("", "0.0.0.0", "::"):
            host = "localhost"
        async with asyncio.timeout(DIAL_TIMEOUT):
            _, writer = await asyncio.open_connection(host, self.port, ssl=_trusting_anyone())
            writer.close()
            await writer.wait_closed()


def _trusting_anyone() -> ssl.SSLContext:
    """For the check, which asks whether there is a handshake and not with whom."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _body(request: web.Request, limit: int) -> bytes:
    """Raises BadRequest, RequestTooLarge, ServerTimeout."""
    if request.content_type != "application/json":
        raise BadRequest(f"the content type is {request.content_type}, it must be application/json")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > limit:
                    raise RequestTooLarge(f"the request is larger than {limit} bytes")
    except TimeoutError as error:
        raise ServerTimeout(f"the request did not arrive within {BODY_TIMEOUT:g} s") from error
    if not body:
        raise BadRequest("the request has no body")
    return bytes(body)
