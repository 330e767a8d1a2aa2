"""The resource steps: existing nodes that fit come first, then Machines are made for what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from kaito.api import labels
from kaito.api.conditions import find, is_true
from kaito.api.machine import INITIALIZED, LAUNCHED, READY, REGISTERED
from kaito.api.resources import MACHINES
from kaito.api.workspace import MACHINE_READY, RESOURCE_READY
from kaito.controllers.pipeline import Fail, Outcome, Proceed, Wait
from kaito.controllers.workspace import nodes
from kaito.controllers.workspace.context import machine_labels
from kaito.controllers.workspace.manifests.machine import build_machine, machine_name
from kaito.runtime import NODES, AlreadyExists, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kaito.api.machine import Machine, MachineCondition
    from kaito.controllers.workspace.context import WorkspaceContext
    from kaito.runtime import Manifest

MESSAGE_LIMIT = 256
"""Characters of a message that repeats what another object says."""


class MachineStep:
    """As many nodes as asked for, each with its GPUs announced.

    The Workspace's Machines bear the names of ``count`` slots, so there are never more than ``count`` of them: a
    Machine that is being deleted keeps its slot until it is gone.
    """

    condition: ClassVar[str] = MACHINE_READY
    pending: ClassVar[str] = "CreateMachinePending"
    failed: ClassVar[str] = "machineFailedCreation"

    async def reconcile(self, ctx: WorkspaceContext) -> Outcome:
        machines = ctx.caches.machines.list(labels=machine_labels(ctx.workspace))
        own_nodes = {machine.status.node_name for machine in machines if machine.status.node_name}
        candidates = ctx.caches.nodes.list(labels=nodes.selector_of(ctx.workspace))
        if any(_unfinished(machine) for machine in machines):
            # A node may join, and even be Ready, before its Machine has prepared it.
            ready = {machine.status.node_name for machine in machines if is_true(machine.status.conditions, READY)}
            candidates = [
                node for node in candidates if nodes.name_of(node) in ready or not nodes.made_for(node, ctx.workspace)
            ]
        ctx.nodes = nodes.select(candidates, ctx.workspace, own_nodes)
        missing = ctx.workspace.resource.count - len(ctx.nodes)
        if missing <= 0:
            return await self._prepare(ctx)
        used = {nodes.name_of(node) for node in ctx.nodes}
        awaited = [
            machine
            for machine in machines
            if machine.metadata.deletion_timestamp is None and machine.status.node_name not in used
        ]
        taken = {machine.metadata.name for machine in machines}
        slots = [machine_name(ctx.workspace, index) for index in range(ctx.workspace.resource.count)]
        free = [name for name in slots if name not in taken]
        for name in free[: max(0, missing - len(awaited))]:
            made = await self._create(ctx, name)
            if isinstance(made, Fail):
                return made
            awaited.append(made)
        return self._await(ctx, missing, awaited, machines)

    async def _create(self, ctx: WorkspaceContext, name: str) -> Machine | Fail:
        disk = str(ctx.preset.disk) if ctx.preset is not None else "0"
        try:
            machine = await ctx.client.create(MACHINES, build_machine(ctx.workspace, name, disk))
        except AlreadyExists:
            machine = await ctx.client.get(MACHINES, name)
            if any(machine.metadata.label(key) != value for key, value in machine_labels(ctx.workspace).items()):
                return Fail(
                    self.failed, f"Machine {name} exists already and was not made for this Workspace: delete it"
                )
            return machine
        size = ctx.workspace.resource.instance_type
        ctx.emit("Normal", "MachineCreated", f"created Machine {name} for a node of size {size}")
        return machine

    def _await(
        self, ctx: WorkspaceContext, missing: int, awaited: list[Machine], machines: Iterable[Machine]
    ) -> Outcome:
        for machine in awaited:
            launched = find(machine.status.conditions, LAUNCHED)
            if launched is not None and launched.status == "False":
                return Fail(self.failed, _cut(f"Machine {machine.metadata.name}: {_words(launched)}"))
        said = [f"Machine {machine.metadata.name}: {_progress(ctx, machine)}" for machine in awaited]
        said += [
            f"Machine {machine.metadata.name} is being deleted"
            for machine in machines
            if machine.metadata.deletion_timestamp is not None
        ]
        making = sum(not is_true(machine.status.conditions, READY) for machine in awaited)
        summary = f"creating {_count(making, 'machine')}" if making else f"waiting for {_count(missing, 'node')}"
        return Wait(self.pending, _cut("; ".join([summary, *said])), status="Unknown")

    async def _prepare(self, ctx: WorkspaceContext) -> Outcome:
        """Bring the NVIDIA device plug-in to the GPU nodes, and wait until it has announced their GPUs."""
        size = ctx.workspace.resource.instance_type
        if ctx.sku is not None or size.startswith("Standard_N"):
            for node in ctx.nodes:
                if nodes.labels_of(node).get(labels.ACCELERATOR) != labels.ACCELERATOR_NVIDIA:
                    patch = {"metadata": {"labels": {labels.ACCELERATOR: labels.ACCELERATOR_NVIDIA}}}
                    try:
                        await ctx.client.patch(NODES, nodes.name_of(node), patch)
                    except NotFound:
                        return Wait(self.pending, f"node {nodes.name_of(node)} has gone", status="Unknown")
            bare = [nodes.name_of(node) for node in ctx.nodes if not nodes.gpus(node)]
            if bare:
                where = f"node {bare[0]}" if len(bare) == 1 else f"nodes {', '.join(bare)}"
                message = f"waiting for the NVIDIA device plugin to announce {labels.NVIDIA_GPU} on {where}"
                return Wait("installNodePluginsPending", _cut(message), status="Unknown")
        return Proceed("installNodePluginsSuccess", "machines plugins have been installed successfully")


class ResourceStep:
    """The nodes are there: say which."""

    condition: ClassVar[str] = RESOURCE_READY
    pending: ClassVar[str] = "workspaceResourceStatusNotReady"
    failed: ClassVar[str] = "workspaceResourceStatusFailed"

    async def reconcile(self, ctx: WorkspaceContext) -> Outcome:
        ctx.worker_nodes = tuple(sorted(map(nodes.name_of, ctx.nodes)))
        return Proceed("workspaceResourceStatusSuccess", "workspace resource is ready")


def _unfinished(machine: Machine) -> bool:
    return machine.metadata.deletion_timestamp is None and not is_true(machine.status.conditions, READY)


def _progress(ctx: WorkspaceContext, machine: Machine) -> str:
    """Where a Machine stands, in the words of its own conditions."""
    conditions, node_name = machine.status.conditions, machine.status.node_name
    for type_ in (LAUNCHED, REGISTERED, INITIALIZED):
        condition = find(conditions, type_)
        if condition is None:
            return f"waiting for {type_}"
        if condition.status != "True":
            return _words(condition)
    if not is_true(conditions, READY) or not node_name:
        return f"waiting for {READY}"
    node: Manifest | None = ctx.caches.nodes.get(node_name)
    return f"node {node_name} {nodes.objection(node, ctx.workspace) if node else 'does not exist'}"


def _words(condition: MachineCondition) -> str:
    return ": ".join(part for part in (condition.reason or condition.type, condition.message) if part)


def _cut(text: str) -> str:
    return text if len(text) <= MESSAGE_LIMIT else text[: MESSAGE_LIMIT - 1] + "…"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
