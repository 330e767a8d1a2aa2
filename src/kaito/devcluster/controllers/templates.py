"""Pod templates as identities: a short stable hash, and comparison apart from the label that carries it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from kaito.runtime import Manifest

HASH_LABEL = "pod-template-hash"
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""Letters and digits that spell no word; the API server's own alphabet for generated names."""
_LENGTH = 10


def template_hash(template: Mapping[str, Any], collisions: int = 0) -> str:
    """Ten characters that depend on the template's content alone; another ``collisions`` gives another hash."""
    canonical = json.dumps([unlabelled(template), collisions], sort_keys=True, separators=(",", ":"))
    number = int.from_bytes(hashlib.sha256(canonical.encode()).digest()[:8])
    letters = []
    for _ in range(_LENGTH):
        number, rest = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[rest])
    return "".join(letters)


def unlabelled(template: Mapping[str, Any]) -> Manifest:
    """The template without its hash label and without empty metadata."""
    metadata = dict(template.get("metadata") or {})
    labels = {name: value for name, value in (metadata.get("labels") or {}).items() if name != HASH_LABEL}
    metadata["labels"] = labels
    return {**template, "metadata": {name: value for name, value in metadata.items() if value}}


def same_template(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return unlabelled(one) == unlabelled(other)
