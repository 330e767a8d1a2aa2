"""API servers as informers meet them behind a load balancer: one that lags behind, one that repeats itself, one that lies.

A ``Replica`` stands before the one true server and reads HTTP. Lists are answered from the server's own history, so what a
replica says was true at some time. Some answers are passed on as they are.
"""

from __future__ import annotations

import asyncio
import enum
import json
import math
import random
from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import hdrs, web

from kaito.devcluster.apiserver import ApiServer
from kaito.devcluster.apiserver.serving.pki import ServerIdentity
from kaito.runtime import ApiError, Expired, ServerTimeout

PAST = 200
"""How many versions a liar goes back, at most."""
REMEMBERED = 40
"""Events of a watch that may be repeated."""
LIFETIME = (1.0, 5.0)
"""Seconds after which most watches are told that their version is gone."""
INITIAL_EVENTS_END = {"k8s.io/initial-events-end": "true"}


class Kind(enum.StrEnum):
    """What a replica does to an answer."""

    STALE = "a list no newer than asked for"
    SHUFFLED = "a list without order, some objects twice"
    AGAIN = "the same list again"
    BEHIND = "a version it has not reached"
    TRAVEL = "a list from before what was asked for"

    DOUBLED = "every event twice"
    SCRAMBLED = "old events again, out of order"
    REPLAY = "a watch from before what was asked for"

    GONE = "410 within a watch"


LISTS = (Kind.STALE, Kind.SHUFFLED, Kind.AGAIN, Kind.BEHIND, Kind.TRAVEL)
WATCHES = (Kind.DOUBLED, Kind.SCRAMBLED, Kind.REPLAY)
LIES = frozenset({Kind.TRAVEL, Kind.REPLAY})
"""What no Kubernetes API server does: it takes its client back in time, and brings back to life what was deleted."""
EVERY = frozenset(Kind)
HONEST = EVERY - LIES


@dataclass(frozen=True, slots=True)
class State:
    version: str
    items: list[dict[str, Any]]

    def listed(self) -> bytes:
        metadata = {"resourceVersion": self.version}
        return _line({"kind": "ConfigMapList", "apiVersion": "v1", "metadata": metadata, "items": self.items})

    def streamed(self) -> bytes:
        end = {"resourceVersion": self.version, "annotations": INITIAL_EVENTS_END}
        lines = [_line({"type": "ADDED", "object": item}) for item in self.items]
        return b"".join([*lines, _line({"type": "BOOKMARK", "object": {"kind": "ConfigMap", "metadata": end}})])


