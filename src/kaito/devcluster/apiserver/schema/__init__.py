"""What an object may look like: one ``Schema`` for built-in kinds and for custom resources."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Final

from kaito.devcluster.apiserver.schema import decode, fields
from kaito.devcluster.apiserver.schema.cause import REQUIRED, TOO_LONG, TOO_MANY, TYPE_INVALID, Cause
from kaito.devcluster.apiserver.schema.crd import validate_crd
from kaito.devcluster.apiserver.schema.definitions import OBJECT_META
from kaito.devcluster.apiserver.schema.node import Node, builtin_node
from kaito.devcluster.apiserver.schema.required import missing_fields
from kaito.devcluster.apiserver.schema.rules import ABSENT, RuleCheck, compile_rules
from kaito.devcluster.apiserver.schema.structural import Check, compile_structural

__all__ = ["Cause", "Node", "Schema", "validate_crd"]

Object = dict[str, Any]
_BLOCKING = frozenset({REQUIRED, TOO_LONG, TOO_MANY, TYPE_INVALID})
_RULES_SKIPPED = Cause.invalid(
    "<nil>",
    None,
    "some validation rules were not checked because the object was invalid; "
    "correct the existing errors to complete validation",
)
_BUILTINS: dict[str, Schema] = {}


class Schema:
    """The schema of one kind in one version. Objects are decoded JSON; only ``prune`` and ``default`` change them."""

    def __init__(self, root: Node, *, preserve_unknown: bool = False) -> None:
        self.root: Final = root
        self._preserve_unknown = preserve_unknown

    @classmethod
    def for_builtin(cls, definition: str) -> Schema:
        """The schema of a definition such as ``io.k8s.api.core.v1.Pod``. Raises KeyError when there is none."""
        schema = _BUILTINS.get(definition)
        if schema is None:
            schema = _BUILTINS[definition] = cls(builtin_node(definition))
        return schema

    @classmethod
    def for_crd(cls, open_api_v3_schema: Object, *, preserve_unknown: bool = False) -> Schema:
        """The schema of a custom resource's version; ``preserve_unknown`` is ``spec.preserveUnknownFields``.

        Compiling is left to the first use: a CRD that ``validate_crd`` accepts compiles.
        """
        return cls(Node(open_api_v3_schema, root=True), preserve_unknown=preserve_unknown)

    @property
    def raw(self) -> Object:
        """The schema as written; shared, so never to be changed."""
        return self.root.raw

    def unknown_fields(self, obj: Object) -> list[str]:
        """Paths of fields that the schema does not have, such as ``spec.containers[0].imagee``."""
        return [] if self._preserve_unknown else list(fields.unknown_fields(self.root, obj))

    def prune(self, obj: Object) -> None:
        """Drop unknown fields in place."""
        if not self._preserve_unknown:
            fields.prune(self.root, obj)

    def default(self, obj: Object) -> None:
        """Fill in a custom resource's defaults in place, dropping nulls where null is not allowed.

        Built-in kinds have their defaults in code, not in the schema: for them this does nothing.
        """
        if not self.root.builtin:
            fields.default(self.root, obj)

    def decode_errors(self, obj: Object) -> list[str]:
        """Type errors as a Go decoder words them: of the whole built-in object, or of a custom one's metadata."""
        if self.root.builtin:
            return list(decode.decode_errors(self.root, obj))
        return list(decode.decode_errors(builtin_node(OBJECT_META), obj.get("metadata"), path="metadata"))

    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        """What is wrong with ``obj``; ``old`` is the object that it replaces, for rules about transitions.

        For a built-in kind only required fields are checked; a custom resource's CEL rules run only on an object
        that is sound otherwise, and a cause says so when they did not.
        """
        if self.root.builtin:
            return list(missing_fields(self.root, obj))
        causes: list[Cause] = []
        self._structural(obj, None, causes)
        if self._rules is None:
            return causes
        if any(cause.reason in _BLOCKING for cause in causes):
            return [*causes, _RULES_SKIPPED]
        self._rules(obj, ABSENT if old is None else old, None, causes)
        return causes

    @cached_property
    def _structural(self) -> Check:
        return compile_structural(self.root)

    @cached_property
    def _rules(self) -> RuleCheck | None:
        return compile_rules(self.root)
