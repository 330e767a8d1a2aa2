"""The example of the documentation works as it stands."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path
from types import ModuleType

from kaito.runtime import SECRETS, Client, Manager, ManagerOptions, NotFound
from support.controlplane import ControlPlane
from support.waiting import eventually

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "mirror.py"


def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mirror", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_secrets_are_mirrored(control_plane: ControlPlane, client: Client, namespace: str) -> None:
    manager = Manager(control_plane.config, ManagerOptions(metrics_address="0", health_address="0"))
    example().setup(manager)
    running = asyncio.create_task(manager.run())

    async def mirrored(value: str) -> bool:
        try:
            return bool((await client.get(SECRETS, "a-mirror", namespace))["data"] == {"key": value})
        except NotFound:
            return False

    try:
        metadata = {"name": "a", "namespace": namespace, "labels": {"mirror": "true"}}
        await client.create(
            SECRETS, {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"key": "b25l"}}
        )
        await eventually(lambda: mirrored("b25l"))
        await client.patch(SECRETS, "a", {"data": {"key": "dHdv"}}, namespace=namespace)
        await eventually(lambda: mirrored("dHdv"))
        await client.delete(SECRETS, "a-mirror", namespace)
        await eventually(lambda: mirrored("dHdv"))
    finally:
        manager.stop()
        await running
