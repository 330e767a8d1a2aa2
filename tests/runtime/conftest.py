"""An API server that misbehaves, for the component tests of the runtime."""

from __future__ import annotations

import pytest

from support.controlplane import ControlPlane
from support.front import Front


@pytest.fixture
def front(control_plane: ControlPlane) -> Front:
    """What stands before the API server, for tests that make it misbehave."""
    return control_plane.front
