"""``python -m kaito``."""

from __future__ import annotations

from kaito.cli import main

main()
