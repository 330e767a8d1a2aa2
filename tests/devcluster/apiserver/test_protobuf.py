from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaito.devcluster.apiserver.protobuf import MAGIC, decode
from kaito.runtime import BadRequest, UnsupportedMediaType

CREATIONS = [
    "namespace demo",
    "configmap settings --from-literal=a=b --from-literal=empty=",
    "secret generic token --from-literal=a=b --type=example.com/token",
    "secret docker-registry pull --docker-username=u --docker-password=p",
    "serviceaccount bot",
    "role reader --verb=get,list --resource=pods --resource-name=web",
    "clusterrole health --verb=get --non-resource-url=/healthz",
    "clusterrole sum --aggregation-rule=a=b",
    "rolebinding grant --role=reader --serviceaccount=demo:bot --user=jane",
    "clusterrolebinding grant --clusterrole=reader --group=staff",
    "quota limit --hard=cpu=1,pods=2 --scopes=BestEffort",
    "pdb keep --selector=a=b --min-available=50%",
    "pdb keep --selector=a=b --min-available=0",
    "priorityclass high --value=1000 --description=first",
    "priorityclass low --value=0",
    "priorityclass lower --value=-5",
    "ingress front --rule=a.example/bar=web:8080,tls=cert --class=nginx",
    "ingress front --default-backend=web:http",
    "service clusterip web --tcp=80:8080",
    "service nodeport web --tcp=80:http --node-port=30000",
    "service clusterip headless --clusterip=None",
    "service externalname out --external-name=example.com",
]


def _meaning(value: Any) -> Any:
    """JSON without what stands for nothing, which Go writes and the decoder leaves out."""
    if isinstance(value, dict):
        return {
            key: kept for key, item in value.items() if key != "status" and (kept := _meaning(item)) not in (None, {})
        }
    return [_meaning(item) for item in value] if isinstance(value, list) else value


def test_what_kubectl_creates_is_what_its_dry_run_prints(recorder: Any) -> None:
    for command in CREATIONS:
        recorder.requests.clear()
        recorder.run("create", *command.split())
        sent = next(item for item in recorder.requests if item.method == "POST")
        assert sent.content_type == "application/vnd.kubernetes.protobuf", command
        printed = recorder.run("create", *command.split(), "--dry-run=client", "-o", "json")
        assert _meaning(decode(sent.body)) == _meaning(json.loads(printed.stdout)), command


@pytest.mark.parametrize(
    ("command", "spec"),
    [
        (
            "auth can-i delete deployments.apps/web -n demo --subresource=scale",
            None,
        ),
        ("auth can-i get /healthz", {"nonResourceAttributes": {"path": "/healthz", "verb": "get"}}),
        ("auth can-i --list -n demo", {"namespace": "demo"}),
        ("create token bot --duration=10m --audience=x", {"audiences": ["x"], "expirationSeconds": 600}),
    ],
)
def test_reviews_and_tokens(recorder: Any, command: str, spec: dict[str, Any] | None) -> None:
    recorder.run(*command.split())
    decoded = decode(recorder.requests[-1].body)
    if spec is None:
        attributes = decoded["spec"]["resourceAttributes"]
        assert (attributes["verb"], attributes["namespace"], attributes["subresource"]) == ("delete", "demo", "scale")
    else:
        assert decoded["spec"] == spec


def test_a_kind_outside_the_table_is_refused_with_the_way_around(recorder: Any) -> None:
    recorder.run("create", "job", "once", "--image=busybox")
    with pytest.raises(UnsupportedMediaType, match=r"Job in batch/v1 .*--dry-run=client -o yaml \| kubectl apply -f -"):
        decode(recorder.requests[-1].body)


def _field(number: int, payload: bytes) -> bytes:
    return bytes([number << 3 | 2, len(payload)]) + payload


def _envelope(api_version: str, kind: str, raw: bytes) -> bytes:
    meta = _field(1, api_version.encode()) + _field(2, kind.encode())
    return MAGIC + _field(1, meta) + _field(2, raw)


def test_delete_options_of_an_eviction() -> None:
    options = bytes([1 << 3, 30]) + _field(2, _field(1, b"u-1")) + _field(4, b"Background") + _field(5, b"All")
    raw = _field(1, _field(1, b"web") + _field(3, b"demo")) + _field(2, options)
    assert decode(_envelope("policy/v1", "Eviction", raw)) == {
        "kind": "Eviction",
        "apiVersion": "policy/v1",
        "metadata": {"name": "web", "namespace": "demo"},
        "deleteOptions": {
            "gracePeriodSeconds": 30,
            "preconditions": {"uid": "u-1"},
            "propagationPolicy": "Background",
            "dryRun": ["All"],
        },
    }


def test_a_pointer_keeps_its_zero_and_a_time_is_rfc_3339() -> None:
    meta = _field(1, b"c") + _field(8, b"\x08\x80\xa3\x05")
    decoded = decode(_envelope("v1", "ConfigMap", _field(1, meta) + bytes([4 << 3, 0])))
    assert decoded["immutable"] is False
    assert decoded["metadata"] == {"name": "c", "creationTimestamp": "1970-01-02T00:00:00Z"}


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"k8s\x00\xff", b"k8s\x00\x0a\x7f", _envelope("v1", "Secret", b"\x08\x01")]
)
def test_malformed_bodies_are_bad_requests(body: bytes) -> None:
    with pytest.raises(BadRequest):
        decode(body)


@given(st.sampled_from(["Service", "Secret", "Namespace"]), st.binary(max_size=100))
def test_no_bytes_crash_the_decoder(kind: str, raw: bytes) -> None:
    with contextlib.suppress(BadRequest):
        assert decode(_envelope("v1", kind, raw))["kind"] == kind
