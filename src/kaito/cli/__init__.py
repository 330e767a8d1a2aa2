"""The ``kaito`` command and the kubectl plugin of the same commands. Parsing and printing only."""

from __future__ import annotations


def main() -> None:
    """Entry point of ``kaito``."""
    from kaito.cli.app import build

    build(plugin=False)()


def kubectl_plugin() -> None:
    """Entry point of ``kubectl-kaito``, which kubectl runs as ``kubectl kaito``."""
    from kaito.cli.app import build

    build(plugin=True, completes=False)(prog_name="kubectl kaito")
