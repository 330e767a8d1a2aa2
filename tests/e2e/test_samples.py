"""`kubectl apply -f config/samples/`, as the documentation says it, with admission turned on."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from support.cluster import NAMESPACE, DevCluster, dev_cluster, until

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "config" / "samples"
PHI3 = SAMPLES / "workspace-phi-3-mini.inference.yaml"
SERVICE = "kaito-webhook-service"
WAITS_FOR_VOLUMES = "workspace-phi-3-mini-volumes"
"""Its PersistentVolumeClaims are the user's to make."""


@pytest.fixture
def judged(tmp_path: Path) -> Iterator[DevCluster]:
    """A local cluster of its own, whose API server asks the operator about every Workspace."""
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    outside = [os.path.relpath(ROOT / "config" / part, overlay) for part in ("overlays/local", "components/webhook")]
    no_pods = yaml.safe_dump([{"op": "remove", "path": "/spec/selector"}])
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": outside[:1],
        "components": outside[1:],
        "patches": [{"patch": no_pods, "target": {"kind": "Service", "name": SERVICE}}],
    }
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    endpoints = {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": SERVICE, "namespace": NAMESPACE},
        "subsets": [{"addresses": [{"ip": "127.0.0.1"}], "ports": [{"name": "https", "port": port}]}],
    }
    with dev_cluster(tmp_path) as cluster:
        cluster.install(overlay)
        cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(endpoints))
        with cluster.operator(tmp_path, flags=["--webhook", f"--webhook-port={port}"]) as operator:
            operator.wait_ready()
            trial = ("apply", "--dry-run=server", "-f", str(PHI3))
            until(lambda: cluster.kubectl.run(*trial).returncode == 0, "the API server trusts the webhook")
            yield cluster


def test_the_samples_apply_as_a_whole(judged: DevCluster) -> None:
    kubectl = judged.kubectl
    documents = [each for path in SAMPLES.glob("*.yaml") for each in yaml.safe_load_all(path.read_text())]
    names = {each["metadata"]["name"] for each in documents if each["kind"] == "Workspace"}
    done = kubectl.run("apply", "-f", f"{SAMPLES}{os.sep}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count(" created\n") == len(documents)
    assert {item["metadata"]["name"] for item in kubectl.json("get", "workspaces")["items"]} == names

    small = yaml.safe_load(PHI3.read_text())
    small["metadata"]["name"] = "small"
    small["resource"]["instanceType"] = "Standard_NV6"
    refused = kubectl.fails("apply", "-f", "-", stdin=yaml.safe_dump(small))
    assert "has 8Gi of GPU memory; preset phi-3-mini-4k-instruct needs 9Gi" in refused

    kubectl("wait", "workspace", "--all", "--for=condition=ResourceReady", "--timeout=60s", timeout=90)
    ready = [f"workspace/{name}" for name in names - {WAITS_FOR_VOLUMES}]
    kubectl("wait", *ready, "--for=condition=WorkspaceSucceeded", "--timeout=60s", timeout=90)

    def waits_for_claims() -> bool:
        status = kubectl.json("get", "workspace", WAITS_FOR_VOLUMES)["status"]
        return any('persistentvolumeclaim "adapters" not found' in each["message"] for each in status["conditions"])

    until(waits_for_claims, "the one without volumes says so")
    assert kubectl("apply", "-f", f"{SAMPLES}{os.sep}").count(" unchanged\n") == len(documents)
