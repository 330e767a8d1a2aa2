"""Leader election on a ``coordination.k8s.io`` Lease, with fencing.

The rules are client-go's: a lease is free once it has not changed for its own duration, measured on this process's clock
from when the change was observed, because other machines' clocks cannot be trusted. A leader that could not renew within the
renew deadline has lost, for good: the process must end.

Beyond that, ``Fence`` refuses every write as soon as the lease may have run out, and a watchdog thread ends a process whose
event loop is stuck past its lease, so that a frozen leader cannot write after it wakes up.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, final

import msgspec

from kaito.runtime.clock import Clock, format_micro_time
from kaito.runtime.errors import (
    UNDECODABLE,
    ConfigError,
    Conflict,
    DecodeError,
    FencedError,
    LeadershipLost,
    NotFound,
    RuntimeFault,
)
from kaito.runtime.log import get_logger
from kaito.runtime.manager.watchdog import Watchdog
from kaito.runtime.metrics.runtime import RuntimeMetrics
from kaito.runtime.objects.resource import LEASES
from kaito.runtime.transport.connections import Pool
from kaito.runtime.transport.rest import Rest

FENCE_MARGIN = 1.0
"""Seconds before the end of the lease from which a leader no longer writes."""
JITTER = 1.2
_MOMENT = 0.01
"""Seconds that a try waits at least, so that clocks which differ a little cannot make it spin."""
HEALTH_GRACE = 20.0
"""Seconds past its lease after which a leader that has not renewed reports itself unhealthy."""

_log = get_logger("leader-election")


@dataclass(frozen=True, slots=True)
class ElectionConfig:
    """Durations in seconds, by default client-go's."""

    namespace: str
    name: str
    identity: str
    lease_duration: float = 15.0
    """How long others wait for a silent leader."""
    renew_deadline: float = 10.0
    """How long a leader tries to renew before it gives up."""
    retry_period: float = 2.0
    release_on_exit: bool = True

    def __post_init__(self) -> None:
        if not self.identity:
            raise ConfigError("leader election: the identity is empty")
        if not self.namespace or not self.name:
            raise ConfigError("leader election: the lease needs a namespace and a name")
        if not self.lease_duration > self.renew_deadline > self.retry_period * JITTER > 0:
            raise ConfigError(
                "leader election: need lease duration > renew deadline > 1.2 x retry period > 0, got "
                f"{self.lease_duration:g}, {self.renew_deadline:g} and {self.retry_period:g} s"
            )


class LeaseSpec(msgspec.Struct, rename="camel", frozen=True, omit_defaults=True, kw_only=True):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class _Lease(msgspec.Struct):
    metadata: dict[str, Any]
    spec: LeaseSpec | None = None


@final
class LeaseObservation:
    """What one process knows of the lease; pure. All times are of its own monotonic clock."""

    def __init__(self, identity: str) -> None:
        self._identity = identity
        self.record: LeaseSpec | None = None
        self.changed_at = float("-inf")

    def observe(self, record: LeaseSpec, now: float) -> None:
        """A record was read or written; any difference from the last one starts its time anew."""
        if record != self.record:
            self.record = record
            self.changed_at = now

    @property
    def mine(self) -> bool:
        return self.record is not None and self.record.holder_identity == self._identity

    def held_by_other(self, now: float) -> bool:
        """Whether somebody else holds the lease and it has not run out; its own duration counts, not ours."""
        return self.free_in(now) > 0

    def free_in(self, now: float) -> float:
        """Seconds until another holder's lease runs out, if it stays silent; not above 0 where it is free."""
        record = self.record
        if record is None or not record.holder_identity or self.mine:
            return 0.0
        return self.changed_at + (record.lease_duration_seconds or 0) - now

    def desired(self, config: ElectionConfig, moment: str) -> LeaseSpec:
        """The record with which this process takes or keeps the lease at wall-clock time ``moment``."""
        record = self.record or LeaseSpec()
        transitions = record.lease_transitions or 0
        if not self.mine and self.record is not None:
            transitions += 1
        return LeaseSpec(
            holder_identity=self._identity,
            lease_duration_seconds=max(1, round(config.lease_duration)),
            acquire_time=record.acquire_time if self.mine else moment,
            renew_time=moment,
            lease_transitions=transitions,
        )


