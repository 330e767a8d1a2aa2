"""What is written about the runtime is true of it."""

from __future__ import annotations

import ast
import builtins
import re
from pathlib import Path

from kaito import runtime
from kaito.runtime import RuntimeMetrics, errors
from kaito.runtime.metrics import DurationHistogram, QueueStatistics

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "runtime.md"


def test_every_pitfall_has_a_test_that_exists_or_a_reason() -> None:
    text = (Path(__file__).parent / "README.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (.+) \| (.+) \|$", text, re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, 109))
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


def test_every_metric_is_on_the_page_and_nothing_else() -> None:
    metrics = RuntimeMetrics()
    empty = DurationHistogram()
    metrics.watch_queue("x", lambda: QueueStatistics({}, 0, 0, 0, 0, empty, empty, 0.0, 0.0))
    reported = {family.name + ("_total" if family.type == "counter" else "") for family in metrics.registry.collect()}
    prefixes = "controller_runtime|workqueue|rest_client|leader_election|certwatcher|kaito_runtime"
    written = set(re.findall(rf"^\| `((?:{prefixes})_\w+)` ", PAGE.read_text(), re.MULTILINE))
    assert written == reported


def test_names_on_the_page_are_those_of_the_runtime() -> None:
    text = re.sub(r"```.*?```", "", PAGE.read_text(), flags=re.DOTALL)
    named = {name for code in re.findall(r"`([^`]+)`", text) for name in re.findall(r"\b[A-Z][a-z]+[A-Z]\w+", code)}
    known = {*runtime.__all__, *vars(errors), *vars(builtins), "PriorityQueue", "LeaseCandidate", "CancelledError"}
    assert named - known == set()
    assert {"ManagerOptions", "ElectionConfig", "TerminalError", "OutcomeUnknown", "WebhookServer"} <= named


def test_links_on_the_page_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE.read_text()):
        if not target.startswith("http"):
            assert (PAGE.parent / target).exists(), target
