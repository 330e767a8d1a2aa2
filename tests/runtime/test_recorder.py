"""Events: repeated, dropped, refused, and written after all."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web

from kaito.runtime import (
    Client,
    EventRecorder,
    Forbidden,
    ObjectReference,
    Rest,
    RuntimeMetrics,
    ServiceUnavailable,
    TooManyRequests,
    TransportError,
)
from kaito.runtime.manager.recorder import EventWriter
from kaito.runtime.tasks import cancel_and_wait
from support.scripted import scripted, status
from support.waiting import eventually

POD = ObjectReference(api_version="v1", kind="Pod", name="a", namespace="n", uid="u")


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds


class Sink:
    """An API server that keeps what is written; ``refuse`` answers instead where it is set."""

    def __init__(self) -> None:
        self.created: list[dict[str, Any]] = []
        self.patched: list[tuple[str, dict[str, Any]]] = []
        self.refuse: dict[str, int] = {}
        self.hold: asyncio.Event | None = None
        self.busy = 0
        self.most = 0
        self.clock = Clock()

    async def respond(self, request: web.Request) -> web.StreamResponse:
        self.busy += 1
        self.most = max(self.most, self.busy)
        try:
            if self.hold is not None:
                await self.hold.wait()
            body = await request.json()
            if code := self.refuse.get(request.method):
                return status(
                    code, {403: "Forbidden", 404: "NotFound", 409: "AlreadyExists"}.get(code, "InternalError")
                )
            if request.method == "POST":
                self.created.append(body)
            else:
                self.patched.append((request.path.rpartition("/")[2], body))
            return web.json_response({"metadata": {"name": "x"}})
        finally:
            self.busy -= 1


@asynccontextmanager
async def writing(sink: Sink) -> AsyncIterator[tuple[EventWriter, EventRecorder]]:
    async with scripted(sink.respond) as script:
        rest = Rest(script.config, RuntimeMetrics())
        writer = EventWriter(Client(rest), sink.clock, "host_1")
        task = asyncio.create_task(writer.run())
        try:
            yield writer, EventRecorder(writer, "test-controller")
        finally:
            task.cancel()
            await asyncio.wait([task])
            await rest.aclose()


async def test_an_event_says_what_who_and_about_what() -> None:
    sink = Sink()
    node = ObjectReference(api_version="v1", kind="Node", name="node-1", uid="v")
    async with writing(sink) as (writer, recorder):
        recorder.event(POD, "Normal", "Scheduled", "on node-1", action="Binding", related=node)
        recorder.event(node, "Warning", "NotReady", "it does not answer")
        await writer.flush()
    about_pod, about_node = sink.created
    assert about_pod["metadata"]["namespace"] == "n"
    assert about_pod["related"]["name"] == "node-1"
    assert (about_pod["action"], about_node["action"]) == ("Binding", "NotReady")
    assert about_pod["reportingController"] == "test-controller"
    assert about_pod["reportingInstance"] == "host_1"
    assert about_pod["eventTime"] == "2026-01-01T00:00:00.000000Z"
    assert about_node["metadata"]["namespace"] == "default", "a cluster-scoped object's events are in the default one"


async def test_a_repetition_is_a_series_that_starts_with_two_and_is_written_once_a_minute() -> None:
    """Pitfall 91."""
    sink = Sink()
    async with writing(sink) as (writer, recorder):

        async def repeat() -> None:
            recorder.event(POD, "Warning", "Broken", "it broke")
            await writer.flush()

        await repeat()
        await repeat()
        assert [body["series"]["count"] for _, body in sink.patched] == [2]
        for _ in range(5):
            sink.clock.seconds += 1.0
            await repeat()
        assert len(sink.patched) == 1
        sink.clock.seconds += 60.0
        await repeat()
        assert [body["series"]["count"] for _, body in sink.patched] == [2, 8]
        assert sink.patched[1][1]["series"]["lastObservedTime"] == "2026-01-01T00:01:05.000000Z"
        assert len(sink.created) == 1
        assert {name for name, _ in sink.patched} == {sink.created[0]["metadata"]["name"]}
        sink.clock.seconds += 361.0
        await repeat()
        assert len(sink.created) == 2, "after six quiet minutes the series is over"


async def test_something_else_is_another_event() -> None:
    sink = Sink()
    async with writing(sink) as (writer, recorder):
        recorder.event(POD, "Warning", "Broken", "it broke")
        recorder.event(POD, "Warning", "Broken", "it broke", action="Other")
        recorder.event(POD, "Warning", "Other", "it broke")
        recorder.event(POD, "Normal", "Broken", "it broke")
        sink.clock.seconds += 0.001
        await writer.flush()
    assert len(sink.created) == 4
    assert sink.patched == []


async def test_an_event_that_vanished_is_made_again_and_one_that_exists_is_no_error() -> None:
    """Pitfall 91."""
    sink = Sink()
    async with writing(sink) as (writer, recorder):
        sink.refuse = {"POST": 409}
        recorder.event(POD, "Normal", "Exists", "already")
        await writer.flush()
        sink.refuse = {"PATCH": 404}
        recorder.event(POD, "Normal", "Exists", "already")
        await writer.flush()
        sink.refuse = {}
        recorder.event(POD, "Normal", "Exists", "already")
        await writer.flush()
    assert [event["reason"] for event in sink.created] == ["Exists"]


async def test_an_event_that_cannot_be_written_is_dropped_and_the_next_one_tried() -> None:
    sink = Sink()
    async with writing(sink) as (writer, recorder):
        sink.refuse = {"POST": 403}
        recorder.event(POD, "Normal", "Lost", "x")
        await writer.flush()
        sink.refuse = {}
        recorder.event(POD, "Normal", "Lost", "x")
        await writer.flush()
    assert [event["reason"] for event in sink.created] == ["Lost"]


async def test_recording_never_waits_and_memory_is_bounded() -> None:
    """Pitfall 91: two writes at a time, a thousand in waiting, the rest dropped; and stopping does not wait for ever."""
    sink = Sink()
    sink.hold = asyncio.Event()
    async with writing(sink) as (writer, recorder):
        for number in range(1500):
            recorder.event(
                ObjectReference(api_version="v1", kind="Pod", name=f"p{number}", namespace="n"), "Normal", "A", "b"
            )
        assert writer.dropped == 500
        await eventually(lambda: sink.busy == 2)
        for _ in range(20):
            await asyncio.sleep(0)
        assert sink.most == 2


class Failing:
    """A client whose first ``times`` creations fail."""

    def __init__(self, times: int, error: Exception) -> None:
        self.times = times
        self.error = error
        self.tries: list[tuple[str, float]] = []
        self.patches: list[Any] = []

    async def create(self, resource: Any, body: dict[str, Any]) -> None:
        self.tries.append((body["reason"], asyncio.get_running_loop().time()))
        if len(self.tries) <= self.times:
            raise self.error

    async def patch(self, resource: Any, name: str, patch: Any, *, namespace: str) -> None:
        self.patches.append(patch)


@asynccontextmanager
async def recording(client: Failing) -> AsyncIterator[tuple[EventWriter, EventRecorder]]:
    writer = EventWriter(client, Clock(), "host")
    task = asyncio.create_task(writer.run())
    try:
        yield writer, EventRecorder(writer, "c")
    finally:
        await cancel_and_wait(task)


@pytest.mark.looptime
@pytest.mark.parametrize("error", [TransportError("gone"), ServiceUnavailable("busy"), TooManyRequests("slowly")])
async def test_what_the_server_cannot_take_now_is_sent_again_after_ten_seconds_twelve_times_in_all(
    error: Exception,
) -> None:
    """Pitfall 91."""
    client = Failing(100, error)
    async with recording(client) as (_, recorder):
        recorder.event(POD, "Normal", "A", "b")
        await asyncio.sleep(300.0)
        moments = [moment for _, moment in client.tries]
        assert len(moments) == 12
        assert all(10.0 <= after - before <= 12.6 for before, after in itertools.pairwise(moments))
        recorder.event(POD, "Normal", "A", "b")
        await asyncio.sleep(1.0)
        assert len(client.tries) == 13, "what was given up is a new event"


@pytest.mark.looptime
async def test_an_event_that_waits_to_be_sent_again_holds_nobody_up_and_its_repetition_comes_after_it() -> None:
    client = Failing(1, TransportError("gone"))
    async with recording(client) as (writer, recorder):
        recorder.event(POD, "Normal", "A", "b")
        await asyncio.sleep(1.0)
        recorder.event(POD, "Normal", "A", "b")
        recorder.event(POD, "Normal", "B", "b")
        await asyncio.sleep(1.0)
        assert [reason for reason, _ in client.tries] == ["A", "B"]
        assert client.patches == []
        await writer.flush()
        assert [reason for reason, _ in client.tries] == ["A", "B", "A"], "stopping does not wait ten seconds"
        assert [patch["series"]["count"] for patch in client.patches] == [2]


@pytest.mark.looptime
async def test_what_is_refused_is_not_sent_again() -> None:
    client = Failing(100, Forbidden("no"))
    async with recording(client) as (_, recorder):
        recorder.event(POD, "Normal", "A", "b")
        await asyncio.sleep(100.0)
    assert len(client.tries) == 1


@pytest.mark.looptime
async def test_flushing_gives_up_after_five_seconds() -> None:
    class Never:
        async def create(self, *args: Any) -> None:
            await asyncio.Event().wait()

    writer = EventWriter(Never(), Clock(), "host")
    task = asyncio.create_task(writer.run())
    EventRecorder(writer, "c").event(POD, "Normal", "A", "b")
    began = asyncio.get_running_loop().time()
    await writer.flush()
    assert asyncio.get_running_loop().time() - began == pytest.approx(5.0, abs=0.1)
    task.cancel()
    await asyncio.wait([task])
    # Recorded after the writer has ended: kept, and harmless.
    EventRecorder(writer, "c").event(POD, "Normal", "B", "b")


async def test_one_object_cannot_flood_the_server() -> None:
    sink = Sink()
    async with writing(sink) as (writer, recorder):
        for number in range(40):
            recorder.event(POD, "Normal", "Flood", f"number {number}")
        await writer.flush()
        assert len(sink.created) == 25
        sink.clock.seconds += 300.0
        recorder.event(POD, "Normal", "Flood", "one more")
        recorder.event(POD, "Normal", "Flood", "too many")
        await writer.flush()
        assert len(sink.created) == 26


@pytest.mark.parametrize("name", ["system:node", "A-Name", "x" * 253, "a." * 115 + "abc", "", "-"])
async def test_every_event_has_a_name_that_a_server_accepts(name: str) -> None:
    """Pitfall 91."""
    sink = Sink()
    reference = ObjectReference(api_version="rbac.authorization.k8s.io/v1", kind="ClusterRole", name=name)
    async with writing(sink) as (writer, recorder):
        recorder.event(reference, "Normal", "A", "b")
        await writer.flush()
    (event,) = sink.created
    label = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
    assert re.fullmatch(rf"{label}(\.{label})*", event["metadata"]["name"])
    assert len(event["metadata"]["name"]) <= 253
