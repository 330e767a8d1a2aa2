"""The store: versions never go back, deletions are never lost, indexes agree with what is stored."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kaito.runtime import PODS, CacheError, CacheNotStarted, EventType, Key, Lister, Stored
from kaito.runtime.cache.store import Store


def fail(error: Exception) -> None:
    raise error


def make(
    name: str, version: int, *, uid: str = "", labels: dict[str, str] | None = None, namespace: str = "n"
) -> Stored[Any]:
    metadata = {"name": name, "namespace": namespace, "uid": uid or f"uid-{name}", "resourceVersion": str(version)}
    if labels:
        metadata["labels"] = labels
    return Stored(PODS, json.dumps({"kind": "Pod", "apiVersion": "v1", "metadata": metadata}).encode())


def listing(*objects: Stored[Any]) -> dict[Key, Stored[Any]]:
    return {stored.key: stored for stored in objects}


@pytest.fixture
def store() -> Store[Any]:
    return Store(PODS, on_index_error=fail)


def test_an_older_version_never_replaces_a_newer_one(store: Store[Any]) -> None:
    store.upsert(make("a", 5))
    assert store.upsert(make("a", 4)) is None
    assert store.upsert(make("a", 5)) is None
    event = store.upsert(make("a", 6))
    assert event is not None
    assert (event.type, event.old and event.old.revision, event.new and event.new.revision) == (EventType.UPDATED, 5, 6)


def test_what_a_list_no_longer_has_is_reported_deleted_before_anything_new(store: Store[Any]) -> None:
    list(store.replace(listing(make("a", 1), make("b", 2)), "2"))
    events = list(store.replace(listing(make("b", 2), make("c", 7)), "9"))
    assert [(event.type, event.current.key.name, event.final_state_unknown) for event in events] == [
        (EventType.DELETED, "a", True),
        (EventType.ADDED, "c", False),
    ]
    assert store.revision == 9


def test_a_list_from_before_an_own_creation_and_deletion_does_not_bring_the_object_back(store: Store[Any]) -> None:
    list(store.replace({}, "50"))
    assert store.inject(make("x", 60)) is not None
    assert store.forget(Key("n", "x"), "uid-x") is not None
    assert list(store.replace({}, "50")) == []
    assert store.upsert(make("x", 60)) is None
    assert store.remove(make("x", 61)) is None
    assert store.upsert(make("x", 70, uid="another")) is not None


def test_a_list_from_after_an_own_deletion_ends_the_wait_for_its_event(store: Store[Any]) -> None:
    list(store.replace(listing(make("x", 5)), "5"))
    store.forget(Key("n", "x"), "uid-x")
    list(store.replace(listing(make("x", 5)), "5"))
    assert store.upsert(make("x", 5)) is None
    list(store.replace({}, "9"))
    assert store.upsert(make("x", 12)) is not None


def test_changes_found_by_a_list_are_updates(store: Store[Any]) -> None:
    list(store.replace(listing(make("a", 1)), "1"))
    (event,) = store.replace(listing(make("a", 5)), "5")
    assert event.type is EventType.UPDATED
    assert event.old is not None
    assert event.old.revision == 1


def test_a_missed_deletion_is_told_once_with_the_object_itself(store: Store[Any]) -> None:
    """Pitfalls 1 and 2: also where lists follow each other quickly."""
    list(store.replace(listing(make("a", 1)), "1"))
    store.upsert(make("short-lived", 2))
    told = [event for version in ("3", "4", "5") for event in store.replace(listing(), version)]
    assert [(event.type, event.current.key.name) for event in told] == [
        (EventType.DELETED, "a"),
        (EventType.DELETED, "short-lived"),
    ]
    assert all(isinstance(event.old, Stored) for event in told)
    assert store.remove(make("a", 2)) is None, "the deletion itself, late"


def test_an_object_that_is_made_again_is_told_as_a_deletion_and_an_addition(store: Store[Any]) -> None:
    """Pitfall 4."""
    store.upsert(make("a", 1, uid="first"))
    told = [store.remove(make("a", 2, uid="first")), store.upsert(make("a", 3, uid="second"))]
    assert [(event.type, event.current.uid) for event in told if event] == [
        (EventType.DELETED, "first"),
        (EventType.ADDED, "second"),
    ]
    # Where both were missed, the new object is an update of the old one: the uids tell.
    (event,) = store.replace(listing(make("a", 9, uid="third")), "9")
    assert event.type is EventType.UPDATED
    assert event.old is not None
    assert (event.old.uid, event.current.uid) == ("second", "third")


def test_what_was_read_does_not_change_while_the_store_does(store: Store[Any]) -> None:
    """Pitfalls 38 and 102: a reader's list is its own, also while it is gone through."""
    for number in range(10):
        store.upsert(make(f"p{number}", number + 1))
    lister = Lister(store, lambda: None)
    for number, stored in enumerate(lister.stored_list()):
        store.remove(make(stored.key.name, 100 + number))
        store.upsert(make(f"new{number}", 200 + number))
    assert len(lister.stored_list()) == len(lister.stored_list("n")) == len(lister) == 10


