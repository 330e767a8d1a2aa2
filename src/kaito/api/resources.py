"""kaito's kinds as the runtime knows them: names on the wire and codecs."""

from __future__ import annotations

from typing import TypeVar

from kaito.api import machine, nodeclaim, workspace
from kaito.api.machine import Machine
from kaito.api.meta import Object
from kaito.api.nodeclaim import NodeClaim
from kaito.api.workspace import Workspace
from kaito.runtime import Resource

ObjectT = TypeVar("ObjectT", bound=Object)


def _resource(kind: type[ObjectT], group: str, version: str, plural: str, *, namespaced: bool) -> Resource[ObjectT]:
    def encode(obj: ObjectT) -> bytes:
        return obj.model_dump_json(by_alias=True, exclude_unset=True).encode()

    return Resource(group, version, kind.__name__, plural, namespaced, kind.model_validate_json, encode)


WORKSPACES: Resource[Workspace] = _resource(
    Workspace, workspace.GROUP, workspace.VERSION, "workspaces", namespaced=True
)
NODE_CLAIMS: Resource[NodeClaim] = _resource(
    NodeClaim, nodeclaim.GROUP, nodeclaim.VERSION, "nodeclaims", namespaced=False
)
MACHINES: Resource[Machine] = _resource(Machine, machine.GROUP, machine.VERSION, "machines", namespaced=False)
