"""What a person on call asks about Workspaces, as Prometheus metrics. No label is a user's free text."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client import Histogram
from prometheus_client.core import GaugeMetricFamily

from kaito.api import labels
from kaito.api.conditions import find, is_true
from kaito.api.workspace import WORKSPACE_SUCCEEDED
from kaito.controllers import census
from kaito.controllers.workspace.watches import claims_on
from kaito.runtime import CacheError, parse_time

if TYPE_CHECKING:
    from datetime import datetime

    from prometheus_client import CollectorRegistry

    from kaito.api.workspace import Workspace, WorkspaceStatus
    from kaito.controllers.workspace.context import Caches
    from kaito.controllers.workspace.upgrades import Upgrades
    from kaito.runtime import Stored

PHASE = "phase"
"""Index of Workspaces by ``phase_entered``, so that counting them decodes none."""
PHASES = ("succeeded", "error", "pending", "deleting")
_BUCKETS = (1, 5, 15, 30, 60, 120, 300, 600, 900, 1200, 1800, 3600, 7200)


class WorkspaceMetrics:
    """Durations, as they are observed."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._ready = Histogram(
            "kaito_workspace_ready_seconds",
            "From the creation of a Workspace until it succeeded for the first time.",
            buckets=_BUCKETS,
            registry=registry,
        )
        self._step = Histogram(
            "kaito_workspace_step_seconds",
            "How long a condition of a Workspace was not True before it became True.",
            ["condition"],
            buckets=_BUCKETS,
            registry=registry,
        )

    def moved(self, workspace: Workspace, before: WorkspaceStatus, after: WorkspaceStatus, now: datetime) -> None:
        """A status was written."""
        created = workspace.metadata.creation_timestamp
        for condition in after.conditions or ():
            old = find(before.conditions, condition.type)
            if condition.status != "True" or (old is not None and old.status == "True"):
                continue
            began = old.last_transition_time if old is not None else created
            if began:
                self._step.labels(condition.type).observe(max(0.0, (now - parse_time(began)).total_seconds()))
            if condition.type == WORKSPACE_SUCCEEDED and created and _first(before):
                self._ready.observe(max(0.0, (now - parse_time(created)).total_seconds()))


class WorkspaceCensus:
    """Counts, taken from the caches whenever they are asked for."""

    def __init__(self, caches: Caches, upgrades: Upgrades, sizes: Iterable[str], now: Callable[[], datetime]) -> None:
        """``sizes`` are the instance types that are told apart: a Node's label may be anybody's text."""
        self._caches = caches
        self._upgrades = upgrades
        self._sizes = {size.casefold(): size for size in sizes}
        self._now = now

    def describe(self) -> list[Any]:
        return []  # taken at scrape time: there may be no cache yet

    def collect(self) -> Iterator[GaugeMetricFamily]:
        try:
            entered = self._caches.workspaces.tally(PHASE)
            nodes = self._caches.nodes.stored_list()
        except CacheError:
            return
        counted = GaugeMetricFamily("kaito_workspace_count", "Workspaces by phase.", labels=["phase"])
        oldest = GaugeMetricFamily(
            "kaito_workspace_oldest_seconds",
            "Seconds that the Workspace has been in a phase which has been there longest; 0 without one.",
            labels=["phase"],
        )
        for phase, found in census.count(entered, PHASES, self._now()).items():
            counted.add_metric([phase], found.number)
            oldest.add_metric([phase], found.oldest)
        yield counted
        yield oldest
        held = GaugeMetricFamily(
            "kaito_workspace_gpu_nodes", "Nodes that Workspaces hold, by instance type.", labels=["instance_type"]
        )
        sizes = Tally(
            self._sizes.get(node.labels.get(labels.INSTANCE_TYPE, "").casefold(), "other")
            for node in nodes
            if any(claims_on(node))
        )
        for size, number in sorted(sizes.items()):
            held.add_metric([size], number)
        yield held
        outdated = GaugeMetricFamily(
            "kaito_workspace_outdated", "Workloads that this operator would make differently today."
        )
        outdated.add_metric([], len(self._upgrades.outdated))
        yield outdated


def phase_entered(stored: Stored[Workspace]) -> Iterable[str]:
    """The phase of a Workspace, and when it entered it: for the index ``PHASE``."""
    workspace = stored.peek()
    whole = find(workspace.status.conditions, WORKSPACE_SUCCEEDED)
    moved = whole.last_transition_time if whole is not None else ""
    moment = workspace.metadata.deletion_timestamp or moved or workspace.metadata.creation_timestamp
    return (census.entry(phase_of(workspace), moment or ""),)


def phase_of(workspace: Workspace) -> str:
    if workspace.metadata.deletion_timestamp is not None:
        return "deleting"
    conditions = workspace.status.conditions
    if is_true(conditions, WORKSPACE_SUCCEEDED):
        return "succeeded"
    whole = find(conditions, WORKSPACE_SUCCEEDED)
    return "error" if whole is not None and whole.reason == "workspaceFailed" else "pending"


def _first(before: WorkspaceStatus) -> bool:
    """Whether the Workspace has never succeeded yet, as far as its status tells."""
    return before.state in (None, "Pending", "Running")
