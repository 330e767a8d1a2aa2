"""Volumes: every claim gets one at once. Nothing is behind them.

Looser than a real cluster: any storage class provisions, whether it exists or not, unless it is "" (then only volumes that
exist already are bound); ``WaitForFirstConsumer`` does not wait.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

from kaito.api.quantity import Quantity
from kaito.devcluster.controllers.resources import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES
from kaito.runtime import (
    AlreadyExists,
    Client,
    Controller,
    EventRecorder,
    Key,
    Lister,
    Manager,
    Manifest,
    NotFound,
    ObjectReference,
    Request,
    Stored,
    Watch,
)

NAME = "persistentvolume-controller"
SIMULATED = "kaito.sh/simulated"
_BOUND = "pv.kubernetes.io/bind-completed"
_PROVISIONED = "pv.kubernetes.io/provisioned-by"
PROVISIONER = "simulated.kaito.sh"


def fitting(claim: Mapping[str, Any], volumes: Iterable[Manifest]) -> Manifest | None:
    """The smallest volume that is free, or reserved for this claim, and large enough; None if there is none."""
    spec, metadata = claim["spec"], claim["metadata"]
    needed = Quantity.parse(spec["resources"]["requests"]["storage"])
    found = []
    for volume in volumes:
        offered = volume["spec"]
        holder = offered.get("claimRef")
        if holder is not None and (holder.get("namespace"), holder.get("name")) != (
            metadata["namespace"],
            metadata["name"],
        ):
            continue
        if holder is not None and holder.get("uid") not in (None, "", metadata["uid"]):
            continue
        if (offered.get("storageClassName") or "") != (spec.get("storageClassName") or ""):
            continue
        size = Quantity.parse((offered.get("capacity") or {}).get("storage", 0))
        if size >= needed and set(spec["accessModes"]) <= set(offered.get("accessModes") or ()):
            found.append((holder is None, size, volume["metadata"]["name"], volume))
    return min(found, key=lambda item: item[:3])[3] if found else None


def new_volume(claim: Mapping[str, Any]) -> Manifest:
    metadata, spec = claim["metadata"], claim["spec"]
    name = f"pvc-{metadata['uid']}"
    body: Manifest = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "labels": {SIMULATED: "true"}, "annotations": {_PROVISIONED: PROVISIONER}},
        "spec": {
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "accessModes": spec["accessModes"],
            "volumeMode": spec.get("volumeMode", "Filesystem"),
            "persistentVolumeReclaimPolicy": "Delete",
            "claimRef": claim_reference(claim),
            "csi": {"driver": PROVISIONER, "volumeHandle": name},
        },
    }
    if spec.get("storageClassName"):
        body["spec"]["storageClassName"] = spec["storageClassName"]
    return body


def claim_reference(claim: Mapping[str, Any]) -> Manifest:
    metadata = claim["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "uid": metadata["uid"],
    }


class ClaimReconciler:
    """Binds claims."""

    def __init__(
        self, client: Client, claims: Lister[Manifest], volumes: Lister[Manifest], recorder: EventRecorder
    ) -> None:
        self._client = client
        self._claims = claims
        self._volumes = volumes
        self._recorder = recorder

    async def reconcile(self, request: Request) -> None:
        stored = self._claims.stored(request.key.name, request.key.namespace)
        if stored is None or stored.meta.deleting:
            return
        claim = stored.decode()
        if (claim.get("status") or {}).get("phase") == "Bound":
            return
        volume = await self._volume(claim, stored)
        if volume is None:
            return
        name = volume["metadata"]["name"]
        if (volume["spec"].get("claimRef") or {}).get("uid") != stored.uid:
            patch = {"spec": {"claimRef": claim_reference(claim)}}
            volume = await self._client.patch(PERSISTENT_VOLUMES, name, patch)
        if claim["spec"].get("volumeName") != name:
            patch = {"metadata": {"annotations": {_BOUND: "yes"}}, "spec": {"volumeName": name}}
            await self._client.patch(PERSISTENT_VOLUME_CLAIMS, stored.key.name, patch, namespace=stored.key.namespace)
        status = {
            "phase": "Bound",
            "accessModes": volume["spec"]["accessModes"],
            "capacity": volume["spec"]["capacity"],
        }
        await self._client.patch(
            PERSISTENT_VOLUME_CLAIMS,
            stored.key.name,
            {"status": status},
            namespace=stored.key.namespace,
            subresource="status",
        )

    async def _volume(self, claim: Manifest, stored: Stored[Manifest]) -> Manifest | None:
        spec = claim["spec"]
        if spec.get("volumeName"):
            return self._volumes.get(spec["volumeName"])
        found = fitting(claim, self._volumes.list())
        about = ObjectReference.of(PERSISTENT_VOLUME_CLAIMS, stored)
        if found is not None:
            return found
        if spec.get("storageClassName") == "":
            note = "no persistent volumes available for this claim and no storage class is set"
            self._recorder.event(about, "Normal", "FailedBinding", note)
            return None
        wanted = new_volume(claim)
        name = wanted["metadata"]["name"]
        try:
            made = await self._client.create(PERSISTENT_VOLUMES, wanted)
        except AlreadyExists:
            return await self._client.get(PERSISTENT_VOLUMES, name)
        self._recorder.event(about, "Normal", "ProvisioningSucceeded", f"Successfully provisioned volume {name}")
        return made


class VolumeReconciler:
    """Keeps the phase of volumes, and removes those that their claim leaves behind where the policy is Delete."""

    def __init__(self, client: Client, volumes: Lister[Manifest], claims: Lister[Manifest]) -> None:
        self._client = client
        self._volumes = volumes
        self._claims = claims

    async def reconcile(self, request: Request) -> None:
        volume = self._volumes.get(request.key.name)
        if volume is None:
            return
        phase = await self._phase(volume)
        with contextlib.suppress(NotFound):
            if (volume.get("status") or {}).get("phase") != phase:
                patch = {"status": {"phase": phase}}
                await self._client.patch(PERSISTENT_VOLUMES, request.key.name, patch, subresource="status")
            unwanted = phase == "Released" and volume["spec"].get("persistentVolumeReclaimPolicy") == "Delete"
            if unwanted and "deletionTimestamp" not in volume["metadata"]:
                await self._client.delete(PERSISTENT_VOLUMES, request.key.name, uid=volume["metadata"]["uid"])

    async def _phase(self, volume: Manifest) -> str:
        holder = volume["spec"].get("claimRef")
        if not holder or not holder.get("uid"):
            return "Available"
        claim = self._claims.stored(holder["name"], holder["namespace"])
        if claim is not None and claim.uid == holder["uid"]:
            return "Bound"
        try:
            # The cache may not know a claim that is a moment old.
            live = await self._client.get(PERSISTENT_VOLUME_CLAIMS, holder["name"], holder["namespace"])
        except NotFound:
            return "Released"
        return "Bound" if live["metadata"]["uid"] == holder["uid"] else "Released"


def _volumes_of(volumes: Lister[Manifest]) -> Any:
    def keys(claim: Stored[Any]) -> Iterable[Key]:
        return [stored.key for stored in volumes.stored_list() if claim.uid and claim.uid.encode() in stored.data]

    return keys


def setup(manager: Manager) -> None:
    cache = manager.cache
    claims, volumes = cache.lister(PERSISTENT_VOLUME_CLAIMS), cache.lister(PERSISTENT_VOLUMES)

    def unbound(_: Stored[Any]) -> Iterable[Key]:
        return [stored.key for stored in claims.stored_list() if b'"phase":"Bound"' not in stored.data]

    manager.add(
        Controller(
            "persistentvolumeclaim-binder",
            ClaimReconciler(manager.client, claims, volumes, manager.recorder(NAME)),
            primary=PERSISTENT_VOLUME_CLAIMS,
            watches=(Watch(PERSISTENT_VOLUMES, unbound),),
        )
    )
    manager.add(
        Controller(
            NAME,
            VolumeReconciler(manager.client, volumes, claims),
            primary=PERSISTENT_VOLUMES,
            watches=(Watch(PERSISTENT_VOLUME_CLAIMS, _volumes_of(volumes)),),
        )
    )
