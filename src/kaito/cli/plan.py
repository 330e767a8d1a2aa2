"""``kaito plan``: what the operator would make of Workspaces, said without a cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kaito.cli.errors import fail
from kaito.cli.tables import table

if TYPE_CHECKING:
    from kaito.api.workspace import Workspace
    from kaito.controllers.workspace.sizing import Sizing

COSTS = ((1.0, "low"), (5.0, "moderate"), (25.0, "high"))
"""Classes of cost by what is below so many US dollars an hour; above the last it is very high."""


def plan(
    filename: Annotated[str, typer.Option("--filename", "-f", help="File with Workspaces; - for standard input.")],
    output: Annotated[str, typer.Option("--output", "-o", help="yaml: the objects; table: a summary.")] = "yaml",
) -> None:
    """Print what the operator would create for a Workspace, without a cluster: the objects, or a summary with the nodes,
    the arithmetic of memory and a class of cost.

    Values that only a cluster knows, such as uids, are shown as they would be for an unsaved Workspace.
    """
    if output not in ("yaml", "table"):
        fail(f"--output {output!r}: use yaml or table")
    plans = [_planned(filename, document) for document in _documents(filename)]
    if not plans:
        fail(f"{filename} has no Workspace")
    if output == "table":
        rows = [("WORKSPACE", "RUNS", "NODES", "GPUS EACH", "COST CLASS", "MEMORY")]
        typer.echo(table([*rows, *(planned.row() for planned in plans)]))
        for warning in (warning for planned in plans for warning in planned.warnings):
            typer.echo(f"warning: {warning}", err=True)
        return
    import yaml

    manifests = [manifest for planned in plans for manifest in planned.manifests()]
    typer.echo(yaml.safe_dump_all(manifests, sort_keys=False), nl=False)


@dataclass(frozen=True, slots=True)
class Planned:
    sizing: Sizing
    warnings: tuple[str, ...]

    def manifests(self) -> Iterator[dict[str, Any]]:
        """In the order in which they are made."""
        from kaito.controllers.workspace.manifests.order import order_name

        sizing = self.sizing
        for index in range(sizing.target if sizing.source is not None else 0):
            assert sizing.source is not None
            yield sizing.source.build(sizing.workspace, order_name(sizing.workspace, index), sizing.disk)
        yield from sizing.services()
        if (config := sizing.config_map()) is not None:
            yield config
        yield sizing.workload()

    def row(self) -> tuple[str, ...]:
        sizing = self.sizing
        serving, preset, sku = sizing.serving, sizing.preset, sizing.sku
        if preset is None:
            runs = "template"
        elif sizing.workspace.tuning is not None:
            runs = f"{sizing.workspace.tuning.method.lower()} of {preset.name}"
        else:
            runs = f"{preset.name} ({serving.engine})" if serving is not None else preset.name
        fit = sizing.tuning_fit or (serving.fit if serving is not None else None)
        nodes = f"{sizing.target} x {sizing.size}" if sizing.size else f"{sizing.target} of your own"
        cost = _cost_class(sku.cost * sizing.target) if sku is not None and sku.cost else "unknown"
        return (
            sizing.workspace.metadata.name,
            runs,
            nodes,
            str(sizing.rendering().gpus),
            cost,
            (fit.arithmetic if fit is not None else "") or "not judged",
        )


def _cost_class(dollars: float) -> str:
    return next((name for limit, name in COSTS if dollars < limit), "very high")


def _documents(filename: str) -> list[Any]:
    import yaml

    try:
        text = sys.stdin.read() if filename == "-" else Path(filename).read_text()
        return [document for document in yaml.safe_load_all(text) if document]
    except OSError as error:
        fail(f"cannot read {filename}: {error.strerror}")
    except yaml.YAMLError as error:
        fail(f"{filename} is not YAML: {error}")


def _planned(filename: str, document: Any) -> Planned:
    from kaito.api.validation import validate
    from kaito.controllers.workspace.manifests.job import STANDARD_CONFIGS
    from kaito.controllers.workspace.settings import Settings
    from kaito.controllers.workspace.sizing import Sizing
    from kaito.runtime import ConfigError

    workspace = _read(filename, document)
    try:
        settings = Settings.from_environ(os.environ)
        catalogue = settings.catalogue()
    except ConfigError as error:
        fail(error)
    verdict = validate(workspace, catalogue, settings.policy)
    if verdict.errors:
        fail(f"{filename}: {verdict}")
    tuning = workspace.tuning
    config = STANDARD_CONFIGS[tuning.method.lower()] if tuning is not None and not tuning.config else {}
    sizing = Sizing(workspace=workspace, catalogue=catalogue, settings=settings, config=config, revision=1)
    return Planned(sizing, verdict.warnings)


def _read(filename: str, document: Any) -> Workspace:
    from pydantic import ValidationError

    from kaito.api.defaulting import read_workspace

    if not isinstance(document, dict) or document.get("kind") != "Workspace":
        found = document.get("kind") if isinstance(document, dict) else document
        fail(f"{filename}: expected a Workspace, found {found!r}")
    metadata = document.get("metadata")
    own = metadata if isinstance(metadata, dict) else {}
    try:
        return read_workspace({**document, "metadata": {"namespace": "default", **own}})
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        fail(f"{filename}: {said}")
