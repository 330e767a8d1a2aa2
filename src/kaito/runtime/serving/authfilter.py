"""Who may read the metrics: those whom the cluster lets ``get`` their path.

A bearer token is shown to the API server (TokenReview), and its user's permission asked for (SubjectAccessReview). Answers
are remembered as long as Kubernetes' own components remember them. A failed review is tried a few times and never
remembered.

Whoever reaches the port makes this process ask the API server: reviews have connections of their own, and strangers, whose
token has not been seen to be good, a share of them, a rate and a short queue, beyond which they are refused (429). Neither
the operator nor those who may read wait for them.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar, final

import lazy_loader
import msgspec

from kaito.runtime.clock import Clock, SystemClock
from kaito.runtime.errors import InternalError, RuntimeFault, ServerTimeout, TooManyRequests, TransportError
from kaito.runtime.log import get_logger
from kaito.runtime.transport.connections import Pool
from kaito.runtime.transport.flowcontrol import TokenBucket
from kaito.runtime.transport.rest import Rest

if TYPE_CHECKING:
    from aiohttp import web
else:
    web = lazy_loader.load("aiohttp.web", suppress_warning=True)

TOKEN_TTL = 60.0
"""Seconds for which a token's user is remembered, or that it has none."""
ALLOWED_TTL = 300.0
DENIED_TTL = 30.0
REVIEW_TIMEOUT = 10.0
"""Seconds for one review."""
RETRY_DELAY, RETRY_FACTOR, RETRY_JITTER, TRIES = 0.5, 1.5, 0.2, 5
MAX_REMEMBERED = 1024
"""Tokens, and permissions, that are remembered at once; the oldest make way."""

STRANGERS_AT_ONCE, STRANGERS_WAITING = 2, 16
"""Reviews of strangers that are under way, and that may be at all."""
STRANGERS_QPS, STRANGERS_BURST = 5.0, 20
"""Reviews of strangers a second, and how many may come at once after a quiet time."""

_TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
_ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
_RETRIABLE = (TransportError, TimeoutError, InternalError, ServerTimeout, TooManyRequests)

V = TypeVar("V")
Handler = Callable[["web.Request"], Awaitable["web.StreamResponse"]]

_log = get_logger("authfilter")


class User(msgspec.Struct, frozen=True):
    username: str = ""
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: dict[str, list[str]] = {}


class _TokenStatus(msgspec.Struct):
    authenticated: bool = False
    user: User = User()


class _TokenReview(msgspec.Struct):
    status: _TokenStatus = msgspec.field(default_factory=_TokenStatus)


class _AccessStatus(msgspec.Struct):
    allowed: bool = False


class _AccessReview(msgspec.Struct):
    status: _AccessStatus = msgspec.field(default_factory=_AccessStatus)


@final
class _Memory(Generic[V]):
    """Answers with an end; equal questions that come while one is being answered wait for it."""

    def __init__(self, clock: Clock, lifetime: Callable[[V], float]) -> None:
        self._clock = clock
        self._lifetime = lifetime
        self._answers: dict[Hashable, tuple[float, V]] = {}
        self._asking: dict[Hashable, asyncio.Lock] = {}

    def last(self, question: Hashable) -> V | None:
        """The last answer, whether or not it still counts."""
        known = self._answers.get(question)
        return known[1] if known is not None else None

    async def get(self, question: Hashable, ask: Callable[[], Awaitable[V]]) -> V:
        lock = self._asking.setdefault(question, asyncio.Lock())
        try:
            async with lock:
                known = self._answers.get(question)
                if known is not None and self._clock.monotonic() < known[0]:
                    return known[1]
                answer = await ask()
                self._answers.pop(question, None)
                self._answers[question] = (self._clock.monotonic() + self._lifetime(answer), answer)
                if len(self._answers) > MAX_REMEMBERED:
                    # Answers of no use make way first, so that strangers do not displace those who are known.
                    useless = next((old for old, (_, value) in self._answers.items() if not value), None)
                    del self._answers[next(iter(self._answers)) if useless is None else useless]
                return answer
        finally:
            # A lock that nobody holds may still be the next waiter's, who has not been woken yet; it then asks by itself.
            if not lock.locked():
                self._asking.pop(question, None)


