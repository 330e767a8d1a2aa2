"""What people download of a release: manifests with its images by digest, what has changed (``make bundle TAG=v0.2.0``)."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
from pathlib import Path

from hack import images
from hack.locks import IMAGES
from hack.version import ROOT, changes, tagged
from kaito.devcluster.kubectl import find_kubectl

RENDERED = {"default": "config/default", "byo": "config/overlays/byo"}
"""Those that need nothing filled in before they are built; the others are in the archive."""


def bundle(folder: Path, tag: str, root: Path = ROOT) -> None:
    """Write the release's files to ``folder``. Raises ValueError where the checkout is not what was tagged."""
    version = tagged(tag, root)
    known = images.read(version, root)
    if not known.digests:
        raise ValueError(f"{images.FILE} names no digests: make images REGISTRY=…")
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in RENDERED.items():
        done = subprocess.run(
            [str(find_kubectl()), "kustomize", str(root / path)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ValueError(f"{path}: {done.stderr.strip()}")
        if missing := [image for image in IMAGES if known.reference(image) not in done.stdout]:
            raise ValueError(f"{path} does not name the digest of {', '.join(missing)}")
        (folder / f"kaito-{name}.yaml").write_text(done.stdout, "utf-8")
    with tarfile.open(folder / "kaito-config.tar.gz", "w:gz") as archive:
        archive.add(root / "config", "config", filter=_ours)
    (folder / "notes.md").write_text(changes(version, root), "utf-8")


def _ours(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Nobody's in particular."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bundle", description=__doc__)
    parser.add_argument("--tag", required=True, help="the tag of the release, such as v0.2.0")
    given = parser.parse_args()
    try:
        bundle(ROOT / "dist" / "release", given.tag)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
