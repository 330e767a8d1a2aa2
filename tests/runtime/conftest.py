"""A misbehaving API server and a namespace for the component tests of the runtime."""

from __future__ import annotations

import pytest

from kaito.devcluster.apiserver import ApiServer
from support.controlplane import ControlPlane


@pytest.fixture
def emulated(control_plane: ControlPlane) -> ApiServer:
    """The local cluster's API server, for tests that make it misbehave."""
    if control_plane.emulated is None:
        pytest.skip("injects faults into the API server, which a real one cannot do")
    return control_plane.emulated
