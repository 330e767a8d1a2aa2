"""``python -m kaito.tuning``."""

from __future__ import annotations

import sys

from kaito.tuning.main import main

sys.exit(main())
