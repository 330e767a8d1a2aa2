"""What is said of Nodes, who holds them, and which are used."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaito.controllers.workspace import facts
from kaito.controllers.workspace.claims import Need, claim_key, mismatch, shortage, unschedulable
from kaito.controllers.workspace.manifests.pod import TOLERATIONS
from kaito.controllers.workspace.selection import describe, select
from kaito.runtime import LabelSelector, format_time

NOON = datetime(2024, 11, 16, 12, tzinfo=UTC)
KEY = "claim.kaito.sh/default.w"
NEED = Need(
    namespace="default",
    name="w",
    selector=LabelSelector.of({"apps": "phi-3"}),
    size="Standard_NC6s_v3",
    preferred=(),
    tolerations=TOLERATIONS,
    gpus=None,
)


def need(**changes: Any) -> Need:
    fields = {name: getattr(NEED, name) for name in Need.__dataclass_fields__}
    return Need(**(fields | changes))


def node(
    name: str = "n",
    *,
    ready: str = "True",
    size: str = "Standard_NC6s_v3",
    gpus: int = 1,
    since: datetime = NOON,
    spec: dict[str, Any] | None = None,
    **labels: str,
) -> dict[str, Any]:
    own = {"apps": "phi-3", "node.kubernetes.io/instance-type": size}
    amounts = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    return {
        "metadata": {"name": name, "labels": own | {key.replace("__", "/"): value for key, value in labels.items()}},
        "spec": spec or {},
        "status": {
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": format_time(since)}],
            "capacity": amounts,
            "allocatable": amounts,
        },
    }


def taint(key: str, effect: str = "NoSchedule", value: str = "") -> dict[str, Any]:
    return {"taints": [{"key": key, "effect": effect} | ({"value": value} if value else {})]}


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (node(), ""),
        (node(size="standard_nc6s_V3"), ""),
        (node(apps="other"), "does not have the labels apps=phi-3"),
        (node(size="Standard_NC12s_v3"), "is of size Standard_NC12s_v3, not Standard_NC6s_v3"),
        (
            node(**{"kaito.sh__workspace": "other", "kaito.sh__workspacenamespace": "default"}),
            "was made for the Workspace default/other",
        ),
        (node(**{"kaito.sh__workspace": "w", "kaito.sh__workspacenamespace": "default"}), ""),
    ],
)
def test_what_is_not_asked_for(manifest: dict[str, Any], words: str) -> None:
    assert mismatch(manifest, NEED) == words


def test_preferred_nodes_may_be_of_any_size_but_need_the_labels() -> None:
    preferring = need(preferred=("big", "bare"))
    assert mismatch(node("big", size="Standard_ND96asr_v4"), preferring) == ""
    assert "does not have the labels" in mismatch(node("bare", apps="x"), preferring)


def test_without_machines_every_size_will_do() -> None:
    assert mismatch(node(size="Standard_ND96asr_v4"), need(size="")) == ""


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (node(ready="Unknown"), "is not Ready"),
        (node(spec={"unschedulable": True}), "is cordoned"),
        (node(spec=taint("team", value="red")), "has the taint team=red:NoSchedule, which the pods do not tolerate"),
        (node(spec=taint("team", "PreferNoSchedule")), ""),
        (node(spec=taint("sku", value="gpu")), ""),
        (node(spec=taint("nvidia.com/gpu", value="present")), ""),
        (node(spec=taint("nvidia.com/gpu", "NoExecute")), "has the taint nvidia.com/gpu:NoExecute, which"),
        ({**node(), "metadata": {**node()["metadata"], "deletionTimestamp": "x"}}, "is being deleted"),
    ],
)
def test_where_no_pod_can_start(manifest: dict[str, Any], words: str) -> None:
    assert unschedulable(manifest, NEED).startswith(words)
    assert bool(unschedulable(manifest, NEED)) == bool(words)


def holds(name: str, gpus: str) -> dict[str, str]:
    return {f"claim.kaito.sh__{name}": gpus}


@pytest.mark.parametrize(
    ("manifest", "wanted", "held", "words"),
    [
        (node(), None, 0, ""),
        (node(gpus=0), None, 0, "has not announced nvidia.com/gpu"),
        (node(), None, 1, "has 0 of 1 GPUs free, 1 are needed; 1 are held by other pods"),
        (node(**holds("default.other", "1")), None, 0, "has 0 of 1 GPUs free"),
        (node(gpus=4, **holds("default.other", "1")), 2, 0, ""),
        (node(gpus=4, **holds("default.other", "1")), 2, 2, "has 1 of 4 GPUs free, 2 are needed"),
        (node(gpus=4, **holds("default.other", "1")), None, 0, "has 3 of 4 GPUs free, 4 are needed"),
        (node(**holds("default.gone", "1")), None, 0, ""),
        (node(**holds("default.w", "1")), None, 0, ""),
        (node(**holds("default.other", "0")), 0, 0, "is held by the Workspace default.other"),
        (node(**holds("default.other", "0")), 1, 0, "is held by the Workspace default.other"),
        (node(gpus=0), 0, 0, ""),
    ],
)
def test_where_there_is_no_room(manifest: dict[str, Any], wanted: int | None, held: int, words: str) -> None:
    said = shortage(manifest, need(gpus=wanted), held, lambda key: not key.endswith(".gone"))
    assert said.startswith(words)
    assert bool(said) == bool(words)


@given(st.lists(st.integers(1, 4), max_size=6), st.integers(1, 8))
def test_claims_never_take_more_gpus_than_there_are(wanted: list[int], total: int) -> None:
    labels: dict[str, str] = {}
    for index, gpus in enumerate(wanted):
        asking = need(name=f"w{index}", gpus=gpus)
        if not shortage(node(gpus=total, **labels), asking, 0, lambda key: True):
            labels[asking.key.replace("/", "__")] = str(gpus)
    assert sum(map(int, labels.values())) <= total


@given(
    st.from_regex(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True),
    st.from_regex(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True),
)
def test_claims_are_labels_whatever_the_names(namespace: str, name: str) -> None:
    prefix, _, text = claim_key(namespace, name).partition("/")
    assert prefix == "claim.kaito.sh"
    assert 0 < len(text) <= 63
    assert text[-1].isalnum()
    assert claim_key(namespace, name) != claim_key(namespace, f"{name}x"[:63]) or len(name) == 63


def chosen(nodes: list[dict[str, Any]], wanted: Need = NEED, **options: Any) -> Any:
    settings: dict[str, Any] = {"now": NOON, "grace": 300.0, "running_on": ()} | options
    return select(nodes, wanted, **settings)


def test_nodes_are_ranked() -> None:
    mine = {"kaito.sh__workspace": "w", "kaito.sh__workspacenamespace": "default"}
    nodes = [node("a"), node("b", **mine), node("c"), node("d")]
    found = chosen(nodes, need(preferred=("c",)))
    assert [facts.name_of(item) for item in found.candidates] == ["c", "b", "a", "d"]


def test_a_node_that_is_held_and_not_ready_is_waited_for() -> None:
    found = chosen([node(ready="False", since=NOON - timedelta(seconds=100), **holds("default.w", "1"))])
    assert found.awaited == {"n": ("is not Ready", 200.0)}
    assert found.held == 1
    late = chosen([node(ready="False", since=NOON - timedelta(seconds=301), **holds("default.w", "1"))])
    assert late.lost == {"n": "has not been Ready for 0:05:00"}
    assert late.held == 0


def test_a_cordon_ends_nothing_that_runs() -> None:
    cordoned = node(spec={"unschedulable": True}, **holds("default.w", "1"))
    assert [facts.name_of(item) for item in chosen([cordoned], running_on={"n"}).keep] == ["n"]
    assert chosen([cordoned]).lost == {"n": "is cordoned"}


def test_a_node_that_is_being_prepared_is_not_taken() -> None:
    mine = {"kaito.sh__workspace": "w", "kaito.sh__workspacenamespace": "default"}
    assert chosen([node(**mine)], prepared=set()).candidates == []
    assert len(chosen([node(**mine)], prepared={"n"}).candidates) == 1
    assert len(chosen([node()], prepared=set()).candidates) == 1


def test_reasons_are_told_shortly() -> None:
    assert describe({"b": "is cordoned", "a": "is not Ready"}) == "node a is not Ready; node b is cordoned"
    assert describe({str(number): "x" for number in range(5)}) == "node 0 x; node 1 x; node 2 x; and 2 more"


def test_gpus_count_when_they_can_be_asked_for() -> None:
    assert facts.gpus({"status": {"capacity": {"nvidia.com/gpu": "2"}, "allocatable": {"nvidia.com/gpu": "2"}}}) == 2
    assert facts.gpus({"status": {"capacity": {"nvidia.com/gpu": "2"}, "allocatable": {"nvidia.com/gpu": "0"}}}) == 0
    assert facts.gpus({"status": {"capacity": {"nvidia.com/gpu": "2"}, "allocatable": None}}) == 0
    assert facts.gpus({}) == 0


def test_what_pods_hold() -> None:
    def container(gpus: object) -> dict[str, Any]:
        return {"resources": {"limits": {"nvidia.com/gpu": gpus}}}

    assert facts.pod_gpus({"containers": [container("1"), container(2), {}], "initContainers": [container("2")]}) == 3
    assert facts.pod_gpus({"containers": [{}], "initContainers": [container("2")]}) == 2
    assert facts.pod_gpus({"containers": [container("many")]}) == 0
    done = {"spec": {"containers": [container("1")]}, "status": {"phase": "Succeeded"}}
    assert facts.held_gpus([done, {**done, "status": {"phase": "Running"}}]) == 1
