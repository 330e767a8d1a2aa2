from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaito.devcluster.apiserver.schema import Schema
from kaito.devcluster.apiserver.verbs.patch import json_patch, merge_patch, strategic_merge_patch
from kaito.runtime import BadRequest, Invalid

DEPLOYMENT = Schema.for_builtin("io.k8s.api.apps.v1.Deployment")
POD = Schema.for_builtin("io.k8s.api.core.v1.Pod")

scalars = st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=2)
keys = st.text("abc", min_size=1, max_size=2)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3))
objects = st.dictionaries(keys, values, max_size=4)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return value


@given(objects, objects)
def test_a_merge_patch_is_idempotent_and_changes_no_input(obj: Any, patch: Any) -> None:
    before, change = copy.deepcopy(obj), copy.deepcopy(patch)
    once = merge_patch(obj, patch)
    assert merge_patch(once, patch) == once
    assert (obj, patch) == (before, change)


@given(objects, objects)
def test_merge_patch_laws(obj: Any, other: Any) -> None:
    assert merge_patch(obj, {}) == obj
    assert merge_patch({}, other) == _without_nulls(other)
    assert merge_patch(obj, dict.fromkeys(obj)) == {}


def test_merge_patch_examples_of_the_rfc() -> None:
    assert merge_patch({"a": "b", "c": {"d": "e", "f": "g"}}, {"a": "z", "c": {"f": None}}) == {
        "a": "z",
        "c": {"d": "e"},
    }
    assert merge_patch({"a": [{"b": "c"}]}, {"a": [1]}) == {"a": [1]}
    assert merge_patch({"a": "c"}, {"a": {"b": {"c": None}}}) == {"a": {"b": {}}}


def test_results_share_nothing_with_the_inputs() -> None:
    obj, patch = {"a": {"b": [1]}}, {"c": {"d": [2]}}
    merged = merge_patch(obj, patch)
    merged["a"]["b"].append(0)
    merged["c"]["d"].append(0)
    assert (obj, patch) == ({"a": {"b": [1]}}, {"c": {"d": [2]}})


@pytest.mark.parametrize("patch", [[], "x", None, 1])
def test_a_patch_that_is_no_object_is_a_bad_request(patch: Any) -> None:
    with pytest.raises(BadRequest):
        merge_patch({}, patch)
    with pytest.raises(BadRequest):
        strategic_merge_patch({}, patch, POD)


def test_json_patch() -> None:
    obj = {"metadata": {"finalizers": ["a", "b"]}, "spec": {"replicas": 1}}
    operations = [
        {"op": "test", "path": "/metadata/finalizers/0", "value": "a"},
        {"op": "remove", "path": "/metadata/finalizers/0"},
        {"op": "replace", "path": "/spec/replicas", "value": 2},
        {"op": "add", "path": "/metadata/annotations", "value": {"x.y/z": "1"}},
    ]
    assert json_patch(obj, operations) == {
        "metadata": {"finalizers": ["b"], "annotations": {"x.y/z": "1"}},
        "spec": {"replicas": 2},
    }
    assert obj["spec"] == {"replicas": 1}


@pytest.mark.parametrize(
    "operations",
    [
        [{"op": "test", "path": "/a", "value": 2}],
        [{"op": "remove", "path": "/missing"}],
        [{"op": "replace", "path": "/a/b/c", "value": 1}],
        [{"op": "add", "path": "/l/7", "value": 1}],
        [{"op": "replace", "path": "", "value": []}],
    ],
)
def test_a_json_patch_that_does_not_fit_is_invalid(operations: Any) -> None:
    with pytest.raises(Invalid, match="the server rejected our request due to an error in our request") as caught:
        json_patch({"a": 1, "l": []}, operations)
    assert caught.value.has_cause("UnexpectedServerResponse")


@pytest.mark.parametrize(
    "operations", [{}, [{"op": "grow", "path": "/a"}], [{"path": "/a"}], ["x"], [{"op": "add", "path": "/a"}]]
)
def test_what_is_no_json_patch_is_a_bad_request(operations: Any) -> None:
    with pytest.raises(BadRequest):
        json_patch({"a": 1}, operations)


