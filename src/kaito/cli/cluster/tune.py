"""``kaito tune``: begin a fine-tuning, or watch one."""

from __future__ import annotations

import json
import sys
import time
import urllib.error
from typing import Annotated, Any

import typer

from kaito.cli.cluster.connect import CONTEXT, KUBECONFIG, NAMESPACE, OUTPUT, Target
from kaito.cli.cluster.deploy import DRY_RUN, INSTANCE_TYPE, NAME, SELECTOR, make_tuning
from kaito.cli.errors import fail

_PERIOD = 2.0
_OVER = ("completed", "failed")


def tune(
    workspace: Annotated[str | None, typer.Argument(help="Workspace whose progress to show, with --progress.")] = None,
    progress: Annotated[bool, typer.Option("--progress", help="Show how far a fine-tuning is, until it ends.")] = False,
    model: Annotated[str, typer.Option(help="Model to tune.")] = "",
    instance_type: INSTANCE_TYPE = "",
    data: Annotated[list[str] | None, typer.Option(help="Address of data to learn from; may be repeated.")] = None,
    push: Annotated[str, typer.Option(help="Image to push the adapter to.")] = "",
    secret: Annotated[str, typer.Option(help="Secret with the registry's credentials.")] = "",
    method: Annotated[str, typer.Option(help="lora or qlora.")] = "qlora",
    config: Annotated[str, typer.Option(help="ConfigMap with training_config.yaml.")] = "",
    name: NAME = "",
    label: SELECTOR = None,
    dry_run: DRY_RUN = False,
    output: OUTPUT = "text",
    namespace: NAMESPACE = None,
    kubeconfig: KUBECONFIG = None,
    context: CONTEXT = None,
) -> None:
    """Fine-tune a model: make the Workspace, or with --progress show how far one is."""
    if progress or workspace:
        if not workspace or model:
            fail("--progress needs the name of a Workspace, and no --model")
        _show(Target.of(kubeconfig, context, namespace), workspace, output)
        return
    missing = [
        flag
        for flag, given in (("--model", model), ("--data", data), ("--push", push), ("--secret", secret))
        if not given
    ]
    if missing:
        fail(
            f"{', '.join(missing)} missing: what to tune, from which data, where to push the adapter, and with which Secret"
        )
    make_tuning(
        model,
        instance_type,
        name,
        method,
        data or [],
        push,
        secret,
        config,
        label,
        dry_run=dry_run,
        namespace=namespace,
        kubeconfig=kubeconfig,
        context=context,
    )


def _show(target: Target, workspace: str, output: str) -> None:
    from kaito.cli.cluster.forward import OPENER, forwarded

    with forwarded(target, workspace) as url:
        before = ""
        while True:
            try:
                with OPENER.open(f"{url}/progress", timeout=10.0) as answer:
                    found: dict[str, Any] = json.load(answer)
            except urllib.error.HTTPError as error:
                with error:
                    fail(f"Workspace {workspace} shows no progress ({error.code}): does it tune a model?", code=1)
            except OSError:
                typer.echo(f"the tuner does not answer any more: kaito status {workspace} says how it ended")
                return
            line = json.dumps(found) if output == "json" else describe(found)
            if line != before:
                again = "\r\x1b[K" if sys.stdout.isatty() and before and output == "text" else ""
                typer.echo(f"{again}{line}", nl=not (sys.stdout.isatty() and output == "text"))
            before = line
            if found["state"] in _OVER:
                typer.echo()
                raise typer.Exit(0 if found["state"] == "completed" else 1)
            time.sleep(_PERIOD)


def describe(found: dict[str, Any]) -> str:
    """A snapshot of the tuner's progress in one line."""
    from kaito.cli.cluster.render import duration

    steps, step = int(found.get("steps") or 0), int(found.get("step") or 0)
    parts = [str(found["state"])]
    if steps:
        filled = round(20 * step / steps)
        parts.append(f"[{'#' * filled}{'.' * (20 - filled)}] {step}/{steps}")
    for key, words in (("loss", "loss"), ("eval_loss", "evaluation loss")):
        if found.get(key) is not None:
            parts.append(f"{words} {found[key]:.3f}")
    if found.get("eta") is not None:
        parts.append(f"{duration(float(found['eta']))} left")
    if found.get("error"):
        parts.append(str(found["error"]))
    return "  ".join(parts)
