"""What the Machine controller asks of a cloud."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from kaito.api.machine import Taint
from kaito.provisioner.errors import ProviderError


class InstanceState(enum.Enum):
    CREATING = "creating"
    RUNNING = "running"
    UPDATING = "updating"
    """It exists and something is being done to it."""
    DELETING = "deleting"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class InstanceSpec:
    """The instance that a Machine needs."""

    name: str
    """The Machine's name, and the instance's."""
    owner: str
    """The Machine's uid, by which its instance is known again."""
    vm_sizes: tuple[str, ...]
    """In order of preference; at least one."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels of the Node."""
    taints: tuple[Taint, ...] = ()
    """Taints of the Node."""
    os_disk_gib: int = 0
    """0 for the cloud's default."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """What people see on the cloud's side."""


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance as the cloud described it last."""

    name: str
    state: InstanceState
    phase: str
    """The state in the cloud's own word."""
    vm_size: str
    owner: str
    """Uid of the Machine that it was made for; empty where kaito did not make it."""
    created_at: datetime | None = None
    error: ProviderError | None = None
    """Why it failed."""
    etag: str = ""
    """Version of this description, where the cloud has such."""


class CloudProvider(Protocol):
    """Makes and removes instances. No call waits for the cloud to finish; every call raises ProviderErrors and nothing else."""

    name: str

    async def create(self, spec: InstanceSpec) -> Instance:
        """Begin to make the instance, or find the one that was made for the same owner. Raises NotOwned where an instance
        of that name was not made for it."""
        ...

    async def get(self, name: str) -> Instance:
        """The instance of that name, whoever owns it. Raises InstanceNotFound."""
        ...

    async def list(self) -> list[Instance]:
        """All instances that kaito has made."""
        ...

    async def delete(self, instance: Instance) -> None:
        """Begin to delete the instance as it was observed; no error where it is gone or going. Raises InstanceBusy where it
        has changed since, NotOwned where kaito did not make it."""
        ...

    async def aclose(self) -> None: ...
