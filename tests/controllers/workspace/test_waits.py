"""Nobody waits without end: every outcome that stops a reconcile says when to look again, or is ended by an event."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import kaito.controllers.workspace as controller

FOLDER = Path(controller.__file__).parent

ENDED_BY = {
    "inference._clear": "the workload that is being deleted: watched by its name",
    "inference._workload": "the workload that is being deleted: watched by its name",
    "inference._judge": "the workload's status and its pods: watched",
    "purchase.fill": "the Machine's conditions: watched",
    "resource._prepare": "the Node whose plugin announces GPUs: watched",
    "tuning._job": "the Job that is being deleted: watched by its name",
    "tuning._judge": "the Job's status and its pods, or a change of the Workspace: watched",
    "tuning.reconcile": "the Job's status: watched",
    "validation.reconcile": "the ConfigMap: watched",
}
"""Outcomes without ``requeue_after``, by module and function, and the event that ends them."""


def stops() -> Iterator[tuple[str, ast.Call]]:
    """Every place where a Wait or a Fail is made, with module and function."""
    for path in sorted(FOLDER.glob("*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for node in ast.walk(function):
                    if (
                        isinstance(node, ast.Call)
                        and isinstance(node.func, ast.Name)
                        and node.func.id in ("Wait", "Fail")
                    ):
                        yield f"{path.stem}.{function.name}", node


def test_every_stop_ends() -> None:
    endless = {
        where
        for where, call in stops()
        if not {"requeue_after", "terminal"} & {keyword.arg for keyword in call.keywords}
    }
    assert endless == set(ENDED_BY), "say what ends it, or when to look again"


def test_there_are_stops_to_look_at() -> None:
    assert len({where for where, _ in stops()}) > len(ENDED_BY)
