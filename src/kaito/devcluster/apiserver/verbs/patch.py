"""The three patch formats of the API. Inputs are never changed, and results share no container with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jsonpatch
import jsonpointer
import msgspec

from kaito.devcluster.apiserver.schema.fields import copy_json
from kaito.runtime import ApiError, BadRequest, Invalid

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kaito.devcluster.apiserver.schema import Node, Schema

Json = Any
Object = dict[str, Any]

_DIRECTIVE = "$patch"
_ORDER = "$setElementOrder/"
_DELETE_ITEMS = "$deleteFromPrimitiveList/"
_RETAIN = "$retainKeys"


def json_patch(obj: Object, operations: Json) -> Object:
    """RFC 6902. Raises BadRequest for what is no patch, Invalid for a patch that does not fit the object."""
    if not isinstance(operations, list):
        raise BadRequest("error decoding patch: json: cannot unmarshal object into Go value of type jsonpatch.Patch")
    try:
        steps = [jsonpatch.JsonPatch([operation]) for operation in copy_json(operations)]
    except (jsonpatch.InvalidJsonPatch, jsonpointer.JsonPointerException, AttributeError, TypeError) as error:
        raise BadRequest(f"error decoding patch: {error}") from error
    patched = copy_json(obj)
    for operation, step in zip(operations, steps, strict=True):
        try:
            patched = step.apply(patched, in_place=True)
        except jsonpatch.InvalidJsonPatch as error:
            raise BadRequest(f"error decoding patch: {error}") from error
        except jsonpatch.JsonPatchTestFailed as error:
            raise _unfit(f"testing value {operation['path']} failed: test failed") from error
        except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException, TypeError) as error:
            raise _unfit(f"{operation['op']} operation does not apply at {operation['path']}: {error}") from error
    if not isinstance(patched, dict):
        raise _unfit("the patched document is not an object")
    return patched


def _unfit(detail: str) -> ApiError:
    return Invalid(
        "the server rejected our request due to an error in our request",
        details={"causes": [{"reason": "UnexpectedServerResponse", "message": detail}]},
    )


def merge_patch(obj: Object, patch: Json) -> Object:
    """RFC 7386. Raises BadRequest when the patch is no object."""
    if not isinstance(patch, dict):
        raise BadRequest("error decoding patch: a merge patch of an object must be an object")
    merged: Object = _merge(obj, patch)
    return merged


def _merge(target: Json, patch: Json) -> Json:
    if not isinstance(patch, dict):
        return copy_json(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, change in patch.items():
        if change is None:
            result.pop(key, None)
        else:
            result[key] = _merge(result.get(key), change)
    return {key: value if key in patch else copy_json(value) for key, value in result.items()}


def strategic_merge_patch(obj: Object, patch: Json, schema: Schema) -> Object:
    """A merge patch in which lists with a merge key are merged item by item, and directives say what to drop.

    Raises BadRequest for a patch that the schema cannot be applied by.
    """
    if not isinstance(patch, dict):
        raise BadRequest("error decoding patch: a strategic merge patch of an object must be an object")
    return _merge_map(schema.root, obj, patch)


def _merge_map(node: Node | None, target: Object, patch: Object) -> Object:
    directive = patch.get(_DIRECTIVE)
    if directive == "replace":
        return {key: copy_json(value) for key, value in patch.items() if key != _DIRECTIVE}
    if directive == "delete":
        return {}
    if directive is not None:
        raise BadRequest(f"Unknown patch type {directive} found in the patch")
    result = _retained(target, patch)
    for key, dropped in patch.items():
        name = key.removeprefix(_DELETE_ITEMS)
        current = result.get(name)
        if name != key and isinstance(current, list) and isinstance(dropped, list):
            result[name] = [item for item in current if item not in dropped]
    for key, change in patch.items():
        if key == _RETAIN or key.startswith((_ORDER, _DELETE_ITEMS)):
            continue
        if change is None:
            result.pop(key, None)
        else:
            result[key] = _merge_value(_child(node, key), result.get(key), change, patch.get(_ORDER + key))
    for key, order in patch.items():
        name = key.removeprefix(_ORDER)
        if name != key and name not in patch and isinstance(result.get(name), list):
            result[name] = _merge_list(_child(node, name), result[name], [], order)
    return {key: value if key in patch else copy_json(value) for key, value in result.items()}


def _retained(target: Object, patch: Object) -> Object:
    keep = patch.get(_RETAIN)
    if keep is None:
        return dict(target)
    if not isinstance(keep, list):
        raise BadRequest(f"{_RETAIN} must be a list of field names")
    unlisted = [key for key in patch if not key.startswith("$") and patch[key] is not None and key not in keep]
    if unlisted:
        raise BadRequest(f"{_RETAIN} directive must contain every field that the patch sets; it lacks {unlisted[0]}")
    return {key: value for key, value in target.items() if key in keep}


def _child(node: Node | None, key: str) -> Node | None:
    if node is None:
        return None
    return node.properties.get(key) or node.additional


def _merge_value(node: Node | None, current: Json, change: Json, order: Json) -> Json:
    replaces = node is not None and "replace" in node.patch_strategies
    if isinstance(change, dict) and not replaces:
        return _merge_map(node, current if isinstance(current, dict) else {}, change)
    if isinstance(change, list) and node is not None and "merge" in node.patch_strategies:
        return _merge_list(node, current if isinstance(current, list) else [], change, order)
    return copy_json(change)


def _merge_list(node: Node | None, current: list[Json], patch: list[Json], order: Json) -> list[Json]:
    """``patch`` into ``current``, by merge key or as a set; ``order`` is the list's ``$setElementOrder``, or None."""
    if node is None or "merge" not in node.patch_strategies:
        kept: list[Json] = copy_json(patch or current)
        return kept
    key = node.merge_key
    if not key:
        additions = [item for index, item in enumerate(patch) if item not in [*current, *patch[:index]]]
        merged: list[Json] = [*copy_json(current), *copy_json(additions)]
        return _ordered(merged, current, order, _identity) if isinstance(order, list) else merged
    merged = _merge_items(node.items, current, patch, key)
    if not isinstance(order, list):
        return merged
    wanted = [item.get(key) if isinstance(item, dict) else item for item in order]
    return _ordered(merged, current, wanted, lambda item: _identity(item.get(key)))


