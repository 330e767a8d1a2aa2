"""The manager: one process's clients, cache, controllers and servers, started and stopped in order.

Start: HTTP servers, webhooks, caches until synced, runnables and controllers that every replica runs, then, once this
process leads, those that only the leader runs. Stop: the reverse, each group given what is left of the grace period to
finish what it is doing; the lease is released only when nothing that needs it runs any more.

A process that loses its lease ends with an error: it is never demoted and kept. One second after its grace period a
process that has not stopped is ended, by a thread, so that neither a part that does not listen nor a stuck event loop
keeps it: ``run`` returns before, or never.
"""

from __future__ import annotations

import asyncio
import signal
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, Any, final

import lazy_loader

from kaito.runtime.cache.cache import Cache, describe_unsynced
from kaito.runtime.clock import Clock, SystemClock
from kaito.runtime.control.controller import Controller
from kaito.runtime.control.run import ControllerRun
from kaito.runtime.errors import CacheError, ConfigError, LeadershipLost, StopTimeout
from kaito.runtime.log import get_logger
from kaito.runtime.manager import watchdog
from kaito.runtime.manager.elector import Elector, Fence
from kaito.runtime.manager.groups import Group, Order, Run, Supervisor
from kaito.runtime.manager.options import ManagerOptions, Server, default_identity
from kaito.runtime.manager.recorder import FLUSH_TIME, EventRecorder, EventWriter
from kaito.runtime.manager.served import ServedKinds
from kaito.runtime.manager.watchdog import Watchdog
from kaito.runtime.memory import loading
from kaito.runtime.metrics.runtime import RuntimeMetrics
from kaito.runtime.objects.resource import Resource
from kaito.runtime.serving.authfilter import AccessFilter
from kaito.runtime.serving.certificates import Certificates, CertificateWatcher
from kaito.runtime.serving.health import (
    Check,
    Checks,
    Handler,
    HttpServer,
    local_only,
    metrics_response,
    tasks_response,
)
from kaito.runtime.serving.selfsigned import EphemeralCertificates
from kaito.runtime.tasks import TaskScope
from kaito.runtime.transport.client import Client
from kaito.runtime.transport.config import RestConfig
from kaito.runtime.transport.discovery import Discovery
from kaito.runtime.transport.rest import Rest

if TYPE_CHECKING:
    from aiohttp import web
else:
    web = lazy_loader.load("aiohttp.web", suppress_warning=True)

LAG_PERIOD = 0.05
"""Seconds between two measurements of the event loop's lag: what holds it longer than that shows."""
LAG_WINDOW = 100
"""Measurements of which the longest is shown."""
STOP_MARGIN = 1.0
"""Seconds after the grace period at which a process that still runs is ended; half of it is for what was cancelled."""

_log = get_logger("manager")


