"""``kaito models``, ``kaito skus``, ``kaito version``: answers that need no cluster."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from kaito.cli.errors import fail
from kaito.cli.tables import table


def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    typer.echo(installed("kaito"))


def models(
    everything: Annotated[
        bool, typer.Option("--all", "-a", help="Also the models that have no short name, by their name on the hub.")
    ] = False,
) -> None:
    """List the models that kaito knows, and what they need.

    A model with an image is published ready to run; the others are downloaded by kaito's own model server.
    """
    from kaito.models import Catalogue

    catalogue = Catalogue.default()
    presets = list(catalogue.presets())
    if everything:
        known = {preset.model.casefold() for preset in presets}
        others = [catalogue.preset(model.name) for model in catalogue.models() if model.name.casefold() not in known]
        presets += [preset for preset in others if preset is not None]
    rows = [("NAME", "IMAGE", "GPU MEMORY", "CONTEXT", "DISK", "TUNING", "ENGINES", "LICENCE")]
    rows += [
        (
            preset.name,
            ("your own" if preset.private_only else preset.tag) if preset.published else "-",
            f"{preset.facts.weights:.1f}Gi" if not preset.published else str(preset.memory),
            str(preset.facts.context),
            str(preset.disk),
            "yes" if preset.tuning else "no",
            ",".join(preset.engines) or "-",
            preset.facts.licence,
        )
        for preset in presets
    ]
    typer.echo(table(rows))


def skus(
    cloud: Annotated[str, typer.Option(help="azure, aws or arc; by default $CLOUD_PROVIDER, or azure.")] = "",
) -> None:
    """List the instance types with accelerators that kaito knows."""
    from kaito.models import CLOUDS, Catalogue

    cloud = cloud or os.environ.get("CLOUD_PROVIDER") or "azure"
    if cloud not in CLOUDS:
        fail(f"--cloud {cloud!r}: use one of {', '.join(CLOUDS)}")
    rows = [("NAME", "GPUS", "MODEL", "GPU MEMORY", "VENDOR", "CAPABILITY", "USD/HOUR, ROUGHLY")]
    rows += [
        (
            sku.name,
            str(sku.gpus),
            sku.model,
            str(sku.memory),
            sku.vendor,
            f"{sku.capability:g}" if sku.capability else "-",
            f"{sku.cost:.1f}",
        )
        for sku in Catalogue.default().skus(cloud)
    ]
    typer.echo(table(rows))
