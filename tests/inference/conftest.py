"""Real models in memory, once for all tests of a file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from inference.contract import with_adapters, write_adapters
from inference.real import PROSE, Real, unpacked


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("adapters")
    write_adapters(root)
    return root


@pytest.fixture(scope="module")
def server(engine: str, adapters: Path) -> Iterator[Real]:
    """A server with the engine of the file."""
    with with_adapters(engine, adapters) as real:
        yield real


@pytest.fixture(scope="module")
def reference(adapters: Path) -> dict[str, float]:
    """What PEFT alone makes of the adapters, by the ids of the server; ``cut`` is their sum cut to the rank of each."""
    if find_spec("peft") is None:
        pytest.skip("what plain PEFT says is left out: peft is not installed (make test-models)")
    program = str(Path(__file__).with_name("peft_reference.py"))
    done = subprocess.run([sys.executable, program, unpacked(), str(adapters), PROSE], capture_output=True, check=True)
    said: dict[str, float] = json.loads(done.stdout)
    return said
