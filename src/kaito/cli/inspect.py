"""``kaito plan``, ``kaito presets``, ``kaito version``: answers that need no cluster."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from kaito.cli.errors import fail


def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    typer.echo(installed("kaito"))