class Replica:
    """Serves lists and watches of config maps over TLS. Clients are told apart by their user agents."""

    def __init__(self, server: ApiServer, kinds: Collection[Kind], rng: random.Random) -> None:
        self._server, self._rng = server, rng
        self._kinds = frozenset(kinds)
        self._calm = False
        self._again: dict[str, State] = {}
        self._identity = ServerIdentity.create()
        self._session: aiohttp.ClientSession
        self._runner = web.ServerRunner(
            web.Server(self._serve, access_log=None, handler_cancellation=True), shutdown_timeout=1.0
        )
        self.said: Counter[str] = Counter()
        """What has been sent of each kind."""

    async def __aenter__(self) -> Replica:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None),
            headers={hdrs.ACCEPT_ENCODING: "identity"},
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._identity.ssl_context()).start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._runner.cleanup()
        await self._session.close()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._runner.addresses[0][1]}"

    @property
    def ca_pem(self) -> bytes:
        return self._identity.ca

    def calm(self, calm: bool) -> None:
        """Whether to pass everything on as it is, from now on."""
        self._calm = calm
        self._again.clear()

    def _choose(self, among: Collection[Kind], chance: float) -> Kind | None:
        possible = [kind for kind in among if kind in self._kinds]
        return self._rng.choice(possible) if not self._calm and self._rng.random() < chance else None

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            if "watch" in request.query:
                return await self._watch(request)
            state = await self._state(request)
            if state is None:
                async with self._ask(request, dict(request.query)) as answer:
                    return await _passed_on(answer)
            return web.Response(body=state.listed(), content_type="application/json")
        except ApiError as error:
            return web.json_response(error.status(), status=error.code)
        except (aiohttp.ClientError, ConnectionError):
            # The server broke the connection, or the client did: there is nothing more to say.
            if request.transport is not None:
                request.transport.abort()
            return web.Response()

    def _ask(self, request: web.BaseRequest, query: dict[str, str]) -> Any:
        headers = {name: request.headers[name] for name in (hdrs.AUTHORIZATION, hdrs.ACCEPT)}
        return self._session.get(self._server.url + request.path, params=query, headers=headers)

    # Lists

    async def _state(self, request: web.BaseRequest) -> State | None:
        """What to answer to a list; None for what the server says. Raises ApiError."""
        agent = request.headers[hdrs.USER_AGENT]
        asked = request.query.get("resourceVersion", "")
        again = self._again.pop(agent, None)
        if again is not None and asked.isdecimal() and int(asked) <= int(again.version):
            self.said[Kind.AGAIN] += 1
            return again
        newest = self._server.revision
        kind = self._choose(LISTS, 0.8)
        match kind:
            case Kind.STALE if asked:
                version = int(asked) or self._past(newest)
            case Kind.TRAVEL:
                version = self._past(int(asked or newest))
            case Kind.BEHIND if asked not in ("", "0"):
                self.said[kind] += 1
                cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
                raise ServerTimeout("Too large resource version", details={"causes": [cause]})
            case Kind.SHUFFLED | Kind.AGAIN:
                version = newest
            case _:
                return None
        state = await self._as_of(request, version)
        if state is None:
            return None
        if kind is Kind.AGAIN:
            self._again[agent] = state
        elif kind is not Kind.SHUFFLED:
            self.said[kind] += int(state.version) < newest
        else:
            self._rng.shuffle(state.items)
            state.items.extend(self._rng.sample(state.items, len(state.items) // 10))
            self.said[kind] += 1
        return state

    def _past(self, version: int) -> int:
        return max(1, version - self._rng.randint(1, PAST))

    async def _as_of(self, request: web.BaseRequest, version: int) -> State | None:
        """What the server had at ``version``; None where it does not know or does not answer."""
        exact = {"resourceVersion": str(version), "resourceVersionMatch": "Exact"}
        async with self._ask(request, exact) as answer:
            if answer.status != 200:
                return None
            listed = await answer.json()
            return State(listed["metadata"]["resourceVersion"], listed["items"])

    # Watches

    async def _watch(self, request: web.BaseRequest) -> web.StreamResponse:
        query = dict(request.query)
        state = await self._state(request) if "sendInitialEvents" in query else None
        if state is not None:
            del query["sendInitialEvents"], query["resourceVersionMatch"]
            query["resourceVersion"] = state.version
        kind = self._choose(WATCHES, 0.5) if "sendInitialEvents" not in query else None
        if kind is Kind.REPLAY:
            query["resourceVersion"] = str(self._past(int(query["resourceVersion"])))
        async with self._ask(request, query) as answer:
            if answer.status != 200:
                return await _passed_on(answer)
            response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: "application/json"})
            await response.prepare(request)
            if state is not None:
                await response.write(state.streamed())
            if kind is not None:
                self.said[kind] += kind is not Kind.SCRAMBLED
            if request.headers[hdrs.USER_AGENT] not in self._again:
                try:
                    async with asyncio.timeout(self._rng.uniform(*LIFETIME) if self._rng.random() < 0.7 else None):
                        await self._pump(answer.content, response, kind)
                    return response
                except TimeoutError:
                    if self._calm:
                        return response
            await response.write(_line({"type": "ERROR", "object": Expired("too old resource version").status()}))
            self.said[Kind.GONE] += 1
        return response

    async def _pump(self, lines: aiohttp.StreamReader, response: web.StreamResponse, kind: Kind | None) -> None:
        recent: deque[bytes] = deque(maxlen=REMEMBERED)
        # A liar that does not finish what it began.
        left = self._rng.randint(1, PAST // 2) if kind is Kind.REPLAY and self._rng.random() < 0.5 else math.inf
        async for line in lines:
            await response.write(line * 2 if kind is Kind.DOUBLED else line)
            if kind is Kind.SCRAMBLED:
                recent.append(line)
                if self._rng.random() < 0.02 and (repeated := self._scrambled(recent)):
                    await response.write(b"".join(repeated))
                    self.said[kind] += 1
            left -= 1
            if left <= 0:
                return

    def _scrambled(self, lines: Collection[bytes]) -> list[bytes]:
        """Events of objects that are still there: those of one object in their order, the objects in any."""
        of: dict[str, list[bytes]] = {}
        gone: set[str] = set()
        for line in lines:
            event = json.loads(line)
            if event["type"] in ("BOOKMARK", "ERROR"):
                continue
            name = event["object"]["metadata"]["name"]
            of.setdefault(name, []).append(line)
            (gone.add if event["type"] == "DELETED" else gone.discard)(name)
        turns = [name for name, known in of.items() if name not in gone for _ in known]
        self._rng.shuffle(turns)
        return [of[name].pop(0) for name in turns]


async def _passed_on(answer: aiohttp.ClientResponse) -> web.Response:
    headers = {name: answer.headers[name] for name in (hdrs.RETRY_AFTER, hdrs.CONTENT_TYPE) if name in answer.headers}
    return web.Response(body=await answer.read(), status=answer.status, headers=headers)


def _line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"
