"""``kaito plan``, ``kaito presets``, ``kaito version``: answers that need no cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from kaito.cli.errors import fail


def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    typer.echo(installed("kaito"))


def presets() -> None:
    """List the models that kaito knows, and what they need."""
    from kaito.models import Catalogue

    rows = [("NAME", "ACCESS", "GPUS", "GPU MEMORY", "DISK", "TUNING")]
    rows += [
        (
            preset.name,
            preset.access,
            str(preset.gpus),
            str(preset.memory),
            str(preset.disk),
            "yes" if preset.tuning else "no",
        )
        for preset in Catalogue.default().presets()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        typer.echo("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def plan(
    filename: Annotated[str, typer.Option("--filename", "-f", help="File with Workspaces; - for standard input.")],
) -> None:
    """Print what the operator would create for a Workspace, without a cluster.

    Values that only a cluster knows, such as uids, are shown as they would be for an unsaved Workspace.
    """
    import yaml

    try:
        text = sys.stdin.read() if filename == "-" else Path(filename).read_text()
        documents = [document for document in yaml.safe_load_all(text) if document]
    except OSError as error:
        fail(f"cannot read {filename}: {error.strerror}")
    except yaml.YAMLError as error:
        fail(f"{filename} is not YAML: {error}")
    manifests = [manifest for document in documents for manifest in _planned(filename, document)]
    if not manifests:
        fail(f"{filename} has no Workspace")
    typer.echo(yaml.safe_dump_all(manifests, sort_keys=False), nl=False)


def _planned(filename: str, document: Any) -> Iterator[dict[str, Any]]:
    import msgspec
    from pydantic import ValidationError

    from kaito.api.defaulting import read_workspace
    from kaito.api.resources import MACHINES
    from kaito.api.validation import Policy, validate
    from kaito.controllers.workspace.manifests.deployment import build_preset_deployment, build_template_deployment
    from kaito.controllers.workspace.manifests.machine import build_machine, machine_name
    from kaito.controllers.workspace.manifests.ownership import present
    from kaito.controllers.workspace.manifests.service import build_service
    from kaito.controllers.workspace.settings import Settings
    from kaito.models import Catalogue

    if not isinstance(document, dict) or document.get("kind") != "Workspace":
        fail(
            f"{filename}: expected a Workspace, found {document.get('kind') if isinstance(document, dict) else document!r}"
        )
    document = {**document, "metadata": {"namespace": "default", **(document.get("metadata") or {})}}
    try:
        workspace = read_workspace(document)
    except ValidationError as error:
        fail(
            f"{filename}: " + "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        )
    settings, catalogue = Settings.from_environ(os.environ), Catalogue.default()
    problems = validate(workspace, catalogue, Policy(settings.cloud)).errors
    if problems:
        fail(f"{filename}: " + "; ".join(f"{problem.path}: {problem.message}" for problem in problems))
    inference = workspace.inference
    if inference is None:
        fail(f"{filename}: only inference can be planned in this release")
    preset = catalogue.preset(inference.preset.name) if inference.preset else None
    for index in range(workspace.resource.count or 1):
        machine = build_machine(workspace, machine_name(workspace, index), str(preset.disk) if preset else "0")
        yield msgspec.json.decode(MACHINES.encode(machine))
    if preset is not None and inference.preset is not None:
        sku = catalogue.sku(settings.cloud, workspace.resource.instance_type)
        deployment = build_preset_deployment(
            workspace,
            inference.preset,
            preset,
            registry=settings.registry,
            gpus=sku.gpus if sku else preset.gpus,
            revision=1,
        )
        yield present(build_service(workspace))
    else:
        deployment = build_template_deployment(workspace, inference.template or {}, revision=1)
    yield present(deployment)