@final
class Fence:
    """Whether this process may write: only while it is certain to hold the lease, or needs none."""

    def __init__(self, clock: Clock, on_refusal: Callable[[], None], *, valid_until: float = float("-inf")) -> None:
        self._clock = clock
        self._on_refusal = on_refusal
        self._closed = False
        self.valid_until = valid_until
        """Monotonic time at which the lease runs out for others."""

    def extend(self, until: float) -> None:
        """The lease was taken or renewed."""
        self.valid_until = until

    def close(self) -> None:
        """No write from now on, whatever the lease says."""
        self._closed = True

    def check(self) -> None:
        """Raises FencedError unless the lease is certain to be held. Call it right before a write, also one elsewhere."""
        if self._closed or self._clock.monotonic() >= self.valid_until - FENCE_MARGIN:
            self._on_refusal()
            raise FencedError("this process is not, or no longer surely, the leader: the write was not sent")


@final
class Elector:
    """Takes the lease, keeps it, gives it back."""

    def __init__(
        self,
        config: ElectionConfig,
        rest: Rest,
        metrics: RuntimeMetrics,
        *,
        clock: Clock,
        abort: Callable[[int], Any] | None = None,
    ) -> None:
        """``abort`` ends the process once the lease has run out and its loss could not be dealt with in time."""
        self.config = config
        self.fence = Fence(clock, metrics.fence_refusals_total.inc)
        self._rest = rest
        self._clock = clock
        self._abort = abort
        self._watchdog: Watchdog | None = None
        self._observation = LeaseObservation(config.identity)
        self._metadata: dict[str, Any] = {}
        self._status = metrics.leader.labels(config.name)
        self._slowpath = metrics.leader_slowpath_total.labels(config.name)
        self._status.set(0)
        self._leading = self._lost = False

    @property
    def leading(self) -> bool:
        return self._leading

    @property
    def holder(self) -> str:
        """Identity of the leader as last seen, "" if unknown."""
        record = self._observation.record
        return (record.holder_identity or "") if record else ""

    def check_health(self) -> None:
        """Raises FencedError where the lease is lost, or ran out a while ago, and the process still runs."""
        if self._lost:
            raise FencedError("the leader lease is lost")
        if self._leading and self._clock.monotonic() > self.fence.valid_until + HEALTH_GRACE:
            raise FencedError("the leader lease has not been renewed")

    async def acquire(self) -> None:
        """Return once this process leads; tries for ever."""
        seen = ""
        while True:
            try:
                async with asyncio.timeout(self.config.renew_deadline):
                    won = await self._try()
            except (RuntimeFault, TimeoutError) as error:
                won = False
                _log.warning("cannot read or write the lease", lease=self.config.name, error=str(error) or "timed out")
            if won:
                self._leading = True
                self._status.set(1)
                _log.info("leading", lease=self.config.name, identity=self.config.identity)
                return
            if self.holder != seen:
                seen = self.holder
                _log.info("waiting for the lease", lease=self.config.name, holder=seen)
            # Never later than one retry period, of which a part is for the request itself, and at once when the lease can be
            # had: so that a silent leader is replaced within the lease duration and one retry period.
            delay = self.config.retry_period * random.uniform(1.0 / JITTER, 0.95)
            free_in = self._observation.free_in(self._clock.monotonic())
            await asyncio.sleep(max(_MOMENT, free_in) if 0 < free_in < delay else delay)

    async def keep(self) -> None:
        """Renew until cancelled. Raises LeadershipLost once the renew deadline has passed without a renewal.

        A watchdog then still ends the process when the lease runs out for others, unless ``release`` says before that
        nothing of the leader's is left.
        """
        self._watch()
        renewed = self._clock.monotonic()
        try:
            while True:
                await asyncio.sleep(self.config.retry_period)
                deadline = renewed + self.config.renew_deadline
                if not await self._renew(deadline):
                    break
                renewed = self._clock.monotonic()
        except asyncio.CancelledError:
            self.disarm()
            raise
        self._leading, self._lost = False, True
        self.fence.close()
        self._status.set(0)
        raise LeadershipLost(
            f"the lease {self.config.namespace}/{self.config.name} could not be renewed within "
            f"{self.config.renew_deadline:g} s; held by {self.holder or 'nobody'}"
        )

    def _watch(self) -> None:
        if self._watchdog is None:
            reason = "the leader lease ran out and the event loop has not dealt with it"
            self._watchdog = Watchdog(reason, lambda: self.fence.valid_until, self._clock, self._abort)
            self._watchdog.start()

    def disarm(self) -> None:
        """Somebody else sees to it that this process ends."""
        if self._watchdog is not None:
            self._watchdog.stop()
            self._watchdog = None

    async def _renew(self, deadline: float) -> bool:
        while (left := deadline - self._clock.monotonic()) > 0:
            try:
                async with asyncio.timeout(left):
                    if await self._try():
                        return True
                    if not self._observation.mine:
                        return False
            except (RuntimeFault, TimeoutError) as error:
                _log.warning("cannot renew the lease", lease=self.config.name, error=str(error) or "timed out")
            # What is left may be less than a clock can tell: then it is over.
            left = deadline - self._clock.monotonic()
            if left < _MOMENT:
                break
            await asyncio.sleep(min(left, self.config.retry_period))
        return False

    async def release(self, within: float | None = None) -> None:
        """Nothing of the leader's is left: give the lease back, so that nobody has to wait for it to run out.

        Only if it is still ours, and in ``within`` seconds, the renew deadline by default. Never raises for an unreachable
        server: the lease then runs out by itself.
        """
        self.disarm()
        was_leading, self._leading = self._leading, False
        self.fence.close()
        self._status.set(0)
        if not was_leading or not self.config.release_on_exit:
            return
        with suppress(RuntimeFault, TimeoutError):
            async with asyncio.timeout(self.config.renew_deadline if within is None else within):
                while True:
                    await self._read()
                    if not self._observation.mine:
                        return
                    record = self._observation.record or LeaseSpec()
                    free = LeaseSpec(
                        holder_identity="",
                        lease_duration_seconds=1,
                        acquire_time=record.acquire_time,
                        renew_time=format_micro_time(self._clock.now()),
                        lease_transitions=record.lease_transitions,
                    )
                    try:
                        await self._put(free)
                    except Conflict:
                        continue
                    _log.info("released the lease", lease=self.config.name)
                    return

    async def _try(self) -> bool:
        """One attempt to take or renew the lease. Raises RuntimeFault."""
        started = self._clock.monotonic()
        if self._leading and self._observation.mine:
            # Nobody else writes to a lease that is held: the version of the last renewal is most likely the current one.
            try:
                await self._take(started)
                return True
            except (Conflict, NotFound):
                self._slowpath.inc()
        try:
            await self._read()
        except NotFound:
            await self._create(started)
            return True
        if self._observation.held_by_other(self._clock.monotonic()):
            return False
        try:
            await self._take(started)
        except Conflict:
            return False
        return True

    async def _read(self) -> None:
        answer = await self._send("GET", self._path(self.config.name), None)
        self._observation.observe(answer.spec or LeaseSpec(), self._clock.monotonic())

    async def _create(self, started: float) -> None:
        spec = self._observation.desired(self.config, format_micro_time(self._clock.now()))
        metadata = {"name": self.config.name, "namespace": self.config.namespace}
        await self._send("POST", self._path(""), _body(spec, metadata))
        self._won(spec, started)

    async def _take(self, started: float) -> None:
        spec = self._observation.desired(self.config, format_micro_time(self._clock.now()))
        await self._put(spec)
        self._won(spec, started)

    def _won(self, spec: LeaseSpec, started: float) -> None:
        self._observation.observe(spec, self._clock.monotonic())
        # Counted from before the request: the server may have stored it then.
        self.fence.extend(started + self.config.lease_duration)

    async def _put(self, spec: LeaseSpec) -> None:
        # Labels and owners that somebody has given the lease stay.
        await self._send("PUT", self._path(self.config.name), _body(spec, self._metadata))

    async def _send(self, method: str, path: str, body: bytes | None) -> _Lease:
        timeout = max(1.0, self.config.renew_deadline / 2)
        answer = await self._rest.send(method, path, body=body, timeout=timeout, pool=Pool.LEASE)
        try:
            lease = msgspec.json.decode(answer.body, type=_Lease)
        except UNDECODABLE as error:
            raise DecodeError(f"the server's answer is not a lease: {error}") from error
        self._metadata = {name: value for name, value in lease.metadata.items() if name != "managedFields"}
        return lease

    def _path(self, name: str) -> str:
        return LEASES.path(self.config.namespace, name)


def _body(spec: LeaseSpec, metadata: dict[str, Any]) -> bytes:
    lease = {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": metadata, "spec": spec}
    return msgspec.json.encode(lease)
