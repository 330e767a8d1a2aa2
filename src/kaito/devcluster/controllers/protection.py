"""Claims and volumes that are in use are not deleted: their finalizers go when the last user has gone.

The API server puts these finalizers on every new claim and volume.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kaito.devcluster.controllers import pods
from kaito.devcluster.controllers.resources import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES
from kaito.runtime import (
    PODS,
    Client,
    Controller,
    Key,
    Lister,
    Manager,
    Manifest,
    NotFound,
    Request,
    Resource,
    Stored,
    Watch,
)

CLAIM_FINALIZER = "kubernetes.io/pvc-protection"
VOLUME_FINALIZER = "kubernetes.io/pv-protection"


class ClaimProtector:
    def __init__(self, client: Client, claims: Lister[Manifest], pods: Lister[Manifest]) -> None:
        self._client = client
        self._claims = claims
        self._pods = pods

    async def reconcile(self, request: Request) -> None:
        claim = self._claims.get(request.key.name, request.key.namespace)
        if claim is None or not _held(claim, CLAIM_FINALIZER):
            return
        if any(uses(pod, request.key.name) for pod in self._pods.list(request.key.namespace)):
            return
        await _release(self._client, PERSISTENT_VOLUME_CLAIMS, claim, CLAIM_FINALIZER)


class VolumeProtector:
    def __init__(self, client: Client, volumes: Lister[Manifest]) -> None:
        self._client = client
        self._volumes = volumes

    async def reconcile(self, request: Request) -> None:
        volume = self._volumes.get(request.key.name)
        if volume is None or not _held(volume, VOLUME_FINALIZER):
            return
        if (volume.get("status") or {}).get("phase") != "Bound":
            await _release(self._client, PERSISTENT_VOLUMES, volume, VOLUME_FINALIZER)


def uses(pod: Manifest, claim: str) -> bool:
    """Whether a pod that has a node and has not ended mounts the claim of this name."""
    if not pod["spec"].get("nodeName") or pods.is_finished(pod):
        return False
    return claim in _claims_of(pod)


def _claims_of(pod: Manifest) -> list[str]:
    volumes = pod["spec"].get("volumes") or ()
    return [volume["persistentVolumeClaim"]["claimName"] for volume in volumes if "persistentVolumeClaim" in volume]


def _held(obj: Manifest, finalizer: str) -> bool:
    metadata = obj["metadata"]
    return "deletionTimestamp" in metadata and finalizer in metadata.get("finalizers", ())


async def _release(client: Client, resource: Resource[Manifest], obj: Manifest, finalizer: str) -> None:
    metadata = obj["metadata"]
    kept = [held for held in metadata["finalizers"] if held != finalizer]
    patch = {"metadata": {"resourceVersion": metadata["resourceVersion"], "finalizers": kept or None}}
    try:
        await client.patch(resource, metadata["name"], patch, namespace=metadata.get("namespace", ""))
    except NotFound:
        return


def _mounted(stored: Stored[Any]) -> Iterable[Key]:
    return [Key(stored.key.namespace, claim) for claim in _claims_of(stored.decode())]


def setup(manager: Manager) -> None:
    cache = manager.cache
    manager.add(
        Controller(
            "persistentvolumeclaim-protection-controller",
            ClaimProtector(manager.client, cache.lister(PERSISTENT_VOLUME_CLAIMS), cache.lister(PODS)),
            primary=PERSISTENT_VOLUME_CLAIMS,
            watches=(Watch(PODS, _mounted),),
        )
    )
    manager.add(
        Controller(
            "persistentvolume-protection-controller",
            VolumeProtector(manager.client, cache.lister(PERSISTENT_VOLUMES)),
            primary=PERSISTENT_VOLUMES,
        )
    )
