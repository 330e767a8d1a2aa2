"""Garbage: instances and Nodes that no Machine holds, and Machines whose instance has vanished.

The cloud and the cluster are asked anew in every round. What looks like garbage is removed in the next round, if it still
looks so; an error means that nothing is known, and the counting starts again.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, final

from kaito.api import labels
from kaito.api.conditions import is_true
from kaito.api.machine import LAUNCHED
from kaito.api.resources import MACHINES
from kaito.controllers.machine import nodes
from kaito.controllers.machine.context import is_managed
from kaito.controllers.machine.metrics import GARBAGE_COLLECTED
from kaito.controllers.machine.termination import release_node
from kaito.provisioner import InstanceNotFound, InstanceState, ProviderError
from kaito.runtime import ObjectReference, RuntimeFault, get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Sequence
    from datetime import datetime

    from kaito.api.machine import Machine
    from kaito.controllers.machine.metrics import MachineMetrics
    from kaito.controllers.machine.settings import Settings
    from kaito.provisioner import CloudProvider, Instance
    from kaito.runtime import Client, Clock, EventRecorder, Lister, Manifest, Stored

_log = get_logger("machine-garbage")


@dataclass(frozen=True, slots=True)
class Garbage:
    """What one round has found."""

    instances: dict[str, Instance]
    """By owner's uid."""
    machines: dict[str, Machine]
    """By uid."""
    nodes: dict[str, Stored[Manifest]]
    """By uid."""

    def confirmed(self, earlier: Garbage) -> Garbage:
        """What ``earlier`` had found too."""
        return Garbage(
            {key: value for key, value in self.instances.items() if key in earlier.instances},
            {key: value for key, value in self.machines.items() if key in earlier.machines},
            {key: value for key, value in self.nodes.items() if key in earlier.nodes},
        )


NOTHING = Garbage({}, {}, {})


def find_garbage(
    instances: Sequence[Instance],
    machines: Sequence[Machine],
    node_list: Iterable[Stored[Manifest]],
    now: datetime,
    grace: timedelta,
) -> Garbage:
    """``machines`` must have been listed after ``instances``: a Machine is always there before its instance."""
    wanted = {machine.metadata.uid for machine in machines}
    names = {machine.metadata.name for machine in machines}
    owners = {instance.owner for instance in instances}
    pools = {instance.name for instance in instances}
    return Garbage(
        instances={
            instance.owner: instance
            for instance in instances
            if instance.owner not in wanted
            and instance.state is not InstanceState.DELETING
            and (instance.created_at is None or now - instance.created_at > grace)
        },
        machines={
            machine.metadata.uid: machine
            for machine in machines
            if machine.metadata.uid not in owners
            and is_managed(machine.metadata.labels or {})
            and machine.metadata.deletion_timestamp is None
            and is_true(machine.status.conditions, LAUNCHED)
        },
        nodes={
            node.uid: node
            for node in node_list
            if is_managed(node.labels)
            and labels.TERMINATION_FINALIZER in node.meta.finalizers
            and (pool := next(iter(nodes.pools_of(node)), ""))
            and pool not in names
            and pool not in pools
        },
    )


@final
class GarbageCollector:
    def __init__(
        self,
        client: Client,
        nodes: Lister[Manifest],
        provider: CloudProvider,
        recorder: EventRecorder,
        clock: Clock,
        settings: Settings,
        metrics: MachineMetrics,
    ) -> None:
        self._client = client
        self._nodes = nodes
        self._provider = provider
        self._recorder = recorder
        self._clock = clock
        self._settings = settings
        self._metrics = metrics
        self._seen = NOTHING

    async def run(self) -> None:
        """Look for garbage now and then, until cancelled."""
        while True:
            await asyncio.sleep(self._settings.garbage_interval)
            await self.collect()

    async def collect(self) -> None:
        """One round."""
        try:
            instances = await self._provider.list()
            machines = await self._client.list(MACHINES)
        except (ProviderError, RuntimeFault) as error:
            _log.warning("cannot look for garbage", error=str(error))
            self._seen = NOTHING
            return
        grace = timedelta(seconds=self._settings.garbage_grace)
        found = find_garbage(instances, machines, self._nodes.stored_list(), self._clock.now(), grace)
        garbage, self._seen = found.confirmed(self._seen), found
        for instance in garbage.instances.values():
            await self._attempt(f"instance {instance.name}", self._delete_instance(instance))
        for machine in garbage.machines.values():
            await self._attempt(f"Machine {machine.metadata.name}", self._delete_machine(machine))
        for node in garbage.nodes.values():
            await self._attempt(f"Node {node.key}", release_node(self._client, node))

    async def _attempt(self, what: str, removal: Awaitable[None]) -> None:
        """One removal, whose failure must not keep the others; the next round finds it again."""
        try:
            await removal
        except (ProviderError, RuntimeFault) as error:
            _log.warning("cannot remove garbage", garbage=what, error=str(error))

    async def _delete_instance(self, instance: Instance) -> None:
        await self._provider.delete(instance)
        _log.info("deleted an instance that no Machine holds", instance=instance.name, owner=instance.owner)

    async def _delete_machine(self, machine: Machine) -> None:
        metadata = machine.metadata
        try:
            await self._provider.get(metadata.name)
        except InstanceNotFound:
            await self._client.delete(MACHINES, metadata.name, uid=metadata.uid)
        else:
            return
        regarding = ObjectReference(
            api_version=machine.api_version, kind=machine.kind, name=metadata.name, uid=metadata.uid
        )
        self._recorder.event(regarding, "Warning", "InstanceGone", "deleting the Machine, because its instance is gone")
        self._metrics.terminated(machine, GARBAGE_COLLECTED)