@final
class _Gate:
    """Lets strangers in a few at a time."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._bucket = TokenBucket(STRANGERS_QPS, STRANGERS_BURST, monotonic=monotonic)
        self._places = asyncio.Semaphore(STRANGERS_AT_ONCE)
        self._inside = 0

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[None]:
        """Raises _Crowded where too many wait."""
        if self._inside >= STRANGERS_WAITING:
            raise _Crowded
        self._inside += 1
        try:
            async with self._places:
                await self._bucket.acquire()
                yield
        finally:
            self._inside -= 1


class _Crowded(Exception):
    """Too many strangers at once."""


@final
class AccessFilter:
    """Guards HTTP handlers. Nobody is anonymous: a request without a token is refused."""

    def __init__(self, rest: Rest, *, clock: Clock | None = None) -> None:
        self._rest = rest
        clock = clock or SystemClock()
        self._users: _Memory[User | None] = _Memory(clock, lambda user: TOKEN_TTL)
        self._gate = _Gate(clock.monotonic)
        self._permissions: _Memory[bool] = _Memory(clock, lambda allowed: ALLOWED_TTL if allowed else DENIED_TTL)

    def protect(self, handler: Handler) -> Handler:
        """``handler`` behind 401 (no valid token), 403 (not permitted), 429 (too many ask) and 500 (the API server did not
        say)."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            try:
                user = await self._authenticate(token.strip()) if scheme.lower() == "bearer" else None
                if user is None:
                    return web.Response(status=401, text="Unauthorized\n", headers={"WWW-Authenticate": "Bearer"})
                allowed = await self._authorize(user, request.method.lower(), request.path)
            except _Crowded:
                return web.Response(
                    status=429, text="too many requests are being reviewed\n", headers={"Retry-After": "1"}
                )
            except (RuntimeFault, TimeoutError, msgspec.MsgspecError) as error:
                _log.warning("cannot tell who may read the metrics", error=str(error) or type(error).__name__)
                return web.Response(status=500, text="the review of the request failed\n")
            if not allowed:
                return web.Response(status=403, text=f"Authorization denied for user {user.username}\n")
            return await handler(request)

        return guarded

    async def _authenticate(self, token: str) -> User | None:
        if not token:
            return None

        async def ask() -> User | None:
            answer = await self._review(_TOKEN_REVIEWS, "authentication.k8s.io/v1", "TokenReview", {"token": token})
            status = msgspec.json.decode(answer, type=_TokenReview).status
            return status.user if status.authenticated else None

        async def ask_for_stranger() -> User | None:
            async with self._gate.enter():
                return await ask()

        # The token itself is not kept.
        digest = hashlib.sha256(token.encode()).digest()
        return await self._users.get(digest, ask if self._users.last(digest) is not None else ask_for_stranger)

    async def _authorize(self, user: User, verb: str, path: str) -> bool:
        spec = {
            "user": user.username,
            "uid": user.uid,
            "groups": user.groups,
            "extra": user.extra,
            "nonResourceAttributes": {"verb": verb, "path": path},
        }

        async def ask() -> bool:
            answer = await self._review(_ACCESS_REVIEWS, "authorization.k8s.io/v1", "SubjectAccessReview", spec)
            return msgspec.json.decode(answer, type=_AccessReview).status.allowed

        return await self._permissions.get(msgspec.json.encode(spec, order="sorted"), ask)

    async def _review(self, path: str, api_version: str, kind: str, spec: dict[str, Any]) -> bytes:
        body = msgspec.json.encode({"apiVersion": api_version, "kind": kind, "spec": spec})
        delay = RETRY_DELAY
        for _ in range(TRIES - 1):
            try:
                return await self._once(path, body)
            except _RETRIABLE as error:
                _log.info("a review failed, trying again", kind=kind, error=str(error) or type(error).__name__)
            await asyncio.sleep(delay * random.uniform(1.0, 1.0 + RETRY_JITTER))
            delay *= RETRY_FACTOR
        return await self._once(path, body)

    async def _once(self, path: str, body: bytes) -> bytes:
        async with asyncio.timeout(REVIEW_TIMEOUT):
            return (await self._rest.send("POST", path, body=body, pool=Pool.REVIEW)).body
