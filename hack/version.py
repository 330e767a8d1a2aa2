"""The version of this checkout, and what the changelog says of it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHANGES = "CHANGELOG.md"


def current(root: Path = ROOT) -> str:
    """Raises ValueError where pyproject.toml has none."""
    found = re.search(r'^version = "([^"]+)"', (root / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    if found is None:
        raise ValueError("pyproject.toml has no version")
    return found[1]


def changes(version: str, root: Path = ROOT) -> str:
    """What the changelog says of ``version``. Raises ValueError where it says nothing."""
    text = (root / CHANGES).read_text("utf-8")
    found = re.search(rf"^## {re.escape(version)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if found is None or not found[1].strip():
        raise ValueError(f"{CHANGES} says nothing of {version}")
    return f"{found[1].strip()}\n"


def tagged(tag: str, root: Path = ROOT) -> str:
    """The version that ``tag`` stands for. Raises ValueError where that is not this one's, or nothing is said of it."""
    version = current(root)
    if tag != f"v{version}":
        raise ValueError(f"{tag!r} is not the tag of version {version}, which is v{version}")
    changes(version, root)
    return version
