"""Protobuf request bodies, which ``kubectl`` from 1.32 on sends from its typed clients. Replies are always JSON.

A body is ``k8s\\0`` and a ``runtime.Unknown`` message around the object. ``data/protobuf-1.32.txt`` holds the messages of the
kinds that kubectl creates without a manifest, by the descriptors of the API's ``generated.proto`` files.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from kaito.runtime import BadRequest, UnsupportedMediaType

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC: Final = b"k8s\x00"

_KINDS: Final = {
    "v1": ("Binding", "ConfigMap", "Namespace", "Pod", "ResourceQuota", "Secret", "Service", "ServiceAccount"),
    "apps/v1": ("DaemonSet", "Deployment", "ReplicaSet", "StatefulSet"),
    "authentication.k8s.io/v1": ("SelfSubjectReview", "TokenRequest", "TokenReview"),
    "authorization.k8s.io/v1": (
        "LocalSubjectAccessReview",
        "SelfSubjectAccessReview",
        "SelfSubjectRulesReview",
        "SubjectAccessReview",
    ),
    "autoscaling/v1": ("HorizontalPodAutoscaler",),
    "autoscaling/v2": ("HorizontalPodAutoscaler",),
    "batch/v1": ("CronJob", "Job"),
    "networking.k8s.io/v1": ("Ingress",),
    "policy/v1": ("Eviction", "PodDisruptionBudget"),
    "rbac.authorization.k8s.io/v1": ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"),
    "scheduling.k8s.io/v1": ("PriorityClass",),
}

_OLDER: Final = {("autoscaling/v1", "HorizontalPodAutoscaler"): "HorizontalPodAutoscalerV1"}
"""Messages of kinds that another version calls the same."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
Json = Any


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    """``""`` for a message whose fields are inlined in JSON."""
    type: str
    repeated: bool
    mapped: bool
    pointer: bool


def decode(body: bytes) -> dict[str, Json]:
    """The object in a protobuf body, as its JSON form. Empty messages and unset fields are left out.

    Raises UnsupportedMediaType for a kind that is not in the table, BadRequest for bytes that are not such a message.
    """
    if not body.startswith(MAGIC):
        raise BadRequest("the body is not a Kubernetes protobuf message: it lacks the prefix k8s\\0")
    try:
        envelope = _message("Unknown", memoryview(body)[len(MAGIC) :])
        meta = envelope.get("typeMeta", {})
        api_version, kind = meta.get("apiVersion", ""), meta.get("kind", "")
        if kind not in _KINDS.get(api_version, ()) and kind != "DeleteOptions":
            raise UnsupportedMediaType(
                f"{kind or 'an object'} in {api_version or 'no version'} is not read from protobuf by this server: "
                'use "--dry-run=client -o yaml | kubectl apply -f -"'
            )
        message = _OLDER.get((api_version, kind), kind)
        return {"kind": kind, "apiVersion": api_version, **_message(message, envelope.get("raw", memoryview(b"")))}
    except (IndexError, UnicodeDecodeError, ValueError, TypeError, OverflowError) as error:
        raise BadRequest(f"the body is not a well-formed protobuf message: {error}") from error


@cache
def _messages() -> dict[str, str]:
    """The fields of each message, as ``number:name=type``.

    No type is a string; ``*`` repeats, ``%`` maps strings to the type, and ``?`` is a pointer in Go, whose zero value is kept:
    others are always written, and absent from JSON when zero.
    """
    text = files("kaito.devcluster.apiserver").joinpath("data/protobuf-1.32.txt").read_text("utf-8")
    return {name: fields for name, _, fields in (line.partition(" ") for line in text.splitlines())}


@cache
def _fields(message: str) -> dict[int, _Field]:
    fields = {}
    for entry in _messages()[message].split():
        number, _, rest = entry.partition(":")
        name, _, kind = rest.partition("=")
        kind = kind or "string"
        bare = kind.lstrip("*%?")
        fields[int(number)] = _Field(name, bare, kind[0] == "*", kind[0] == "%", kind[0] == "?")
    return fields


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7
        if shift > 63:
            raise ValueError("a varint is longer than ten bytes")


def _entries(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers and values as they stand on the wire."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, position = _varint(data, position)
            yield number, value
            continue
        if wire == _BYTES:
            length, position = _varint(data, position)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire} is not in use")
        if position + length > len(data):
            raise ValueError(f"field {number} ends beyond its message")
        yield number, data[position : position + length]
        position += length


def _message(name: str, data: memoryview) -> dict[str, Json]:
    decoded: dict[str, Json] = {}
    fields = _fields(name)
    for number, raw in _entries(data):
        field = fields.get(number)
        if field is None:
            continue
        if field.mapped:
            entry = dict(_entries(_chunk(raw)))
            key = str(_chunk(entry.get(1, memoryview(b""))), "utf-8")
            decoded.setdefault(field.name, {})[key] = _value(field.type, entry.get(2, memoryview(b"")))
        elif field.repeated:
            decoded.setdefault(field.name, []).append(_value(field.type, raw))
        elif not field.name:
            decoded |= _message(field.type, _chunk(raw))
        else:
            value = _value(field.type, raw)
            if field.pointer or value not in ("", 0, None, {}):
                decoded[field.name] = value
    return decoded


def _chunk(raw: int | memoryview) -> memoryview:
    if isinstance(raw, int):
        raise TypeError("a number stands where a message or text belongs")
    return raw


def _number(raw: int | memoryview) -> int:
    if not isinstance(raw, int):
        raise TypeError("text stands where a number belongs")
    return raw - 2**64 if raw >= 2**63 else raw


def _value(kind: str, raw: int | memoryview) -> Json:
    match kind:
        case "int":
            return _number(raw)
        case "bool":
            return bool(_number(raw))
        case "string":
            return str(_chunk(raw), "utf-8")
        case "bytes":
            return base64.b64encode(_chunk(raw)).decode()
        case "raw":
            return _chunk(raw)
        case "Time":
            return _time(_chunk(raw))
        case "Quantity":
            return str(_chunk(dict(_entries(_chunk(raw))).get(1, memoryview(b""))), "utf-8")
        case "IntOrString":
            parts = dict(_entries(_chunk(raw)))
            if parts.get(1):
                return str(_chunk(parts.get(3, memoryview(b""))), "utf-8")
            return _number(parts.get(2, 0))
        case "ExtraValue":
            return _message(kind, _chunk(raw)).get("items", [])
    return _message(kind, _chunk(raw))


def _time(data: memoryview) -> str | None:
    """RFC 3339 in seconds; an empty message is the zero time, which is absent."""
    parts = dict(_entries(data))
    if not parts:
        return None
    return datetime.fromtimestamp(_number(parts.get(1, 0)), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
