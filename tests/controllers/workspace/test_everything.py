"""Whatever is asked for and whatever happens: no exception, no GPU held twice, no machine that nobody needs."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from controllers.workspace.conftest import Harness, ready_condition
from kaito.api.defaulting import read_workspace
from kaito.api.resources import WORKSPACES
from kaito.api.validation import validate
from kaito.controllers.workspace.orders import SOURCES
from kaito.controllers.workspace.settings import Settings, Source, images_of
from kaito.controllers.workspace.upgrades import Upgrades
from kaito.models import Catalogue
from kaito.runtime import (
    DEPLOYMENTS,
    JOBS,
    NODES,
    PODS,
    SERVICES,
    STATEFUL_SETS,
    Conflict,
    ServiceUnavailable,
    TerminalError,
)

CATALOGUE = Catalogue.default()
WORKLOADS = (DEPLOYMENTS, STATEFUL_SETS)
NAMES = ("w", "v")
Action = tuple[Any, ...]

_INFERENCE = st.one_of(
    st.fixed_dictionaries(
        {"preset": st.fixed_dictionaries({"name": st.sampled_from(["phi-3-mini-4k-instruct", "falcon-7b", "phi-4"])})},
        optional={
            "adapters": st.just([{"source": {"name": "a", "image": "r.io/a:1"}}]),
            "config": st.just("absent"),
        },
    ),
    st.just(
        {"preset": {"name": "llama-2-13b", "accessMode": "private", "presetOptions": {"image": "r.io/llama:1"}}},
    ),
    st.fixed_dictionaries(
        {
            "template": st.sampled_from(
                [
                    {"spec": {"containers": [{"name": "c", "image": "r.io/c:1"}]}},
                    {
                        "spec": {
                            "containers": [
                                {"name": "c", "image": "r.io/c:1", "resources": {"limits": {"nvidia.com/gpu": 1}}}
                            ],
                            "tolerations": [{"key": "team", "operator": "Exists"}],
                        }
                    },
                ]
            )
        }
    ),
)
_TUNING = st.fixed_dictionaries(
    {
        "preset": st.just({"name": "phi-3-mini-4k-instruct"}),
        "method": st.sampled_from(["lora", "QLoRA"]),
        "input": st.sampled_from([{"urls": ["https://x.example/a"]}, {"image": "r.io/d:1"}, {"volumeSource": {}}]),
        "output": st.sampled_from([{"image": "r.io/o:1", "imagePushSecret": "s"}, {"volumeSource": {"emptyDir": {}}}]),
    }
)
_RESOURCE = st.fixed_dictionaries(
    {
        "instanceType": st.sampled_from(
            ["Standard_NC6s_v3", "standard_nc12s_v3", "Standard_NC24ads_A100_v4", "Standard_D8s_v5", "Standard_NC_new"]
        ),
        "labelSelector": st.sampled_from([{}, {"matchLabels": {"apps": "phi-3"}}]),
    },
    optional={"count": st.integers(1, 2), "preferredNodes": st.lists(st.sampled_from("ab"), max_size=2)},
)
_WORKSPACES = st.one_of(
    st.fixed_dictionaries({"resource": _RESOURCE, "inference": _INFERENCE}),
    st.fixed_dictionaries({"resource": _RESOURCE, "tuning": _TUNING}),
)
_ACTIONS: st.SearchStrategy[Action] = st.one_of(
    st.tuples(st.just("apply"), st.sampled_from(NAMES)),
    st.tuples(
        st.just("node"),
        st.sampled_from("abc"),
        st.booleans(),
        st.integers(0, 4),
        st.sampled_from([{}, {"unschedulable": True}, {"taints": [{"key": "team", "effect": "NoSchedule"}]}]),
    ),
    st.tuples(st.just("ready"), st.sampled_from("abc"), st.booleans()),
    st.tuples(st.just("lose"), st.sampled_from("abc")),
    st.tuples(
        st.just("pod"), st.sampled_from("abc"), st.sampled_from(["", *NAMES]), st.sampled_from(["Running", "Failed"])
    ),
    st.tuples(st.just("deliver"), st.integers(0, 3)),
    st.tuples(st.just("fail"), st.integers(0, 3)),
    st.tuples(st.just("drop"), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("serve"), st.sampled_from(NAMES)),
    st.tuples(st.just("end"), st.sampled_from(["succeeded", "failed", "ready"])),
    st.tuples(st.just("edit"), st.sampled_from(NAMES)),
    st.tuples(st.just("obstruct"), st.sampled_from(NAMES)),
    st.tuples(st.just("annotate"), st.sampled_from(["kaito.sh/upgrade", "kaito.sh/bypass-resource-checks"])),
    st.tuples(st.just("refuse"), st.sampled_from(["nodes", "workspaces", "deployments"]), st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from([5, 100, 301])),
    st.tuples(st.just("delete"), st.sampled_from(NAMES)),
)


class Story:
    def __init__(self, manifest: dict[str, Any], source: Source) -> None:
        self.harness = Harness()
        self.harness.settings = Settings(source=source, runtime_images=images_of("r.io/kaito-{engine}:1"))
        self.harness.upgrades = Upgrades("on-change")
        self.manifest = manifest
        self.source = SOURCES[source]
        self.made = 0

    async def play(self, action: Action) -> None:
        await getattr(self, f"_{action[0]}")(*action[1:])
        await self.look()

    async def look(self) -> None:
        """Reconcile everything, as its events would."""
        for name in NAMES:
            try:
                await self.harness.reconcile(name)
            except (TerminalError, Conflict, ServiceUnavailable):
                continue
        self.check()

    def check(self) -> None:
        cluster = self.harness.cluster
        nodes = {name: cluster.read(NODES, name) for name in cluster.names(NODES)}
        for name in cluster.names(WORKSPACES):
            workspace = cluster.read(WORKSPACES, name)
            if not cluster.refuse:
                workers = workspace.get("status", {}).get("workerNodes") or []
                deleting = workspace["metadata"].get("deletionTimestamp")
                assert deleting or set(workers) <= set(nodes), "workerNodes exist"
        for node in nodes.values():
            claims = {
                key: int(value)
                for key, value in node["metadata"]["labels"].items()
                if key.startswith("claim.kaito.sh/default.") and key.rpartition(".")[2] in cluster.names(WORKSPACES)
            }
            total = int((node["status"].get("capacity") or {}).get("nvidia.com/gpu", 0))
            if len(claims) > 1 and total:
                assert sum(claims.values()) <= total, (node["metadata"]["name"], claims)
        for name in cluster.names(WORKSPACES):
            alive = [order for order in self.orders(name) if not order["metadata"].get("deletionTimestamp")]
            target = cluster.read(WORKSPACES, name).get("status", {}).get("targetNodeCount") or 2
            assert len(alive) <= target, "no more machines than nodes that are needed"

    def orders(self, name: str | None = None) -> list[dict[str, Any]]:
        if self.source is None:
            return []
        cluster = self.harness.cluster
        found = [cluster.read(self.source.resource, each) for each in cluster.names(self.source.resource)]
        return [item for item in found if name is None or item["metadata"]["labels"]["kaito.sh/workspace"] == name]

    # What happens

    async def _apply(self, name: str) -> None:
        if name not in self.harness.cluster.names(WORKSPACES):
            self.harness.apply({**self.manifest, "metadata": {"name": name}})

    async def _node(self, name: str, ready: bool, gpus: int, spec: dict[str, Any]) -> None:
        if name not in self.harness.cluster.names(NODES):
            size = str(self.manifest["resource"]["instanceType"])
            self.harness.node(name, ready=ready, gpus=gpus, spec=spec, **{"node.kubernetes.io__instance-type": size})

    async def _ready(self, name: str, ready: bool) -> None:
        if name in self.harness.cluster.names(NODES):
            condition = ready_condition(ready, self.harness.clock.moment)
            self.harness.cluster.edit(NODES, name, {"status": {"conditions": [condition]}})

    async def _lose(self, name: str) -> None:
        if name in self.harness.cluster.names(NODES):
            self.harness.cluster.remove(NODES, name)

    async def _pod(self, node: str, workspace: str, phase: str) -> None:
        labels = {"kaito.sh/workspace": workspace} if workspace else {}
        container = {"name": "c", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
        self.harness.cluster.put(
            PODS,
            {
                "metadata": {"name": f"{node}-{workspace}", "labels": labels},
                "spec": {"nodeName": node, "containers": [container]},
                "status": {"phase": phase},
            },
        )

    async def _deliver(self, index: int) -> None:
        orders = [order for order in self.orders() if not order["metadata"].get("deletionTimestamp")]
        if self.source is None or index >= len(orders) or orders[index].get("status", {}).get("nodeName"):
            return
        order = orders[index]["metadata"]
        self.made += 1
        node = f"made-{self.made}"
        size = str(self.manifest["resource"]["instanceType"])
        gpus = 0 if size.startswith("Standard_D") else 1
        labels = order["labels"] | {"node.kubernetes.io/instance-type": size}
        self.harness.node(node, gpus=gpus, **{key.replace("/", "__"): value for key, value in labels.items()})
        conditions = [{"type": type_, "status": "True"} for type_ in (*self.source.steps, "Ready")]
        status = {"conditions": conditions, "nodeName": node}
        self.harness.cluster.edit(self.source.resource, order["name"], {"status": status})

    async def _fail(self, index: int) -> None:
        orders = self.orders()
        if self.source is not None and index < len(orders):
            condition = {"type": self.source.steps[0], "status": "False", "reason": "Quota", "message": "exceeded"}
            name = orders[index]["metadata"]["name"]
            self.harness.cluster.edit(self.source.resource, name, {"status": {"conditions": [condition]}})

    async def _drop(self, index: int, stuck: bool) -> None:
        orders = self.orders()
        if self.source is not None and index < len(orders):
            name = orders[index]["metadata"]["name"]
            if stuck and not orders[index]["metadata"].get("deletionTimestamp"):
                self.harness.cluster.edit(self.source.resource, name, {"metadata": {"finalizers": ["x"]}})
            await self.harness.cluster.delete(self.source.resource, name)

    async def _serve(self, name: str) -> None:
        for resource in WORKLOADS:
            if name in self.harness.cluster.names(resource):
                made = self.harness.cluster.read(resource, name)
                count = made["spec"]["replicas"]
                status = {"observedGeneration": made["metadata"]["generation"]}
                status |= dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas"), count)
                self.harness.cluster.edit(resource, name, {"status": status})

    async def _end(self, how: str) -> None:
        for name in self.harness.cluster.names(JOBS):
            self.harness.cluster.edit(JOBS, name, {"status": {how: 1}})

    async def _edit(self, name: str) -> None:
        for resource in WORKLOADS:
            if name in self.harness.cluster.names(resource):
                self.harness.cluster.edit(resource, name, {"spec": {"replicas": 7, "paused": True}})

    async def _obstruct(self, name: str) -> None:
        if name not in self.harness.cluster.names(SERVICES):
            self.harness.cluster.put(SERVICES, {"metadata": {"name": name}, "spec": {"selector": {"app": "theirs"}}})

    async def _annotate(self, key: str) -> None:
        for name in self.harness.cluster.names(WORKSPACES):
            self.harness.cluster.edit(WORKSPACES, name, {"metadata": {"annotations": {key: "1"}}})

    async def _refuse(self, plural: str, conflict: bool) -> None:
        error = Conflict("changed") if conflict else ServiceUnavailable("down")
        self.harness.cluster.refuse["patch", plural] = error

    async def _wait(self, seconds: int) -> None:
        self.harness.clock.advance(seconds)

    async def _delete(self, name: str) -> None:
        if name in self.harness.cluster.names(WORKSPACES):
            await self.harness.cluster.delete(WORKSPACES, name)

    async def settle(self) -> None:
        """The causes of all trouble go, and time passes."""
        cluster = self.harness.cluster
        cluster.refuse.clear()
        for name in cluster.names(SERVICES):
            if not cluster.read(SERVICES, name)["metadata"].get("ownerReferences"):
                cluster.remove(SERVICES, name)
        for _ in range(6):
            self.harness.clock.advance(400)
            for order in self.orders():
                if self.source is not None and order["metadata"].get("finalizers"):
                    cluster.edit(self.source.resource, order["metadata"]["name"], {"metadata": {"finalizers": None}})
            await self.look()
            for index in range(len(self.orders())):
                await self._deliver(index)
            await self.look()
            for name in NAMES:
                await self._serve(name)
            await self.look()


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(
    manifest=_WORKSPACES,
    source=st.sampled_from(["machine", "nodeclaim", "byo"]),
    actions=st.lists(_ACTIONS, min_size=1, max_size=12),
)
def test_whatever_happens(manifest: dict[str, Any], source: Source, actions: list[Action]) -> None:
    policy = Settings(source=source, runtime_images=images_of("r.io/x:1")).policy
    assume(not validate(read_workspace({**manifest, "metadata": {"name": "w"}}), CATALOGUE, policy).errors)

    async def play() -> None:
        story = Story(manifest, source)
        await story.play(("apply", "w"))
        for action in actions:
            await story.play(action)
        await story.settle()
        for order in story.orders():
            name = order["metadata"]["labels"]["kaito.sh/workspace"]
            workspace = story.harness.workspace(name)
            workers = workspace["status"].get("workerNodes") or []
            node = order.get("status", {}).get("nodeName")
            short = len(workers) < workspace["status"]["targetNodeCount"]
            assert node in workers or short, f"machine {order['metadata']['name']} is needed by nobody"
        before = len(story.harness.cluster.writes)
        await story.look()
        assert len(story.harness.cluster.writes) == before, "what has settled is not written"
        for name in NAMES:
            await story.play(("delete", name))
        for order in story.orders():
            story.harness.cluster.remove(story.source.resource, order["metadata"]["name"])  # type: ignore[union-attr]
        await story.look()
        assert story.harness.cluster.names(WORKSPACES) == []

    asyncio.run(play())


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(
    manifest=_WORKSPACES,
    events=st.permutations(
        [("node", "a", True, 1, {}), ("apply", "w"), ("edit", "w"), ("wait", 5), ("serve", "w"), ("ready", "a", True)]
    ),
    others=st.permutations(range(6)),
)
def test_the_order_of_events_decides_nothing_about_the_workload(
    manifest: dict[str, Any], events: list[Action], others: list[int]
) -> None:
    policy = Settings(runtime_images=images_of("r.io/x:1")).policy
    assume(not validate(read_workspace({**manifest, "metadata": {"name": "w"}}), CATALOGUE, policy).errors)

    async def play(order: list[Action]) -> list[Any]:
        story = Story(manifest, "machine")
        for action in order:
            await story.play(action)
        await story.settle()
        cluster = story.harness.cluster
        found: list[Any] = [story.harness.conditions()]
        for resource in (*WORKLOADS, JOBS, SERVICES):
            for name in cluster.names(resource):
                spec = cluster.read(resource, name)["spec"]
                spec.pop("paused", None)  # what somebody set that kaito does not own stays, if it came late enough
                found.append((resource.kind, name, spec))
        return found

    async def both() -> None:
        assert await play(events) == await play([events[index] for index in others])

    asyncio.run(both())