def test_an_own_write_is_readable_at_once_and_its_late_event_is_no_news(store: Store[Any]) -> None:
    list(store.replace(listing(make("a", 1)), "1"))
    assert store.inject(make("a", 4)) is not None
    assert store.upsert(make("a", 3)) is None
    assert store.upsert(make("a", 4)) is None
    current = store.get(Key("n", "a"))
    assert current is not None
    assert current.revision == 4


def test_a_late_answer_does_not_bring_a_deleted_object_back(store: Store[Any]) -> None:
    list(store.replace(listing(make("a", 1)), "1"))
    store.upsert(make("a", 3))
    store.remove(make("a", 5))
    assert store.inject(make("a", 4)) is None
    assert len(store) == 0


def test_a_list_older_than_an_own_write_does_not_undo_it(store: Store[Any]) -> None:
    store.inject(make("new", 8))
    assert list(store.replace(listing(), "5")) == []
    assert store.get(Key("n", "new")) is not None
    (event,) = store.replace(listing(), "9")
    assert event.type is EventType.DELETED


def test_an_own_deletion_shows_at_once_and_stays(store: Store[Any]) -> None:
    list(store.replace(listing(make("a", 1)), "1"))
    event = store.forget(Key("n", "a"), "uid-a")
    assert event is not None
    assert event.type is EventType.DELETED
    assert store.upsert(make("a", 2)) is None, "an event from before the deletion"
    assert store.remove(make("a", 3)) is None, "it was reported already"
    assert store.upsert(make("a", 4, uid="another")) is not None


def test_a_recreated_object_is_not_deleted_by_the_first_ones_event(store: Store[Any]) -> None:
    store.upsert(make("a", 1))
    store.inject(make("a", 9, uid="second"))
    assert store.remove(make("a", 5, uid="uid-a")) is None
    current = store.get(Key("n", "a"))
    assert current is not None
    assert current.uid == "second"


def test_a_deletion_carries_the_last_state(store: Store[Any]) -> None:
    store.upsert(make("a", 1, labels={"x": "old"}))
    event = store.remove(make("a", 2, labels={"x": "last"}))
    assert event is not None
    assert event.old is not None
    assert event.old.labels == {"x": "last"}


def test_an_index_added_late_covers_what_is_stored_and_empties_without_leaks(store: Store[Any]) -> None:
    for number in range(100):
        store.upsert(make(f"p{number}", number + 1, labels={"node": str(number)}))
    store.add_index("node", lambda stored: [stored.labels["node"]])
    lister: Lister[Any] = Lister(store, lambda: None)
    assert [stored.key.name for stored in lister.by_index("node", "7")] == ["p7"]
    store.upsert(make("p7", 500, labels={"node": "8"}))
    assert lister.by_index("node", "7") == []
    assert {stored.key.name for stored in lister.by_index("node", "8")} == {"p7", "p8"}
    index = store.indexes.named("node")
    for number in range(100):
        store.remove(make(f"p{number}", 1000 + number, labels={"node": "x"}))
    assert len(index) == 0
    assert store.bytes == 0
    with pytest.raises(ValueError, match="already has an index"):
        store.add_index("node", lambda stored: [])
    with pytest.raises(KeyError):
        lister.by_index("other", "x")


def test_an_index_function_that_fails_does_not_lose_the_object() -> None:
    errors: list[Exception] = []
    store: Store[Any] = Store(PODS, on_index_error=errors.append)
    store.add_index("broken", lambda stored: [stored.labels["missing"]])
    assert store.upsert(make("a", 1)) is not None
    assert len(store) == 1
    assert len(errors) == 1


