"""The rows of README.md beside this file that no other story tells."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kaito.api.resources import WORKSPACES
from kaito.controllers.workspace.manifests.scripts import PUSH
from kaito.controllers.workspace.orders import MACHINE_SOURCE
from kaito.runtime import (
    CONFIG_MAPS,
    CONTROLLER_REVISIONS,
    DEPLOYMENTS,
    JOBS,
    SERVICES,
    STATEFUL_SETS,
    Forbidden,
    TerminalError,
)

if TYPE_CHECKING:
    from conftest import Harness

TESTS = Path(__file__).parents[2]
MACHINES = MACHINE_SOURCE.resource


def functions(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_row_has_a_test_that_exists_or_a_reason() -> None:
    text = (Path(__file__).parent / "README.md").read_text()
    rows = re.findall(r"^\| ([A-Z])(\d+) \| (.+) \| (.+) \|$", text, re.MULTILINE)
    assert len(rows) == len(re.findall(r"^\| [A-Z]\d+ ", text, re.MULTILINE))
    for letter in {row[0] for row in rows}:
        numbers = [int(row[1]) for row in rows if row[0] == letter]
        assert numbers == list(range(1, len(numbers) + 1)), letter
    for letter, number, _, where in rows:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", where)
        assert named or where.startswith("\u2013 "), f"{letter}{number} has neither a test nor a reason"
        for file, test in named:
            path = Path(__file__).parent / file if "/" not in file else TESTS / file
            assert test in functions(path), f"{letter}{number}: there is no {file}::{test}"


@pytest.fixture
def tuning(phi3: dict[str, Any]) -> dict[str, Any]:
    del phi3["inference"]
    phi3["tuning"] = {
        "preset": {"name": "phi-3-mini-128k-instruct"},
        "method": "qlora",
        "input": {"urls": ["https://example.com/x"]},
        "output": {"image": "r.io/x:1", "imagePushSecret": "s"},
    }
    return phi3


def pod_of(harness: Harness) -> dict[str, Any]:
    spec: dict[str, Any] = harness.cluster.read(DEPLOYMENTS, "w")["spec"]["template"]["spec"]
    return spec


def revisions(harness: Harness) -> list[int]:
    names = harness.cluster.names(CONTROLLER_REVISIONS)
    return sorted(harness.cluster.read(CONTROLLER_REVISIONS, name)["revision"] for name in names)


# What is deployed


@pytest.mark.parametrize("name", ["mistral-7b-instruct", "phi-2", "falcon-7b", "phi-3-mini-128k-instruct"])
async def test_a_public_preset_runs(harness: Harness, phi3: dict[str, Any], name: str) -> None:
    phi3["inference"]["preset"]["name"] = name
    harness.apply(phi3)
    await harness.reconcile()
    (machine,) = harness.cluster.names(MACHINES)
    harness.machine_delivers(machine, "node-0")
    await harness.reconcile()
    service = harness.cluster.read(SERVICES, "w")["spec"]
    assert (service["type"], service["selector"]) == ("ClusterIP", {"kaito.sh/workspace": "w"})
    assert pod_of(harness)["containers"][0]["image"].split("/")[-1].startswith(f"kaito-{name}:")
    harness.deployment_becomes(ready=1)
    await harness.reconcile()
    assert harness.workspace()["status"]["workerNodes"] == ["node-0"]
    assert {status for status, _ in harness.conditions().values()} == {"True"}


async def test_a_private_image_is_pulled_with_its_secret(harness: Harness, phi3: dict[str, Any]) -> None:
    options = {"image": "r.io/llama:1", "imagePullSecrets": ["registry"]}
    phi3["inference"]["preset"] = {"name": "llama-2-7b", "accessMode": "private", "presetOptions": options}
    await harness.bring_up(phi3)
    assert pod_of(harness)["containers"][0]["image"] == "r.io/llama:1"
    assert pod_of(harness)["imagePullSecrets"] == [{"name": "registry"}]
    assert harness.conditions()["WorkspaceSucceeded"][0] == "True"


async def test_new_data_and_a_new_output_are_a_new_revision(harness: Harness, tuning: dict[str, Any]) -> None:
    harness.node("own")
    harness.apply(tuning)
    await harness.reconcile()
    change = {"input": {"urls": ["https://example.com/y"]}, "output": {"image": "r.io/y:2"}}
    harness.cluster.edit(WORKSPACES, "w", {"tuning": change})
    await harness.reconcile()
    await harness.reconcile()
    job = harness.cluster.read(JOBS, "w")
    for manifest in (harness.workspace(), job):
        assert manifest["metadata"]["annotations"]["workspace.kaito.io/revision"] == "2"
    assert revisions(harness) == [1, 2]
    pod = job["spec"]["template"]["spec"]
    assert pod["initContainers"][0]["env"][0]["value"] == "https://example.com/y"
    assert {"name": "IMAGE", "value": "r.io/y:2"} in pod["containers"][1]["env"]


async def test_an_adapter_is_swapped(harness: Harness, phi3: dict[str, Any]) -> None:
    def adapter(name: str) -> list[dict[str, Any]]:
        return [{"source": {"name": name, "image": f"r.io/{name}:1", "imagePullSecrets": [f"{name}-pull"]}}]

    phi3["inference"]["adapters"] = adapter("one")
    await harness.bring_up(phi3)
    harness.cluster.edit(WORKSPACES, "w", {"inference": {"adapters": adapter("two")}})
    await harness.reconcile()
    pod = pod_of(harness)
    assert [(item["name"], item["image"]) for item in pod["initContainers"]] == [("two", "r.io/two:1")]
    assert pod["imagePullSecrets"] == [{"name": "two-pull"}]
    assert revisions(harness) == [1, 2]


# Defects that others have had


async def test_an_adapter_without_a_strength_has_full_strength(harness: Harness, phi3: dict[str, Any]) -> None:
    phi3["inference"]["adapters"] = [{"source": {"name": "one", "image": "r.io/one:1"}}]
    await harness.bring_up(phi3)
    assert pod_of(harness)["containers"][0]["env"] == [{"name": "one", "value": "1.0"}]


@pytest.mark.parametrize(
    ("part", "field"), [("resource", "labelSelector"), ("tuning", "input"), ("tuning", "output"), ("tuning", "preset")]
)
async def test_what_is_left_out_is_named_and_crashes_nothing(
    harness: Harness, tuning: dict[str, Any], part: str, field: str
) -> None:
    """Also where admission has not seen the Workspace."""
    del tuning[part][field]
    harness.apply(tuning)
    with pytest.raises(TerminalError, match=rf"{part}\.{field}"):
        await harness.reconcile()
    assert harness.cluster.names(MACHINES) == []
    assert f"{part}.{field}" in harness.message("WorkspaceSucceeded")


async def test_an_update_that_is_refused_is_an_error(harness: Harness, phi3: dict[str, Any]) -> None:
    phi3["inference"]["adapters"] = [{"source": {"name": "one", "image": "r.io/one:1"}}]
    await harness.bring_up(phi3)
    harness.cluster.edit(WORKSPACES, "w", {"inference": {"adapters": None}})
    harness.cluster.refuse["patch", "deployments"] = Forbidden("you may not")
    with pytest.raises(Forbidden):
        await harness.reconcile()
    del harness.cluster.refuse["patch", "deployments"]
    await harness.reconcile()
    assert "initContainers" not in pod_of(harness)


async def test_a_job_that_cannot_be_replaced_is_an_error(harness: Harness, tuning: dict[str, Any]) -> None:
    harness.node("own")
    harness.apply(tuning)
    await harness.reconcile()
    harness.cluster.edit(WORKSPACES, "w", {"tuning": {"output": {"image": "r.io/x:2"}}})
    harness.cluster.refuse["delete", "jobs"] = Forbidden("you may not")
    with pytest.raises(Forbidden):
        await harness.reconcile()


async def test_a_stateful_set_is_updated(harness: Harness, phi3: dict[str, Any]) -> None:
    """Its image, its command and its secrets, as those of any workload."""
    options = {"image": "r.io/llama:1", "imagePullSecrets": ["old"]}
    phi3["inference"]["preset"] = {"name": "llama-2-13b", "accessMode": "private", "presetOptions": options}
    phi3["resource"]["count"] = 2
    harness.node("a")
    harness.node("b")
    harness.apply(phi3)
    await harness.reconcile()
    new = {"image": "r.io/llama:2", "imagePullSecrets": ["new"]}
    adapters = [{"source": {"name": "one", "image": "r.io/one:1"}}]
    harness.cluster.edit(WORKSPACES, "w", {"inference": {"preset": {"presetOptions": new}, "adapters": adapters}})
    await harness.reconcile()
    pod = harness.cluster.read(STATEFUL_SETS, "w")["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == "r.io/llama:2"
    assert pod["imagePullSecrets"] == [{"name": "new"}]
    assert [item["name"] for item in pod["initContainers"]] == ["one"]


async def test_the_configuration_of_a_training_goes_with_its_workspace(
    harness: Harness, tuning: dict[str, Any]
) -> None:
    harness.node("own")
    harness.apply(tuning)
    await harness.reconcile()
    (owner,) = harness.cluster.read(CONFIG_MAPS, "w-qlora-params")["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["controller"]) == (harness.workspace()["metadata"]["uid"], True)


async def test_what_is_being_deleted_gets_no_finalizer(harness: Harness, phi3: dict[str, Any]) -> None:
    phi3["metadata"] |= {"finalizers": ["example.com/mine"], "deletionTimestamp": "2024-11-16T12:00:00Z"}
    harness.apply(phi3)
    await harness.reconcile()
    assert harness.workspace()["metadata"]["finalizers"] == ["example.com/mine"]
    assert harness.cluster.names(MACHINES) == []


def test_the_pusher_ends_with_a_training_that_has_failed(tmp_path: Path) -> None:
    """The training has been started, no process of it is left, and there is no result."""
    results, tools = tmp_path / "results", tmp_path / "bin"
    for folder in (results, tools):
        folder.mkdir()
    (results / ".started").touch()
    for tool, status in (("pgrep", 1), ("sleep", 0)):
        (tools / tool).write_text(f"#!/bin/sh\nexit {status}\n")
        (tools / tool).chmod(0o755)
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "RESULTS": str(results), "IMAGE": "r.io/x:1", "MODEL": "m"}
    done = subprocess.run(
        ["/bin/sh", "-c", PUSH], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "the training has ended without a result" in done.stderr


# Costs


async def test_a_resync_of_settled_workspaces_writes_nothing(harness: Harness, phi3: dict[str, Any]) -> None:
    names = [f"w{number}" for number in range(25)]
    for name in names:
        manifest = deepcopy(phi3)
        manifest["metadata"]["name"] = name
        harness.apply(manifest)
        await harness.reconcile(name)
    for number, machine in enumerate(harness.cluster.names(MACHINES)):
        harness.machine_delivers(machine, f"node-{number}")
    for name in names:
        await harness.reconcile(name)
        harness.deployment_becomes(name, ready=1)
        await harness.reconcile(name)
    assert {harness.workspace(name)["status"]["state"] for name in names} == {"Ready"}
    harness.cluster.writes.clear()
    events = len(harness.recorder.events)
    for _ in range(2):
        for name in names:
            assert await harness.reconcile(name) is None
        harness.clock.advance(10 * 3600)
    assert harness.cluster.writes == []
    assert len(harness.recorder.events) == events
