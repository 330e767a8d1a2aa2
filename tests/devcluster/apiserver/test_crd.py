"""Custom resources: definitions, validation, versions, removal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from devcluster.harness import Answer, Kube

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
WIDGETS = "/apis/example.com/v1/namespaces/default/widgets"


def definition(**version: Any) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "required": ["size"],
                "properties": {
                    "size": {"type": "integer", "minimum": 1},
                    "replicas": {"type": "integer", "default": 1},
                    "color": {
                        "type": "string",
                        "default": "red",
                        "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "color is immutable"}],
                    },
                },
            },
            "status": {
                "type": "object",
                "properties": {
                    "replicas": {"type": "integer"},
                    "phase": {"type": "string"},
                    "selector": {"type": "string"},
                },
            },
        },
    }
    first = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "selectableFields": [{"jsonPath": ".spec.color"}],
        "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}],
        **version,
    }
    beta = {
        "name": "v1beta1",
        "served": True,
        "storage": False,
        "deprecated": True,
        "schema": {"openAPIV3Schema": schema},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"]},
            "versions": [first, beta],
        },
    }


def widget(name: str = "w", version: str = "v1", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": f"example.com/{version}",
        "kind": "Widget",
        "metadata": {"name": name},
        "spec": {"size": 1, **spec},
    }


@pytest.fixture
async def defined(kube: Kube) -> Answer:
    return await kube.post(CRDS, definition())


async def test_a_definition_is_established_at_once(kube: Kube, defined: Answer) -> None:
    assert defined.status == 201
    body = (await kube.get(f"{CRDS}/widgets.example.com")).body
    assert {c["type"]: c["status"] for c in body["status"]["conditions"]} == {
        "NamesAccepted": "True",
        "Established": "True",
    }
    assert body["status"]["storedVersions"] == ["v1"]
    assert body["status"]["acceptedNames"]["listKind"] == "WidgetList"
    assert body["metadata"]["generation"] == 1
    resources = (await kube.get("/apis/example.com/v1")).body["resources"]
    assert [resource["name"] for resource in resources] == ["widgets", "widgets/scale", "widgets/status"]


async def test_custom_objects_are_defaulted_pruned_and_validated(kube: Kube, defined: Answer) -> None:
    created = await kube.post(WIDGETS, widget(bogus=1) | {"status": {"phase": "Mine"}})
    assert created.body["spec"] == {"size": 1, "replicas": 1, "color": "red"}
    assert "status" not in created.body
    assert created.warnings == [r'299 - "unknown field \"spec.bogus\""']
    strict = await kube.post(WIDGETS, widget("x", bogus=1), fieldValidation="Strict")
    assert (strict.status, strict.body["reason"]) == (400, "BadRequest")
    assert strict.body["message"].endswith('strict decoding error: unknown field "spec.bogus"')
    for spec, reason in (({"size": 0}, "FieldValueInvalid"), ({"size": "x"}, "FieldValueTypeInvalid")):
        answer = await kube.post(WIDGETS, widget("x", **spec))
        assert answer.status == 422
        assert (answer.body["details"]["causes"][0]["field"], answer.body["details"]["causes"][0]["reason"]) == (
            "spec.size",
            reason,
        )
    changed = await kube.merge(f"{WIDGETS}/w", {"spec": {"color": "blue"}})
    assert changed.status == 422
    assert "color is immutable" in changed.body["message"]
    strategic = await kube.strategic(f"{WIDGETS}/w", {"spec": {"size": 2}})
    assert strategic.status == 415
    unversioned = await kube.put(f"{WIDGETS}/w", widget(size=2))
    assert unversioned.status == 422
    assert (
        "metadata.resourceVersion: Invalid value: 0x0: must be specified for an update" in unversioned.body["message"]
    )


async def test_generation_and_status(kube: Kube, defined: Answer) -> None:
    await kube.post(WIDGETS, widget())
    status = await kube.merge(
        f"{WIDGETS}/w/status", {"metadata": {"labels": {"a": "b"}}, "spec": {"size": 9}, "status": {"phase": "Up"}}
    )
    assert status.body["status"] == {"phase": "Up"}
    assert status.body["spec"]["size"] == 1
    assert "labels" not in status.body["metadata"]
    assert status.body["metadata"]["generation"] == 1
    spec = await kube.merge(f"{WIDGETS}/w", {"spec": {"size": 2}, "status": {"phase": "Down"}})
    assert (spec.body["status"], spec.body["metadata"]["generation"]) == ({"phase": "Up"}, 2)


async def test_scale(kube: Kube, defined: Answer) -> None:
    await kube.post(WIDGETS, widget())
    await kube.merge(f"{WIDGETS}/w/status", {"status": {"replicas": 1, "selector": "app=w"}})
    scale = (await kube.get(f"{WIDGETS}/w/scale")).body
    assert (scale["kind"], scale["spec"], scale["status"]) == (
        "Scale",
        {"replicas": 1},
        {"replicas": 1, "selector": "app=w"},
    )
    scaled = await kube.merge(f"{WIDGETS}/w/scale", {"spec": {"replicas": 4}})
    assert scaled.body["spec"] == {"replicas": 4}
    assert (await kube.get(f"{WIDGETS}/w")).body["spec"]["replicas"] == 4
    assert (await kube.put(f"{WIDGETS}/w/scale", scale | {"spec": {"replicas": 2}})).status == 409
    del scale["metadata"]["resourceVersion"]
    assert (await kube.put(f"{WIDGETS}/w/scale", scale | {"spec": {"replicas": 2}})).body["spec"] == {"replicas": 2}


async def test_versions_show_the_same_objects(kube: Kube, defined: Answer) -> None:
    await kube.post(WIDGETS, widget())
    beta = await kube.get(WIDGETS.replace("v1", "v1beta1"))
    assert beta.body["items"][0]["apiVersion"] == "example.com/v1beta1"
    assert beta.warnings == ['299 - "example.com/v1beta1 Widget is deprecated"']
    watch = await kube.watch(WIDGETS.replace("v1", "v1beta1"))
    assert (await watch.next())["object"]["apiVersion"] == "example.com/v1beta1"


async def test_selectable_fields_and_columns(kube: Kube, defined: Answer) -> None:
    await kube.post(WIDGETS, widget("a"))
    await kube.post(WIDGETS, widget("b", color="blue"))
    found = await kube.get(WIDGETS, fieldSelector="spec.color=blue")
    assert [item["metadata"]["name"] for item in found.body["items"]] == ["b"]
    unknown = await kube.get(WIDGETS, fieldSelector="spec.size=1")
    assert (unknown.status, unknown.body["message"]) == (400, "field label not supported: spec.size")
    accept = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    table = (await kube.call("GET", WIDGETS, headers=accept)).body
    assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "Size"]
    assert [row["cells"] for row in table["rows"]] == [["a", 1], ["b", 1]]


async def test_a_changed_schema_is_in_force_at_once(kube: Kube, defined: Answer) -> None:
    await kube.post(WIDGETS, widget())
    before = (await kube.get("/openapi/v3")).body["paths"]["apis/example.com/v1"]
    patch = [
        {
            "op": "replace",
            "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/size/minimum",
            "value": 5,
        }
    ]
    changed = await kube.json_patch(f"{CRDS}/widgets.example.com", patch)
    assert changed.body["metadata"]["generation"] == 2
    assert (await kube.post(WIDGETS, widget("x", size=4))).status == 422
    assert (await kube.get(f"{WIDGETS}/w")).body["spec"]["size"] == 1
    assert (await kube.get("/openapi/v3")).body["paths"]["apis/example.com/v1"] != before


async def test_names_in_use_are_not_accepted(kube: Kube, defined: Answer) -> None:
    other = definition()
    other["metadata"]["name"] = "gadgets.example.com"
    other["spec"]["names"] = {"plural": "gadgets", "singular": "gadget", "kind": "Widget"}
    assert (await kube.post(CRDS, other)).status == 201
    conditions = (await kube.get(f"{CRDS}/gadgets.example.com")).body["status"]["conditions"]
    assert {c["type"]: (c["status"], c["reason"]) for c in conditions} == {
        "NamesAccepted": ("False", "KindConflict"),
        "Established": ("False", "NotAccepted"),
    }
    assert (await kube.get("/apis/example.com/v1/gadgets")).status == 404


async def test_bad_definitions_are_refused(kube: Kube) -> None:
    wrong_name = definition()
    wrong_name["metadata"]["name"] = "widget.example.com"
    assert (await kube.post(CRDS, wrong_name)).status == 422
    no_schema = definition()
    del no_schema["spec"]["versions"][0]["schema"]
    assert (await kube.post(CRDS, no_schema)).status == 422


async def test_deleting_a_definition_deletes_its_objects(kube: Kube, defined: Answer) -> None:
    await kube.post(WIDGETS, widget("a"))
    held = widget("b")
    held["metadata"]["finalizers"] = ["example.com/hold"]
    await kube.post(WIDGETS, held)
    watch = await kube.watch(WIDGETS)
    assert await watch.take(2) == [("ADDED", "a"), ("ADDED", "b")]

    marked = await kube.delete(f"{CRDS}/widgets.example.com")
    assert marked.body["metadata"]["finalizers"] == ["customresourcecleanup.apiextensions.k8s.io"]
    assert await watch.take(2) == [("DELETED", "a"), ("MODIFIED", "b")]
    assert (await kube.post(WIDGETS, widget("c"))).status == 405
    assert (await kube.get(f"{CRDS}/widgets.example.com")).status == 200

    await kube.merge(f"{WIDGETS}/b", {"metadata": {"finalizers": None}})
    assert await watch.take(1) == [("DELETED", "b")]
    assert (await kube.get(f"{CRDS}/widgets.example.com")).status == 404
    assert (await kube.get(WIDGETS)).status == 404
    assert (await kube.get("/apis/example.com")).status == 404

    assert (await kube.post(CRDS, definition())).status == 201
    assert (await kube.get(WIDGETS)).body["items"] == []
