"""A stand-in for the token endpoint of Microsoft Entra ID, over TLS: federated service account tokens for tokens of Azure's."""

from __future__ import annotations

import secrets
import ssl
import time
from collections.abc import Callable
from typing import Any, cast

import msgspec
from aiohttp import web

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class TokenServer:
    """Gives a token to whoever brings an assertion that ``accepts`` takes, and knows again those that it gave.

    Clients speak to nothing but ``https://``, so that it needs a certificate that they trust.
    """

    def __init__(
        self,
        accepts: Callable[[str], bool],
        tls: ssl.SSLContext,
        *,
        tenant: str,
        client_id: str,
        lifetime: float = 3600.0,
    ) -> None:
        """``lifetime`` of a token is in seconds."""
        self.accepts = accepts
        self.lifetime = lifetime
        self.assertions: list[str] = []
        """Those that were brought, oldest first."""
        self._tls = tls
        self._tenant = tenant
        self._client_id = client_id
        self._tokens: dict[str, float] = {}
        self._runner: web.ServerRunner | None = None
        self._port = 0

    async def __aenter__(self) -> TokenServer:
        runner = web.ServerRunner(web.Server(cast("Any", self._serve), access_log=None), shutdown_timeout=1.0)
        await runner.setup()
        self._runner = runner
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._tls).start()
        self._port = int(runner.addresses[0][1])
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def url(self) -> str:
        """The authority, as ``AZURE_AUTHORITY_HOST`` names it."""
        return f"https://127.0.0.1:{self._port}/"

    def verdict(self, token: str) -> str:
        """Empty for a token that counts, else Azure's code for why it does not."""
        if token not in self._tokens:
            return "InvalidAuthenticationToken"
        return "" if time.time() < self._tokens[token] else "ExpiredAuthenticationToken"

    def revoke(self) -> None:
        """No token that was given counts any more, whatever its lifetime."""
        self._tokens.clear()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method != "POST" or request.path != f"/{self._tenant}/oauth2/v2.0/token":
            return _answer(
                404, {"error": "invalid_request", "error_description": f"there is nothing at {request.path}"}
            )
        form = {key: str(value) for key, value in (await request.post()).items()}
        assertion = form.get("client_assertion", "")
        self.assertions.append(assertion)
        if form.get("grant_type") != "client_credentials" or form.get("client_assertion_type") != ASSERTION_TYPE:
            return _refusal("AADSTS900144", "The request body must contain a client assertion.")
        if form.get("client_id") != self._client_id:
            return _refusal("AADSTS700016", f"Application with identifier '{form.get('client_id')}' was not found.")
        if not self.accepts(assertion):
            return _refusal("AADSTS700024", "Client assertion is not within its valid time range.")
        token = secrets.token_urlsafe(24)
        self._tokens[token] = time.time() + self.lifetime
        return _answer(200, {"token_type": "Bearer", "expires_in": int(self.lifetime), "access_token": token})


def _refusal(code: str, words: str) -> web.Response:
    return _answer(401, {"error": "invalid_client", "error_description": f"{code}: {words}"})


def _answer(status: int, body: dict[str, Any]) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(body), content_type="application/json")
