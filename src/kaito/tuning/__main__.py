"""``python -m kaito.tuning``."""

from __future__ import annotations

from kaito.tuning.main import main

main()
