"""What is written about the runtime is true of it."""

from __future__ import annotations

import ast
import asyncio
import builtins
import re
from pathlib import Path

import pytest

from kaito import runtime
from kaito.runtime import Manifest, Request, RuntimeMetrics, errors, manifest_resource, testing
from kaito.runtime.metrics.controllers import DURATION_BUCKETS, QueueStatistics
from kaito.runtime.metrics.series import Histogram
from kaito.runtime.testing import FakeServer
from support.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "runtime.md"


def test_every_pitfall_has_a_test_that_exists_or_a_reason() -> None:
    text = (Path(__file__).parent / "README.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (.+) \| (.+) \|$", text, re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, len(rows) + 1))
    assert len(rows) >= 132
    known = {}
    for file in Path(__file__).parent.glob("test_*.py"):
        tree = ast.parse(file.read_text())
        known[file.name] = {
            node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        } | {
            target.id
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
    for number, _, where in rows:
        named = re.findall(r"`(\w+\.py)::(\w+)`", where)
        assert named or where.startswith("\u2013 "), f"pitfall {number} has neither a test nor a reason"
        for file_name, test in named:
            assert test in known[file_name], f"pitfall {number}: there is no {file_name}::{test}"


def test_the_example_on_the_page_is_the_example_that_is_tested() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert (ROOT / "examples" / "mirror.py").read_text() in blocks


def recipes() -> list[str]:
    section = PAGE.read_text().partition("## Recipes")[2].partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


@pytest.mark.parametrize("number", range(len(recipes())))
async def test_every_recipe_runs(number: int) -> None:
    """On a server in memory; the manager then runs with what the recipe has added to it."""
    widgets = manifest_resource("example.org", "v1", "Widget", "widgets")
    server = FakeServer(widgets)
    manager = server.manager()

    class Reconciler:
        async def reconcile(self, request: Request) -> None:
            pass

    def widget(name: str) -> Manifest:
        metadata = {"name": name, "namespace": "team-a"}
        return {"apiVersion": "example.org/v1", "kind": "Widget", "metadata": metadata, "spec": {"node": "node-1"}}

    known = {
        "WIDGETS": widgets,
        "manager": manager,
        "client": server.client,
        "reconciler": Reconciler(),
        "widget": widget,
    }
    body = "".join(f"    {line}\n" for line in recipes()[number].splitlines())
    exec(compile(f"async def recipe():\n{body}", f"recipe {number}", "exec"), known)  # the page's own code
    await known["recipe"]()
    running = asyncio.create_task(manager.run())
    try:
        await eventually(lambda: manager.elected.is_set() or running.done())
    finally:
        manager.stop()
        await running


def test_every_metric_is_on_the_page_and_nothing_else() -> None:
    metrics = RuntimeMetrics()
    empty = Histogram(DURATION_BUCKETS)
    metrics.watch_queue("x", lambda: QueueStatistics({}, 0, 0, 0, 0, empty, empty, 0.0, 0.0))
    reported = {family.name + ("_total" if family.type == "counter" else "") for family in metrics.registry.collect()}
    prefixes = "controller_runtime|workqueue|rest_client|leader_election|certwatcher|kaito_runtime"
    written = set(re.findall(rf"^\| `((?:{prefixes})_\w+)` ", PAGE.read_text(), re.MULTILINE))
    assert written == reported


def test_names_on_the_page_are_those_of_the_runtime() -> None:
    text = re.sub(r"```.*?```", "", PAGE.read_text(), flags=re.DOTALL)
    named = {name for code in re.findall(r"`([^`]+)`", text) for name in re.findall(r"\b[A-Z][a-z]+[A-Z]\w+", code)}
    known = {
        *runtime.__all__,
        *testing.__all__,
        *vars(errors),
        *vars(builtins),
        "PriorityQueue",
        "LeaseCandidate",
        "CancelledError",
    }
    assert named - known == set()
    assert {"ManagerOptions", "ElectionConfig", "TerminalError", "OutcomeUnknown", "WebhookServer"} <= named


def test_links_on_the_page_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE.read_text()):
        if not target.startswith("http"):
            assert (PAGE.parent / target).exists(), target


def test_the_map_of_the_rooms_names_every_room_and_leads_somewhere() -> None:
    package = Path(runtime.__file__).parent
    page = package / "README.md"
    text = page.read_text()
    rooms = {path.name for path in package.iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(re.findall(r"^\| `(\w+)/` ", text, re.MULTILINE))
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (page.parent / target).exists(), target
