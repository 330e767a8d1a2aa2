"""Objects as bytes: what is kept, what is cut out, what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaito.runtime import PODS, DecodeError, Key, Stored
from kaito.runtime.objects.stored import revision
from kaito.runtime.objects.transforms import cut_field
from kaito.runtime.transport.lines import LineSplitter

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def pod(name: str = "a", **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "n", "uid": f"uid-{name}", "resourceVersion": "1", **metadata},
    }


def encode(document: Any, *, compact: bool = True) -> bytes:
    return json.dumps(document, separators=(",", ":") if compact else None, ensure_ascii=False).encode()


@given(
    before=st.dictionaries(
        st.sampled_from(["labels", "annotations"]), st.just({"a": '"managedFields":[1]'}), max_size=2
    ),
    managed=st.lists(json_values, max_size=3),
    after=st.booleans(),
    spec=json_values,
    compact=st.booleans(),
)
def test_only_managed_fields_are_cut(before: Any, managed: Any, after: bool, spec: Any, compact: bool) -> None:
    metadata = {"name": "a", **before, "managedFields": managed}
    if after:
        metadata["uid"] = "u"
    document = {"kind": "Pod", "metadata": metadata, "spec": spec}
    left = json.loads(cut_field(encode(document, compact=compact), "metadata.managedFields"))
    del document["metadata"]["managedFields"]
    assert left == document


def test_a_nested_key_of_the_same_name_is_left_alone() -> None:
    document = {"metadata": {"name": "a"}, "spec": {"template": {"metadata": {"managedFields": [1]}}}}
    assert json.loads(cut_field(encode(document), "metadata.managedFields")) == document
    document["metadata"]["managedFields"] = [1]
    assert "managedFields" not in json.loads(cut_field(encode(document), "metadata.managedFields"))["metadata"]
    assert json.loads(cut_field(encode(document), "metadata.managedFields"))["spec"] == document["spec"]


def test_an_item_of_a_list_gets_its_kind_back() -> None:
    body = pod()
    del body["apiVersion"], body["kind"]
    decoded = Stored(PODS, encode(body)).decode()
    assert (decoded["apiVersion"], decoded["kind"]) == ("v1", "Pod")


def test_every_read_is_a_value_of_its_own() -> None:
    stored = Stored(PODS, encode(pod(labels={"a": "b"})))
    first = stored.decode()
    first["metadata"]["labels"]["a"] = "changed"
    assert stored.decode()["metadata"]["labels"] == {"a": "b"}
    assert stored.labels == {"a": "b"}
    assert stored.key == Key("n", "a")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"not json",
        b'{"metadata":{}}',
        b'{"kind":"Table","metadata":{"name":"a"}}',
        b'{"metadata":{"name":5}}',
    ],
)
def test_what_is_not_the_object_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        Stored(PODS, data)


def test_large_integers_survive() -> None:
    body = pod() | {"spec": {"big": 2**63 - 1, "bigger": 2**64 - 1, "one": 1, "float": 1.0}}
    spec = Stored(PODS, encode(body)).decode()["spec"]
    assert spec == body["spec"]
    assert isinstance(spec["one"], int)
    assert isinstance(spec["float"], float)


@pytest.mark.parametrize(("text", "number"), [("12", 12), ("0", 0), ("", -1), ("a1", -1), ("-3", -1), ("٣", -1)])
def test_revisions_compare_as_integers_or_not_at_all(text: str, number: int) -> None:
    assert revision(text) == number


@given(
    lines=st.lists(st.binary(min_size=1, max_size=20).filter(lambda line: b"\n" not in line), max_size=8),
    data=st.data(),
)
def test_lines_come_out_whole_however_they_are_cut(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    splitter = LineSplitter()
    out: list[bytes] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        out += splitter.feed(stream[:size])
        stream = stream[size:]
    assert out == lines
    assert splitter.pending == 0


def test_a_line_without_end_is_refused() -> None:
    splitter = LineSplitter(limit=100)
    splitter.feed(b"x" * 100)
    with pytest.raises(DecodeError, match="more than 100 bytes"):
        splitter.feed(b"x")


def test_a_five_megabyte_line_passes() -> None:
    line = b'"' + b"x" * 5_000_000 + b'"'
    splitter = LineSplitter()
    out = [whole for start in range(0, len(line), 65536) for whole in splitter.feed(line[start : start + 65536])]
    assert out == []
    assert splitter.feed(b"\n") == [line]
