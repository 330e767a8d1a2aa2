"""Begin a release: write the new version wherever it is named (``make release VERSION=0.2.0``)."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = (
    "pyproject.toml",
    "README.md",
    "config/manager/deployment.yaml",
    "config/components/images/kustomization.yaml",
    "docs/guides/cpu-only.md",
    "docs/guides/install-aks.md",
)
VERSION = re.compile(r"\d+\.\d+\.\d+")


def current(root: Path = ROOT) -> str:
    """Raises ValueError where pyproject.toml has none."""
    found = re.search(r'^version = "([^"]+)"', (root / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    if found is None:
        raise ValueError("pyproject.toml has no version")
    return found[1]


def release(version: str, root: Path = ROOT) -> None:
    """Raises ValueError for what is not a later version."""
    before = current(root)
    if not VERSION.fullmatch(version) or _parts(version) <= _parts(before):
        raise ValueError(f"{version!r} is not a version after {before}")
    for name in FILES:
        path = root / name
        text = path.read_text("utf-8")
        old, new = (
            (f'version = "{before}"', f'version = "{version}"') if name == "pyproject.toml" else (before, version)
        )
        if old not in text:
            raise ValueError(f"{name} does not name version {before}")
        path.write_text(text.replace(old, new), "utf-8")
    changes = root / "CHANGELOG.md"
    text = changes.read_text("utf-8")
    changes.write_text(text.replace(f"## {before}\n", f"## {version}\n\n## {before}\n", 1), "utf-8")


def _parts(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: make release VERSION=0.2.0")
    try:
        release(sys.argv[1])
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
