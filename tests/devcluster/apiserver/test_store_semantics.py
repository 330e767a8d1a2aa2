"""Resource versions, lists, pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from devcluster.harness import Kube

CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"


def config_map(name: str, *, namespace: str = "default", labels: dict[str, str] | None = None, **data: str) -> Any:
    metadata: dict[str, Any] = {"name": name, "namespace": namespace}
    if labels:
        metadata["labels"] = labels
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


async def test_each_write_gets_a_higher_revision_and_a_no_op_none(kube: Kube) -> None:
    first = await kube.post(CONFIG_MAPS, config_map("a", x="1"))
    second = await kube.post(CONFIG_MAPS, config_map("b"))
    assert first.status == second.status == 201
    assert int(second.rv) > int(first.rv)

    same = await kube.merge(f"{CONFIG_MAPS}/a", {"data": {"x": "1"}})
    put = await kube.put(f"{CONFIG_MAPS}/a", config_map("a", x="1"))
    changed = await kube.merge(f"{CONFIG_MAPS}/a", {"data": {"x": "2"}})

    assert same.rv == put.rv == first.rv
    assert int(changed.rv) > int(second.rv)


async def test_put_with_a_stale_resource_version_conflicts(kube: Kube) -> None:
    old = (await kube.post(CONFIG_MAPS, config_map("a"))).body
    await kube.merge(f"{CONFIG_MAPS}/a", {"data": {"x": "1"}})

    answer = await kube.put(f"{CONFIG_MAPS}/a", old | {"data": {"x": "2"}})

    assert answer.status == 409
    assert answer.body["reason"] == "Conflict"
    assert answer.body["message"] == (
        'Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your changes to '
        "the latest version and try again"
    )
    assert (
        await kube.merge(f"{CONFIG_MAPS}/a", {"metadata": {"resourceVersion": old["metadata"]["resourceVersion"]}})
    ).status == 409


async def test_put_with_the_uid_of_an_earlier_object_conflicts(kube: Kube) -> None:
    old = (await kube.post(CONFIG_MAPS, config_map("a"))).body
    await kube.delete(f"{CONFIG_MAPS}/a")
    await kube.post(CONFIG_MAPS, config_map("a"))
    del old["metadata"]["resourceVersion"]

    answer = await kube.put(f"{CONFIG_MAPS}/a", old)

    assert answer.status == 409
    assert answer.body["message"].startswith("Precondition failed: UID in precondition: ")


async def test_the_server_owns_its_metadata(kube: Kube) -> None:
    sent = config_map("a")
    sent["metadata"] |= {"uid": "mine", "resourceVersion": "", "creationTimestamp": "2001-01-01T00:00:00Z"}
    created = (await kube.post(CONFIG_MAPS, sent)).body["metadata"]
    assert created["uid"] != "mine"
    assert not created["creationTimestamp"].startswith("2001")

    patched = await kube.merge(
        f"{CONFIG_MAPS}/a",
        {"metadata": {"creationTimestamp": "2001-01-01T00:00:00Z", "deletionTimestamp": "2001-01-01T00:00:00Z"}},
    )
    assert patched.body["metadata"] == created


async def test_names(kube: Kube) -> None:
    generated = config_map("")
    generated["metadata"] = {"generateName": "x" * 70}
    name = (await kube.post(CONFIG_MAPS, generated)).body["metadata"]["name"]
    assert len(name) == 63
    assert name.startswith("x" * 58)

    bad = await kube.post(CONFIG_MAPS, config_map("Not_A_Name"))
    assert bad.status == 422
    assert bad.body["details"]["causes"][0]["field"] == "metadata.name"
    assert "a lowercase RFC 1123 subdomain must consist of" in bad.body["message"]
    assert (await kube.post(CONFIG_MAPS, config_map("a"))).status == 201
    again = await kube.post(CONFIG_MAPS, config_map("a"))
    assert (again.status, again.body["reason"]) == (409, "AlreadyExists")
    assert again.body["message"] == 'configmaps "a" already exists'
    elsewhere = await kube.post(CONFIG_MAPS, config_map("b", namespace="kube-system"))
    assert elsewhere.status == 400
    missing = await kube.post("/api/v1/namespaces/nowhere/configmaps", config_map("a", namespace="nowhere"))
    assert (missing.status, missing.body["message"]) == (404, 'namespaces "nowhere" not found')


async def test_lists_are_ordered_by_namespace_and_name(kube: Kube) -> None:
    for namespace in ("a", "a-b"):
        await kube.post(
            "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        )
    for namespace, name in (("a", "z"), ("a-b", "y"), ("a", "b"), ("default", "c")):
        await kube.post(f"/api/v1/namespaces/{namespace}/configmaps", config_map(name, namespace=namespace))

    everything = await kube.get("/api/v1/configmaps")
    one = await kube.get("/api/v1/namespaces/a/configmaps")

    places = [(i["metadata"]["namespace"], i["metadata"]["name"]) for i in everything.body["items"]]
    assert places == sorted(places, key="/".join)
    assert [i["metadata"]["name"] for i in one.body["items"]] == ["b", "z"]
    assert (everything.body["kind"], everything.body["apiVersion"]) == ("ConfigMapList", "v1")
    assert "kind" not in everything.body["items"][0]


async def page_names(kube: Kube, token: str = "", **params: str) -> tuple[list[str], dict[str, Any]]:
    if token:
        params["continue"] = token
    body = (await kube.get(CONFIG_MAPS, limit="2", **params)).body
    return [item["metadata"]["name"] for item in body["items"]], body["metadata"]


async def test_pages_show_one_state_whatever_is_written_between(kube: Kube) -> None:
    for name in ("a", "b", "c", "d", "e"):
        await kube.post(CONFIG_MAPS, config_map(name, v="old"))
    names, first = await page_names(kube)
    assert names == ["a", "b"]
    assert first["remainingItemCount"] == 3

    await kube.delete(f"{CONFIG_MAPS}/c")
    await kube.post(CONFIG_MAPS, config_map("bb"))
    await kube.merge(f"{CONFIG_MAPS}/d", {"data": {"v": "new"}})
    await kube.merge(f"{CONFIG_MAPS}/d", {"data": {"v": "newer"}})

    second = (await kube.get(CONFIG_MAPS, limit="2", **{"continue": first["continue"]})).body
    assert [i["metadata"]["name"] for i in second["items"]] == ["c", "d"]
    assert second["items"][1]["data"] == {"v": "old"}
    names, last = await page_names(kube, second["metadata"]["continue"])
    assert names == ["e"]
    assert first["resourceVersion"] == second["metadata"]["resourceVersion"] == last["resourceVersion"]
    assert "continue" not in last


async def test_an_expired_token_comes_with_one_to_go_on_from(kube: Kube) -> None:
    for name in ("a", "b", "c"):
        await kube.post(CONFIG_MAPS, config_map(name))
    _, first = await page_names(kube)
    await kube.post(CONFIG_MAPS, config_map("d"))
    kube.server.compact()

    expired = await kube.get(CONFIG_MAPS, limit="2", **{"continue": first["continue"]})
    assert (expired.status, expired.body["reason"]) == (410, "Expired")
    names, _ = await page_names(kube, expired.body["metadata"]["continue"])
    assert names == ["c", "d"]

    assert (await kube.get(CONFIG_MAPS, **{"continue": "nonsense!"})).status == 400
    both = await kube.get(CONFIG_MAPS, resourceVersion="5", **{"continue": first["continue"]})
    assert both.status == 400


async def test_selectors_do_not_count_the_rest(kube: Kube) -> None:
    for name in ("a", "b", "c", "d"):
        await kube.post(CONFIG_MAPS, config_map(name, labels={"app": "x" if name != "b" else "y"}))
    names, first = await page_names(kube, labelSelector="app=x")
    assert names == ["a", "c"]
    assert "remainingItemCount" not in first
    names, _ = await page_names(kube, first["continue"], labelSelector="app=x")
    assert names == ["d"]
    sets = await kube.get(CONFIG_MAPS, labelSelector="app in (y,z)")
    assert [i["metadata"]["name"] for i in sets.body["items"]] == ["b"]


async def test_resource_versions_of_lists(kube: Kube) -> None:
    old = (await kube.post(CONFIG_MAPS, config_map("a"))).rv
    await kube.post(CONFIG_MAPS, config_map("b"))

    exact = await kube.get(CONFIG_MAPS, resourceVersion=old, resourceVersionMatch="Exact")
    assert [i["metadata"]["name"] for i in exact.body["items"]] == ["a"]
    assert exact.rv == old
    newer = await kube.get(CONFIG_MAPS, resourceVersion=old, resourceVersionMatch="NotOlderThan")
    assert len(newer.body["items"]) == 2
    anything = await kube.get(CONFIG_MAPS, resourceVersion="0", limit="1")
    assert len(anything.body["items"]) == 2

    future = await kube.get(CONFIG_MAPS, resourceVersion="999999")
    assert (future.status, future.body["reason"]) == (504, "Timeout")
    assert future.body["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"
    assert (await kube.get(f"{CONFIG_MAPS}/a", resourceVersion="999999")).status == 504
    assert (await kube.get(CONFIG_MAPS, resourceVersionMatch="Exact")).status == 422
    assert (await kube.get(CONFIG_MAPS, resourceVersion="x")).status == 422


async def test_field_selectors(kube: Kube) -> None:
    await kube.post(CONFIG_MAPS, config_map("a"))
    await kube.post(CONFIG_MAPS, config_map("b"))
    by_name = await kube.get("/api/v1/configmaps", fieldSelector="metadata.name=b,metadata.namespace=default")
    assert [i["metadata"]["name"] for i in by_name.body["items"]] == ["b"]
    unknown = await kube.get(CONFIG_MAPS, fieldSelector="data.x=1")
    assert unknown.status == 400
    assert (
        unknown.body["message"] == '"data.x" is not a known field selector: only "metadata.name", "metadata.namespace"'
    )
    pods = await kube.get("/api/v1/pods", fieldSelector="spec.bogus=1")
    assert (pods.status, pods.body["message"]) == (400, "field label not supported: spec.bogus")


async def test_dry_run_stores_nothing(kube: Kube) -> None:
    created = await kube.post(CONFIG_MAPS, config_map("a", x="1"), dryRun="All")
    assert created.status == 201
    assert created.body["data"] == {"x": "1"}
    assert (await kube.get(f"{CONFIG_MAPS}/a")).status == 404
    await kube.post(CONFIG_MAPS, config_map("a", x="1"))
    patched = await kube.merge(f"{CONFIG_MAPS}/a", {"data": {"x": "2"}}, dryRun="All")
    assert patched.body["data"] == {"x": "2"}
    assert (await kube.delete(f"{CONFIG_MAPS}/a", dryRun="All")).status == 200
    assert (await kube.get(f"{CONFIG_MAPS}/a")).body["data"] == {"x": "1"}
    assert (await kube.post(CONFIG_MAPS, config_map("b"), dryRun="Some")).status == 422
