"""CEL rules of custom resources, and what makes a CRD servable."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from kaito.devcluster.apiserver.schema import Cause, Schema, validate_crd


def _schema(spec: dict[str, Any]) -> Schema:
    return Schema.for_crd({"type": "object", "properties": {"spec": spec}})


def _rule(rule: str, **more: Any) -> dict[str, Any]:
    return {"x-kubernetes-validations": [{"rule": rule, **more}]}


def _found(spec: dict[str, Any], value: Any, old: Any = ...) -> list[str]:
    causes = _schema(spec).validate({"spec": value}, None if old is ... else {"spec": old})
    return [f"{cause.field}: {cause.message}" for cause in causes]


INTEGERS = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}


def test_a_failed_rule_names_the_place_and_the_message() -> None:
    spec = {**INTEGERS, **_rule("self.a < self.b", message="a must be less than b")}
    assert _found(spec, {"a": 1, "b": 2}) == []
    assert _found(spec, {"a": 2, "b": 1}) == ['spec: Invalid value: "object": a must be less than b']
    assert _found({**INTEGERS, **_rule("self.a < self.b")}, {"a": 2, "b": 1})[0].endswith(
        "failed rule: self.a < self.b"
    )


def test_reason_field_path_and_message_expression() -> None:
    rule = _rule(
        "has(self.b)",
        message="fallback",
        messageExpression='"b is needed when a is " + string(self.a)',
        reason="FieldValueRequired",
        fieldPath=".b",
    )
    schema = _schema({**INTEGERS, **rule})
    expected = Cause("spec.b", "FieldValueRequired", "Required value: b is needed when a is 4")
    assert schema.validate({"spec": {"a": 4}}, None) == [expected]
    assert schema.validate({"spec": {}}, None)[0].message == "Required value: fallback"
    forbidden = _rule("!has(self.b)", message="no", reason="FieldValueForbidden")
    assert _found({**INTEGERS, **forbidden}, {"b": 1}) == ["spec: Forbidden: no"]


def test_transition_rules_need_an_old_value() -> None:
    spec = {
        "type": "object",
        "properties": {"a": {"type": "string", **_rule("self == oldSelf", message="is immutable")}},
    }
    assert _found(spec, {"a": "x"}) == []
    assert _found(spec, {"a": "x"}, {}) == []
    assert _found(spec, {"a": "x"}, {"a": "x"}) == []
    assert _found(spec, {"a": "x"}, {"a": "y"}) == ['spec.a: Invalid value: "string": is immutable']


def test_a_rule_at_the_root_has_no_path() -> None:
    schema = Schema.for_crd({**INTEGERS, **_rule("!has(oldSelf.a) || has(self.a)", message="a stays")})
    assert schema.validate({}, {"a": 1}) == [Cause("<nil>", "FieldValueInvalid", 'Invalid value: "object": a stays')]


def test_optional_old_self_runs_on_creation_too() -> None:
    rule = _rule("!oldSelf.hasValue() || oldSelf.value() <= self", optionalOldSelf=True, message="only up")
    spec = {"type": "object", "properties": {"a": {"type": "integer", **rule}}}
    assert _found(spec, {"a": 1}) == []
    assert _found(spec, {"a": 2}, {"a": 1}) == []
    assert _found(spec, {"a": 1}, {"a": 2}) == ['spec.a: Invalid value: "integer": only up']


def test_old_values_of_list_maps_are_found_by_key() -> None:
    item = {
        "type": "object",
        "required": ["k"],
        "properties": {
            "k": {"type": "string"},
            "v": {"type": "integer", **_rule("self >= oldSelf", message="only up")},
        },
    }
    keyed = {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": item}
    new, old = [{"k": "b", "v": 1}, {"k": "a", "v": 0}], [{"k": "a", "v": 1}]
    assert _found(keyed, new, old) == ['spec[1].v: Invalid value: "integer": only up']
    assert _found({"type": "array", "items": item}, new, old) == []


def test_rules_wait_for_a_sound_object() -> None:
    spec = {**INTEGERS, **_rule("self.a == 1")}
    found = _found(spec, {"a": "x"})
    assert found[-1].startswith('<nil>: Invalid value: "null": some validation rules were not checked')
    assert len(found) == 2


def test_an_evaluation_error_is_a_failure() -> None:
    found = _found({**INTEGERS, **_rule("self.a == 1", message="a is 1")}, {"b": 1})
    assert len(found) == 1
    assert "evaluating rule: a is 1" in found[0]


@pytest.mark.parametrize(
    ("schema", "value", "rule", "holds"),
    [
        ({"type": "number"}, 1, "self == 1.0 && self / 2.0 == 0.5", True),
        (
            {"type": "string", "format": "date-time"},
            "2024-01-01T00:00:00Z",
            "self < timestamp('2025-01-01T00:00:00Z')",
            True,
        ),
        ({"type": "string", "format": "duration"}, "90s", "self > duration('1m')", True),
        ({"type": "string"}, "1Gi", "quantity(self).isGreaterThan(quantity('1000Mi'))", True),
        ({"type": "string"}, "500m", "quantity(self).add(quantity('0.5')).asInteger() == 1", True),
        ({"type": "string"}, "nope", "isQuantity(self)", False),
        ({"type": "string"}, "https://a.example:8443/x", "url(self).getHost() == 'a.example:8443'", True),
        ({"type": "string"}, "10.0.0.0/8", "isCIDR(self) && !isIP(self)", True),
        ({"type": "string"}, "a1b22", "self.findAll('[0-9]+') == ['1', '22'] && self.find('[a-z]') == 'a'", True),
        ({"type": "array", "items": {"type": "integer"}}, [1, 2, 3], "self.sum() == 6 && self.isSorted()", True),
        ({"type": "array", "items": {"type": "string"}}, ["a"], "self.all(x, x.matches('^[a-c]$'))", True),
        ({"x-kubernetes-int-or-string": True}, "5%", "type(self) == string ? self.endsWith('%') : self < 5", True),
        ({"type": "object", "additionalProperties": {"type": "string"}}, {"a.b/c": "1"}, "self['a.b/c'] == '1'", True),
        ({"type": "object", "properties": {"a-b": {"type": "string"}}}, {"a-b": "1"}, "self.a__dash__b == '1'", True),
        (
            {"type": "object", "properties": {"namespace": {"type": "string"}}},
            {"namespace": "n"},
            "self.__namespace__ == 'n'",
            True,
        ),
        ({"type": "object", "properties": {"a": {"type": "string"}}}, {}, "self.?a.orValue('x') == 'x'", True),
    ],
)
def test_the_language(schema: dict[str, Any], value: Any, rule: str, holds: bool) -> None:
    assert (_found({**schema, **_rule(rule)}, value) == []) is holds


def _crd(schema: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema or {"type": "object"}},
    }
    names = {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"}
    base = {"group": "example.com", "scope": "Namespaced", "names": names, "versions": [version]}
    return {"metadata": {"name": "widgets.example.com"}, "spec": {**base, **spec}}


def _problems(crd: dict[str, Any]) -> dict[str, str]:
    return {cause.field: cause.message for cause in validate_crd(crd)}


def test_a_sound_crd() -> None:
    item = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
    schema = {
        "type": "object",
        "properties": {
            "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 20}}},
            "spec": {
                "type": "object",
                "properties": {
                    "size": {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]},
                    "items": {
                        "type": "array",
                        "x-kubernetes-list-type": "map",
                        "x-kubernetes-list-map-keys": ["name"],
                        "items": item,
                    },
                    "free": {"x-kubernetes-preserve-unknown-fields": True},
                },
                "oneOf": [{"required": ["size"]}, {"required": ["items"]}],
                **_rule("has(self.size) || has(self.items)"),
            },
        },
    }
    crd = _crd(schema)
    version = crd["spec"]["versions"][0]
    version["subresources"] = {
        "status": {},
        "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"},
    }
    version["additionalPrinterColumns"] = [
        {"name": "Ready", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].status'},
        {"name": "Pool", "type": "string", "jsonPath": r".metadata.labels.karpenter\.sh/nodepool"},
    ]
    before = copy.deepcopy(crd)
    assert validate_crd(crd) == []
    assert crd == before


def test_names_and_versions() -> None:
    assert _problems({"metadata": {"name": "x"}}) == {"spec": "Required value"}
    crd = _crd()
    crd["metadata"]["name"] = "gadgets.example.com"
    assert _problems(crd)["metadata.name"].endswith('must be spec.names.plural+"."+spec.group')
    assert "spec.scope" in _problems(_crd(scope="Galaxy"))
    assert _problems(_crd(versions=[])) == {"spec.versions": "Required value"}
    version = _crd()["spec"]["versions"][0]
    twice = _problems(_crd(versions=[version, {**version, "name": "v2"}]))
    assert twice["spec.versions"].endswith("must have exactly one version marked as storage version")
    same = _problems(_crd(versions=[version, {**version, "storage": False}]))
    assert same == {"spec.versions[1].name": 'Invalid value: "v1": must be unique'}
    assert "spec.conversion.strategy" in _problems(_crd(conversion={"strategy": "Webhook"}))


BASE = "spec.versions[0].schema.openAPIV3Schema"


@pytest.mark.parametrize(
    ("schema", "field"),
    [
        ({"properties": {}}, "type"),
        ({"type": "array", "items": {"type": "string"}}, "type"),
        ({"type": "object", "properties": {"spec": {}}}, "properties[spec].type"),
        ({"type": "object", "properties": {"spec": {"type": "objekt"}}}, "properties[spec].type"),
        ({"type": "object", "properties": {"l": {"type": "array"}}}, "properties[l].items"),
        ({"type": "object", "properties": {"l": {"type": "array", "items": {}}}}, "properties[l].items.type"),
        (
            {"type": "object", "properties": {"m": {"type": "object", "additionalProperties": False}}},
            "properties[m].additionalProperties",
        ),
        ({"type": "object", "properties": {"s": {"$ref": "#/x", "type": "string"}}}, "properties[s].$ref"),
        ({"type": "object", "properties": {"s": {"type": "string", "pattern": "("}}}, "properties[s].pattern"),
        ({"type": "object", "properties": {"s": {"type": "string", "default": 1}}}, "properties[s].default"),
        ({"type": "object", "anyOf": [{"type": "object"}]}, "anyOf[0].type"),
        ({"type": "object", "not": {"default": {}}}, "not.default"),
        ({"type": "object", "anyOf": [{"properties": {"x": {}}}]}, "properties[x]"),
        (
            {"type": "object", "properties": {"metadata": {"type": "object", "minProperties": 1}}},
            "properties[metadata]",
        ),
        ({"type": "object", **_rule("self.a +")}, "x-kubernetes-validations[0].rule"),
        ({"type": "object", **_rule("self.a.nosuch()")}, "x-kubernetes-validations[0].rule"),
        ({"type": "object", **_rule("1 + 1")}, "x-kubernetes-validations[0].rule"),
        ({"type": "object", **_rule("true", reason="Because")}, "x-kubernetes-validations[0].reason"),
        ({"type": "object", **_rule("true", fieldPath="nope")}, "x-kubernetes-validations[0].fieldPath"),
        ({"type": "object", **_rule("true", optionalOldSelf=True)}, "x-kubernetes-validations[0].optionalOldSelf"),
        (
            {
                "type": "object",
                "properties": {"l": {"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object"}}},
            },
            "properties[l].x-kubernetes-list-map-keys",
        ),
    ],
)
def test_what_is_not_structural(schema: dict[str, Any], field: str) -> None:
    assert list(_problems(_crd(schema))) == [f"{BASE}.{field}"]


def test_subresources_columns_and_selectable_fields() -> None:
    crd = _crd({"type": "object", "properties": {"spec": INTEGERS}})
    version = crd["spec"]["versions"][0]
    version["subresources"] = {"scale": {"specReplicasPath": ".status.x"}}
    version["additionalPrinterColumns"] = [
        {"name": "A", "type": "text", "jsonPath": ".a"},
        {"name": "B", "type": "string", "jsonPath": ".a[?(@.x"},
        {"name": "C", "type": "string", "jsonPath": "a"},
    ]
    version["selectableFields"] = [{"jsonPath": ".spec.a"}, {"jsonPath": ".spec"}, {"jsonPath": ".metadata.name"}]
    assert list(_problems(crd)) == [
        "spec.versions[0].subresources.scale.specReplicasPath",
        "spec.versions[0].subresources.scale.statusReplicasPath",
        "spec.versions[0].additionalPrinterColumns[0].type",
        "spec.versions[0].additionalPrinterColumns[1].jsonPath",
        "spec.versions[0].additionalPrinterColumns[2].jsonPath",
        "spec.versions[0].selectableFields[1].jsonPath",
        "spec.versions[0].selectableFields[2].jsonPath",
    ]
