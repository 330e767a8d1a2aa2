"""Pages that the code writes, or that must have all that is in the code."""

from __future__ import annotations

import re
from pathlib import Path

from hack import generate_reference
from hack.reasons import reasons

PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"


def test_every_reason_has_an_entry_and_nothing_else_has() -> None:
    tables = PAGE.read_text().partition("## Not a condition")[0]
    cells = re.findall(r"^\| (`[^|]+`) \|", tables, re.MULTILINE)
    written = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    assert len(set(written)) == len(written)
    assert set(written) == reasons()


def test_the_reference_is_that_of_the_generator() -> None:
    assert generate_reference.DOCUMENT.read_text() == generate_reference.render(), "make manifests writes it anew"
    paths = [path for path, _, _ in generate_reference.fields()]
    assert {"resource.instanceType", "inference.adapters[].strength", "status.targetNodeCount"} <= set(paths)
    assert all(text for _, _, text in generate_reference.flags())


def test_every_variable_that_is_read_is_in_the_reference() -> None:
    text = generate_reference.render()
    families = "KAITO|ARM|AZURE|CLOUD|PRESET|DEPLOYMENT|FEATURE"
    sources = [
        path for package in generate_reference.PACKAGES for path in (generate_reference.CODE / package).rglob("*.py")
    ]
    read = {name for path in sources for name in re.findall(rf'"((?:{families})_[A-Z_]+)"', path.read_text())}
    assert read
    assert {name for name in read - {"ARM_EMULATOR_TOKEN"} if f"`{name}`" not in text} == set()
