"""kaito's custom resource definitions on an API server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from kaito.runtime import CUSTOM_RESOURCE_DEFINITIONS, AlreadyExists, Client
from support.waiting import eventually

FOLDER = Path(__file__).parents[2] / "config" / "crd"


async def install(client: Client, which: str = "*_*") -> None:
    """Return when they are served; on a server that outlives the test they may be there already."""
    for path in sorted(FOLDER.glob(f"{which}.yaml")):
        definition: dict[str, Any] = yaml.safe_load(path.read_text())
        with suppress(AlreadyExists):
            await client.create(CUSTOM_RESOURCE_DEFINITIONS, definition)
        name = definition["metadata"]["name"]
        check: Callable[[], bool | Awaitable[bool]] = partial(_established, client, name)
        await eventually(check)


async def _established(client: Client, name: str) -> bool:
    stored = await client.get(CUSTOM_RESOURCE_DEFINITIONS, name)
    conditions = stored.get("status", {}).get("conditions") or ()
    return any(entry["type"] == "Established" and entry["status"] == "True" for entry in conditions)
