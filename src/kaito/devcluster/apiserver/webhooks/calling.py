"""One call of a webhook over HTTPS."""

from __future__ import annotations

import asyncio
import base64
import binascii
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import aiohttp
import msgspec

from kaito.devcluster.apiserver.webhooks.matching import Webhook

LIMIT = 8 << 20
"""Bytes of an answer."""


class CallFailed(Exception):
    """The webhook gave no answer that can be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a webhook is: the address to connect to, and the name in its certificate."""

    url: str
    server_name: str | None = None


Resolve = Callable[[Mapping[str, Any]], Place]
"""From the ``clientConfig`` of a webhook to where it is. Raises CallFailed."""


@final
class Caller:
    """Keeps connections to webhooks; close it."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self._session: aiohttp.ClientSession | None = None
        self._contexts: dict[str, ssl.SSLContext] = {}

    async def review(self, webhook: Webhook, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """The ``response`` to the AdmissionRequest ``request``. Raises CallFailed."""
        config = webhook.spec.get("clientConfig") or {}
        place = self._resolve(config)
        body = msgspec.json.encode({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request})
        url = f"{place.url}{'&' if '?' in place.url else '?'}timeout={webhook.timeout:g}s"
        try:
            async with asyncio.timeout(webhook.timeout):
                context = self._context(str(config.get("caBundle") or ""))
                async with self._client().post(
                    url,
                    data=body,
                    headers={"Content-Type": "application/json", "Accept": "application/json"},
                    ssl=context,
                    server_hostname=place.server_name,
                    allow_redirects=False,
                ) as answer:
                    raw = await answer.content.read(LIMIT)
                    if answer.status != 200:
                        raise CallFailed(f"the webhook answered {answer.status}: {raw[:200].decode(errors='replace')}")
        except TimeoutError:
            raise CallFailed(f'Post "{url}": context deadline exceeded') from None
        except (aiohttp.ClientError, OSError, ssl.SSLError) as error:
            raise CallFailed(f'Post "{url}": {error}') from error
        return _response(raw, str(request["uid"]))

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self._session

    def _context(self, bundle: str) -> ssl.SSLContext:
        """Trusts the authorities of ``bundle``, base64 of PEM; those of the system where it is empty."""
        known = self._contexts.get(bundle)
        if known is None:
            try:
                pem = base64.b64decode(bundle, validate=True).decode("ascii")
                known = ssl.create_default_context(cadata=pem or None)
            except (binascii.Error, UnicodeDecodeError, ssl.SSLError) as error:
                raise CallFailed(f"unable to load root certificates: {error}") from error
            if len(self._contexts) > 64:
                self._contexts.clear()
            self._contexts[bundle] = known
        return known

    async def aclose(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()
            await asyncio.sleep(0)


def _response(raw: bytes, uid: str) -> Mapping[str, Any]:
    try:
        review = msgspec.json.decode(raw)
    except msgspec.DecodeError as error:
        raise CallFailed(f"the answer is not JSON: {error}") from error
    response = review.get("response") if isinstance(review, dict) else None
    if not isinstance(response, dict):
        raise CallFailed("the answer has no response")
    if review.get("kind") != "AdmissionReview" or review.get("apiVersion") != "admission.k8s.io/v1":
        expected = "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview"
        raise CallFailed(f"{expected}, got {review.get('apiVersion')}, Kind={review.get('kind')}")
    if response.get("uid") != uid:
        raise CallFailed(f'expected response.uid="{uid}", got "{response.get("uid")}"')
    return response
