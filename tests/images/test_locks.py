"""The packages of the images are those that pyproject.toml wants, to the byte."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hack.locks import IMAGES, LOCKS, requirements
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

DOCKERFILE = Path(__file__).parents[2] / "docker" / "Dockerfile"
LINUX = {"sys_platform": "linux", "platform_machine": "x86_64"}


def _locked(image: str) -> dict[str, Requirement]:
    """What the lock of ``image`` installs on Linux, by name."""
    text = (LOCKS / f"{image}.txt").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.partition("--hash=")[0].strip() for line in text.splitlines() if line and not line.startswith("#")]
    found = [Requirement(line) for line in lines]
    return {canonicalize_name(each.name): each for each in found if not each.marker or each.marker.evaluate(LINUX)}


@pytest.mark.parametrize("image", ["build", *IMAGES])
def test_every_requirement_is_met_by_the_lock(image: str) -> None:
    locked = _locked(image)
    for text in requirements(image):
        wanted = Requirement(text)
        if wanted.marker and not wanted.marker.evaluate(LINUX):
            continue
        pinned = locked.get(canonicalize_name(wanted.name))
        assert pinned, f"{text} is not in docker/locks/{image}.txt: make locks"
        (version,) = pinned.specifier
        assert version.version in wanted.specifier, f"{pinned} is not {text}: make locks"


@pytest.mark.parametrize("image", ["build", *IMAGES])
def test_every_package_is_pinned_with_hashes_and_names_no_place(image: str) -> None:
    text = (LOCKS / f"{image}.txt").read_text(encoding="utf-8")
    packages = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    assert packages
    for package in packages:
        assert re.match(r"[a-z0-9][\w.-]*(\[[\w,-]+\])?==\S+ ", package), package
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", package), package
    assert "://" not in text


def test_each_image_has_a_stage_and_none_runs_as_root() -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")
    assert {f"image-{image}" for image in IMAGES} == set(re.findall(r"^FROM \S+ AS (image-\S+)$", text, re.MULTILINE))
    last = text[text.index("FROM image-${IMAGE}") :]
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", last, re.MULTILINE)
    installs = re.findall(r"pip install .*", text)
    assert all("--require-hashes" in line or "--no-deps" in line for line in installs)
    assert any("--no-deps --require-hashes --requirement /tmp/lock.txt" in line for line in installs)