def test_readers_filter_and_refuse_before_the_first_list(store: Store[Any]) -> None:
    ready = False

    def check() -> None:
        if not ready:
            raise CacheNotStarted("not yet")

    lister = Lister(store, check)
    with pytest.raises(CacheError):
        lister.get("a", "n")
    ready = True
    store.upsert(make("a", 1, labels={"x": "1"}))
    store.upsert(make("b", 2, labels={"x": "2"}))
    store.upsert(make("c", 3, labels={"x": "1"}, namespace="m"))
    assert {stored.key.name for stored in lister.stored_list(labels={"x": "1"})} == {"a", "c"}
    assert [stored.key.name for stored in lister.stored_list("n", labels={"x": "1"})] == ["a"]
    assert lister.stored_list("nowhere") == []
    assert lister.get("missing", "n") is None


class ServerAndStore(RuleBasedStateMachine):
    """A server, a watch that lags behind it, relists and own writes: in the end the store is what the server is."""

    names = st.sampled_from("abc")

    def __init__(self) -> None:
        super().__init__()
        self.store: Store[Any] = Store(PODS, on_index_error=fail)
        self.store.add_index("uid", lambda stored: [stored.uid])
        self.version = 0
        self.server: dict[str, Stored[Any]] = {}
        self.stream: list[tuple[str, Stored[Any]]] = []
        self.answers: list[Stored[Any]] = []
        self.seen: dict[str, int] = {}
        self.backups: list[tuple[int, dict[str, Stored[Any]]]] = []
        self.rewinding = False
        self.view: dict[Key, Stored[Any]] = {}

    def note(self, event: Any) -> None:
        if event is None:
            return
        key = event.current.key
        if event.type is EventType.ADDED:
            assert key not in self.view
            self.view[key] = event.new
        elif event.type is EventType.UPDATED:
            assert self.view[key] is event.old
            assert self.rewinding or event.new.revision > event.old.revision
            self.view[key] = event.new
        else:
            del self.view[key]

    @rule(name=names, own=st.booleans())
    def write(self, name: str, own: bool) -> None:
        self.version += 1
        current = self.server.get(name)
        changed = make(name, self.version, uid=current.uid if current else f"{name}{self.version}")
        self.server[name] = changed
        self.stream.append(("MODIFIED" if current else "ADDED", changed))
        if own:
            self.answers.append(changed)

    @rule(name=names, own=st.booleans())
    def delete(self, name: str, own: bool) -> None:
        current = self.server.pop(name, None)
        if current is None:
            return
        self.version += 1
        last = make(name, self.version, uid=current.uid)
        self.stream.append(("DELETED", last))
        if own:
            self.note(self.store.forget(current.key, current.uid))

    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        if self.answers:
            index = data.draw(st.integers(0, len(self.answers) - 1))
            self.note(self.store.inject(self.answers.pop(index)))

    @rule(count=st.integers(1, 4))
    def deliver(self, count: int) -> None:
        for _ in range(min(count, len(self.stream))):
            kind, stored = self.stream.pop(0)
            self.note(self.store.remove(stored) if kind == "DELETED" else self.store.upsert(stored))

    @rule()
    def relist(self) -> None:
        self.stream.clear()
        listed = {stored.key: stored for stored in self.server.values()}
        for event in self.store.replace(listed, str(self.version), known=self.store.known()):
            self.note(event)
        self.converged()

    @rule()
    def back_up(self) -> None:
        self.backups.append((self.version, dict(self.server)))

    @precondition(lambda self: self.backups)
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        """etcd is restored: everything since is gone, and its versions are given again, to other writes."""
        at = data.draw(st.integers(0, len(self.backups) - 1))
        self.version, server = self.backups[at]
        self.server = dict(server)
        del self.backups[at + 1 :]
        self.answers.clear()
        self.seen.clear()
        self.rewinding = True
        self.relist()
        self.rewinding = False

    def converged(self) -> None:
        assert {key: stored.revision for key, stored in self.view.items()} == {
            stored.key: stored.revision for stored in self.server.values()
        }

    @invariant()
    def handlers_and_store_agree(self) -> None:
        assert {stored.key: stored for stored in self.store.snapshot()} == self.view
        assert self.store.bytes == sum(len(stored.data) for stored in self.view.values())
        indexed = {key for stored in self.view.values() for key in self.store.indexes.named("uid").keys(stored.uid)}
        assert indexed == set(self.view)
        assert len(self.store.indexes.named("uid")) == len(self.view)

    @invariant()
    def nothing_goes_back(self) -> None:
        for stored in self.view.values():
            assert stored.revision >= self.seen.get(stored.uid, 0)
            self.seen[stored.uid] = stored.revision

    def teardown(self) -> None:
        self.answers.clear()
        self.deliver(len(self.stream))
        self.converged()


ServerAndStore.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestServerAndStore = ServerAndStore.TestCase
