"""The OpenAPI definitions of the built-in kinds, as ``kube-apiserver`` 1.32 publishes them.

The data is made by ``hack/openapi_definitions.py``. It is read on the first use, not on import.
"""

from __future__ import annotations

import lzma
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec

REFERENCE = "#/components/schemas/"
META = "io.k8s.apimachinery.pkg.apis.meta.v1."
OBJECT_META = META + "ObjectMeta"


@cache
def definitions() -> dict[str, dict[str, Any]]:
    """Name to schema; shared, so never to be changed."""
    packed = files("kaito.devcluster.apiserver").joinpath("data/definitions-1.32.json.xz").read_bytes()
    return msgspec.json.decode(lzma.decompress(packed), type=dict[str, dict[str, Any]])


def reference(schema: dict[str, Any]) -> str:
    """The definition that a property refers to, bare or as its only ``allOf``; ``""`` when it is written in place."""
    target = schema.get("$ref")
    if target is None:
        parts = schema.get("allOf")
        target = parts[0].get("$ref") if isinstance(parts, list) and len(parts) == 1 else None
    return target.removeprefix(REFERENCE) if isinstance(target, str) else ""