def _pod(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {"spec": {"containers": list(containers), **spec}}


def test_containers_merge_by_name() -> None:
    pod = _pod({"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "2"})
    patch = _pod({"name": "b", "image": "3"}, {"name": "c", "image": "4"})
    assert strategic_merge_patch(pod, patch, POD) == _pod(
        pod["spec"]["containers"][0], {"name": "b", "image": "3"}, {"name": "c", "image": "4"}
    )


def test_what_kubectl_apply_sends_for_a_changed_container_list() -> None:
    pod = _pod({"name": "a", "image": "1"}, {"name": "sidecar", "image": "s"}, {"name": "b", "image": "2"})
    patch = {
        "spec": {
            "$setElementOrder/containers": [{"name": "b"}, {"name": "c"}],
            "containers": [{"name": "c", "image": "3"}, {"$patch": "delete", "name": "a"}],
        }
    }
    names = [item["name"] for item in strategic_merge_patch(pod, patch, POD)["spec"]["containers"]]
    assert names == ["sidecar", "b", "c"]


def test_the_order_alone_can_change() -> None:
    pod = _pod({"name": "a"}, {"name": "b"})
    patched = strategic_merge_patch(pod, {"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}, POD)
    assert [item["name"] for item in patched["spec"]["containers"]] == ["b", "a"]


def test_primitive_lists() -> None:
    obj = {"metadata": {"finalizers": ["a", "b"]}}
    patch = {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c", "b"]}}
    assert strategic_merge_patch(obj, patch, POD) == {"metadata": {"finalizers": ["b", "c"]}}
    ordered = {**patch["metadata"], "$setElementOrder/finalizers": ["c", "b"]}
    assert strategic_merge_patch(obj, {"metadata": ordered}, POD) == {"metadata": {"finalizers": ["c", "b"]}}


def test_lists_without_a_merge_key_are_replaced() -> None:
    pod = _pod({"name": "a", "command": ["x", "y"]}, tolerations=[{"key": "k"}])
    patch = _pod({"name": "a", "command": ["z"]}, tolerations=[])
    assert strategic_merge_patch(pod, patch, POD) == _pod({"name": "a", "command": ["z"]}, tolerations=[])


def test_maps_and_lists_can_be_replaced_or_deleted_whole() -> None:
    obj = {"metadata": {"labels": {"a": "1"}}, **_pod({"name": "a"})}
    replace = {"metadata": {"labels": {"$patch": "replace", "b": "2"}}}
    assert strategic_merge_patch(obj, replace, POD)["metadata"] == {"labels": {"b": "2"}}
    assert strategic_merge_patch(obj, {"metadata": {"labels": {"$patch": "delete"}}}, POD)["metadata"] == {"labels": {}}
    listed = _pod({"$patch": "replace"}, {"name": "z"})
    assert strategic_merge_patch(obj, listed, POD)["spec"] == _pod({"name": "z"})["spec"]


def test_retain_keys_drops_what_a_union_no_longer_has() -> None:
    deployment = {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}
    patch = {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}
    assert strategic_merge_patch(deployment, patch, DEPLOYMENT) == {"spec": {"strategy": {"type": "Recreate"}}}
    wrong = {"spec": {"strategy": {"$retainKeys": ["type"], "rollingUpdate": {}}}}
    with pytest.raises(BadRequest, match="retainKeys"):
        strategic_merge_patch(deployment, wrong, DEPLOYMENT)


def test_nulls_delete_also_in_what_is_new() -> None:
    pod = {"metadata": {"labels": {"a": "1"}}}
    patch = {"metadata": {"labels": {"a": None}, "annotations": {"x": None, "y": "1"}}}
    assert strategic_merge_patch(pod, patch, POD) == {"metadata": {"labels": {}, "annotations": {"y": "1"}}}


@pytest.mark.parametrize(
    "patch",
    [
        _pod({"image": "x"}),
        {"spec": {"containers": ["x"]}},
        {"spec": {"$patch": "explode"}},
    ],
)
def test_patches_that_the_schema_cannot_apply(patch: Any) -> None:
    with pytest.raises(BadRequest):
        strategic_merge_patch(_pod({"name": "a"}), patch, POD)


@given(st.lists(st.sampled_from("abcd"), unique=True), st.lists(st.sampled_from("abcd"), unique=True))
def test_strategic_patches_are_idempotent_and_leave_inputs_alone(names: list[str], changed: list[str]) -> None:
    pod = _pod(*({"name": name, "image": "1"} for name in names))
    order = [{"name": name} for name in changed]
    patch = {"spec": {"containers": [{"name": n, "image": "2"} for n in changed], "$setElementOrder/containers": order}}
    before, change = copy.deepcopy(pod), copy.deepcopy(patch)
    once = strategic_merge_patch(pod, patch, POD)
    assert strategic_merge_patch(once, patch, POD) == once
    assert (pod, patch) == (before, change)
    assert [c["name"] for c in once["spec"]["containers"] if c["name"] in changed] == changed
    assert {c["name"]: c["image"] for c in once["spec"]["containers"]} == dict.fromkeys(names, "1") | dict.fromkeys(
        changed, "2"
    )
