"""What the Machine controller asks of a cloud."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from kaito.api.machine import Taint
from kaito.provisioner.errors import ProviderError


class InstanceState(enum.Enum):
    CREATING = "creating"
    RUNNING = "running"
    UPDATING = "updating"
    """It exists and something is being done to it."""
    DELETING = "deleting"
    FAILED = "failed"


Guard = Callable[[], None]
"""Raises where this process may not write; called right before each request that changes anything."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A machine that the cloud may take back at any time, for less money."""

    eviction_policy: Literal["Delete", "Deallocate"] = "Delete"
    max_price: float | None = None
    """US dollars an hour; None for whatever an ordinary machine costs."""


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
    os_disk_type: str = ""
    """Managed or Ephemeral; empty for the cloud's default."""
    os_sku: str = ""
    """Family of the node image, such as Ubuntu or AzureLinux; empty for the cloud's default."""
    max_pods: int = 0
    """0 for the cloud's default."""
    zones: tuple[str, ...] = ()
    """Numbers of the availability zones to choose from; none for wherever there is room."""
    spot: Spot | None = None
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
    os_sku: str = ""
    """Family of its node image."""
    image: str = ""
    """Version of its node image."""
    stopped: bool = False
    """Whether somebody has turned its machine off."""
    created_at: datetime | None = None
    error: ProviderError | None = None
    """Why it failed."""
    etag: str = ""
    """Version of this description, where the cloud has such."""


@dataclass(frozen=True, slots=True)
class InstanceType:
    """A size of instance that the cloud offers."""

    name: str
    cpus: int
    memory_gib: float
    gpus: int = 0
    zones: tuple[str, ...] = ()
    """Numbers of the availability zones that have it."""


class CloudProvider(Protocol):
    """Makes and removes instances. No call waits for the cloud to finish; every call raises ProviderErrors and nothing else,
    apart from what its ``Guard`` raises before a write."""

    name: str

    async def create(self, spec: InstanceSpec) -> Instance:
        """Begin to make the instance, or find the one that was made for the same owner. Raises NotOwned where an instance
        of that name was not made for it."""
        ...

    async def get(self, name: str) -> Instance:
        """The instance of that name, whoever owns it. Raises InstanceNotFound."""
        ...

    async def instance_types(self) -> list[InstanceType]:
        """The sizes that can be asked for where the cluster is."""
        ...

    async def list(self) -> list[Instance]:
        """All instances there are, whoever owns them."""
        ...

    async def delete(self, instance: Instance) -> None:
        """Begin to delete the instance as it was observed; no error where it is gone or going. Raises InstanceBusy where it
        has changed since, NotOwned where kaito did not make it."""
        ...

    async def aclose(self) -> None: ...
