"""``kaito logs``: what the pods of a Workspace say."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from kaito.api import labels
from kaito.cli.cluster.connect import CONTEXT, KUBECONFIG, NAMESPACE, Target


def logs(
    name: Annotated[str, typer.Argument(help="Name of the Workspace.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until interrupted.")] = False,
    tail: Annotated[int, typer.Option(help="Lines of each container to begin with; -1 for all.")] = 100,
    previous: Annotated[
        bool, typer.Option("--previous", "-p", help="Of the containers before the last restart.")
    ] = False,
    namespace: NAMESPACE = None,
    kubeconfig: KUBECONFIG = None,
    context: CONTEXT = None,
) -> None:
    """Print the logs of all pods of a Workspace, each line with its pod and container."""
    words = [*Target.of(kubeconfig, context, namespace).kubectl(), "logs"]
    words += [f"--selector={labels.WORKSPACE}={name}", "--all-containers", "--prefix", f"--tail={tail}"]
    words += [*(("--follow", "--max-log-requests=50") if follow else ()), *(("--previous",) if previous else ())]
    os.execv(words[0], words)
