"""What the controllers of workloads have in common: they claim what they own, act on it, and report it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

from kaito.devcluster.controllers.ownership import adopters, claim
from kaito.runtime import (
    PODS,
    ApiError,
    Controller,
    LabelSelector,
    Manager,
    Manifest,
    NotFound,
    ObjectMeta,
    ObjectReference,
    Request,
    Resource,
    Result,
    Watch,
)

TERMINATING = "NamespaceTerminating"
"""Cause of the error with which a namespace that is being deleted refuses new objects."""


class Workload(ABC):
    """The controller of one kind of workload."""

    name: ClassVar[str]
    resource: ClassVar[Resource[Manifest]]
    owned: ClassVar[Resource[Manifest]] = PODS
    """What it makes."""
    created: ClassVar[str] = "Created pod: {pod}"
    deleted: ClassVar[str] = "Deleted pod: {pod}"
    """Notes of Events; ``{owner}`` is the workload's name."""
    workers: ClassVar[int] = 4

    def __init__(self, manager: Manager) -> None:
        self.client = manager.client
        self.clock = manager.clock
        self.recorder = manager.recorder(self.name)
        self.workloads = manager.cache.lister(self.resource)
        self.children = manager.cache.lister(self.owned)

    @abstractmethod
    async def sync(
        self, workload: Manifest, meta: ObjectMeta, selector: LabelSelector, owned: list[Manifest]
    ) -> float | None:
        """Bring about what ``workload`` asks for, and report it. Seconds until waiting alone changes something; None for never.

        Raises ApiError.
        """

    async def reconcile(self, request: Request) -> Result | None:
        stored = self.workloads.stored(request.key.name, request.key.namespace)
        if stored is None:
            return None
        workload, meta = stored.decode(), stored.meta
        selector = LabelSelector.from_object(workload["spec"]["selector"])
        assert selector is not None, "the API server requires a selector, or sets one"
        owned = await claim(self.client, self.resource, meta, selector, self.owned, self.children)
        try:
            again = await self.sync(workload, meta, selector, owned)
        except ApiError as error:
            if error.has_cause(TERMINATING):
                return None
            raise
        return Result(requeue_after=again) if again else None

    async def report(self, workload: Manifest, status: Manifest) -> None:
        if status != (workload.get("status") or {}):
            await self.client.update_status(self.resource, {**workload, "status": status})

    async def create_pod(self, meta: ObjectMeta, pod: Manifest) -> Manifest:
        made = await self.client.create(PODS, pod, namespace=meta.namespace)
        note = self.created.format(pod=made["metadata"]["name"], owner=meta.name)
        self.recorder.event(ObjectReference.of(self.resource, meta), "Normal", "SuccessfulCreate", note)
        return made

    async def delete_pod(self, meta: ObjectMeta, pod: Manifest) -> None:
        name = pod["metadata"]["name"]
        try:
            await self.client.delete(PODS, name, meta.namespace, uid=pod["metadata"]["uid"])
        except NotFound:
            return
        note = self.deleted.format(pod=name, owner=meta.name)
        self.recorder.event(ObjectReference.of(self.resource, meta), "Normal", "SuccessfulDelete", note)

    def add_to(self, manager: Manager, watches: Iterable[Watch[Any]] = ()) -> None:
        """Run it; ``watches`` beside those of what it owns and may adopt."""
        manager.add(
            Controller(
                self.name,
                self,
                primary=self.resource,
                owns=(self.owned,),
                watches=(Watch(self.owned, adopters(self.workloads)), *watches),
                max_concurrent=self.workers,
            )
        )
