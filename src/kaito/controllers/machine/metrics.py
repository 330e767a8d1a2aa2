"""What the Machine controller counts, under the names of the field.

Counters carry the suffix ``_total``, which the exposition format demands of them.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, final

from prometheus_client import Counter, Histogram

from kaito.api import labels
from kaito.api.machine import INITIALIZED, LAUNCHED, REGISTERED
from kaito.provisioner import InstanceNotFound, ProviderError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import CollectorRegistry

    from kaito.api.machine import Machine
    from kaito.provisioner import CloudProvider, Instance, InstanceSpec, InstanceType
    from kaito.runtime import Fence

CONTROLLER = "machine"
CALL_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
"""Seconds; a call is cut off after 60."""

DELETED, GARBAGE_COLLECTED, REGISTRATION = "deleted", "garbage_collected", "liveness"
"""Why a Machine, or the instance of one, was terminated."""


@final
class MachineMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *label_names: str) -> Counter:
            return Counter(f"karpenter_{name}", text, label_names, registry=registry)

        self._created = counter("machines_created", "Machines taken on", "provisioner")
        self._terminated = counter("machines_terminated", "Machines and instances ended", "reason", "provisioner")
        self._became = {
            LAUNCHED: counter("machines_launched", "Machines whose instance runs", "provisioner"),
            REGISTERED: counter("machines_registered", "Machines whose Node has joined", "provisioner"),
            INITIALIZED: counter("machines_initialized", "Machines whose Node is ready", "provisioner"),
        }
        self.call_duration = Histogram(
            "karpenter_cloudprovider_duration_seconds",
            "Length of a call to the cloud",
            ("controller", "method", "provider"),
            buckets=CALL_BUCKETS,
            registry=registry,
        )
        self.call_errors = counter(
            "cloudprovider_errors", "Calls to the cloud that failed", "controller", "method", "provider", "error"
        )

    def created(self, machine: Machine) -> None:
        self._created.labels(_provisioner(machine)).inc()

    def became(self, machine: Machine, condition: str) -> None:
        if condition in self._became:
            self._became[condition].labels(_provisioner(machine)).inc()

    def terminated(self, machine: Machine, reason: str) -> None:
        self._terminated.labels(reason, _provisioner(machine)).inc()


def _provisioner(machine: Machine) -> str:
    return machine.metadata.label(labels.PROVISIONER_NAME) or ""


@final
class MeteredProvider:
    """A provider whose calls are counted and measured, and whose writes ask ``fence`` first; that an instance is not there
    is no error."""

    def __init__(self, provider: CloudProvider, metrics: MachineMetrics, fence: Fence) -> None:
        self.name = provider.name
        self._provider = provider
        self._metrics = metrics
        self._fence = fence
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def create(self, spec: InstanceSpec) -> Instance:
        self._fence.check()
        with self._call("Create"):
            return await self._provider.create(spec)

    async def get(self, name: str) -> Instance:
        with self._call("Get"):
            return await self._provider.get(name)

    async def instance_types(self) -> list[InstanceType]:
        with self._call("GetInstanceTypes"):
            return await self._provider.instance_types()

    async def list(self) -> list[Instance]:
        with self._call("List"):
            return await self._provider.list()

    async def delete(self, instance: Instance) -> None:
        self._fence.check()
        with self._call("Delete"):
            await self._provider.delete(instance)

    async def aclose(self) -> None:
        """Close the provider once no call is in progress."""
        try:
            await self._idle.wait()
        finally:
            await self._provider.aclose()

    @contextmanager
    def _call(self, method: str) -> Iterator[None]:
        self._calls += 1
        self._idle.clear()
        started = time.monotonic()
        try:
            yield
        except InstanceNotFound:
            raise
        except ProviderError as error:
            self._metrics.call_errors.labels(CONTROLLER, method, self.name, type(error).__name__).inc()
            raise
        finally:
            self._metrics.call_duration.labels(CONTROLLER, method, self.name).observe(time.monotonic() - started)
            self._calls -= 1
            if not self._calls:
                self._idle.set()
