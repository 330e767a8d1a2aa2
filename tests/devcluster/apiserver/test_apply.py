"""Server-side apply: who owns which field, and what becomes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kaito.devcluster.apiserver.discovery.crd import custom_kinds
from kaito.devcluster.apiserver.managedfields import applied, fields, merge, owners
from kaito.devcluster.apiserver.schema import Schema
from kaito.devcluster.apiserver.store import Store
from kaito.runtime import Conflict

if TYPE_CHECKING:
    from devcluster.harness import Answer, Kube

DEFAULT = "/api/v1/namespaces/default"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
APPLY = "application/apply-patch+yaml"


async def apply(kube: Kube, path: str, body: dict[str, Any], manager: str = "me", **params: str) -> Answer:
    sent = yaml.safe_dump(body).encode()
    return await kube.call("PATCH", path, sent, content_type=APPLY, fieldManager=manager, **params)


def config_map(name: str = "c", **data: str) -> dict[str, Any]:
    body: dict[str, Any] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}
    return body | ({"data": data} if data else {})


def deployment(replicas: int | None = None, image: str = "i", name: str = "d", **spec: Any) -> dict[str, Any]:
    labels = {"app": name}
    container = {"name": "main", "image": image, **spec}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            **({} if replicas is None else {"replicas": replicas}),
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }


def owned(obj: dict[str, Any]) -> dict[str, list[str]]:
    """The fields of each manager, as messages name them."""
    decoded = owners.decode(obj["metadata"]["managedFields"])
    return {str(owner): sorted(map(fields.shown, held.fields)) for owner, held in decoded.items()}


async def test_apply_makes_an_object_and_again_changes_nothing(kube: Kube) -> None:
    path = f"{DEPLOYMENTS}/d"
    made = await apply(kube, path, deployment(2, ports=[{"containerPort": 80}]))
    assert made.status == 201
    assert owned(made.body) == {
        '"me"': [
            ".spec.replicas",
            ".spec.selector",
            ".spec.template.metadata.labels.app",
            '.spec.template.spec.containers[name="main"]',
            '.spec.template.spec.containers[name="main"].image',
            '.spec.template.spec.containers[name="main"].name',
            '.spec.template.spec.containers[name="main"].ports[containerPort=80,protocol="TCP"]',
            '.spec.template.spec.containers[name="main"].ports[containerPort=80,protocol="TCP"].containerPort',
        ]
    }
    (entry,) = made.body["metadata"]["managedFields"]
    assert (entry["manager"], entry["operation"], entry["apiVersion"]) == ("me", "Apply", "apps/v1")
    assert entry["fieldsV1"]["f:spec"]["f:replicas"] == {}
    again = await apply(kube, path, deployment(2, ports=[{"containerPort": 80}]))
    assert (again.status, again.rv, again.body) == (200, made.rv, made.body)


async def test_a_conflict_names_field_and_owner_and_force_takes_it(kube: Kube) -> None:
    path = f"{DEPLOYMENTS}/d"
    made = await apply(kube, path, deployment(2), "first")
    refused = await apply(kube, path, deployment(3, image="j"), "second")
    assert (refused.status, refused.body["reason"]) == (409, "Conflict")
    image = '.spec.template.spec.containers[name="main"].image'
    assert refused.body["message"] == (
        f'Apply failed with 2 conflicts: conflicts with "first":\n- .spec.replicas\n- {image}'
    )
    assert refused.body["details"]["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "first"', "field": field}
        for field in (".spec.replicas", image)
    ]
    assert (await kube.get(path)).rv == made.rv

    taken = await apply(kube, path, deployment(3, image="j"), "second", force="true")
    assert taken.body["spec"]["replicas"] == 3
    assert not {".spec.replicas", image} & set(owned(taken.body)['"first"'])
    assert {".spec.replicas", image, ".spec.selector"} <= set(owned(taken.body)['"second"'])
    back = await apply(kube, path, deployment(2), "first")
    assert back.body["message"].startswith('Apply failed with 2 conflicts: conflicts with "second":')


async def test_an_update_takes_ownership_and_is_named_with_its_version(kube: Kube) -> None:
    path = f"{DEPLOYMENTS}/d"
    await apply(kube, path, deployment(2))
    changed = await kube.merge(path, {"spec": {"replicas": 5}}, fieldManager="x")
    assert owned(changed.body)['"x" using apps/v1'] == [".spec.replicas"]
    assert ".spec.replicas" not in owned(changed.body)['"me"']
    refused = await apply(kube, path, deployment(2))
    assert refused.body["message"] == 'Apply failed with 1 conflict: conflict with "x" using apps/v1: .spec.replicas'
    # The same value is no conflict, and makes both its owners.
    shared = await apply(kube, path, deployment(5))
    assert shared.status == 200
    assert ".spec.replicas" in owned(shared.body)['"me"']
    assert owned(shared.body)['"x" using apps/v1'] == [".spec.replicas"]
    # A manager without a name is known by its program.
    other = await kube.call(
        "PATCH",
        path,
        {"metadata": {"labels": {"a": "b"}}},
        content_type="application/merge-patch+json",
        headers={"User-Agent": "tool/v1.2 (linux)"},
    )
    assert owned(other.body)['"tool" using apps/v1'] == [".metadata.labels", ".metadata.labels.a"]


async def test_what_is_no_longer_applied_goes_unless_somebody_else_wants_it(kube: Kube) -> None:
    path = f"{DEFAULT}/configmaps/c"
    await apply(kube, path, config_map(a="1", b="2", c="3"), "one")
    await apply(kube, path, config_map(b="2", d="4"), "two")
    await kube.merge(path, {"data": {"e": "5"}})
    less = await apply(kube, path, config_map(a="1"), "one")
    assert less.body["data"] == {"a": "1", "b": "2", "d": "4", "e": "5"}
    assert owned(less.body)['"one"'] == [".data.a"]
    none = await apply(kube, path, config_map(), "two")
    assert none.body["data"] == {"a": "1", "e": "5"}
    assert '"two"' not in owned(none.body)


async def test_lists_are_merged_by_their_topology(kube: Kube) -> None:
    path = f"{DEPLOYMENTS}/d"
    one = deployment(env=[{"name": "A", "value": "1"}, {"name": "B", "value": "2"}], args=["x", "y"])
    await apply(kube, path, one, "one")
    two = deployment(env=[{"name": "C", "value": "3"}])
    two["spec"]["template"]["spec"]["containers"].insert(0, {"name": "side", "image": "s"})
    two["metadata"]["finalizers"] = ["example.com/two"]
    both = (await apply(kube, path, two, "two")).body
    containers = both["spec"]["template"]["spec"]["containers"]
    assert [item["name"] for item in containers] == ["side", "main"]
    assert [item["name"] for item in containers[1]["env"]] == ["A", "B", "C"]

    three = deployment(args=["x"])
    three["metadata"]["finalizers"] = ["example.com/three"]
    refused = await apply(kube, path, three, "three")
    field = '.spec.template.spec.containers[name="main"].args'
    assert refused.body["message"] == f'Apply failed with 1 conflict: conflict with "one": {field}'
    forced = (await apply(kube, path, three, "three", force="true")).body
    assert forced["metadata"]["finalizers"] == ["example.com/two", "example.com/three"]
    assert forced["spec"]["template"]["spec"]["containers"][1]["args"] == ["x"]
    del two["metadata"]["finalizers"]
    del two["spec"]["template"]["spec"]["containers"][0]
    less = (await apply(kube, path, two, "two")).body
    assert less["metadata"]["finalizers"] == ["example.com/three"]
    assert [item["name"] for item in less["spec"]["template"]["spec"]["containers"]] == ["main"]


async def test_defaults_belong_to_nobody_and_emptied_structs_go(kube: Kube) -> None:
    path = f"{DEPLOYMENTS}/d"
    full = deployment()
    full["spec"]["strategy"] = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 3}}
    await apply(kube, path, full)
    less = (await apply(kube, path, deployment())).body
    assert less["spec"]["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"},
    }
    assert less["spec"]["replicas"] == 1
    assert (await apply(kube, path, deployment(4), "other")).status == 200


async def test_status_and_scale_are_applied_by_their_own_ways(kube: Kube) -> None:
    path = f"{DEPLOYMENTS}/d"
    await apply(kube, path, deployment(2))
    head = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}}
    status = head | {"status": {"replicas": 2, "conditions": [{"type": "Available", "status": "True"}]}}
    ignored = await apply(kube, path, deployment(2) | {"status": {"replicas": 9}})
    assert (ignored.status, ignored.body["status"]) == (200, {})
    told = await apply(kube, f"{path}/status", status, "controller")
    assert told.body["status"]["replicas"] == 2
    assert owned(told.body)['"controller" with subresource "status"'] == [
        '.status.conditions[type="Available"]',
        '.status.conditions[type="Available"].status',
        '.status.conditions[type="Available"].type',
        ".status.replicas",
    ]
    refused = await apply(kube, f"{path}/status", head | {"status": {"replicas": 1}}, "other")
    assert refused.body["message"] == (
        'Apply failed with 1 conflict: conflict with "controller" with subresource "status": .status.replicas'
    )
    assert (await apply(kube, f"{DEPLOYMENTS}/none/status", head | {"metadata": {"name": "none"}})).status == 404

    scale = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": 7}}
    refused = await apply(kube, f"{path}/scale", scale, "scaler")
    assert refused.body["message"] == 'Apply failed with 1 conflict: conflict with "me": .spec.replicas'
    scaled = await apply(kube, f"{path}/scale", scale, "scaler", force="true")
    assert (scaled.status, scaled.body["kind"], scaled.body["spec"]) == (200, "Scale", {"replicas": 7})
    held = owned((await kube.get(path)).body)
    assert held['"scaler" with subresource "scale"'] == [".spec.replicas"]
    assert ".spec.replicas" not in held['"me"']
    updated = await kube.merge(f"{path}/scale", {"spec": {"replicas": 8}}, fieldManager="hpa")
    assert updated.status == 200
    assert owned((await kube.get(path)).body)['"hpa" with subresource "scale" using apps/v1'] == [".spec.replicas"]


CRD: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "things.example.com"},
    "spec": {
        "group": "example.com",
        "scope": "Namespaced",
        "names": {"plural": "things", "kind": "Thing"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "properties": {
                                    "size": {"type": "integer", "default": 1},
                                    "whole": {
                                        "type": "object",
                                        "x-kubernetes-map-type": "atomic",
                                        "additionalProperties": {"type": "string"},
                                    },
                                    "tags": {
                                        "type": "array",
                                        "x-kubernetes-list-type": "set",
                                        "items": {"type": "string"},
                                    },
                                    "parts": {
                                        "type": "array",
                                        "x-kubernetes-list-type": "map",
                                        "x-kubernetes-list-map-keys": ["name", "kind"],
                                        "items": {
                                            "type": "object",
                                            "required": ["name"],
                                            "properties": {
                                                "name": {"type": "string"},
                                                "kind": {"type": "string", "default": "plain"},
                                                "value": {"type": "string"},
                                            },
                                        },
                                    },
                                    "plain": {"type": "array", "items": {"type": "string"}},
                                    "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                                },
                            },
                            "status": {"type": "object", "properties": {"phase": {"type": "string"}}},
                        },
                    }
                },
            }
        ],
    },
}
THINGS = "/apis/example.com/v1/namespaces/default/things"


def thing(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "t"}, "spec": spec}


@pytest.fixture
async def things(kube: Kube) -> str:
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    assert (await kube.post(definitions, CRD)).status == 201
    return f"{THINGS}/t"


async def test_custom_resources_are_merged_as_their_schema_says(kube: Kube, things: str) -> None:
    first = thing(
        whole={"a": "1"}, tags=["x"], parts=[{"name": "p", "value": "1"}], plain=["1"], free={"deep": {"a": [1]}}
    )
    made = await apply(kube, things, first, "one")
    assert made.status == 201
    assert owned(made.body)['"one"'] == [
        ".spec.free.deep",
        ".spec.free.deep.a",
        '.spec.parts[kind="plain",name="p"]',
        '.spec.parts[kind="plain",name="p"].name',
        '.spec.parts[kind="plain",name="p"].value',
        ".spec.plain",
        '.spec.tags[="x"]',
        ".spec.whole",
    ]
    second = thing(
        tags=["y"],
        parts=[{"name": "p", "kind": "other"}, {"name": "p", "value": "1"}],
        free={"deep": {"b": 2}},
        size=3,
    )
    both = await apply(kube, things, second, "two")
    assert both.body["spec"] == {
        "whole": {"a": "1"},
        "tags": ["x", "y"],
        "parts": [{"name": "p", "kind": "other"}, {"name": "p", "kind": "plain", "value": "1"}],
        "plain": ["1"],
        "free": {"deep": {"a": [1], "b": 2}},
        "size": 3,
    }
    assert (await apply(kube, things, second, "two")).rv == both.rv
    for spec, field in (({"whole": {"b": "1"}}, ".spec.whole"), ({"plain": ["2"]}, ".spec.plain")):
        refused = await apply(kube, things, thing(**spec), "three")
        assert refused.body["message"] == f'Apply failed with 1 conflict: conflict with "one": {field}'
    less = await apply(kube, things, thing(), "two")
    assert less.body["spec"] == {**first["spec"], "parts": [{"name": "p", "kind": "plain", "value": "1"}], "size": 1}


async def test_what_the_schema_cannot_take_is_said(kube: Kube, things: str) -> None:
    for spec, why in (
        ({"nonsense": 1}, ".spec.nonsense: field not declared in schema"),
        ({"tags": ["x", "x"]}, '.spec.tags: duplicate entries for key [="x"]'),
        (
            {"parts": [{"value": "1"}]},
            '.spec.parts: associative list with keys has an element that omits key field "name"',
        ),
    ):
        answer = await apply(kube, things, thing(**spec))
        assert answer.status == 500
        assert answer.body["message"].startswith(
            f"failed to create typed patch object (default/t; example.com/v1, Kind=Thing): {why}"
        )
    assert (await kube.get(things)).status == 404
    wrong = await apply(kube, things, thing(size="x"))
    assert wrong.status == 422


async def test_requests_that_are_no_apply_are_refused(kube: Kube) -> None:
    path = f"{DEFAULT}/configmaps/c"
    unnamed = await kube.call("PATCH", path, config_map(), content_type=APPLY)
    assert (unnamed.status, unnamed.body["message"]) == (
        422,
        'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch',
    )
    assert (
        "metadata.managedFields must be nil"
        in (
            await apply(kube, path, {**config_map(), "metadata": {"name": "c", "managedFields": [{"manager": "x"}]}})
        ).body["message"]
    )
    assert (await apply(kube, path, config_map("other"))).status == 400
    assert (await apply(kube, path, {**config_map(), "kind": "Secret"})).status == 400
    assert (await kube.call("PATCH", path, b"{", content_type=APPLY, fieldManager="x")).status == 400
    assert (await apply(kube, path, config_map(), "x" * 129)).status == 422
    gone = {**config_map(), "metadata": {"name": "c", "uid": "7"}}
    mismatch = await apply(kube, path, gone)
    assert mismatch.status == 409
    assert (
        "uid mismatch: the provided object specified uid 7, and no existing object was found"
        in mismatch.body["message"]
    )
    await apply(kube, path, config_map())
    assert (await apply(kube, path, gone)).status == 409
    stale = {**config_map(), "metadata": {"name": "c", "resourceVersion": "1"}}
    assert (await apply(kube, path, stale)).status == 409
    forced = await kube.merge(path, {}, force="true")
    assert "force: Forbidden: may not be specified for non-apply patch" in forced.body["message"]


async def test_a_dry_run_says_what_would_be_and_changes_nothing(kube: Kube) -> None:
    path = f"{DEFAULT}/configmaps/c"
    dry = await apply(kube, path, config_map(a="1"), dryRun="All")
    assert (dry.status, dry.body["data"]) == (201, {"a": "1"})
    assert (await kube.get(path)).status == 404
    made = await apply(kube, path, config_map(a="1"))
    dry = await apply(kube, path, config_map(a="2"), dryRun="All")
    assert (dry.status, dry.body["data"]) == (200, {"a": "2"})
    refused = await apply(kube, path, config_map(a="3"), "other", dryRun="All")
    assert refused.status == 409
    assert (await kube.get(path)).rv == made.rv


async def test_objects_that_nobody_has_applied_are_not_tracked_until_somebody_does(kube: Kube) -> None:
    path = f"{DEPLOYMENTS}/d"
    made = await kube.post(DEPLOYMENTS, deployment(2), fieldManager="maker")
    assert "managedFields" not in made.body["metadata"]
    assert "managedFields" not in (await kube.merge(path, {"spec": {"replicas": 3}})).body["metadata"]
    refused = await apply(kube, path, deployment(4))
    assert refused.body["message"] == (
        'Apply failed with 1 conflict: conflict with "before-first-apply" using apps/v1: .spec.replicas'
    )
    taken = await apply(kube, path, deployment(3, image="i"))
    assert taken.status == 200
    assert {'"me"', '"before-first-apply" using apps/v1'} <= owned(taken.body).keys()
    less = await apply(kube, path, deployment())
    assert less.body["spec"]["replicas"] == 3, "its other owner keeps it"


async def test_managed_fields_may_be_written_and_reset(kube: Kube) -> None:
    path = f"{DEFAULT}/configmaps/c"
    made = await apply(kube, path, config_map(a="1"), "old")
    entries = made.body["metadata"]["managedFields"]
    renamed = [{**entries[0], "manager": "new"}]
    patch = [{"op": "replace", "path": "/metadata/managedFields", "value": renamed}]
    assert owned((await kube.json_patch(path, patch)).body) == {'"new"': [".data.a"]}
    assert (await apply(kube, path, config_map(b="1"), "new")).body["data"] == {"b": "1"}
    plain = await kube.put(path, config_map(b="1", c="2"))
    assert owned(plain.body) == {'"new"': [".data.b"], '"Python" using v1': [".data.c"]}
    reset = await kube.merge(path, {"metadata": {"managedFields": [{}]}})
    assert "managedFields" not in reset.body["metadata"]


async def test_the_oldest_updates_are_put_together(kube: Kube) -> None:
    path = f"{DEFAULT}/configmaps/c"
    await apply(kube, path, config_map())
    for index in range(12):
        await kube.merge(path, {"data": {f"k{index:02}": "1"}}, fieldManager=f"m{index:02}")
    held = owned((await kube.get(path)).body)
    assert len(held) == owners.MAX_UPDATERS
    assert {".data.k00", ".data.k01", ".data.k02"} <= set(held['"ancient-changes" using v1'])


MANAGERS = ("a", "b", "c")
_entry = st.fixed_dictionaries({"name": st.sampled_from("xyz"), "value": st.just("1")})
_specs = st.fixed_dictionaries(
    {},
    optional={
        "free": st.dictionaries(st.sampled_from("xyz"), st.just(1), min_size=1),
        "tags": st.lists(st.sampled_from("xyz"), unique=True, min_size=1),
        "parts": st.lists(_entry, unique_by=lambda item: item["name"], min_size=1),
        "plain": st.just(["1"]),
        "whole": st.just({"a": "1"}),
    },
)


@given(st.fixed_dictionaries(dict.fromkeys(MANAGERS, _specs)), st.permutations(MANAGERS), st.sampled_from(MANAGERS))
def test_the_order_of_managers_does_not_matter(
    configs: dict[str, dict[str, Any]], order: list[str], leaving: str
) -> None:
    """What is there in the end is the union of what its managers own; what only one has applied goes with it."""
    node = Schema.for_crd(CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]).root

    def union(names: list[str]) -> frozenset[Any]:
        return frozenset().union(*(merge.fields_of(node, {"spec": configs[name]}) for name in names))

    live: dict[str, Any] = {}
    sets: dict[str, Any] = {}
    for name in [*order, *order]:
        config = {"spec": configs[name]}
        mine = merge.fields_of(node, config)
        others = frozenset().union(*(held for other, held in sets.items() if other != name))
        live = merge.prune(node, merge.merge(node, live, config), sets.get(name, frozenset()), mine | others)
        sets[name] = mine
    assert merge.fields_of(node, live) - {("f:spec",)} == union(order) - {("f:spec",)}
    staying = [name for name in order if name != leaving]
    left = merge.prune(node, live, sets[leaving], union(staying))
    assert merge.fields_of(node, left) - {("f:spec",)} == union(staying) - {("f:spec",)}


_values = st.sampled_from(["1", "2"])
_clashing = st.fixed_dictionaries(
    {},
    optional={
        "size": st.integers(0, 1),
        "free": st.dictionaries(st.sampled_from("xy"), st.integers(0, 1), min_size=1),
        "tags": st.lists(st.sampled_from("xy"), unique=True, min_size=1),
        "parts": st.lists(
            st.fixed_dictionaries({"name": st.sampled_from("xy")}, optional={"value": _values}),
            unique_by=lambda item: item["name"],
            min_size=1,
        ),
        "plain": st.lists(_values, min_size=1),
        "whole": st.dictionaries(st.sampled_from("xy"), _values, min_size=1),
    },
)


@given(st.lists(st.tuples(st.sampled_from(MANAGERS), _clashing, st.booleans()), min_size=1, max_size=12))
def test_an_object_is_at_all_times_what_its_owners_own(applies: list[tuple[str, dict[str, Any], bool]]) -> None:
    (kind,) = custom_kinds(_complete(CRD), Store())

    def content(obj: dict[str, Any]) -> frozenset[Any]:
        return merge.fields_of(kind.schema.root, {"spec": obj["spec"]}) - {("f:spec",)}

    live = thing()
    for manager, spec, force in applies:
        config = thing(**spec)
        try:
            after = applied(kind, live, config, manager, force=force, now="t")
        except Conflict:
            assert not force
            continue
        assert content(config) <= content(after)
        held = owners.decode(after["metadata"]["managedFields"])
        assert frozenset().union(*(each.fields for each in held.values())) - {("f:spec",)} == content(after)
        assert applied(kind, after, config, manager, now="later") == after
        for name, value in spec.items():
            if name in ("size", "plain", "whole"):
                assert after["spec"][name] == value
        live = after


def _complete(definition: dict[str, Any]) -> dict[str, Any]:
    """With what the API server fills in."""
    names = {"listKind": "ThingList", "singular": "thing", **definition["spec"]["names"]}
    return {**definition, "spec": {**definition["spec"], "names": names}}


@given(st.frozensets(st.lists(st.sampled_from(["f:a", "f:b.c/d", 'k:{"n":"x"}', "v:1"]), min_size=1).map(tuple)))
def test_sets_of_fields_survive_their_written_form(held: frozenset[tuple[str, ...]]) -> None:
    assert fields.from_fields_v1(fields.to_fields_v1(held)) == held
