"""HTTP to one API server: credentials, rate limit, retries, metrics, typed errors.

Requests, watches, the leader lease and the reviews of strangers' tokens have a pool each, so that a hundred watches cannot
keep a write waiting, and neither a burst of writes nor a crowd of strangers a lease from being renewed.

What is sent again: anything that was answered 429 or 5xx with ``Retry-After``; any request once after 401, where the
credentials may have been renewed; a read once when its connection broke. A write whose connection broke is never sent
again: it raises ``OutcomeUnknown``. A write follows no redirect: what it is redirected to may be something else.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, final
from urllib.parse import urlsplit

from multidict import CIMultiDictProxy
from yarl import URL

from kaito.runtime.backoff import retry_after
from kaito.runtime.clock import Clock, SystemClock
from kaito.runtime.errors import ApiError, NotAcceptable, OutcomeUnknown, TransportError
from kaito.runtime.log import get_logger
from kaito.runtime.metrics.runtime import RuntimeMetrics
from kaito.runtime.transport.config import RestConfig
from kaito.runtime.transport.connections import Connections, Pool
from kaito.runtime.transport.flowcontrol import MAX_RETRIES, TokenBucket, retry_answer
from kaito.runtime.transport.http import aiohttp
from kaito.runtime.transport.lines import LineSplitter

REQUEST_TIMEOUT = 60.0
"""Seconds for one request and its whole answer; for a list, seconds of silence."""
CONNECT_TIMEOUT = 10.0

_PIECE = 1 << 16
"""Bytes of a body that are written in one go: all of a large one would hold up the event loop."""
_NO_SUCH_PATH = "the server could not find the requested resource"
_BROKEN = (aiohttp.ClientError, aiohttp.http.HttpProcessingError, OSError, TimeoutError)
"""What a connection can do to a request."""

_log = get_logger("rest")
_WARNING = re.compile(r'299 \S+ "((?:[^"\\]|\\.)*)"')


def _unguarded() -> None:
    """Nothing stands against sending."""


class Answer(NamedTuple):
    code: int
    headers: CIMultiDictProxy[str]
    body: bytes


@final
class Stream:
    """The open answer of a watch."""

    __slots__ = ("_response", "_splitter")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._splitter = LineSplitter()

    async def lines(self) -> list[bytes] | None:
        """The next whole lines, possibly none yet; None at the end. Raises TransportError, DecodeError."""
        try:
            chunk = await self._response.content.readany()
        except _BROKEN as error:
            raise TransportError(f"the stream broke: {_words(error)}") from error
        return self._splitter.feed(chunk) if chunk else None


@final
class _Body(aiohttp.payload.Payload):
    """What a request sends. Its first piece goes out together with the headers, so ``guard``, which is asked right before,
    is asked when the connection is there and nothing of the request has been written."""

    _value: bytes
    _autoclose = True

    def __init__(self, data: bytes, guard: Callable[[], None]) -> None:
        super().__init__(data)
        self._size = len(data)
        self._guard = guard
        self.refusal: BaseException | None = None

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._value.decode(encoding, errors)

    async def write(self, writer: aiohttp.abc.AbstractStreamWriter) -> None:
        try:
            self._guard()
        except BaseException as error:
            self.refusal = error
            raise
        view = memoryview(self._value)
        for start in range(0, len(view), _PIECE):
            await writer.write(view[start : start + _PIECE])


@final
class Rest:
    """Sends requests; knows nothing of objects. Cancelling a call closes its connection."""

    def __init__(self, config: RestConfig, metrics: RuntimeMetrics, *, clock: Clock | None = None) -> None:
        self.config = config
        self._metrics = metrics
        self._clock = clock or SystemClock()
        self._base = URL(config.server.rstrip("/") + "/", encoded=True)
        self._host = urlsplit(config.server).netloc
        self._bucket = TokenBucket(config.qps, config.burst)
        self._connections = Connections(config, self._clock)
        self._warned: set[str] = set()

    async def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout: float = REQUEST_TIMEOUT,
        patient: bool = False,
        pool: Pool = Pool.API,
        guard: Callable[[], None] = _unguarded,
        wait: bool = True,
    ) -> Answer:
        """One request and its whole answer. Raises ApiError for 4xx and 5xx, TransportError, ConfigError.

        ``guard`` raises to prevent the request. It is called before anything else, and again each time right before the
        first byte, however long the request had to wait for a connection. ``timeout`` is for all of the answer; with
        ``patient`` for each pause in it, so that a long answer may take as long as it needs.
        Without ``wait``, an answer that asks to come back later is raised at once.
        """
        if pool is Pool.API and self.config.qps:
            waited = await self._bucket.acquire()
            self._metrics.rate_limiter_duration.labels(method, self._host).observe(waited)
        authorized = reconnected = False
        retries = 0
        while True:
            authorization = await self.config.credentials.authorization()
            guard()
            try:
                answer = await self._once(
                    method,
                    path,
                    query,
                    None if body is None else _Body(body, guard),
                    content_type,
                    accept,
                    _limits(timeout, patient),
                    pool,
                    authorization,
                )
            except TransportError as error:
                if method != "GET" or reconnected or isinstance(error.__cause__, TimeoutError):
                    raise
                reconnected = True
                self._metrics.request_retries_total.labels("<error>", method, self._host).inc()
                continue
            if answer.code < 300:
                return answer
            if answer.code == 401 and not authorized and self.config.credentials.rejected(authorization):
                authorized = True
                continue
            delay = retry_after(answer.headers.get("Retry-After"), self._clock.now())
            if wait and retries < MAX_RETRIES and retry_answer(answer.code, delay):
                retries += 1
                self._metrics.request_retries_total.labels(str(answer.code), method, self._host).inc()
                await asyncio.sleep(delay or 0.0)
                if pool is Pool.API:
                    await self._bucket.acquire()
                continue
            raise _error(answer, delay)

    async def _once(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: _Body | None,
        content_type: str,
        accept: str,
        limits: aiohttp.ClientTimeout,
        pool: Pool,
        authorization: str | None,
    ) -> Answer:
        headers = {"Accept": accept}
        if body is not None:
            headers["Content-Type"] = content_type
            self._metrics.request_size.labels(method, self._host).observe(body.size or 0)
        if authorization:
            headers["Authorization"] = authorization
        started = self._clock.monotonic()
        code = "<error>"
        try:
            async with (
                self._connections.use(pool) as client,
                client.request(
                    method,
                    self._url(path, query),
                    data=body,
                    headers=headers,
                    allow_redirects=method == "GET",
                    timeout=limits,
                    server_hostname=self.config.tls.server_name,
                ) as response,
            ):
                content = await response.read()
                code = str(response.status)
                self._warn(response.headers.getall("Warning", ()))
                return Answer(response.status, response.headers, content)
        except _BROKEN as error:
            if body is not None and body.refusal is not None:
                raise body.refusal from None
            self._connections.suspect(error)
            text = f"{method} {self.config.server}{path}: {_words(error)}"
            never_sent = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
            if never_sent or method == "GET":
                raise TransportError(text) from error
            raise OutcomeUnknown(text) from error
        finally:
            metrics = self._metrics
            metrics.requests_total.labels(code, method, self._host).inc()
            metrics.request_duration.labels(method, self._host).observe(self._clock.monotonic() - started)
            if code != "<error>":
                metrics.response_size.labels(method, self._host).observe(len(content))

    @asynccontextmanager
    async def stream(
        self, path: str, query: Mapping[str, str], *, accept: str = "application/json"
    ) -> AsyncIterator[Stream]:
        """A watch. Raises ApiError where it is refused, TransportError; leaving the block closes the connection."""
        authorization = await self.config.credentials.authorization()
        headers = {"Accept": accept}
        if authorization:
            headers["Authorization"] = authorization
        async with self._connections.use(Pool.WATCH) as client:
            code = "<error>"
            response = None
            try:
                try:
                    async with asyncio.timeout(REQUEST_TIMEOUT):
                        response = await client.get(
                            self._url(path, query),
                            headers=headers,
                            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT),
                            server_hostname=self.config.tls.server_name,
                        )
                        refusal = await response.read() if response.status >= 400 else b""
                    code = str(response.status)
                except _BROKEN as error:
                    self._connections.suspect(error)
                    raise TransportError(f"watch {self.config.server}{path}: {_words(error)}") from error
                finally:
                    self._metrics.requests_total.labels(code, "GET", self._host).inc()
                if response.status >= 400:
                    if response.status == 401:
                        self.config.credentials.rejected(authorization)
                    delay = retry_after(response.headers.get("Retry-After"), self._clock.now())
                    raise _error(Answer(response.status, response.headers, refusal), delay)
                yield Stream(response)
            finally:
                if response is not None:
                    # Not released to the pool: a watch that is left has unread events on its connection.
                    response.close()

    async def aclose(self) -> None:
        """Close all connections and return when they are gone; calls that are still running fail, as do later ones."""
        await self._connections.aclose()

    def _url(self, path: str, query: Mapping[str, str] | None) -> URL:
        url = self._base.join(URL(path.lstrip("/"), encoded=True))
        return url.with_query(query) if query else url

    def _warn(self, headers: Any) -> None:
        for header in headers:
            for text in _WARNING.findall(header):
                if text not in self._warned and len(self._warned) < 1000:
                    self._warned.add(text)
                    _log.warning("the API server warns", warning=text)


def _limits(timeout: float, patient: bool) -> aiohttp.ClientTimeout:
    if patient:
        return aiohttp.ClientTimeout(total=None, connect=timeout, sock_connect=CONNECT_TIMEOUT, sock_read=timeout)
    return aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT_TIMEOUT)


def _words(error: BaseException) -> str:
    return str(error) or ("timed out" if isinstance(error, TimeoutError) else type(error).__name__)


def _error(answer: Answer, delay: float | None) -> ApiError:
    if answer.code < 400:
        target = answer.headers.get("Location", "nowhere")
        message = f"the server redirects to {target}, which a write does not follow: is the server's address right?"
        return ApiError(message, code=answer.code, reason="Redirect")
    try:
        status = json.loads(answer.body)
    except ValueError:
        status = None
    if not isinstance(status, dict) or status.get("kind") != "Status":
        text = answer.body[:500].decode(errors="replace").strip()
        message = f"the server answered {answer.code}: {text}" if text else ""
        # A path that it does not know kube-apiserver answers with a line of text that says less.
        status = {"message": _NO_SUCH_PATH if answer.code == 404 else message}
    return ApiError.from_status(status, code=answer.code, retry_after=delay)


def refuse_table(kind: str, what: str) -> None:
    """Raise NotAcceptable where a server answered with a ``Table``, as a wrong proxy does: it must never be stored."""
    if kind == "Table":
        raise NotAcceptable(f"the server answered {what} with a Table instead of objects")
