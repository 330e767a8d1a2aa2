"""Garbage collection, and namespaces that are emptied."""

from __future__ import annotations

import secrets
from typing import Any

import pytest

from devcluster.living import Living, rolled_out, workload
from kaito.runtime import (
    CONFIG_MAPS,
    CUSTOM_RESOURCE_DEFINITIONS,
    DEPLOYMENTS,
    NAMESPACES,
    PODS,
    REPLICA_SETS,
    SECRETS,
    SERVICE_ACCOUNTS,
    Manifest,
    NotFound,
    Resource,
    manifest_resource,
)


def owned(name: str, *owners: tuple[Resource[Manifest], Manifest], block: bool = False) -> Manifest:
    references = [
        {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
            "blockOwnerDeletion": block,
        }
        for resource, owner in owners
    ]
    return {"metadata": {"name": name, "ownerReferences": references}}


def definition(group: str) -> Manifest:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"boxes.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": "boxes", "singular": "box", "kind": "Box", "listKind": "BoxList"},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
                }
            ],
        },
    }


async def install(living: Living, group: str) -> Resource[Manifest]:
    await living.client.create(CUSTOM_RESOURCE_DEFINITIONS, definition(group))

    async def established() -> bool:
        held = await living.client.get(CUSTOM_RESOURCE_DEFINITIONS, f"boxes.{group}")
        found = held.get("status", {}).get("conditions") or ()
        return any(item["type"] == "Established" and item["status"] == "True" for item in found)

    await living.until_true(established)
    return manifest_resource(group, "v1", "Box", "boxes")


@pytest.mark.parametrize("propagation", ["Background", "Foreground", "Orphan"])
async def test_a_deployment_goes_as_asked(living: Living, propagation: str) -> None:
    await living.create(DEPLOYMENTS, workload("web", 2))
    await living.until(DEPLOYMENTS, "web", rolled_out)
    await living.delete(DEPLOYMENTS, "web", propagation)
    if propagation == "Foreground":
        held = await living.get(DEPLOYMENTS, "web")
        assert held["metadata"]["finalizers"] == ["foregroundDeletion"]
    await living.gone(DEPLOYMENTS, "web")
    if propagation == "Orphan":
        (left,) = await living.sets("web")
        assert not left["metadata"].get("ownerReferences")
        assert len(await living.pods("web")) == 2
        return
    if propagation == "Foreground":
        assert await living.sets("web") == []
        assert await living.pods("web") == []
    await living.none_left(REPLICA_SETS, app="web")
    await living.none_left(PODS, app="web")


async def test_what_has_another_owner_stays(living: Living) -> None:
    one = await living.create(CONFIG_MAPS, {"metadata": {"name": "one"}})
    two = await living.create(CONFIG_MAPS, {"metadata": {"name": "two"}})
    await living.create(SECRETS, owned("child", (CONFIG_MAPS, one), (CONFIG_MAPS, two)))
    await living.delete(CONFIG_MAPS, "one")
    child = await living.until(SECRETS, "child", lambda s: len(s["metadata"].get("ownerReferences", ())) == 1)
    assert child["metadata"]["ownerReferences"][0]["name"] == "two"
    await living.delete(CONFIG_MAPS, "two")
    await living.gone(SECRETS, "child")


async def test_foreground_waits_only_for_what_blocks(living: Living) -> None:
    parent = await living.create(CONFIG_MAPS, {"metadata": {"name": "parent"}})
    held = owned("held", (CONFIG_MAPS, parent), block=True)
    held["metadata"]["finalizers"] = ["example.com/hold"]
    loose = owned("loose", (CONFIG_MAPS, parent))
    loose["metadata"]["finalizers"] = ["example.com/hold"]
    await living.create(SECRETS, held)
    await living.create(SECRETS, loose)
    await living.delete(CONFIG_MAPS, "parent", "Foreground")
    await living.until(SECRETS, "held", lambda s: "deletionTimestamp" in s["metadata"])
    assert (await living.get(CONFIG_MAPS, "parent"))["metadata"]["finalizers"] == ["foregroundDeletion"]
    await living.patch(SECRETS, "held", {"metadata": {"finalizers": None}})
    await living.gone(CONFIG_MAPS, "parent")
    assert "deletionTimestamp" in (await living.get(SECRETS, "loose"))["metadata"]
    await living.patch(SECRETS, "loose", {"metadata": {"finalizers": None}})
    await living.gone(SECRETS, "loose")


async def test_an_owner_of_another_uid_counts_as_absent(living: Living) -> None:
    ghost = {"metadata": {"name": "kube-root-ca.crt", "uid": "00000000-0000-0000-0000-000000000000"}}
    await living.create(SECRETS, owned("child", (CONFIG_MAPS, ghost)))
    await living.gone(SECRETS, "child")


