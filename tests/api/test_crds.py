"""The generated CustomResourceDefinitions, read by the local API server's schema engine."""

from __future__ import annotations

import importlib.util
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from kaito.devcluster.apiserver.schema import Schema, validate_crd

ROOT = Path(__file__).parents[2]
CRDS = ROOT / "config" / "crd"


def crd(name: str) -> dict[str, Any]:
    manifest: dict[str, Any] = yaml.safe_load((CRDS / name).read_text())
    return manifest


WORKSPACE_CRD = crd("kaito.sh_workspaces.yaml")
MACHINE_CRD = crd("karpenter.sh_machines.yaml")
NODE_CLAIM_CRD = crd("karpenter.sh_nodeclaims.yaml")
ALL = {"workspaces": WORKSPACE_CRD, "machines": MACHINE_CRD, "nodeclaims": NODE_CLAIM_CRD}
SCHEMA = Schema.for_crd(WORKSPACE_CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"])


def test_the_files_are_what_the_types_say() -> None:
    spec = importlib.util.spec_from_file_location("generate_crds", ROOT / "hack" / "generate_crds.py")
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    written = {path.name: path.read_text() for path in CRDS.glob("*.yaml")}
    assert written == generator.render(), "run `make manifests`"


@pytest.mark.parametrize("manifest", ALL.values(), ids=ALL.keys())
def test_the_schemas_are_structural_and_their_rules_compile(manifest: dict[str, Any]) -> None:
    assert validate_crd(manifest) == []


def test_both_versions_have_one_shape_and_one_is_stored() -> None:
    versions = WORKSPACE_CRD["spec"]["versions"]
    assert [(version["name"], version["served"], version["storage"]) for version in versions] == [
        ("v1alpha1", True, False),
        ("v1beta1", True, True),
    ]
    schemas = [deepcopy(version["schema"]) for version in versions]
    sizes = [
        schema["openAPIV3Schema"]["properties"]["resource"]["properties"]["instanceType"].pop("default", None)
        for schema in schemas
    ]
    assert sizes == ["Standard_NC12s_v3", None]
    assert schemas[0] == schemas[1]
    assert "conversion" not in WORKSPACE_CRD["spec"]


def test_workspace_names_and_columns() -> None:
    names = WORKSPACE_CRD["spec"]["names"]
    assert (names["shortNames"], names["categories"]) == (["wk", "wks"], ["workspace"])
    columns = WORKSPACE_CRD["spec"]["versions"][0]["additionalPrinterColumns"]
    assert [column["name"] for column in columns if not column.get("priority")] == [
        "Instance",
        "ResourceReady",
        "InferenceReady",
        "WorkspaceReady",
        "Age",
    ]
    assert [column["name"] for column in columns if column.get("priority")] == [
        "JobStarted",
        "TargetNodeCount",
        "State",
    ]
    assert 'type=="WorkspaceSucceeded"' in columns[3]["jsonPath"]


def test_machine_names_and_columns() -> None:
    assert MACHINE_CRD["spec"]["scope"] == "Cluster"
    assert "shortNames" not in MACHINE_CRD["spec"]["names"]
    columns = MACHINE_CRD["spec"]["versions"][0]["additionalPrinterColumns"]
    assert [column["name"] for column in columns] == [
        "Type",
        "Zone",
        "Node",
        "Ready",
        "Age",
        "Capacity",
        "Provisioner",
        "Template",
    ]


def test_node_claim_names_and_columns() -> None:
    spec = NODE_CLAIM_CRD["spec"]
    assert (spec["scope"], "shortNames" in spec["names"], spec["names"]["categories"]) == (
        "Cluster",
        False,
        ["karpenter"],
    )
    columns = spec["versions"][0]["additionalPrinterColumns"]
    assert [column["name"] for column in columns if not column.get("priority")] == [
        "Type",
        "Capacity",
        "Zone",
        "Node",
        "Ready",
        "Age",
    ]
    assert [column["name"] for column in columns if column.get("priority")] == [
        "ImageID",
        "ID",
        "NodePool",
        "NodeClass",
        "Drifted",
    ]
    schema = spec["versions"][0]["schema"]["openAPIV3Schema"]
    assert schema["required"] == ["spec"]
    assert schema["properties"]["spec"]["required"] == ["nodeClassRef", "requirements"]
    assert schema["properties"]["spec"]["properties"]["expireAfter"]["default"] == "720h"


def _fields(schema: dict[str, Any], path: str = "") -> list[tuple[str, dict[str, Any]]]:
    found = []
    for name, value in (schema.get("properties") or {}).items():
        found.append((f"{path}.{name}", value))
        found += _fields(value, f"{path}.{name}")
        found += _fields(value.get("items") or {}, f"{path}.{name}[]")
    return found


@pytest.mark.parametrize("manifest", ALL.values(), ids=ALL.keys())
def test_every_field_is_described(manifest: dict[str, Any]) -> None:
    schema = manifest["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    bare = [path for path, value in _fields(schema) if not value.get("description") and path != ".metadata"]
    assert bare == []


def test_everything_that_a_rule_reads_is_bounded() -> None:
    """A real API server estimates the cost of rules from the greatest size of what they read."""

    def unbounded(schema: dict[str, Any], path: str) -> list[str]:
        found = []
        limit = {"string": "maxLength", "array": "maxItems"}.get(schema.get("type", ""))
        if limit and limit not in schema and "enum" not in schema:
            found.append(path)
        if isinstance(schema.get("additionalProperties"), dict) and "maxProperties" not in schema:
            found.append(path)
        for name, value in (schema.get("properties") or {}).items():
            found += unbounded(value, f"{path}.{name}")
        return found + unbounded(schema["items"], f"{path}[]") if "items" in schema else found

    properties = WORKSPACE_CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    parts = ("resource", "inference", "tuning")
    assert [path for part in parts for path in unbounded(properties[part], part)] == []


INFERENCE: dict[str, Any] = {
    "apiVersion": "kaito.sh/v1alpha1",
    "kind": "Workspace",
    "metadata": {"name": "w"},
    "resource": {"instanceType": "Standard_NC6s_v3", "labelSelector": {"matchLabels": {"apps": "phi-3"}}},
    "inference": {"preset": {"name": "phi-3-mini-4k-instruct"}},
}
TUNING: dict[str, Any] = {
    "apiVersion": "kaito.sh/v1alpha1",
    "kind": "Workspace",
    "metadata": {"name": "t"},
    "resource": {"instanceType": "Standard_NC6s_v3", "labelSelector": {"matchLabels": {"app": "tune"}}},
    "tuning": {
        "preset": {"name": "phi-3-mini-4k-instruct"},
        "method": "qlora",
        "input": {"urls": ["https://example.com/data.parquet"]},
        "output": {"image": "registry.example.com/phi/adapter:0.0.1", "imagePushSecret": "push"},
    },
}


def edited(base: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    result = deepcopy(base)
    *parents, last = path.split(".")
    target = result
    for part in parents:
        target = target.setdefault(part, {})
    if value is None:
        target.pop(last, None)
    else:
        target[last] = value
    return result


def refusals(manifest: dict[str, Any], old: dict[str, Any] | None = None) -> dict[str, str]:
    manifest, old = deepcopy(manifest), deepcopy(old)
    for obj in (manifest, old):
        if obj is not None:
            SCHEMA.default(obj)
    return {cause.field: cause.message for cause in SCHEMA.validate(manifest, old)}


@pytest.mark.parametrize("manifest", [INFERENCE, TUNING], ids=["inference", "tuning"])
def test_good_workspaces_are_accepted(manifest: dict[str, Any]) -> None:
    assert refusals(manifest) == {}
    assert refusals(manifest, manifest) == {}


def test_defaults() -> None:
    manifest = deepcopy(INFERENCE)
    del manifest["resource"]["instanceType"]
    manifest["inference"]["adapters"] = [{"source": {"name": "a", "image": "r.io/x:1"}}]
    SCHEMA.default(manifest)
    assert manifest["resource"]["count"] == 1
    assert manifest["resource"]["instanceType"] == "Standard_NC12s_v3"
    assert manifest["inference"]["preset"]["accessMode"] == "public"
    assert manifest["inference"]["adapters"][0]["strength"] == "1.0"


REFUSED: list[tuple[dict[str, Any], str, Any, str, str]] = [
    (INFERENCE, "resource", None, "resource", "Required"),
    (INFERENCE, "resource.labelSelector", None, "resource.labelSelector", "Required"),
    (INFERENCE, "resource.count", "2", "resource.count", "integer"),
    (INFERENCE, "resource.count", 0, "resource.count", "greater than or equal to 1"),
    (INFERENCE, "resource.instanceType", "Standard_B2s", "resource.instanceType", "not supported"),
    (
        INFERENCE,
        "resource.labelSelector",
        {"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["b"]}]},
        "resource.labelSelector",
        "operator In",
    ),
    (INFERENCE, "inference", None, "inference", "one of inference and tuning"),
    (INFERENCE, "tuning", TUNING["tuning"], "tuning", "exclude each other"),
    (INFERENCE, "inference.preset.name", "phi-99", "inference.preset.name", "supported are"),
    (INFERENCE, "inference.preset.name", "llama-2-7b", "inference.preset.accessMode", "accessMode to private"),
    (INFERENCE, "inference.preset.accessMode", "private", "inference.preset.presetOptions.image", "needs the image"),
    (INFERENCE, "inference.preset.accessMode", "secret", "inference.preset.accessMode", "supported values"),
    (INFERENCE, "inference.preset", None, "inference.preset", "one of preset and template"),
    (INFERENCE, "inference.template", {"spec": {}}, "inference.template", "exclude each other"),
    (INFERENCE, "metadata.name", "a.b", "", "metadata.name must be"),
    (
        INFERENCE,
        "inference.adapters",
        [{"source": {"name": "a", "image": "r.io/x:1"}}] * 2,
        "inference.adapters",
        "same source.name",
    ),
    (
        INFERENCE,
        "inference.adapters",
        [{"source": {"name": f"a{index}", "image": "r.io/x:1"}} for index in range(11)],
        "inference.adapters",
        "at most 10",
    ),
    (
        INFERENCE,
        "inference.adapters",
        [{"source": {"name": "a", "image": "r.io/x:1"}, "strength": "2"}],
        "inference.adapters[0].strength",
        "between 0 and 1",
    ),
    (
        INFERENCE,
        "inference.adapters",
        [{"source": {"name": "a", "image": "ACR_REPO_HERE.azurecr.io/ADAPTER_HERE:0.0.1"}}],
        "inference.adapters[0].source.image",
        "placeholder",
    ),
    (INFERENCE, "inference.adapters", [{"source": {"image": "r.io/x:1"}}], "inference.adapters[0].source.name", "name"),
    (TUNING, "tuning.method", "full", "tuning.method", "lora or qlora"),
    (TUNING, "tuning.preset.name", "falcon-7b-instruct", "tuning.preset.name", "supported are"),
    (TUNING, "tuning.input", {}, "tuning.input", "exactly one"),
    (TUNING, "tuning.input", {"urls": ["ftp://x/y"]}, "tuning.input.urls[0]", "begins with http"),
    (TUNING, "tuning.input", {"urls": ["https://DATA_HERE/y"]}, "tuning.input.urls[0]", "is a placeholder"),
    (TUNING, "tuning.output.image", "<YOUR IMAGE URL>", "tuning.output.image", "is a placeholder"),
    (TUNING, "tuning.output", {"image": "r.io/x:1"}, "tuning.output.imagePushSecret", "credentials"),
    (TUNING, "tuning.output.image", "r.io/Upper:1", "tuning.output.image", "lower case"),
    (TUNING, "resource.count", 2, "resource.count", "one node"),
]


@pytest.mark.parametrize(
    ("base", "path", "value", "field", "words"),
    REFUSED,
    ids=[f"{case[1]}={case[3]}" for case in REFUSED],
)
def test_wrong_workspaces_are_refused_with_the_field(
    base: dict[str, Any], path: str, value: Any, field: str, words: str
) -> None:
    found = refusals(edited(base, path, value))
    assert any(words in text for name, text in found.items() if not field or name == field), found


@pytest.mark.parametrize(
    ("base", "path", "value", "field"),
    [
        (INFERENCE, "resource.count", 2, "resource.count"),
        (INFERENCE, "resource.instanceType", "Standard_NC12s_v3", "resource.instanceType"),
        (INFERENCE, "resource.labelSelector", {"matchLabels": {"apps": "x"}}, "resource.labelSelector"),
        (INFERENCE, "inference.preset.name", "phi-2", "inference.preset"),
        (INFERENCE, "inference", None, "inference"),
        (TUNING, "tuning.method", "lora", "tuning.method"),
        (TUNING, "tuning.preset.name", "phi-2", "tuning.preset"),
        (TUNING, "tuning.input.name", "new", "tuning.input.name"),
    ],
)
def test_what_cannot_be_changed(base: dict[str, Any], path: str, value: Any, field: str) -> None:
    assert field in refusals(edited(base, path, value), base)


def test_what_can_be_changed() -> None:
    adapters = [{"source": {"name": "a", "image": "r.io/x:1"}}]
    assert refusals(edited(INFERENCE, "inference.adapters", adapters), INFERENCE) == {}
    assert refusals(edited(INFERENCE, "resource.preferredNodes", ["n1"]), INFERENCE) == {}
    assert refusals(edited(TUNING, "tuning.method", "QLoRA"), TUNING) == {}


def test_unknown_fields_are_found_but_a_template_is_free() -> None:
    assert SCHEMA.unknown_fields(edited(INFERENCE, "resource.bogus", 1)) == ["resource.bogus"]
    template = edited(edited(INFERENCE, "inference.preset", None), "inference.template", {"spec": {"anything": [1]}})
    assert SCHEMA.unknown_fields(template) == []
    assert refusals(template) == {}
