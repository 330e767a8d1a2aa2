"""The objects that a Workspace is to have, in the order in which they are made, with where they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kaito.runtime import DEPLOYMENTS, JOBS, SERVICES, STATEFUL_SETS, Lister, Manifest, Resource

if TYPE_CHECKING:
    from kaito.controllers.workspace.context import WorkspaceContext


class Wanted(NamedTuple):
    resource: Resource[Manifest]
    lister: Lister[Manifest]
    manifest: Manifest

    @property
    def name(self) -> str:
        name: str = self.manifest["metadata"]["name"]
        return name


def desired_objects(ctx: WorkspaceContext) -> list[Wanted]:
    """Services, then the workload."""
    return [*desired_services(ctx), desired_workload(ctx)]


def desired_services(ctx: WorkspaceContext) -> list[Wanted]:
    return [Wanted(SERVICES, ctx.caches.services, manifest) for manifest in ctx.services()]


def desired_workload(ctx: WorkspaceContext) -> Wanted:
    manifest, caches = ctx.workload(), ctx.caches
    match manifest["kind"]:
        case DEPLOYMENTS.kind:
            return Wanted(DEPLOYMENTS, caches.deployments, manifest)
        case STATEFUL_SETS.kind:
            return Wanted(STATEFUL_SETS, caches.stateful_sets, manifest)
        case _:
            return Wanted(JOBS, caches.jobs, manifest)
