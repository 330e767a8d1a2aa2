"""Completion of ``kubectl kaito``: kubectl runs ``kubectl_complete-kaito`` with the words so far, the last one unfinished."""

from __future__ import annotations

import io
import os
import shlex
import sys
from contextlib import redirect_stdout, suppress

_NO_FILES, _DEFAULT = 4, 0
"""cobra's directives: complete no file names, or let the shell do as it likes."""


def main() -> None:
    """Entry point of ``kubectl_complete-kaito``: a candidate a line, then a directive."""
    found = candidates(sys.argv[1:])
    print(*found, f":{_NO_FILES if found else _DEFAULT}", sep="\n")


def candidates(words: list[str]) -> list[str]:
    """What may stand in place of the last of ``words``, as the command itself tells a bash."""
    from kaito.cli.app import build

    line = ["kaito", *words]
    os.environ |= {
        "_KAITO_COMPLETE": "complete_bash",
        "COMP_WORDS": "\n".join(map(shlex.quote, line)),
        "COMP_CWORD": str(len(line) - 1),
    }
    said = io.StringIO()
    with redirect_stdout(said), suppress(SystemExit):
        build(plugin=True)(prog_name="kaito")
    return said.getvalue().split()
