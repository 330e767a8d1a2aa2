"""Keeps a copy of every Secret labelled ``mirror=true`` beside it: ``python examples/mirror.py``."""

from __future__ import annotations

import asyncio

from kaito.runtime import (
    SECRETS,
    Client,
    Controller,
    Lister,
    Manager,
    ManagerOptions,
    Manifest,
    PatchType,
    Request,
    load_config,
    owner_reference,
)


class Mirror:
    def __init__(self, client: Client, secrets: Lister[Manifest]) -> None:
        self._client = client
        self._secrets = secrets

    async def reconcile(self, request: Request) -> None:
        source = self._secrets.stored(request.key.name, request.key.namespace)
        if source is None or source.labels.get("mirror") != "true":
            return
        data = source.decode().get("data", {})
        name = f"{request.key.name}-mirror"
        copy = self._secrets.get(name, request.key.namespace)
        if copy is None:
            owner = owner_reference(SECRETS, source.meta)
            metadata = {"name": name, "namespace": request.key.namespace, "ownerReferences": [owner]}
            await self._client.create(
                SECRETS, {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}
            )
        elif copy.get("data", {}) != data:
            await self._client.patch(
                SECRETS,
                name,
                [{"op": "add", "path": "/data", "value": data}],
                namespace=request.key.namespace,
                kind=PatchType.JSON,
            )


def setup(manager: Manager) -> None:
    mirror = Mirror(manager.client, manager.cache.lister(SECRETS))
    manager.add(Controller("mirror", mirror, primary=SECRETS, owns=[SECRETS], max_concurrent=4))


async def main() -> None:
    manager = Manager(load_config(), ManagerOptions())
    setup(manager)
    await manager.run(handle_signals=True)


if __name__ == "__main__":
    asyncio.run(main())
