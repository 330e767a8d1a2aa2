"""A cloud in memory, for tests and for trying the controllers out: instances are there at once, and no Node comes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import final

from kaito.provisioner.errors import InstanceBusy, InstanceNotFound, NotOwned
from kaito.provisioner.provider import CloudProvider, Guard, Instance, InstanceSpec, InstanceState, InstanceType


def from_environ(environ: Mapping[str, str], guard: Guard) -> CloudProvider:
    return SimulatedProvider(guard)


@final
class SimulatedProvider:
    name = "simulated"

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._instances: dict[str, Instance] = {}
        self._versions = 0

    async def create(self, spec: InstanceSpec) -> Instance:
        self._guard()
        existing = self._instances.get(spec.name)
        if existing is None:
            made = Instance(
                spec.name, InstanceState.RUNNING, "Running", spec.vm_sizes[0], spec.owner, os_sku=spec.os_sku
            )
            existing = self._instances[spec.name] = replace(made, etag=self._version())
        if existing.owner != spec.owner:
            raise NotOwned(f"there is already an instance {spec.name}, and it was not made for this Machine")
        return existing

    async def get(self, name: str) -> Instance:
        if name not in self._instances:
            raise InstanceNotFound(f"there is no instance {name}")
        return self._instances[name]

    async def instance_types(self) -> list[InstanceType]:
        return [InstanceType("Standard_NC6s_v3", 6, 112.0, 1), InstanceType("Standard_D4s_v5", 4, 16.0)]

    async def list(self) -> list[Instance]:
        return list(self._instances.values())

    async def delete(self, instance: Instance) -> None:
        if not instance.owner:
            raise NotOwned(f"the instance {instance.name} was not made by kaito")
        self._guard()
        current = self._instances.get(instance.name)
        if current is not None and current.etag != instance.etag:
            raise InstanceBusy(f"the instance {instance.name} has changed since it was seen")
        self._instances.pop(instance.name, None)

    async def aclose(self) -> None:
        """There is nothing to close."""

    def _version(self) -> str:
        self._versions += 1
        return str(self._versions)