@final
class Manager:
    """Made inside a running event loop; ``run`` may be called once."""

    def __init__(
        self,
        config: RestConfig,
        options: ManagerOptions | None = None,
        *,
        clock: Clock | None = None,
        rest: Rest | None = None,
    ) -> None:
        """``rest`` is the manager's from now on: it closes it. By default it makes one from ``config``."""
        self.config = config
        self.options = options or ManagerOptions()
        self.clock: Clock = clock or SystemClock()
        self.runtime_metrics = RuntimeMetrics()
        self.rest = rest or Rest(config, self.runtime_metrics, clock=self.clock)
        self.cache = Cache(self.rest, self.runtime_metrics, clock=self.clock, namespaces=self.options.namespaces)
        election = self.options.election
        metrics = self.runtime_metrics
        self._elector = Elector(election, self.rest, metrics, clock=self.clock) if election else None
        self.fence = (
            self._elector.fence
            if self._elector
            else Fence(self.clock, metrics.fence_refusals_total.inc, valid_until=float("inf"))
        )
        """Whether this process may write; ``client`` asks it. Ask it before each write to another system, too."""
        manager = self.options.field_manager
        self.client = Client(self.rest, fence=self.fence.check, observer=self.cache, field_manager=manager)
        self.unfenced_client = Client(self.rest, observer=self.cache, field_manager=manager)
        """For controllers and runnables that run without leading: its writes do not ask ``fence``."""
        self.discovery = Discovery(self.rest, clock=self.clock)
        self._writer = EventWriter(self.client, self.clock, election.identity if election else default_identity())
        self._health = Checks("/healthz", self._check_failed)
        self._ready = Checks("/readyz", self._check_failed)
        if self._elector is not None:
            self._health.add("leader", self._elector.check_health)
        self._ready.add("informer-sync", self._check_synced)
        self._supervisor = Supervisor(metrics)
        self._ready.add("runnables", self._supervisor.check)
        self._names: set[str] = set()
        self._added_servers: dict[str, Server] = {}
        self._kinds: ServedKinds | None = None
        self._certificates: Certificates | None = None
        self._everywhere = Group(self._failed)
        self._leader_only = Group(self._failed)
        self._stopping = asyncio.Event()
        self._failures: list[tuple[str, BaseException]] = []
        self._end = float("inf")
        """Monotonic time at which this process is ended if it still stops."""
        self._ran = False
        self.metrics_port = 0
        """The port of ``/metrics`` while running."""
        self.health_port = 0
        self.elected = asyncio.Event()
        """Set once the leader's group has been started."""

    @property
    def metrics(self) -> Any:
        """The registry that ``/metrics`` shows; controllers register their own metrics on it."""
        return self.runtime_metrics.registry

    def recorder(self, controller: str) -> EventRecorder:
        return EventRecorder(self._writer, controller)

    def add_health_check(self, name: str, check: Check) -> None:
        self._health.add(name, check)

    def add_ready_check(self, name: str, check: Check) -> None:
        self._ready.add(name, check)

    def add(self, controller: Controller) -> ControllerRun:
        """Run ``controller``; at once if the manager runs already. Raises ConfigError for a name in use.

        What it returns can stop the controller, whose name is free then, and give it more watches.
        """
        self._claim(controller.name)
        run = ControllerRun(controller, self.cache, self.runtime_metrics)
        run.declare()

        async def until_it_ends() -> None:
            try:
                await run.run()
            finally:
                self._names.discard(controller.name)

        self._group(controller.needs_leader).add(f"controller {controller.name}", until_it_ends)
        return run

    def add_runnable(
        self,
        name: str,
        run: Run,
        *,
        needs_leader: bool = True,
        order: Order = Order.WITH,
        supervised: bool = True,
    ) -> None:
        """Run ``run`` until the manager stops, which cancels it. It may return early.

        Where it fails it is started again, after longer and longer pauses, counted by a metric and shown by the readiness
        check ``runnables``; without ``supervised`` an error ends the manager.
        """
        self._claim(name)
        self._group(needs_leader).add(name, self._supervisor.supervised(name, run) if supervised else run, order)

    def add_context(self, name: str, context: AbstractAsyncContextManager[Any], *, needs_leader: bool = True) -> None:
        """Hold ``context`` open for what runs: entered before the controllers and runnables of its group start, left when
        all of them have ended.

        It is the place for what they share, such as the connections to another system. An error in it ends the manager.
        """
        self._claim(name)
        self._group(needs_leader).enter(name, context)

    def add_server(self, name: str, server: Server) -> None:
        """Serve from before the caches start until after they have stopped: webhooks may be needed for them to sync.

        Its ``check`` becomes the readiness check ``name``. Raises ConfigError once the manager runs.
        """
        if self._ran:
            raise ConfigError(f"the server {name} comes too late: the manager has started")
        self._claim(name)
        self._added_servers[name] = server
        self._ready.add(name, server.check)

    def when_served(self, resource: Resource[Any], then: Callable[[], None]) -> None:
        """Call ``then``, which may add controllers and make listers, as soon as the cluster knows ``resource``.

        Where its definition is installed that is before the caches start; else it is looked for every ten seconds.
        Raises ConfigError once the manager runs.
        """
        if self._kinds is None:
            self._kinds = ServedKinds(self.rest)
            self.add_server("served-kinds", self._kinds)
        elif self._ran:
            raise ConfigError(f"{resource} is asked for too late: the manager has started")
        self._kinds.add(resource, then)

    def _claim(self, name: str) -> None:
        if self._stopping.is_set():
            raise ConfigError(f"{name} cannot be added: the manager is stopping")
        if name in self._names:
            raise ConfigError(
                f"there is already a controller or runnable {name!r} in this process: names must be unique"
            )
        self._names.add(name)

    def _group(self, needs_leader: bool) -> Group:
        return self._leader_only if needs_leader else self._everywhere

    def stop(self) -> None:
        """Begin an orderly stop; ``run`` returns when it is complete. Idempotent."""
        self._stopping.set()

    async def run(self, *, handle_signals: bool = False) -> None:
        """Run until ``stop``, a signal, an error or cancellation.

        Raises the error that ended it, or an ExceptionGroup of several. With ``handle_signals``, SIGTERM and SIGINT stop
        it in order and a second one ends the process at once.
        """
        if self._ran:
            raise RuntimeError("a manager runs only once")
        self._ran = True
        loop = asyncio.get_running_loop()
        if handle_signals:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._signalled, number)
        servers = self._servers()
        background = TaskScope(self._failed)
        informers = TaskScope(self._failed)
        main = asyncio.create_task(self._start(servers, background, informers), name="manager start")
        stopping = asyncio.create_task(self._stopping.wait(), name="manager stop")
        try:
            await asyncio.wait({main, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if main.done() and not main.cancelled() and (error := main.exception()) is not None:
                self._failed("start", error)
            await self._stopping.wait()
        finally:
            self._stopping.set()
            try:
                await self._shut_down(main, stopping, servers, background, informers)
            finally:
                if handle_signals:
                    for number in (signal.SIGTERM, signal.SIGINT):
                        loop.remove_signal_handler(number)
        self._raise()

    def _raise(self) -> None:
        errors = [error for _, error in self._failures]
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise BaseExceptionGroup("several parts of the manager failed", errors)

    def _signalled(self, number: int) -> None:
        if self._stopping.is_set():
            watchdog.end_process(1)
        _log.info("stopping", signal=signal.Signals(number).name)
        self.stop()

    def _failed(self, name: str, error: BaseException) -> None:
        _log.error("stopping, because a part of the manager failed", part=name, error=str(error) or repr(error))
        self._failures.append((name, error))
        if isinstance(error, LeadershipLost):
            # Also one that stops already: it has no grace period any more.
            self._end = min(self._end, self.clock.monotonic() + STOP_MARGIN)
        self._stopping.set()

    async def _start(self, servers: list[HttpServer], background: TaskScope, informers: TaskScope) -> None:
        if self._certificates is not None:
            await self._certificates.start()
            background.start("metrics certificate", self._certificates.run())
        for server in servers:
            await server.start()
        self._note_ports(servers)
        _log.info("serving", metrics=self.metrics_port, probes=self.health_port)
        background.start("event loop lag", self._measure_lag())
        background.start("events", self._writer.run())
        for name, added in self._added_servers.items():
            await added.start()
            background.start(f"server {name}", added.run())
        with loading() if self.options.own_process else nullcontext():
            self.cache.start(informers)
            await self.cache.wait_synced(self.options.sync_timeout)
        await self._everywhere.start()
        if self._elector is not None:
            await self._elector.acquire()
            background.start("leader election", self._elector.keep())
        await self._leader_only.start()
        self.elected.set()
        _log.info("started", controllers=sorted(self._names))

    async def _shut_down(
        self,
        main: asyncio.Task[None],
        stopping: asyncio.Task[Any],
        servers: list[HttpServer],
        background: TaskScope,
        informers: TaskScope,
    ) -> None:
        for task in (main, stopping):
            task.cancel()
        await asyncio.wait({main, stopping})
        lost = any(isinstance(error, LeadershipLost) for _, error in self._failures)
        grace = 0.0 if lost else self.options.grace_period
        self._end = min(self._end, self.clock.monotonic() + grace + STOP_MARGIN)
        ending = Watchdog("the manager did not stop in time", lambda: self._end, self.clock)
        ending.start()
        try:
            left = await self._stop_parts(grace)
            if not lost and not left:
                await self._writer.flush(min(FLUSH_TIME, self._time_left()))
            self.fence.close()
            await informers.aclose()
            await background.aclose()
            if self._elector is not None:
                # With something of the leader's left, the lease runs out by itself, after this process has ended.
                self._elector.disarm()
                if not left:
                    await self._elector.release(self._time_left())
            for added in reversed(self._added_servers.values()):
                await added.stop()
            for server in reversed(servers):
                await server.stop()
            await self.rest.aclose()
        except BaseException:
            ending.stop()
            raise
        if not left:
            ending.stop()
            return
        # They may still act: the process ends unless they do, whatever becomes of ``run``'s caller.
        _when_done(left, ending.stop)
        names = ", ".join(sorted(task.get_name() for task in left))
        self._failed("stop", StopTimeout(f"did not end within {grace:g} s and after being cancelled: {names}"))

    def _time_left(self) -> float:
        """Seconds until this process is ended; also where there are none, something has to be tried."""
        return max(STOP_MARGIN / 2, self._end - self.clock.monotonic())

    async def _stop_parts(self, grace: float) -> set[asyncio.Task[Any]]:
        """What has not ended although it was cancelled."""
        deadline = asyncio.get_running_loop().time() + grace
        everywhere, leaders = self._everywhere, self._leader_only
        tiers = [(everywhere, Order.AFTER), (everywhere, Order.WITH), *((leaders, order) for order in reversed(Order))]
        left: set[asyncio.Task[Any]] = set()
        for group, order in [*tiers, (everywhere, Order.BEFORE)]:
            left |= await group.stop(order, deadline, deadline + STOP_MARGIN / 2)
        return left

    def _servers(self) -> list[HttpServer]:
        servers = []

        async def metrics(request: web.Request) -> web.StreamResponse:
            self.cache.report()
            return await metrics_response(self.metrics, request)

        if self.options.health_address != "0":
            routes = {
                "/healthz": self._health.handle,
                "/healthz/{check}": self._health.handle,
                "/readyz": self._ready.handle,
                "/readyz/{check}": self._ready.handle,
                "/debug/tasks": local_only(tasks_response),
            }
            servers.append(HttpServer(self.options.health_address, routes))
        if self.options.metrics_address != "0":
            shown: dict[str, Handler] = {"/metrics": metrics}
            if self.options.metrics_secure:
                access = AccessFilter(self.rest, clock=self.clock)
                shown = {"/metrics": access.protect(metrics), "/debug/tasks": access.protect(tasks_response)}
                folder = self.options.metrics_certificates
                self._certificates = (
                    CertificateWatcher.of_folder(folder, self.runtime_metrics)
                    if folder
                    else EphemeralCertificates(clock=self.clock)
                )
            tls = self._certificates.context if self._certificates else None
            servers.append(HttpServer(self.options.metrics_address, shown, tls=tls))
        return servers

    def _note_ports(self, servers: list[HttpServer]) -> None:
        ports = [server.port for server in servers]
        if self.options.metrics_address != "0":
            self.metrics_port = ports.pop()
        if self.options.health_address != "0":
            self.health_port = ports.pop()

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        recent = deque([0.0], maxlen=LAG_WINDOW)
        while True:
            due = loop.time() + LAG_PERIOD
            await asyncio.sleep(LAG_PERIOD)
            lag = max(0.0, loop.time() - due)
            recent.append(lag)
            self.runtime_metrics.loop_lag.set(max(recent))
            self.runtime_metrics.loop_lag_seconds.observe(lag)

    def _check_synced(self) -> None:
        if not self.cache.synced:
            raise CacheError(f"not synced: {describe_unsynced(self.cache.statuses()) or 'not started'}")

    def _check_failed(self, name: str, error: Exception) -> None:
        _log.info("a health check failed", check=name, error=str(error))


def _when_done(tasks: set[asyncio.Task[Any]], act: Callable[[], None]) -> None:
    left = set(tasks)

    def done(task: asyncio.Task[Any]) -> None:
        left.discard(task)
        if not left:
            act()

    for task in tasks:
        task.add_done_callback(done)
