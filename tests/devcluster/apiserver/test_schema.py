"""Schemas of built-in kinds and of custom resources: unknown fields, pruning, defaults, types, structural validation."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaito.devcluster.apiserver.objects.builtins import BUILTINS
from kaito.devcluster.apiserver.schema import Cause, Schema

DEPLOYMENT = Schema.for_builtin("io.k8s.api.apps.v1.Deployment")


def _deployment(**spec: Any) -> dict[str, Any]:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "labels": {"any.key/here": "x"}},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template, **spec},
    }


def _custom(**properties: Any) -> Schema:
    """A schema whose ``spec`` has these properties."""
    return Schema.for_crd({"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}})


def _check(schema: Any, value: Any) -> list[str]:
    """``field: message`` of each cause of ``spec.x = value``."""
    return [f"{cause.field}: {cause.message}" for cause in _custom(x=schema).validate({"spec": {"x": value}}, None)]


def test_every_builtin_schema_walks_an_empty_object() -> None:
    for info in BUILTINS:
        schema = Schema.for_builtin(info.definition)
        assert schema is Schema.for_builtin(info.definition)
        obj = {"apiVersion": info.api_version, "kind": info.kind, "metadata": {"name": "x"}}
        assert schema.unknown_fields(obj) == []
        assert schema.decode_errors(obj) == []
        schema.prune(obj)
        assert obj["metadata"] == {"name": "x"}


def test_unknown_fields_of_a_builtin() -> None:
    deployment = _deployment(bogus=1)
    deployment["spec"]["template"]["spec"]["containers"][0]["imagee"] = "x"
    deployment["metadata"]["lables"] = {}
    assert DEPLOYMENT.unknown_fields(deployment) == [
        "metadata.lables",
        "spec.template.spec.containers[0].imagee",
        "spec.bogus",
    ]
    DEPLOYMENT.prune(deployment)
    assert deployment == _deployment()


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            {"replicas": "three"},
            "cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            {"replicas": 1.5},
            "cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            {"replicas": 2**31},
            f"cannot unmarshal number {2**31} into Go struct field DeploymentSpec.spec.replicas of type",
        ),
        ({"paused": "no"}, "cannot unmarshal string into Go struct field DeploymentSpec.spec.paused of type bool"),
        (
            {"template": []},
            "cannot unmarshal array into Go struct field DeploymentSpec.spec.template of type v1.PodTemp",
        ),
        (
            {"selector": {"matchLabels": {"a": 1}}},
            "cannot unmarshal number into Go struct field LabelSelector.spec.selector.matchLabels.a of type string",
        ),
        (
            {"template": {"spec": {"containers": {}}}},
            "cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
        ),
        ({"strategy": {"rollingUpdate": {"maxSurge": True}}}, "cannot unmarshal bool into Go value of type int32"),
    ],
)
def test_type_errors_read_as_from_a_go_decoder(spec: dict[str, Any], expected: str) -> None:
    assert DEPLOYMENT.decode_errors(_deployment(**spec))[0].startswith(f"json: {expected}")


def test_null_is_absence_and_both_forms_of_quantity_and_port_are_fine() -> None:
    container = {
        "name": "c",
        "image": "i",
        "resources": {"limits": {"cpu": 1, "memory": "1.5Gi", "nvidia.com/gpu": "1e3"}},
        "readinessProbe": {"httpGet": {"port": "http"}, "timeoutSeconds": None},
        "livenessProbe": {"httpGet": {"port": 80}},
    }
    assert DEPLOYMENT.decode_errors(_deployment(replicas=None, template={"spec": {"containers": [container]}})) == []


@pytest.mark.parametrize("amount", ["1x", "Gi", "", "1 Gi", True, []])
def test_what_is_no_quantity(amount: Any) -> None:
    container = {"name": "c", "resources": {"limits": {"cpu": amount}}}
    assert (
        "quantities must match"
        in DEPLOYMENT.decode_errors(_deployment(template={"spec": {"containers": [container]}}))[0]
    )


def test_bytes_and_times_of_builtins() -> None:
    secret = Schema.for_builtin("io.k8s.api.core.v1.Secret")
    assert secret.decode_errors({"data": {"a": "YQ=="}}) == []
    assert secret.decode_errors({"data": {"a": "not base64!"}}) == ["illegal base64 data at input byte 3"]
    assert secret.decode_errors({"metadata": {"creationTimestamp": "2024-01-02T03:04:05Z"}}) == []
    assert "cannot parse" in secret.decode_errors({"metadata": {"creationTimestamp": "yesterday"}})[0]


def _missing(kind: str, obj: dict[str, Any]) -> list[str]:
    return [cause.field for cause in Schema.for_builtin(kind).validate(obj, None) if cause.message == "Required value"]


def test_required_fields_of_builtins() -> None:
    deployment = _deployment()
    assert DEPLOYMENT.validate(deployment, None) == []
    del deployment["spec"]["selector"]
    deployment["spec"]["template"]["spec"]["containers"][0].pop("image")
    assert DEPLOYMENT.validate(deployment, None) == [
        Cause("spec.selector", "FieldValueRequired", "Required value"),
        Cause("spec.template.spec.containers[0].image", "FieldValueRequired", "Required value"),
    ]
    assert _missing("io.k8s.api.core.v1.Pod", {"spec": {}}) == ["spec.containers"]
    assert _missing("io.k8s.api.batch.v1.Job", {"spec": {}}) == ["spec.template.spec.containers"]
    assert _missing("io.k8s.api.rbac.v1.RoleBinding", {}) == ["roleRef.kind", "roleRef.name"]


def test_what_openapi_calls_required_but_may_be_zero() -> None:
    assert _missing("io.k8s.api.scheduling.v1.PriorityClass", {}) == []
    assert _missing("io.k8s.api.authentication.v1.TokenRequest", {"spec": {}}) == []
    status = {"conditions": [{}], "containerStatuses": [{}]}
    pod = {"spec": {"containers": [{"name": "a", "image": "b"}]}, "status": status}
    assert _missing("io.k8s.api.core.v1.Pod", pod) == []


def test_unknown_fields_of_a_custom_resource() -> None:
    schema = _custom(
        known={"type": "string"},
        open={"type": "object", "x-kubernetes-preserve-unknown-fields": True, "properties": {"in": {"type": "object"}}},
        labels={"type": "object", "additionalProperties": {"type": "string"}},
        items={"type": "array", "items": {"type": "object", "properties": {"a": {"type": "integer"}}}},
        pod={"type": "object", "x-kubernetes-embedded-resource": True},
    )
    obj = {
        "apiVersion": "x/v1",
        "kind": "X",
        "metadata": {"name": "a", "annotations": {"k": "v"}, "nmae": 1},
        "spec": {
            "known": "v",
            "bogus": 1,
            "open": {"any": {"thing": 1}, "in": {"lost": 1}},
            "labels": {"free": "x"},
            "items": [{"a": 1}, {"b": 2}],
            "pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {}},
        },
        "status": {},
    }
    unknown = ["metadata.nmae", "spec.bogus", "spec.open.in.lost", "spec.items[1].b", "spec.pod.spec", "status"]
    assert schema.unknown_fields(obj) == unknown
    schema.prune(obj)
    assert schema.unknown_fields(obj) == []
    assert obj["spec"]["open"] == {"any": {"thing": 1}, "in": {}}
    assert obj["metadata"] == {"name": "a", "annotations": {"k": "v"}}


def test_preserving_all_unknown_fields() -> None:
    schema = Schema.for_crd({"type": "object"}, preserve_unknown=True)
    obj = {"anything": {"goes": 1}}
    assert schema.unknown_fields(obj) == []
    schema.prune(obj)
    assert obj == {"anything": {"goes": 1}}


def test_defaults() -> None:
    inner = {"type": "object", "default": {}, "properties": {"n": {"type": "integer", "default": 3}}}
    schema = _custom(
        foo={"type": "string", "default": "d"},
        bar={"type": "string", "nullable": True, "default": "d"},
        baz={"type": "string"},
        inner=inner,
        list={"type": "array", "items": inner},
        map={"type": "object", "additionalProperties": inner},
    )
    obj = {"spec": {"foo": None, "bar": None, "baz": None, "list": [{}, {"n": 1}], "map": {"k": {}}}}
    schema.default(obj)
    assert obj["spec"] == {
        "foo": "d",
        "bar": None,
        "inner": {"n": 3},
        "list": [{"n": 3}, {"n": 1}],
        "map": {"k": {"n": 3}},
    }
    obj["spec"]["inner"]["n"] = 9
    other: dict[str, Any] = {"spec": {}}
    schema.default(other)
    assert other["spec"]["inner"] == {"n": 3}


def test_defaults_do_not_make_a_parent() -> None:
    obj: dict[str, Any] = {}
    _custom(foo={"type": "string", "default": "d"}).default(obj)
    assert obj == {}


@pytest.mark.parametrize(
    ("schema", "value", "expected"),
    [
        ({"type": "integer"}, "a", 'Invalid value: "string": spec.x in body must be of type integer: "string"'),
        ({"type": "string"}, None, 'Invalid value: "null": spec.x in body must be of type string: "null"'),
        ({"type": "integer"}, 1.5, 'Invalid value: "number": spec.x in body must be of type integer: "number"'),
        ({"type": "boolean"}, 1, 'Invalid value: "integer": spec.x in body must be of type boolean: "integer"'),
        ({"type": "string", "enum": ["a", "b"]}, "c", 'Unsupported value: "c": supported values: "a", "b"'),
        ({"type": "integer", "enum": [1]}, 2, 'Unsupported value: 2: supported values: "1"'),
        (
            {"type": "integer", "minimum": 1},
            0,
            "Invalid value: 0: spec.x in body should be greater than or equal to 1",
        ),
        (
            {"type": "integer", "minimum": 1, "exclusiveMinimum": True},
            1,
            "Invalid value: 1: spec.x in body should be greater than 1",
        ),
        ({"type": "number", "maximum": 0.5}, 1, "Invalid value: 1: spec.x in body should be less than or equal to 0.5"),
        ({"type": "integer", "multipleOf": 2}, 3, "Invalid value: 3: spec.x in body should be a multiple of 2"),
        ({"type": "string", "maxLength": 2}, "abc", "Too long: may not be more than 2 bytes"),
        (
            {"type": "string", "minLength": 1},
            "",
            'Invalid value: "": spec.x in body should be at least 1 chars long',
        ),
        ({"type": "string", "pattern": "^a+$"}, "b", "Invalid value: \"b\": spec.x in body should match '^a+$'"),
        (
            {"type": "string", "format": "date-time"},
            "now",
            'Invalid value: "now": spec.x in body must be of type date-time: "now"',
        ),
        (
            {"type": "array", "items": {"type": "string"}, "maxItems": 1},
            ["a", "b"],
            "Too many: 2: must have at most 1 items",
        ),
        (
            {"type": "array", "items": {"type": "string"}, "minItems": 1},
            [],
            "Invalid value: 0: spec.x in body should have at least 1 items",
        ),
        ({"x-kubernetes-int-or-string": True}, [], None),
    ],
)
def test_messages_of_the_structural_validator(schema: Any, value: Any, expected: str | None) -> None:
    found = _check(schema, value)
    assert len(found) == 1
    assert expected is None or found == [f"spec.x: {expected}"]


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string", "nullable": True}, None),
        ({"type": "integer"}, 2.0),
        ({"type": "number"}, 2),
        ({"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]}, "5Gi"),
        ({"x-kubernetes-int-or-string": True}, 5),
        ({"type": "string", "format": "duration"}, "1h30m"),
        ({"type": "string", "format": "byte"}, "YQ=="),
        ({"type": "string", "format": "unheard-of"}, "x"),
        ({"type": "integer", "format": "int32"}, 2**31 - 1),
        ({"type": "string", "pattern": "b"}, "abc"),
        ({"type": "string", "format": "date-time"}, "2024-02-29T12:00:00.123456789+01:00"),
    ],
)
def test_values_that_are_fine(schema: Any, value: Any) -> None:
    assert _check(schema, value) == []


def test_nested_paths_and_required() -> None:
    item = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
    assert _check({"type": "array", "items": item}, [{"name": "a"}, {}]) == ["spec.x[1].name: Required value"]
    assert _check({"type": "object", "additionalProperties": {"type": "integer"}}, {"k": "v"}) == [
        'spec.x.k: Invalid value: "string": spec.x.k in body must be of type integer: "string"'
    ]
    embedded = {"type": "object", "x-kubernetes-embedded-resource": True}
    assert _check(embedded, {}) == ["spec.x.apiVersion: Required value", "spec.x.kind: Required value"]


def test_unique_lists() -> None:
    plain = {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}
    assert _check(plain, ["a", "b", "a"]) == ['spec.x[2]: Duplicate value: "a"']
    item = {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}}}
    keyed = {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": item}
    found = _check(keyed, [{"k": "a", "v": 1}, {"k": "a", "v": 2}, {"k": "b"}])
    assert found == ['spec.x[1]: Duplicate value: map[string]interface {}{"k":"a"}']


def test_composition() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
        "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
    }
    assert _check(schema, {"a": "1"}) == []
    both = _check(schema, {"a": "1", "b": "1"})
    assert both == [
        'spec.x: Invalid value: "": "spec.x" must validate one and only one schema (oneOf). Found 2 valid alternatives'
    ]
    assert "Found none valid" in _check(schema, {})[0]
    any_of = {"type": "integer", "anyOf": [{"maximum": 1}, {"minimum": 5}]}
    assert _check(any_of, 1) == []
    assert "must validate at least one schema (anyOf)" in _check(any_of, 3)[0]
    assert "must not validate the schema (not)" in _check({"type": "integer", "not": {"minimum": 5}}, 6)[0]
    assert "must validate all the schemas (allOf)" in _check({"type": "integer", "allOf": [{"minimum": 5}]}, 1)[0]


def test_metadata_of_a_custom_resource_is_typed_too() -> None:
    errors = _custom().decode_errors({"metadata": {"labels": {"a": 1}}})
    assert errors == ["json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels.a of type string"]


names = st.sampled_from(["known", "open", "items", "bogus", "n"])
values = st.recursive(
    st.none() | st.integers() | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
)
LEAF = {"type": "object", "properties": {"n": {"type": "integer", "default": 1}}}
ANY_SHAPE = _custom(
    known=LEAF,
    open={"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    items={"type": "array", "items": LEAF},
)


@given(st.dictionaries(st.sampled_from(["spec", "metadata", "kind", "extra"]), values))
def test_pruning_is_idempotent_and_leaves_nothing_unknown(obj: dict[str, Any]) -> None:
    ANY_SHAPE.prune(obj)
    once = copy.deepcopy(obj)
    assert ANY_SHAPE.unknown_fields(obj) == []
    ANY_SHAPE.prune(obj)
    assert obj == once


@given(st.dictionaries(st.just("spec"), values))
def test_defaulting_is_idempotent_and_validation_changes_nothing(obj: dict[str, Any]) -> None:
    ANY_SHAPE.default(obj)
    once = copy.deepcopy(obj)
    ANY_SHAPE.default(obj)
    ANY_SHAPE.validate(obj, None)
    assert obj == once