def _merge_items(node: Node | None, current: list[Json], patch: list[Json], key: str) -> list[Json]:
    for change in patch:
        if not isinstance(change, dict):
            raise BadRequest(f"each item of a list that is merged by {key} must be an object")
        if key not in change and change.get(_DIRECTIVE) != "replace":
            raise BadRequest(f"map: {change} does not contain declared merge key: {key}")
    if any(change.get(_DIRECTIVE) == "replace" for change in patch):
        return [copy_json(change) for change in patch if change.get(_DIRECTIVE) != "replace"]
    merged: list[Json] = copy_json(current)
    for change in patch:
        if change.get(_DIRECTIVE) == "delete":
            merged = [item for item in merged if item.get(key) != change[key]]
            continue
        body = {name: value for name, value in change.items() if (name, value) != (_DIRECTIVE, "merge")}
        position = next((index for index, item in enumerate(merged) if item.get(key) == change[key]), -1)
        if position < 0:
            merged.append(_merge_map(node, {}, body))
        else:
            merged[position] = _merge_map(node, merged[position], body)
    return merged


def _identity(value: Json) -> bytes:
    return msgspec.json.encode(value, order="sorted")


def _ordered(
    merged: list[Json], before: Sequence[Json], order: list[Json], identity: Callable[[Json], bytes]
) -> list[Json]:
    """Items named in ``order`` in that order; the others keep their place relative to where they stood ``before``."""
    rank = {_identity(item): index for index, item in enumerate(order)}
    stood = {identity(item): index for index, item in enumerate(before)}
    named = sorted((item for item in merged if identity(item) in rank), key=lambda item: rank[identity(item)])
    others = [item for item in merged if identity(item) not in rank]
    result: list[Json] = []
    while named and others:
        first, other = stood.get(identity(named[0])), stood.get(identity(others[0]))
        result.append(named.pop(0) if first is None or other is None or first < other else others.pop(0))
    return result + named + others