async def test_an_owner_in_another_namespace_counts_as_absent(living: Living) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"far-{living.namespace}"}}
    far = await living.client.create(CONFIG_MAPS, body, namespace="default")
    try:
        await living.create(SECRETS, owned("child", (CONFIG_MAPS, far)))
        await living.gone(SECRETS, "child")
    finally:
        await living.client.delete(CONFIG_MAPS, body["metadata"]["name"], "default")


async def test_an_owner_of_an_unknown_kind_is_left_alone(living: Living) -> None:
    unknown = manifest_resource("nowhere.example.com", "v1", "Ghost", "ghosts")
    ghost = {"metadata": {"name": "ghost", "uid": "00000000-0000-0000-0000-000000000000"}}
    await living.create(SECRETS, owned("kept", (unknown, ghost)))
    # Whatever has been collected after it proves that the collector has looked at it.
    gone = {"metadata": {"name": "nobody", "uid": "00000000-0000-0000-0000-000000000001"}}
    await living.create(SECRETS, owned("collected", (CONFIG_MAPS, gone)))
    await living.gone(SECRETS, "collected")
    assert "deletionTimestamp" not in (await living.get(SECRETS, "kept"))["metadata"]


async def test_dependents_of_custom_resources_go_as_definitions_come_and_go(living: Living) -> None:
    group = f"{secrets.token_hex(3)}.example.com"
    for _ in range(2):
        boxes = await install(living, group)
        box = await living.create(boxes, {"metadata": {"name": "box"}})
        await living.create(CONFIG_MAPS, owned("inside", (boxes, box)))
        await living.delete(boxes, "box")
        await living.gone(CONFIG_MAPS, "inside")
        await living.create(
            CONFIG_MAPS, owned("left", (boxes, await living.create(boxes, {"metadata": {"name": "b"}})))
        )
        await living.client.delete(CUSTOM_RESOURCE_DEFINITIONS, f"boxes.{group}")
        await living.gone(CONFIG_MAPS, "left")

        async def withdrawn() -> bool:
            try:
                await living.client.get(CUSTOM_RESOURCE_DEFINITIONS, f"boxes.{group}")
            except NotFound:
                return True
            return False

        await living.until_true(withdrawn)


async def test_namespaces_are_furnished_and_keep_their_furniture(living: Living) -> None:
    await living.until_true(lambda: _has(living, SERVICE_ACCOUNTS, "default"))
    await living.until_true(lambda: _has(living, CONFIG_MAPS, "kube-root-ca.crt"))
    authority = await living.get(CONFIG_MAPS, "kube-root-ca.crt")
    assert "BEGIN CERTIFICATE" in authority["data"]["ca.crt"]
    uid = authority["metadata"]["uid"]
    await living.delete(CONFIG_MAPS, "kube-root-ca.crt")

    async def back() -> bool:
        held = await living.list(CONFIG_MAPS)
        return any(item["metadata"]["name"] == "kube-root-ca.crt" and item["metadata"]["uid"] != uid for item in held)

    await living.until_true(back)


async def _has(living: Living, resource: Resource[Manifest], name: str) -> bool:
    return any(item["metadata"]["name"] == name for item in await living.list(resource))


async def test_a_namespace_is_emptied_before_it_goes(living: Living) -> None:
    name = f"{living.namespace}-inner"
    body: dict[str, Any] = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    await living.client.create(NAMESPACES, body)
    inner = Living(living.client, name)
    await inner.create(DEPLOYMENTS, workload("web", 2))
    held = {"metadata": {"name": "held", "finalizers": ["example.com/hold"]}}
    await inner.create(CONFIG_MAPS, held)
    await inner.until(DEPLOYMENTS, "web", rolled_out)
    await living.client.delete(NAMESPACES, name)

    async def says_why() -> bool:
        found = await living.client.get(NAMESPACES, name)
        conditions = {item["type"]: item for item in found["status"].get("conditions", ())}
        remaining = conditions.get("NamespaceContentRemaining", {}).get("message", "")
        return remaining == "Some resources are remaining: configmaps has 1 resource instances"

    await living.until_true(says_why)
    found = await living.client.get(NAMESPACES, name)
    conditions = {item["type"]: item for item in found["status"]["conditions"]}
    assert conditions["NamespaceFinalizersRemaining"]["message"].endswith("example.com/hold in 1 resource instances")
    assert await inner.list(PODS) == []
    await inner.patch(CONFIG_MAPS, "held", {"metadata": {"finalizers": None}})

    async def gone() -> bool:
        try:
            await living.client.get(NAMESPACES, name)
        except NotFound:
            return True
        return False

    await living.until_true(gone)
