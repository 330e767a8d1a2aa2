"""One view of a schema for built-in and custom kinds: what may stand at a place, and what stands below it."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Final

from kaito.devcluster.apiserver.schema.definitions import OBJECT_META, definitions, reference

Json = Any
"""A decoded JSON value."""

_SPECIAL_TYPES = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": "quantity",
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": "int-or-string",
}


class Node:
    """A place in a schema. Children are made when first asked for, so recursive definitions are no trouble.

    ``type`` is a JSON type, ``int-or-string``, ``quantity`` or ``""`` for any value.
    """

    def __init__(
        self, raw: dict[str, Json], *, definition: str = "", overlay: dict[str, Json] | None = None, root: bool = False
    ) -> None:
        self.raw: Final = raw
        self.definition: Final = definition
        """Name of the built-in definition, ``""`` for what is written in place."""
        self._overlay = overlay or raw
        self._root = root

    @classmethod
    def of(cls, schema: Json, *, builtin: bool) -> Node:
        if not isinstance(schema, dict):
            return ANY
        name = reference(schema) if builtin else ""
        if name:
            return cls(definitions()[name], definition=name, overlay=schema)
        return BuiltinNode(schema) if builtin else cls(schema)

    @property
    def builtin(self) -> bool:
        return bool(self.definition)

    @cached_property
    def type(self) -> str:
        if self.raw.get("x-kubernetes-int-or-string") is True:
            return "int-or-string"
        return _SPECIAL_TYPES.get(self.definition) or str(self.raw.get("type", ""))

    @cached_property
    def format(self) -> str:
        return str(self.raw.get("format", ""))

    @cached_property
    def properties(self) -> dict[str, Node]:
        children = {
            name: Node.of(child, builtin=self.builtin) for name, child in (self.raw.get("properties") or {}).items()
        }
        if self._root or self.raw.get("x-kubernetes-embedded-resource") is True:
            children |= {"apiVersion": STRING, "kind": STRING, "metadata": builtin_node(OBJECT_META)}
        return children

    @cached_property
    def additional(self) -> Node | None:
        """The schema of a map's values; None for a struct."""
        schema = self.raw.get("additionalProperties")
        return None if schema is None or schema is False else Node.of(schema, builtin=self.builtin)

    @cached_property
    def items(self) -> Node | None:
        schema = self.raw.get("items")
        return None if schema is None else Node.of(schema, builtin=self.builtin)

    @cached_property
    def open(self) -> bool:
        """Whether fields that the schema does not name belong to the object."""
        if self.raw.get("x-kubernetes-preserve-unknown-fields") is True:
            return True
        return self.builtin and not self.properties and self.additional is None

    @property
    def nullable(self) -> bool:
        return self.raw.get("nullable") is True

    @property
    def merge_key(self) -> str:
        return str(self._overlay.get("x-kubernetes-patch-merge-key", ""))

    @property
    def patch_strategies(self) -> frozenset[str]:
        """Of ``merge``, ``replace``, ``retainKeys``."""
        return frozenset(filter(None, str(self._overlay.get("x-kubernetes-patch-strategy", "")).split(",")))

    @property
    def list_type(self) -> str:
        return str(self._overlay.get("x-kubernetes-list-type", ""))

    @property
    def list_map_keys(self) -> tuple[str, ...]:
        return tuple(self._overlay.get("x-kubernetes-list-map-keys") or ())

    @property
    def map_type(self) -> str:
        """``atomic`` for an object that is replaced as a whole."""
        return str(self._overlay.get("x-kubernetes-map-type") or self.raw.get("x-kubernetes-map-type", ""))

    @cached_property
    def go_type(self) -> str:
        """What a Go decoder calls the type: ``int32``, ``[]v1.Container``, ``map[string]string``."""
        if self.definition and self.type == "object":
            return ".".join(self.definition.split(".")[-2:])
        match self.type:
            case "integer":
                return self.format or "int64"
            case "number":
                return "float64"
            case "boolean":
                return "bool"
            case "array":
                return f"[]{self.items.go_type if self.items else 'interface {}'}"
            case "object":
                return f"map[string]{self.additional.go_type if self.additional else 'interface {}'}"
            case "":
                return "interface {}"
        return "[]uint8" if self.format == "byte" else "string"


class BuiltinNode(Node):
    """A schema written in place within a built-in definition."""

    @property
    def builtin(self) -> bool:
        return True


ANY: Final = Node({"x-kubernetes-preserve-unknown-fields": True})
STRING: Final = Node({"type": "string"})
_NODES: dict[str, Node] = {}


def builtin_node(definition: str) -> Node:
    """The one node of a built-in definition. Raises KeyError for a definition that is not in the data."""
    node = _NODES.get(definition)
    if node is None:
        node = _NODES[definition] = Node(definitions()[definition], definition=definition)
    return node
