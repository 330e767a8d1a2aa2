"""``kaito doctor``: whether kaito can work in a cluster, and what to do where it cannot."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from kaito.cli.cluster.connect import CONTEXT, KUBECONFIG, NAMESPACE, OUTPUT, Target, run
from kaito.cli.errors import fail

if TYPE_CHECKING:
    from kaito.cli.cluster.checks import Verdict

_MARKS = {"ok": "ok  ", "note": "note", "warn": "WARN", "fail": "FAIL"}
_COLOURS = {"ok": typer.colors.GREEN, "note": None, "warn": typer.colors.YELLOW, "fail": typer.colors.RED}


def doctor(
    output: OUTPUT = "text", namespace: NAMESPACE = None, kubeconfig: KUBECONFIG = None, context: CONTEXT = None
) -> None:
    """Check the cluster: your permissions, kaito's kinds, its operator, webhook and identity, GPU nodes, the cloud's refusals.

    Ends with 1 where something is broken.
    """
    if output not in ("text", "json"):
        fail(f"--output {output!r}: use text or json")
    run(_check(Target.of(kubeconfig, context, namespace), output))


async def _check(target: Target, output: str) -> None:
    from kaito.cli.cluster.checks import examine

    async with target.client() as client:
        verdicts = await examine(client, target.namespace)
    if output == "json":
        typer.echo(json.dumps([asdict(verdict) for verdict in verdicts], indent=2))
    else:
        for verdict in verdicts:
            _print(verdict)
    if any(verdict.level == "fail" for verdict in verdicts):
        raise typer.Exit(1)


def _print(verdict: Verdict) -> None:
    mark = _MARKS[verdict.level]
    if sys.stdout.isatty():
        mark = typer.style(mark, fg=_COLOURS[verdict.level])
    typer.echo(f"{mark}  {verdict.what}: {verdict.says}")
    if verdict.advice:
        typer.echo(f"      → {verdict.advice}")
