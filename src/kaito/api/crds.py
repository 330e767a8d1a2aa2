"""CustomResourceDefinitions, built from the pydantic models.

The structural schema comes from the models' fields and their CEL rules. What depends on the preset catalogue is given
as :class:`Supported`, because the catalogue is not part of the API types.
"""

from __future__ import annotations

import inspect
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from kaito.api import machine, nodeclaim, workspace
from kaito.api.machine import Machine
from kaito.api.meta import Model, Object, Rule, rule
from kaito.api.nodeclaim import NodeClaim
from kaito.api.workspace import Workspace

if typing.TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic import BaseModel

Schema = dict[str, Any]

GENERATED_BY = {"app.kubernetes.io/name": "kaito", "app.kubernetes.io/component": "crd"}

_SCALARS: Mapping[type, str] = {str: "string", int: "integer", bool: "boolean", float: "number"}
_ROOT_PROPERTIES: Schema = {
    "apiVersion": {"type": "string", "description": "Group and version of the schema of this object."},
    "kind": {"type": "string", "description": "Kind of this object."},
    "metadata": {"type": "object"},
}


@dataclass(frozen=True, slots=True)
class Supported:
    """Names that the API server accepts."""

    presets: Sequence[str]
    private_presets: Sequence[str]
    """Presets whose image is never public."""
    tuning_presets: Sequence[str]
    instance_prefixes: Sequence[str]
    """Beginnings of instance types that are accepted without being listed."""
    instance_types: Sequence[str]
    """Instance types that begin with none of the prefixes."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of ``kubectl get``; ``wide`` ones are shown with ``-o wide`` only."""

    name: str
    path: str
    type: Literal["string", "integer", "date"] = "string"
    wide: bool = False

    def manifest(self) -> dict[str, Any]:
        column: dict[str, Any] = {"name": self.name, "type": self.type, "jsonPath": self.path}
        return column | {"priority": 1} if self.wide else column


def _condition(type_: str) -> str:
    return f'.status.conditions[?(@.type=="{type_}")].status'


WORKSPACE_COLUMNS = (
    Column("Instance", ".resource.instanceType"),
    Column("ResourceReady", _condition(workspace.RESOURCE_READY)),
    Column("InferenceReady", _condition(workspace.INFERENCE_READY)),
    Column("WorkspaceReady", _condition(workspace.WORKSPACE_SUCCEEDED)),
    Column("Age", ".metadata.creationTimestamp", "date"),
    Column("JobStarted", _condition(workspace.JOB_STARTED), wide=True),
    Column("TargetNodeCount", ".status.targetNodeCount", "integer", wide=True),
    Column("State", ".status.state", wide=True),
)
MACHINE_COLUMNS = (
    Column("Type", r".metadata.labels.node\.kubernetes\.io/instance-type"),
    Column("Zone", r".metadata.labels.karpenter\.k8s\.azure/zone"),
    Column("Node", ".status.nodeName"),
    Column("Ready", _condition(machine.READY)),
    Column("Age", ".metadata.creationTimestamp", "date"),
    Column("Capacity", r".metadata.labels.karpenter\.sh/capacity-type", wide=True),
    Column("Provisioner", r".metadata.labels.karpenter\.sh/provisioner-name", wide=True),
    Column("Template", ".spec.machineTemplateRef.name", wide=True),
)
NODE_CLAIM_COLUMNS = (
    Column("Type", r".metadata.labels.node\.kubernetes\.io/instance-type"),
    Column("Capacity", r".metadata.labels.karpenter\.sh/capacity-type"),
    Column("Zone", r".metadata.labels.topology\.kubernetes\.io/zone"),
    Column("Node", ".status.nodeName"),
    Column("Ready", _condition(nodeclaim.READY)),
    Column("Age", ".metadata.creationTimestamp", "date"),
    Column("ImageID", ".status.imageID", wide=True),
    Column("ID", ".status.providerID", wide=True),
    Column("NodePool", r".metadata.labels.karpenter\.sh/nodepool", wide=True),
    Column("NodeClass", ".spec.nodeClassRef.name", wide=True),
    Column("Drifted", _condition("Drifted"), wide=True),
)


def workspace_crd(supported: Supported) -> dict[str, Any]:
    """``workspaces.kaito.sh``."""
    schemas = {version: object_schema(Workspace) for version in workspace.VERSIONS}
    for version, schema in schemas.items():
        _restrict(schema, supported)
        if default := workspace.DEFAULT_INSTANCE_TYPES[version]:
            schema["properties"]["resource"]["properties"]["instanceType"]["default"] = default
    return _definition(
        schemas,
        group=workspace.GROUP,
        stored=workspace.VERSION,
        names={
            "kind": "Workspace",
            "listKind": "WorkspaceList",
            "plural": "workspaces",
            "singular": "workspace",
            "shortNames": ["wk", "wks"],
            "categories": ["workspace"],
        },
        scope="Namespaced",
        columns=WORKSPACE_COLUMNS,
    )


def machine_crd() -> dict[str, Any]:
    """``machines.karpenter.sh``."""
    return _definition(
        {machine.VERSION: object_schema(Machine)},
        group=machine.GROUP,
        stored=machine.VERSION,
        names={
            "kind": "Machine",
            "listKind": "MachineList",
            "plural": "machines",
            "singular": "machine",
            "categories": ["karpenter"],
        },
        scope="Cluster",
        columns=MACHINE_COLUMNS,
    )


