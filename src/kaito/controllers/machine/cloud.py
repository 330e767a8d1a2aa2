"""The provider as the controller uses it: one list for all claims, and every answer remembered.

What takes time in the cloud is seen by the next list, which tells the claims that it concerns: no claim asks for itself.
A list says what there was when it was asked for; what a call has answered since counts more.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

from kaito.provisioner import InstanceNotFound, InstanceState, ProviderError
from kaito.runtime import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kaito.provisioner import CloudProvider, Instance, InstanceSpec

_SETTLED = (InstanceState.RUNNING, InstanceState.FAILED)

_log = get_logger("machine-cloud")


@dataclass(frozen=True, slots=True)
class _Known:
    instance: Instance | None
    """None for one that is certainly gone."""
    at: float
    """When it was so, by the event loop's clock."""


@final
class Cloud:
    def __init__(
        self, provider: CloudProvider, tell: Callable[[str], None], *, interval: float, idle_interval: float
    ) -> None:
        """``tell`` is told the names of instances about which something has become known. Seconds between two lists:
        ``interval`` while a claim awaits a change, ``idle_interval`` otherwise."""
        self._provider = provider
        self._tell = tell
        self._interval = interval
        self._idle_interval = idle_interval
        self._known: dict[str, _Known] = {}
        self._as_of = float("-inf")
        """When the list was asked for that was applied last."""
        self._awaited: set[str] = set()
        self._wanted = asyncio.Event()
        self.synced = False
        """Whether a list has said what there is."""
        self.error: ProviderError | None = None
        """Why the last list has failed."""

    # What is known

    def find(self, name: str) -> Instance | None:
        """The instance as it was seen last."""
        known = self._known.get(name)
        return known.instance if known is not None else None

    def expect(self, name: str) -> None:
        """A claim awaits a change of this instance: it is told of it, and of lists that fail."""
        self._awaited.add(name)
        self._wanted.set()

    # Calls; all raise what the provider raises

    async def create(self, spec: InstanceSpec) -> Instance:
        return self._note(await self._provider.create(spec))

    async def get(self, name: str) -> Instance:
        """The instance as it is now. Where that was asked and there was none, only a list tells of another."""
        known = self._known.get(name)
        if known is not None and known.instance is None:
            raise InstanceNotFound(f"there is no instance {name}")
        try:
            return self._note(await self._provider.get(name))
        except InstanceNotFound:
            self._known[name] = _Known(None, _now())
            raise

    async def delete(self, instance: Instance) -> None:
        await self._provider.delete(instance)
        self._note(replace(instance, state=InstanceState.DELETING))

    async def refresh(self) -> Mapping[str, Instance]:
        """One list, and what is known from it and from later answers. Raises ProviderError."""
        asked = _now()
        listed = {instance.name: instance for instance in await self._provider.list()}
        if asked >= self._as_of:
            self._apply(listed, asked)
        return {name: known.instance for name, known in self._known.items() if known.instance is not None}

    def _apply(self, listed: Mapping[str, Instance], asked: float) -> None:
        """``asked``: when that was so; one that comes after a younger list is not applied."""
        self._as_of = asked
        fresh = {name: _Known(instance, asked) for name, instance in listed.items()}
        newer = {name: known for name, known in self._known.items() if known.at >= asked}
        before, self._known = self._known, fresh | newer
        news = {name for name in {*before, *self._known} if _facts(before.get(name)) != _facts(self._known.get(name))}
        if not self.synced:
            self.synced = True
            news |= self._awaited
        for name in news:
            self._tell(name)
        self._awaited = {name for name in self._awaited if not _settled(self._known.get(name))}

    async def run(self) -> None:
        """List now and then, until cancelled."""
        while True:
            pause = self._interval
            try:
                await self.refresh()
            except ProviderError as error:
                pause = max(pause, error.retry_after or 0.0)
                self._failed(error)
            except Exception as error:  # a defect of a provider must not end the operator
                _log.exception("the list of instances failed")
                self._failed(ProviderError(f"{type(error).__name__}: {error}"))
            else:
                self._recovered()
            await self._pause(pause)

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        if not self._awaited:
            self._wanted.clear()
            try:
                async with asyncio.timeout(max(0.0, self._idle_interval - seconds)):
                    await self._wanted.wait()
            except TimeoutError:
                return
            # What is awaited has only just begun.
            await asyncio.sleep(self._interval)

    def _failed(self, error: ProviderError) -> None:
        news = self.error is None or str(self.error) != str(error)
        self.error = error
        if news:
            _log.warning("cannot list the instances", error=str(error))
            self._tell_awaited()

    def _recovered(self) -> None:
        if self.error is not None:
            self.error = None
            _log.info("the instances can be listed again")
            self._tell_awaited()

    def _tell_awaited(self) -> None:
        for name in tuple(self._awaited):
            self._tell(name)

    def _note(self, instance: Instance) -> Instance:
        self._known[instance.name] = _Known(instance, _now())
        return instance


def _now() -> float:
    return asyncio.get_running_loop().time()


def _settled(known: _Known | None) -> bool:
    return known is None or known.instance is None or known.instance.state in _SETTLED


def _facts(known: _Known | None) -> tuple[object, ...] | None:
    if known is None or known.instance is None:
        return None
    found = known.instance
    return (
        found.state,
        found.phase,
        found.owner,
        found.vm_size,
        found.os_sku,
        found.image,
        found.stopped,
        str(found.error),
    )
