from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from kaito.api.machine import Machine
from kaito.api.meta import LabelSelector
from kaito.api.resources import MACHINES, WORKSPACES
from kaito.api.workspace import Workspace

SAMPLES = sorted((Path(__file__).parents[2] / "config" / "samples").glob("*.yaml"))


def encoded(manifest: dict[str, Any]) -> bytes:
    return json.dumps(manifest).encode()


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.name)
def test_samples_survive_decoding_and_encoding(sample: Path) -> None:
    for manifest in yaml.safe_load_all(sample.read_text()):
        if manifest["kind"] == "Workspace":
            assert json.loads(WORKSPACES.encode(WORKSPACES.decode(encoded(manifest)))) == manifest


def test_unknown_and_null_fields_survive() -> None:
    manifest = {
        "apiVersion": "kaito.sh/v1alpha1",
        "kind": "Workspace",
        "metadata": {
            "name": "w",
            "namespace": "default",
            "managedFields": [{"manager": "kubectl"}],
            "selfLink": "/x",
            "labels": {"a": "b"},
        },
        "resource": {"labelSelector": {}, "accelerator": {"kind": "H100"}},
        "inference": {"template": {"metadata": {"creationTimestamp": None}, "spec": {"containers": []}}},
        "status": {"targetNodeCount": 2, "conditions": [{"type": "A", "status": "True", "extra": 1}]},
        "extension": [1, 2],
    }
    assert json.loads(WORKSPACES.encode(WORKSPACES.decode(encoded(manifest)))) == manifest


def test_a_machine_survives_and_reads_in_the_fields_own_names() -> None:
    manifest = {
        "apiVersion": "karpenter.sh/v1alpha5",
        "kind": "Machine",
        "metadata": {"name": "ws012345678"},
        "spec": {
            "requirements": [{"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["A", "B"]}],
            "resources": {"requests": {"storage": "50Gi", "nvidia.com/gpu": 1}},
            "kubelet": {"clusterDNS": ["10.0.0.10"], "cpuCFSQuota": True, "imageGCHighThresholdPercent": 80},
        },
        "status": {"providerID": "azure:///x", "nodeName": "n", "conditions": [{"type": "Ready", "status": "True"}]},
    }
    machine = MACHINES.decode(encoded(manifest))
    assert machine.status.provider_id == "azure:///x"
    assert machine.spec.requirement("node.kubernetes.io/instance-type") == ("A", "B")
    assert machine.spec.requirement("other") == ()
    assert machine.spec.resources is not None
    assert str(machine.spec.resources.request("storage")) == "50Gi"
    assert machine.spec.resources.request("memory") is None
    assert machine.spec.kubelet is not None
    assert machine.spec.kubelet.cluster_dns == ("10.0.0.10",)
    assert json.loads(MACHINES.encode(machine)) == manifest


def test_objects_made_in_code_name_their_kind() -> None:
    assert json.loads(WORKSPACES.encode(Workspace())) == {"apiVersion": "kaito.sh/v1beta1", "kind": "Workspace"}
    assert Machine().to_manifest() == {"apiVersion": "karpenter.sh/v1alpha5", "kind": "Machine"}


def test_models_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValidationError):
        Workspace().resource.count = 2


def test_bytes_that_are_no_workspace_are_refused() -> None:
    with pytest.raises(ValueError, match="resource"):
        WORKSPACES.decode(b'{"apiVersion":"kaito.sh/v1alpha1","kind":"Workspace","resource":3}')


def test_labels_for_new_nodes() -> None:
    selector = LabelSelector.model_validate(
        {
            "matchLabels": {"app": "x"},
            "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["gold"]},
                {"key": "zone", "operator": "Exists"},
            ],
        }
    )
    assert selector.as_labels() == {"app": "x", "tier": "gold"}