def node_claim_crd() -> dict[str, Any]:
    """``nodeclaims.karpenter.sh``."""
    return _definition(
        {nodeclaim.VERSION: object_schema(NodeClaim)},
        group=nodeclaim.GROUP,
        stored=nodeclaim.VERSION,
        names={
            "kind": "NodeClaim",
            "listKind": "NodeClaimList",
            "plural": "nodeclaims",
            "singular": "nodeclaim",
            "categories": ["karpenter"],
        },
        scope="Cluster",
        columns=NODE_CLAIM_COLUMNS,
    )


def object_schema(kind: type[Object]) -> Schema:
    """The structural schema of a top-level kind."""
    schema = _model_schema(kind)
    schema["properties"] = _ROOT_PROPERTIES | {
        name: value for name, value in schema["properties"].items() if name not in _ROOT_PROPERTIES
    }
    return schema


def _definition(
    schemas: Mapping[str, Schema],
    *,
    group: str,
    stored: str,
    names: dict[str, Any],
    scope: str,
    columns: Sequence[Column],
) -> dict[str, Any]:
    """``schemas`` are by version; objects are stored in the version ``stored``."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names['plural']}.{group}", "labels": dict(GENERATED_BY)},
        "spec": {
            "group": group,
            "names": names,
            "scope": scope,
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": version == stored,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [column.manifest() for column in columns],
                    "schema": {"openAPIV3Schema": schema},
                }
                for version, schema in schemas.items()
            ],
        },
    }


def _restrict(schema: Schema, supported: Supported) -> None:
    """Write the supported names into a fresh Workspace schema."""
    properties = schema["properties"]
    preset = properties["inference"]["properties"]["preset"]
    _add_rules(preset["properties"]["name"], [_named(supported.presets, "is not a supported preset")])
    if supported.private_presets:
        private = _listed(supported.private_presets)
        preset["x-kubernetes-validations"].append(
            rule(
                f"!(self.name.lowerAscii() in [{private}]) || (has(self.accessMode) && self.accessMode == 'private')",
                "the image of this preset is not public: set accessMode to private, and presetOptions.image",
                path=".accessMode",
            )
        )
    tuned = properties["tuning"]["properties"]["preset"]["properties"]["name"]
    _add_rules(tuned, [_named(supported.tuning_presets, "cannot be tuned, or is not a preset")])

    terms = [
        "self == ''",
        *(f"self.lowerAscii().startsWith('{start.lower()}')" for start in supported.instance_prefixes),
    ]
    if supported.instance_types:
        terms.append(f"self.lowerAscii() in [{_listed(supported.instance_types)}]")
    families = " or ".join(f"{prefix}…" for prefix in sorted(supported.instance_prefixes))
    instance_type = properties["resource"]["properties"]["instanceType"]
    instance_type["x-kubernetes-validations"].append(
        rule(" || ".join(terms), f"is not supported: use an Azure size {families}, or an AWS GPU instance type")
    )


def _named(names: Sequence[str], problem: str) -> Rule:
    """A model by the name that a hub gives it, with a slash, is judged by admission: others than these can be known."""
    known = ", ".join(sorted(names))
    return rule(f"self.contains('/') || self.lowerAscii() in [{_listed(names)}]", f"{problem}; supported are: {known}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name.lower()}'" for name in sorted(names))


def _model_schema(model: type[BaseModel]) -> Schema:
    schema: Schema = {"type": "object"}
    if model.__doc__:
        schema["description"] = " ".join(inspect.cleandoc(model.__doc__).split())
    hints = typing.get_type_hints(model)
    properties: Schema = {}
    required: list[str] = []
    for name, info in model.model_fields.items():
        extra = dict(info.json_schema_extra) if isinstance(info.json_schema_extra, dict) else {}
        alias = info.alias or name
        must = bool(extra.pop("required", False))
        if must:
            required.append(alias)
        value = _typed(hints[name], extra)
        if info.description:
            value["description"] = info.description
        if not must and isinstance(info.default, str | int | bool) and info.default != "":
            value["default"] = info.default
        properties[alias] = value
    schema["properties"] = properties
    if required:
        schema["required"] = sorted(required)
    _add_rules(schema, getattr(model, "RULES", ()))
    return schema


def _typed(hint: Any, extra: Mapping[str, Any]) -> Schema:
    """The schema for a type hint, with ``extra`` keywords laid over it; a keyword of None removes it."""
    keywords = dict(extra)
    items, values, rules = keywords.pop("items", {}), keywords.pop("values", {}), keywords.pop("rules", ())
    schema = _bare(hint, items, values)
    if keywords.get("x-kubernetes-preserve-unknown-fields"):
        schema.pop("additionalProperties", None)
    schema.update(keywords)
    schema = {key: value for key, value in schema.items() if value is not None}
    _add_rules(schema, rules)
    return schema


def _bare(hint: Any, items: Mapping[str, Any], values: Mapping[str, Any]) -> Schema:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        kinds = [argument for argument in arguments if argument is not type(None)]
        if len(kinds) == 1:
            return _bare(kinds[0], items, values)
        if set(kinds) == {int, str}:
            return {"x-kubernetes-int-or-string": True}
    elif origin is Literal:
        return {"type": "string", "enum": list(arguments)}
    elif origin is tuple:
        return {"type": "array", "items": _typed(arguments[0], items)}
    elif origin is dict:
        return {"type": "object", "additionalProperties": _typed(arguments[1], values)}
    elif isinstance(hint, type) and issubclass(hint, Model):
        return _model_schema(hint)
    elif hint in _SCALARS:
        return {"type": _SCALARS[hint]}
    elif hint is Any:
        return {"x-kubernetes-preserve-unknown-fields": True}
    raise TypeError(f"no schema for {hint!r}")


def _add_rules(schema: Schema, rules: Sequence[Mapping[str, str]]) -> None:
    if rules:
        schema["x-kubernetes-validations"] = [*schema.get("x-kubernetes-validations", ()), *map(dict, rules)]
