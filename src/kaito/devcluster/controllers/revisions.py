"""ControllerRevisions: the templates that a StatefulSet or DaemonSet has had."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kaito.devcluster.controllers.ownership import claim
from kaito.devcluster.controllers.templates import template_hash
from kaito.runtime import (
    CONTROLLER_REVISIONS,
    AlreadyExists,
    Client,
    LabelSelector,
    Lister,
    Manifest,
    NotFound,
    ObjectMeta,
    Resource,
    owner_reference,
)

LABEL = "controller-revision-hash"
"""Label of a pod: the name of the revision it was made from."""
HASH = "controller.kubernetes.io/hash"


@dataclass(frozen=True, slots=True)
class History:
    """The revisions of one object, oldest first; ``update`` is that of its present template."""

    update: Manifest
    revisions: tuple[Manifest, ...]

    def find(self, name: str) -> Manifest | None:
        return next((item for item in self.revisions if item["metadata"]["name"] == name), None)

    @property
    def name(self) -> str:
        return str(self.update["metadata"]["name"])


def data_of(template: Mapping[str, Any]) -> Manifest:
    """What a revision keeps: a strategic merge patch that brings the template back, as ``kubectl rollout undo`` sends."""
    return {"spec": {"template": {**template, "$patch": "replace"}}}


def template_of(revision: Mapping[str, Any]) -> Manifest:
    template = dict(revision["data"]["spec"]["template"])
    template.pop("$patch", None)
    return template


class Revisions:
    """Keeps the history of the objects of one resource."""

    def __init__(self, client: Client, owner: Resource[Any], lister: Lister[Manifest]) -> None:
        self._client = client
        self._owner = owner
        self._lister = lister

    async def sync(self, obj: Manifest, meta: ObjectMeta, selector: LabelSelector) -> History:
        """The history, with the present template as its newest revision."""
        owned = await claim(self._client, self._owner, meta, selector, CONTROLLER_REVISIONS, self._lister)
        known = sorted(owned, key=lambda item: (item["revision"], item["metadata"]["name"]))
        data = data_of(obj["spec"]["template"])
        number = known[-1]["revision"] + 1 if known else 1
        held = next((item for item in reversed(known) if item["data"] == data), None)
        if held is None:
            held = await self._create(obj, meta, data, number)
        elif held["revision"] != number - 1:
            name = held["metadata"]["name"]
            known.remove(held)
            held = await self._client.patch(CONTROLLER_REVISIONS, name, {"revision": number}, namespace=meta.namespace)
        else:
            known.remove(held)
        return History(held, (*known, held))

    async def _create(self, obj: Manifest, meta: ObjectMeta, data: Manifest, number: int) -> Manifest:
        template = obj["spec"]["template"]
        collisions = (obj.get("status") or {}).get("collisionCount", 0)
        while True:
            digest = template_hash(template, collisions)
            body = {
                "apiVersion": "apps/v1",
                "kind": "ControllerRevision",
                "metadata": {
                    "name": f"{meta.name}-{digest}",
                    "labels": {**((template.get("metadata") or {}).get("labels") or {}), HASH: digest},
                    "annotations": meta.annotations,
                    "ownerReferences": [owner_reference(self._owner, meta)],
                },
                "data": data,
                "revision": number,
            }
            try:
                return await self._client.create(CONTROLLER_REVISIONS, body, namespace=meta.namespace)
            except AlreadyExists:
                held = await self._client.get(CONTROLLER_REVISIONS, f"{meta.name}-{digest}", meta.namespace)
                owners = held["metadata"].get("ownerReferences") or ()
                if held["data"] == data and any(item["uid"] == meta.uid for item in owners):
                    return held
                collisions += 1

    async def truncate(self, history: History, live: Iterable[str], limit: int) -> None:
        """Drop the oldest revisions beyond ``limit`` that no pod is made from; ``live`` are the names of those in use."""
        used = {*live, history.name}
        unused = [item for item in history.revisions if item["metadata"]["name"] not in used]
        for item in unused[: max(0, len(unused) - limit)]:
            metadata = item["metadata"]
            with contextlib.suppress(NotFound):
                await self._client.delete(CONTROLLER_REVISIONS, metadata["name"], metadata["namespace"])
