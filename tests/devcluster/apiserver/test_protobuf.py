from __future__ import annotations

import contextlib
import json
import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaito.devcluster.apiserver.wire.protobuf import MAGIC, decode
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
    "deployment web --image=nginx --image=busybox --replicas=0",
    "deployment web --image=nginx --port=80 -- sleep 1",
    "job once --image=busybox -- date -u",
    "cronjob often --image=busybox --schedule='*/5 * * * *' --restart=Never",
]


def _meaning(value: Any) -> Any:
    """JSON without what stands for nothing, which Go writes and the decoder leaves out."""
    if isinstance(value, dict):
        return {
            key: kept for key, item in value.items() if key != "status" and (kept := _meaning(item)) not in (None, {})
        }
    return [_meaning(item) for item in value] if isinstance(value, list) else value


def test_what_kubectl_creates_is_what_its_dry_run_prints(recorder: Any) -> None:
    for command in map(shlex.split, CREATIONS):
        recorder.requests.clear()
        recorder.run("create", *command)
        sent = next(item for item in recorder.requests if item.method == "POST")
        assert sent.content_type == "application/vnd.kubernetes.protobuf", command
        printed = recorder.run("create", "--dry-run=client", "-o", "json", *command)
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


def test_a_kind_outside_the_table_is_refused_with_the_way_around() -> None:
    body = MAGIC + _field(1, _field(1, b"storage.k8s.io/v1") + _field(2, b"StorageClass"))
    with pytest.raises(UnsupportedMediaType, match=r"StorageClass in storage.k8s.io/v1 .*\| kubectl apply -f -"):
        decode(body)


JOB_TEMPLATE: dict[str, Any] = {
    "metadata": {"labels": {"a": "b"}},
    "spec": {
        "backoffLimit": 0,
        "suspend": False,
        "template": {
            "metadata": {"annotations": {"c": "d"}},
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": False,
                "terminationGracePeriodSeconds": 0,
                "securityContext": {"runAsUser": 0},
                "tolerations": [{"key": "sku", "operator": "Exists", "tolerationSeconds": 0}],
                "affinity": {
                    "nodeAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": {
                            "nodeSelectorTerms": [
                                {"matchExpressions": [{"key": "k", "operator": "In", "values": ["v", "w"]}]}
                            ]
                        }
                    }
                },
                "volumes": [
                    {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
                    {"name": "empty", "emptyDir": {}},
                    {"name": "settings", "configMap": {"name": "cm", "optional": False, "defaultMode": 256}},
                    {
                        "name": "all",
                        "projected": {"sources": [{"secret": {"name": "s", "items": [{"key": "k", "path": "p"}]}}]},
                    },
                    {"name": "claim", "persistentVolumeClaim": {"claimName": "c"}},
                ],
                "containers": [
                    {
                        "name": "main",
                        "image": "i",
                        "command": ["sh", "-c"],
                        "args": ["exit 0"],
                        "env": [
                            {"name": "A", "value": "1"},
                            {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": True}}},
                            {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                        ],
                        "ports": [{"containerPort": 80, "name": "http"}],
                        "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 3},
                        "livenessProbe": {"tcpSocket": {"port": 80}},
                        "resources": {"limits": {"nvidia.com/gpu": "1"}, "requests": {"cpu": "100m"}},
                        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm", "readOnly": True}],
                        "securityContext": {"privileged": False, "capabilities": {"drop": ["ALL"]}},
                    }
                ],
            },
        },
    },
}


def test_a_job_from_a_cronjob_has_all_of_its_template(recorder: Any) -> None:
    group = {"groupVersion": "batch/v1", "version": "v1"}
    groups = [{"name": "batch", "versions": [group], "preferredVersion": group}]
    recorder.serve("/apis", {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
    resources = [
        {"name": name, "kind": kind, "namespaced": True, "verbs": ["create", "get"], "singularName": ""}
        for name, kind in (("cronjobs", "CronJob"), ("jobs", "Job"))
    ]
    recorder.serve("/apis/batch/v1", {"kind": "APIResourceList", "groupVersion": "batch/v1", "resources": resources})
    cron = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "often", "namespace": "default", "uid": "u"},
        "spec": {"schedule": "* * * * *", "jobTemplate": JOB_TEMPLATE},
    }
    recorder.serve("/apis/batch/v1/namespaces/default/cronjobs/often", cron)
    recorder.run("create", "job", "once", "--from=cronjob/often")
    decoded = decode(recorder.requests[-1].body)
    assert decoded["spec"] == JOB_TEMPLATE["spec"]
    assert decoded["metadata"]["labels"] == {"a": "b"}
    (owner,) = decoded["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["controller"]) == ("CronJob", True)


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
