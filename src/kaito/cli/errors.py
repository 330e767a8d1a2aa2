"""How a command ends when it cannot do what it was asked for: one line of words, no traceback."""

from __future__ import annotations

from typing import NoReturn

import typer


def fail(message: object, *, code: int = 2) -> NoReturn:
    """Say what is wrong on standard error and end with ``code``."""
    typer.secho(f"error: {message}", fg=typer.colors.RED, err=True)
    raise typer.Exit(code)
