"""Begin a release, or say which images it has (``make release VERSION=0.2.0``, ``make release DIGESTS="…"``)."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from hack import images
from hack.version import CHANGES, ROOT, current

FILES = ("pyproject.toml", "docs/guides/cpu-only.md")
"""What names the version, beside the changelog and the images."""
VERSION = re.compile(r"\d+\.\d+\.\d+")


def release(version: str = "", root: Path = ROOT, *, registry: str = "", digests: str = "") -> None:
    """Write ``version``, and where its images are. Digests of the version before are forgotten with it.

    Raises ValueError, with nothing written, for what is not a later version, a registry or the digest of each image.
    """
    before = current(root)
    known = images.read(before, root)
    pinned = images.parse(digests) or ({} if version and version != before else known.digests)
    chosen = images.Images(version or before, images.normal(registry) or known.registry, pinned)
    texts = {images.FILE: chosen.render()}
    if version and not (version == before and digests):
        texts |= _renamed(before, version, root)
    for name, text in texts.items():
        (root / name).write_text(text, "utf-8")


def _renamed(before: str, version: str, root: Path) -> dict[Path, str]:
    if not VERSION.fullmatch(version) or _parts(version) <= _parts(before):
        raise ValueError(f"{version!r} is not a version after {before}")
    texts = {}
    for name in FILES:
        text = (root / name).read_text("utf-8")
        old, new = (
            (f'version = "{before}"', f'version = "{version}"') if name == "pyproject.toml" else (before, version)
        )
        if old not in text:
            raise ValueError(f"{name} does not name version {before}")
        texts[Path(name)] = text.replace(old, new)
    text = (root / CHANGES).read_text("utf-8")
    texts[Path(CHANGES)] = text.replace(f"## {before}\n", f"## {version}\n\n## {before}\n", 1)
    return texts


def _parts(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def main() -> None:
    parser = argparse.ArgumentParser(prog="make release", description=__doc__)
    parser.add_argument("--version", default="", help="the new version")
    parser.add_argument("--registry", default="", help="where its images are, such as registry.example/team")
    parser.add_argument("--digests", default="", help="IMAGE=sha256:… for each image, with spaces between")
    given = parser.parse_args()
    if not (given.version or given.registry or given.digests):
        parser.error('nothing to do: give VERSION=0.2.0, REGISTRY=… or DIGESTS="operator=sha256:… …"')
    try:
        release(given.version, registry=given.registry, digests=given.digests)
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
