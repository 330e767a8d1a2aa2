"""Content negotiation: request bodies to objects, and the representation that an ``Accept`` header asks for."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, cast

import msgspec
import yaml

from kaito.devcluster.apiserver.printers import table
from kaito.devcluster.apiserver.store import Object, Record, encode
from kaito.devcluster.apiserver.wire import protobuf
from kaito.runtime import BadRequest, NotAcceptable, UnsupportedMediaType

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from kaito.devcluster.apiserver.objects.registry import Kind
    from kaito.devcluster.apiserver.wire.requests import Query

JSON, YAML, PROTOBUF = "application/json", "application/yaml", "application/vnd.kubernetes.protobuf"
MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

GZIP_FROM = 128 * 1024
"""Replies of at least so many bytes are compressed for those who accept it, as by kube-apiserver."""

Shape = Literal["object", "table", "metadata"]
IncludeObject = Literal["None", "Metadata", "Object"]
_META_VERSIONS = ("v1", "v1beta1")
_JSON_DECODER = msgspec.json.Decoder()


@dataclass(frozen=True, slots=True)
class Representation:
    """How a reply is to be written. ``version`` is that of meta.k8s.io for tables and partial metadata."""

    shape: Shape = "object"
    version: str = "v1"
    yaml: bool = False

    @property
    def content_type(self) -> str:
        if self.yaml:
            return YAML
        if self.shape == "object":
            return JSON
        return (
            f"{JSON};as={'Table' if self.shape == 'table' else 'PartialObjectMetadata'};g=meta.k8s.io;v={self.version}"
        )


PLAIN = Representation()
_SHAPES: Mapping[str, Shape] = {
    "Table": "table",
    "PartialObjectMetadata": "metadata",
    "PartialObjectMetadataList": "metadata",
}


def media_type(header: str) -> tuple[str, dict[str, str]]:
    """A media type and its parameters, both lower case except for the parameters' values."""
    kind, *parameters = header.split(";")
    pairs = (parameter.partition("=") for parameter in parameters)
    return kind.strip().lower(), {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}


@lru_cache(maxsize=256)
def negotiate(accept: str, *, streaming: bool = False) -> Representation:
    """The first offer of an ``Accept`` header that this server can serve. Raises NotAcceptable.

    The order of the header counts and quality values do not, as in kube-apiserver for its own clients.
    """
    if not accept.strip():
        return PLAIN
    for offer in accept.split(","):
        kind, parameters = media_type(offer)
        if kind not in (JSON, YAML, "*/*", "application/*") or (kind == YAML and streaming):
            continue
        wanted = parameters.get("as", "")
        if not wanted:
            return Representation(yaml=kind == YAML)
        shape = _SHAPES.get(wanted)
        if shape and parameters.get("g") == "meta.k8s.io" and parameters.get("v") in _META_VERSIONS:
            return Representation(shape, parameters["v"], kind == YAML)
    offered = JSON if streaming else f"{JSON}, {YAML}"
    raise NotAcceptable(f"only the following media types are accepted: {offered}")


def decode_body(body: bytes, content_type: str) -> Any:
    """The JSON value of a request body in JSON, YAML or protobuf; a missing Content-Type means JSON.

    Raises BadRequest on a body that does not parse, UnsupportedMediaType on a type that is not served.
    """
    kind, _ = media_type(content_type or JSON)
    if kind == PROTOBUF:
        return protobuf.decode(body)
    if kind in (JSON, MERGE_PATCH, JSON_PATCH, STRATEGIC_PATCH, "application/octet-stream"):
        try:
            return _JSON_DECODER.decode(body)
        except msgspec.DecodeError as error:
            raise BadRequest(f"the object provided is unrecognized (must be of type JSON): {error}") from error
    if kind == YAML:
        try:
            # JSON between the two turns YAML's dates into strings and refuses what JSON cannot say.
            return _JSON_DECODER.decode(encode(yaml.load(body, Loader=_TextLoader)))
        except (yaml.YAMLError, TypeError, ValueError) as error:
            raise BadRequest(f"error converting YAML to JSON: {error}") from error
    raise UnsupportedMediaType(
        f"the body of the request was in an unknown format - accepted media types include: {JSON}, {YAML}, {PROTOBUF}"
    )


class _TextLoader(yaml.CSafeLoader):
    """Safe YAML that leaves timestamps as the strings they were written as."""


_TextLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def compress(body: bytes, accept_encoding: str) -> bytes | None:
    """``body`` in gzip, or None where it is too small or the client does not take it."""
    if len(body) < GZIP_FROM or "gzip" not in accept_encoding:
        return None
    compressor = zlib.compressobj(1, zlib.DEFLATED, 31)
    return compressor.compress(body) + compressor.flush()


def dump(value: Mapping[str, Any], representation: Representation) -> bytes:
    if representation.yaml:
        return yaml.dump(value, Dumper=yaml.CSafeDumper, sort_keys=False).encode()
    return encode(value)


def render_object(kind: Kind, obj: Object, representation: Representation, query: Query, now: datetime) -> bytes:
    """A decoded object as the client wants it."""
    if representation.shape == "table":
        return dump(tabulate(kind, [obj], representation, query, now), representation)
    if representation.shape == "metadata":
        return dump(_partial(obj, representation), representation)
    return dump(obj, representation)


def render_record(kind: Kind, record: Record, representation: Representation, query: Query, now: datetime) -> bytes:
    """A stored object as the client wants it, straight from its bytes where possible."""
    if representation == PLAIN:
        return kind.wire(record)
    return render_object(kind, kind.read(record), representation, query, now)


def render_list(
    kind: Kind,
    records: list[Record],
    metadata: Mapping[str, Any],
    representation: Representation,
    query: Query,
    now: datetime,
) -> bytes:
    if representation == PLAIN:
        head = encode({"kind": kind.info.list_kind, "apiVersion": kind.info.api_version, "metadata": metadata})
        return b"".join((head[:-1], b',"items":[', b",".join(map(kind.item, records)), b"]}"))
    objects = [kind.read(record) for record in records]
    if representation.shape == "table":
        value = tabulate(kind, objects, representation, query, now)
        value["metadata"] = metadata
        return dump(value, representation)
    if representation.shape == "metadata":
        partial = f"meta.k8s.io/{representation.version}"
        items = [_partial(obj, representation) for obj in objects]
        return dump(
            {"kind": "PartialObjectMetadataList", "apiVersion": partial, "metadata": metadata, "items": items},
            representation,
        )
    return dump(
        {"kind": kind.info.list_kind, "apiVersion": kind.info.api_version, "metadata": metadata, "items": objects},
        representation,
    )


def watch_renderer(
    kind: Kind, representation: Representation, query: Query, clock: Callable[[], datetime]
) -> Callable[[str, Record], bytes]:
    """The function that makes one line of a watch from an event's type and record.

    Only the first line of a table watch carries the column definitions.
    """
    if representation.shape == "object":
        return lambda event, record: b"".join((b'{"type":"', event.encode(), b'","object":', kind.wire(record), b"}\n"))
    first = True

    def render(event: str, record: Record) -> bytes:
        nonlocal first
        obj = kind.read(record)
        if representation.shape == "table" and event == "BOOKMARK":
            value: dict[str, Any] = {
                "kind": "Table",
                "apiVersion": f"meta.k8s.io/{representation.version}",
                "metadata": {"resourceVersion": obj["metadata"]["resourceVersion"]},
                "columnDefinitions": None,
                "rows": [{"cells": [], "object": _partial(obj, representation)}],
            }
        elif representation.shape == "table":
            value = tabulate(kind, [obj], representation, query, clock(), with_columns=first)
            first = False
        else:
            value = _partial(obj, representation)
        return encode({"type": event, "object": value}) + b"\n"

    return render


def tabulate(
    kind: Kind,
    objects: list[Object],
    representation: Representation,
    query: Query,
    now: datetime,
    *,
    with_columns: bool = True,
) -> dict[str, Any]:
    include = query.text("includeObject") or "Metadata"
    if include not in ("None", "Metadata", "Object"):
        raise BadRequest(f'unknown includeObject: Invalid value: "{include}": must be one of None, Metadata, Object')
    value = table(
        kind.info,
        objects,
        columns=kind.columns,
        now=now,
        include_object=cast("IncludeObject", include),
        api_version=f"meta.k8s.io/{representation.version}",
        with_columns=with_columns,
    )
    if len(objects) == 1:
        value["metadata"] = {"resourceVersion": objects[0]["metadata"].get("resourceVersion", "")}
    return value


def _partial(obj: Object, representation: Representation) -> Object:
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": f"meta.k8s.io/{representation.version}",
        "metadata": obj["metadata"],
    }
