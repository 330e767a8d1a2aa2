"""The end of a Workspace: its Machines go first, then the finalizer. Garbage collection takes the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kaito.api.resources import MACHINES
from kaito.api.workspace import WORKSPACE_DELETING
from kaito.controllers.pipeline import Finding
from kaito.controllers.workspace.context import machine_labels
from kaito.runtime import LabelSelector, NotFound

if TYPE_CHECKING:
    from kaito.controllers.workspace.context import WorkspaceContext


async def delete_machines(ctx: WorkspaceContext) -> list[str]:
    """Ask for the deletion of the Workspace's Machines; the names of those that are still there.

    The list is live: with the finalizer gone nobody would look for a Machine that the cache did not know of.
    """
    machines = await ctx.client.list(MACHINES, labels=LabelSelector.of(machine_labels(ctx.workspace)))
    remaining = []
    for machine in machines:
        metadata = machine.metadata
        if metadata.deletion_timestamp is None:
            try:
                await ctx.client.delete(MACHINES, metadata.name, uid=metadata.uid)
            except NotFound:
                continue
            ctx.emit("Normal", "MachineDeleted", f"asked for the deletion of Machine {metadata.name}")
        remaining.append(metadata.name)
    return sorted(remaining)


def deleting(remaining: list[str]) -> Finding:
    waiting = f": waiting for {', '.join(remaining)}" if remaining else ""
    return Finding(WORKSPACE_DELETING, "True", "workspaceDeleted", f"workspace is being deleted{waiting}")
