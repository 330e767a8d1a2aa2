"""An informer against a server that is any server: in the end its store is what the server has, and handlers saw it happen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

import looptime
from hypothesis import given, settings
from hypothesis import strategies as st

from kaito.runtime import (
    PODS,
    BadRequest,
    Event,
    EventType,
    Expired,
    Forbidden,
    InternalError,
    Invalid,
    Key,
    Rest,
    RuntimeFault,
    RuntimeMetrics,
    ServerTimeout,
    Stored,
    TooManyRequests,
    TransportError,
)
from kaito.runtime.cache.informer import Informer
from kaito.runtime.cache.reflector import ReflectorMachine
from kaito.runtime.cache.scope import Scope
from kaito.runtime.tasks import cancel_and_wait
from kaito.runtime.transport.rest import Answer

FAILURES: dict[str, Callable[[], RuntimeFault]] = {
    "expired": lambda: Expired("too old"),
    "too large": lambda: ServerTimeout("Too large resource version: 9, current: 1"),
    "throttled": lambda: TooManyRequests("slow down", retry_after=1.0),
    "internal": lambda: InternalError("boom"),
    "forbidden": lambda: Forbidden("no"),
    "reset": lambda: TransportError("reset"),
}


class LoopClock:
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return self._loop.time()


def wire(name: str, uid: str, version: int) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "n", "uid": uid, "resourceVersion": str(version)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}


@dataclass
class Server:
    """Objects, their history as far as it is kept, and what becomes of each request."""

    fates: Iterator[str]
    streams: bool
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    history: list[tuple[int, str, dict[str, Any]]] = field(default_factory=list)
    version: int = 1
    compacted: int = 0
    grown: asyncio.Event = field(default_factory=asyncio.Event)

    def write(self, name: str) -> dict[str, Any]:
        self.version += 1
        current = self.objects.get(name)
        uid = current["metadata"]["uid"] if current else f"{name}-{self.version}"
        self.objects[name] = wire(name, uid, self.version)
        self._record("MODIFIED" if current else "ADDED", self.objects[name])
        return self.objects[name]

    def delete(self, name: str) -> dict[str, Any] | None:
        current = self.objects.pop(name, None)
        if current is not None:
            self.version += 1
            self._record("DELETED", wire(name, current["metadata"]["uid"], self.version))
        return current

    def _record(self, kind: str, obj: dict[str, Any]) -> None:
        self.history.append((self.version, kind, obj))
        self.grown.set()
        self.grown = asyncio.Event()

    def compact(self) -> None:
        self.compacted = self.version
        self.history.clear()

    async def send(self, method: str, path: str, *, query: Mapping[str, str], accept: str, patient: bool) -> Answer:
        await asyncio.sleep(0.01)
        fate = next(self.fates, "")
        if fate in FAILURES:
            raise FAILURES[fate]()
        version = query.get("resourceVersion", "0")
        if "continue" in query:
            assert "resourceVersion" not in query
        elif version != "0" and int(version) < self.compacted:
            raise Expired("too old resource version")
        names = sorted(self.objects)
        start = int(query.get("continue", "0"))
        size = 2 if "limit" in query and fate == "pages" else len(names) + 1
        if "continue" in query:
            size = 2
        metadata = {"resourceVersion": str(self.version)}
        if start + size < len(names):
            metadata["continue"] = str(start + size)
        items = [self.objects[name] for name in names[start : start + size]]
        body = json.dumps({"kind": "PodList", "metadata": metadata, "items": items})
        await asyncio.sleep(0.02)  # the answer is on its way, and the server goes on
        return Answer(200, cast(Any, None), body.encode())

    @asynccontextmanager
    async def stream(self, path: str, query: Mapping[str, str], *, accept: str) -> AsyncIterator[Watch]:
        await asyncio.sleep(0.01)
        fate = next(self.fates, "")
        if fate in FAILURES:
            raise FAILURES[fate]()
        initial = "sendInitialEvents" in query
        if initial and not self.streams:
            raise Invalid("sendInitialEvents is forbidden") if self.version % 2 else BadRequest("unknown parameter")
        since = int(query.get("resourceVersion", "0"))
        if not initial and since < self.compacted:
            raise Expired("too old resource version")
        yield Watch(self, since, fate, initial=initial)


class Watch:
    """What a watch sends: what there is (if asked), what happens, bookmarks; until its fate ends it."""

    def __init__(self, server: Server, since: int, fate: str, *, initial: bool) -> None:
        self._server = server
        self._since = server.version if initial else since
        self._fate = fate
        self._sent = 0
        self._first: list[bytes] = []
        if initial:
            existing = [self._line("ADDED", obj) for obj in reversed(server.objects.values())]
            annotations = {"k8s.io/initial-events-end": "true"}
            metadata = {"resourceVersion": str(server.version), "annotations": annotations}
            self._first = [*existing, self._line("BOOKMARK", {"kind": "Pod", "metadata": metadata})]

    @staticmethod
    def _line(kind: str, obj: dict[str, Any]) -> bytes:
        return json.dumps({"type": kind, "object": obj}).encode()

    async def lines(self) -> list[bytes] | None:
        if self._first and self._fate != "no end":
            first, self._first = self._first, []
            return first
        if self._sent:
            match self._fate:
                case "ends":
                    return None
                case "breaks":
                    raise TransportError("cut")
                case "garbage":
                    return [b"<html>\xff"]
                case "bad bookmark":
                    return [b'{"type":"BOOKMARK","object":null}']
                case "error event":
                    return [self._line("ERROR", {"kind": "Status", "code": 410, "reason": "Expired"})]
                case "server error":
                    return [self._line("ERROR", {"kind": "Status", "code": 500, "reason": "InternalError"})]
                case "silent":
                    await asyncio.Event().wait()
        if self._fate == "ends at once":
            return None
        await asyncio.sleep(0.01)
        if self._since < self._server.compacted:
            return [self._line("ERROR", {"kind": "Status", "code": 410, "reason": "Expired"})]
        news = [entry for entry in self._server.history if entry[0] > self._since][:3]
        if not news:
            grown = self._server.grown
            try:
                async with asyncio.timeout(60.0):
                    await grown.wait()
            except TimeoutError:
                self._sent += 1
                self._since = max(self._since, self._server.version)
                return [self._line("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": str(self._since)}})]
            return []
        self._sent += 1
        self._since = news[-1][0]
        return [self._line(kind, obj) for _, kind, obj in news]


class View:
    """What a handler makes of the events it is told, checking each against the last."""

    def __init__(self) -> None:
        self.state: dict[Key, Stored[Any]] = {}
        self.newest: dict[str, int] = {}
        self.gone: set[str] = set()

    def __call__(self, event: Event[Any]) -> None:
        key = event.current.key
        if event.type is EventType.DELETED:
            assert event.new is None
            self.gone.add(self.state.pop(key).uid)
            return
        assert event.new is not None
        assert event.new.uid not in self.gone, "what was deleted came back"
        if event.type is EventType.ADDED:
            assert key not in self.state
        else:
            assert self.state[key] is event.old
        assert event.new.revision > self.newest.get(event.new.uid, 0), "an object went back in time, or was told twice"
        self.newest[event.new.uid] = event.new.revision
        self.state[key] = event.new


async def follow(actions: list[tuple[str, str, float]], fates: list[str], streams: bool) -> None:
    server = Server(iter(fates), streams)
    server.write("a")
    metrics = RuntimeMetrics()
    informer = Informer(
        cast(Rest, server),
        PODS,
        Scope("n"),
        metrics=metrics,
        clock=LoopClock(),
        machine=ReflectorMachine(rng=lambda: 0.5),
    )
    view = View()
    informer.add_handler(view)
    task = asyncio.create_task(informer.run())
    answers: list[dict[str, Any]] = []
    for action, name, pause in actions:
        match action:
            case "write":
                server.write(name)
            case "own write":
                answers.append(server.write(name))
            case "delete":
                server.delete(name)
            case "own deletion":
                if deleted := server.delete(name):
                    informer.deleted(Key("n", name), deleted["metadata"]["uid"])
            case "answer" if answers:
                informer.written(json.dumps(answers.pop()).encode())
            case "compact":
                server.compact()
        if pause:
            await asyncio.sleep(pause)
        assert not task.done(), task.exception()
        assert {stored.key: stored for stored in informer.lister(lambda: None).stored_list()} == view.state
    await asyncio.sleep(4500.0)  # all fates are over by then, also for a watch that fell silent
    assert not task.done(), task.exception()
    assert informer.synced
    assert {key.name: stored.resource_version for key, stored in view.state.items()} == {
        name: obj["metadata"]["resourceVersion"] for name, obj in server.objects.items()
    }
    assert informer.status().resource_version == server.version
    failed = metrics.registry.get_sample_value("kaito_runtime_informer_handler_errors_total", {"resource": "pods"})
    assert not failed, "the handler was told something that cannot be: see the log"
    await cancel_and_wait(task)


_actions = st.tuples(
    st.sampled_from(["write", "own write", "answer", "delete", "own deletion", "compact"]),
    st.sampled_from("ab"),
    st.sampled_from([0.0, 0.0, 0.01, 0.03, 0.1, 40.0]),
)
_fates = st.sampled_from(
    [
        *FAILURES,
        "",
        "pages",
        "ends",
        "ends at once",
        "breaks",
        "garbage",
        "bad bookmark",
        "error event",
        "server error",
        "silent",
        "no end",
    ]
)


@settings(max_examples=60, deadline=None)
@given(actions=st.lists(_actions, max_size=30), fates=st.lists(_fates, max_size=8), streams=st.booleans())
def test_whatever_a_server_does_the_store_ends_up_equal_to_it(
    actions: list[tuple[str, str, float]], fates: list[str], streams: bool
) -> None:
    with asyncio.Runner(loop_factory=lambda: looptime.new_event_loop(noop_cycles=3)) as runner:
        runner.run(follow(actions, fates, streams))
