from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaito.api.workspace import Workspace
from kaito.controllers.workspace.manifests.deployment import (
    build_preset_deployment,
    build_template_deployment,
    launch_command,
    node_affinity,
)
from kaito.controllers.workspace.manifests.machine import build_machine, machine_name
from kaito.controllers.workspace.manifests.ownership import difference, present
from kaito.controllers.workspace.manifests.revision import build_revision, specification_hash
from kaito.controllers.workspace.manifests.service import build_service
from kaito.models import Catalogue

CATALOGUE = Catalogue.default()
OWNER = {
    "apiVersion": "kaito.sh/v1alpha1",
    "kind": "Workspace",
    "name": "workspace-phi-3-mini",
    "uid": "11111111-2222-3333-4444-555555555555",
    "controller": True,
    "blockOwnerDeletion": True,
}
PHI_3_COMMAND = (
    "accelerate launch --gpu_ids=all --machine_rank=0 --num_machines=1 --num_processes=1 "
    "inference_api.py --pipeline=text-generation --torch_dtype=auto --trust_remote_code"
)


def preset_deployment(manifest: dict[str, Any], **options: Any) -> dict[str, Any]:
    workspace = Workspace.model_validate(manifest)
    assert workspace.inference is not None
    spec = workspace.inference.preset
    assert spec is not None
    preset = CATALOGUE.preset(spec.name)
    assert preset is not None
    settings = {"registry": "mcr.microsoft.com/aks/kaito", "gpus": 1, "revision": 1} | options
    return present(build_preset_deployment(workspace, spec, preset, **settings))


def test_the_deployment_of_the_phi_3_sample(sample: dict[str, Any]) -> None:
    assert preset_deployment(sample) == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "workspace-phi-3-mini",
            "namespace": "default",
            "annotations": {"workspace.kaito.io/revision": "1"},
            "ownerReferences": [OWNER],
        },
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"kaito.sh/workspace": "workspace-phi-3-mini"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "progressDeadlineSeconds": 1800,
            "template": {
                "metadata": {"labels": {"kaito.sh/workspace": "workspace-phi-3-mini"}},
                "spec": {
                    "affinity": {
                        "nodeAffinity": {
                            "requiredDuringSchedulingIgnoredDuringExecution": {
                                "nodeSelectorTerms": [
                                    {"matchExpressions": [{"key": "apps", "operator": "In", "values": ["phi-3"]}]}
                                ]
                            }
                        }
                    },
                    "containers": [
                        {
                            "name": "workspace-phi-3-mini",
                            "image": "mcr.microsoft.com/aks/kaito/kaito-phi-3-mini-4k-instruct:0.0.2",
                            "command": [
                                "/bin/sh",
                                "-c",
                                PHI_3_COMMAND,
                            ],
                            "resources": {"requests": {"nvidia.com/gpu": "1"}, "limits": {"nvidia.com/gpu": "1"}},
                            "ports": [{"containerPort": 5000}],
                            "livenessProbe": {
                                "httpGet": {"path": "/healthz", "port": 5000},
                                "initialDelaySeconds": 600,
                                "periodSeconds": 10,
                            },
                            "readinessProbe": {
                                "httpGet": {"path": "/healthz", "port": 5000},
                                "initialDelaySeconds": 30,
                                "periodSeconds": 10,
                            },
                        }
                    ],
                    "tolerations": [
                        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
                        {"key": "sku", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"},
                    ],
                },
            },
        },
    }


def test_adapters_and_shared_memory(sample: dict[str, Any]) -> None:
    sample["resource"]["count"] = 2
    sample["inference"]["preset"] |= {
        "accessMode": "private",
        "presetOptions": {"image": "r.io/mine:1", "imagePullSecrets": ["a", "b"]},
    }
    sample["inference"]["adapters"] = [
        {"source": {"name": "one", "image": "r.io/one:1", "imagePullSecrets": ["b", "c"]}, "strength": "0.5"},
        {"source": {"name": "two", "image": "r.io/two:1"}},
    ]
    pod = preset_deployment(sample)["spec"]["template"]["spec"]
    mounts = [{"name": "dshm", "mountPath": "/dev/shm"}, {"name": "adapter-volume", "mountPath": "/mnt/adapter"}]
    assert pod["imagePullSecrets"] == [{"name": "a"}, {"name": "b"}, {"name": "c"}]
    assert pod["volumes"] == [
        {"name": "dshm", "emptyDir": {"medium": "Memory"}},
        {"name": "adapter-volume", "emptyDir": {}},
    ]
    (container,) = pod["containers"]
    assert container["image"] == "r.io/mine:1"
    assert container["env"] == [{"name": "one", "value": "0.5"}, {"name": "two", "value": "1.0"}]
    assert container["volumeMounts"] == mounts
    assert pod["initContainers"][0] == {
        "name": "one",
        "image": "r.io/one:1",
        "imagePullPolicy": "Always",
        "command": ["/bin/sh", "-c", "mkdir -p /mnt/adapter/one && cp -r /data/. /mnt/adapter/one"],
        "volumeMounts": mounts,
    }


def test_torchrun_presets_have_rendezvous_flags() -> None:
    preset = CATALOGUE.preset("llama-2-7b")
    assert preset is not None
    assert launch_command(preset) == (
        "cd /workspace/llama/llama-2 && torchrun --master_addr=localhost --master_port=29500 --nnodes=1 --node_rank=0 "
        "--nproc_per_node=1 --max_restarts=3 --rdzv_backend=c10d --rdzv_endpoint=localhost:29500 --rdzv_id=rdzv_id "
        "inference_api.py --max_batch_size=8 --max_seq_len=512"
    )


def test_no_selector_is_no_affinity(sample: dict[str, Any]) -> None:
    sample["resource"]["labelSelector"] = {}
    assert node_affinity(Workspace.model_validate(sample)) is None
    assert "affinity" not in preset_deployment(sample)["spec"]["template"]["spec"]


def test_expressions_reach_the_affinity(sample: dict[str, Any]) -> None:
    sample["resource"]["labelSelector"]["matchExpressions"] = [{"key": "tier", "operator": "In", "values": ["gold"]}]
    affinity = node_affinity(Workspace.model_validate(sample))
    assert affinity is not None
    (term,) = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert [expression["key"] for expression in term["matchExpressions"]] == ["apps", "tier"]


def test_a_template_keeps_what_is_its_own(sample: dict[str, Any]) -> None:
    template = {
        "metadata": {"labels": {"app": "mine"}},
        "spec": {"containers": [{"name": "c"}], "tolerations": [{"key": "x"}], "affinity": {"podAffinity": {}}},
    }
    workspace = Workspace.model_validate(sample)
    built = build_template_deployment(workspace, template, revision=3)["spec"]["template"]
    assert built["metadata"]["labels"] == {"app": "mine", "kaito.sh/workspace": "workspace-phi-3-mini"}
    assert [item["key"] for item in built["spec"]["tolerations"]] == ["x", "nvidia.com/gpu", "sku"]
    assert built["spec"]["affinity"] == node_affinity(workspace)
    assert template["spec"] == {
        "containers": [{"name": "c"}],
        "tolerations": [{"key": "x"}],
        "affinity": {"podAffinity": {}},
    }


@pytest.mark.parametrize(
    ("annotation", "type_"),
    [(None, "ClusterIP"), ("True", "LoadBalancer"), ("true", "LoadBalancer"), ("no", "ClusterIP")],
)
def test_the_service(sample: dict[str, Any], annotation: str | None, type_: str) -> None:
    if annotation:
        sample["metadata"]["annotations"] = {"kaito.sh/enablelb": annotation}
    service = build_service(Workspace.model_validate(sample))
    assert service["metadata"]["ownerReferences"] == [OWNER]
    assert service["spec"] == {
        "type": type_,
        "ports": [
            {"name": "http", "protocol": "TCP", "port": 80, "targetPort": 5000},
            {"name": "torch", "protocol": "TCP", "port": 29500, "targetPort": 29500},
        ],
        "selector": {"kaito.sh/workspace": "workspace-phi-3-mini"},
        "publishNotReadyAddresses": True,
    }


def test_the_machine(sample: dict[str, Any]) -> None:
    workspace = Workspace.model_validate(sample)
    name = machine_name(workspace, 0)
    assert build_machine(workspace, name, "50Gi").to_manifest() == {
        "apiVersion": "karpenter.sh/v1alpha5",
        "kind": "Machine",
        "metadata": {
            "name": name,
            "labels": {
                "apps": "phi-3",
                "karpenter.sh/provisioner-name": "default",
                "kaito.sh/workspace": "workspace-phi-3-mini",
                "kaito.sh/workspacenamespace": "default",
            },
        },
        "spec": {
            "machineTemplateRef": {"name": name},
            "requirements": [
                {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["Standard_NC6s_v3"]},
                {"key": "karpenter.sh/provisioner-name", "operator": "In", "values": ["default"]},
                {"key": "kaito.sh/machine-type", "operator": "In", "values": ["gpu"]},
                {"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"]},
                {"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]},
            ],
            "resources": {"requests": {"storage": "50Gi"}},
            "taints": [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}],
        },
    }


def test_machine_names_are_pool_names_and_depend_on_the_uid_alone(sample: dict[str, Any]) -> None:
    workspace = Workspace.model_validate(sample)
    names = {machine_name(workspace, index) for index in range(50)}
    assert len(names) == 50
    assert all(len(name) == 11 and name.startswith("ws") and name.isalnum() for name in names)
    sample["metadata"]["labels"] = {"x": "y"}
    assert machine_name(Workspace.model_validate(sample), 0) in names
    sample["metadata"]["uid"] = "another"
    assert machine_name(Workspace.model_validate(sample), 0) not in names


def test_the_hash_knows_the_specification_and_nothing_else(sample: dict[str, Any]) -> None:
    before = specification_hash(Workspace.model_validate(sample))
    sample["metadata"]["labels"] = {"x": "y"}
    sample["status"] = {"workerNodes": ["n"]}
    assert specification_hash(Workspace.model_validate(sample)) == before
    sample["resource"]["preferredNodes"] = ["n"]
    assert specification_hash(Workspace.model_validate(sample)) != before


def test_the_revision(sample: dict[str, Any]) -> None:
    workspace = Workspace.model_validate(sample)
    revision = build_revision(workspace, "workspace-phi-3-mini-abcde", "abcdef", 3)
    assert revision["revision"] == 3
    assert revision["metadata"]["labels"] == {"workspace.kaito.io/name": "workspace-phi-3-mini"}
    assert revision["metadata"]["annotations"] == {"workspace.kaito.io/hash": "abcdef"}
    assert revision["data"] == {"inference": sample["inference"], "resource": sample["resource"], "tuning": None}


@pytest.mark.parametrize(
    ("desired", "live", "patch"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, {}),
        ({"a": 1}, {}, {"a": 1}),
        ({"a": {"b": 1}}, {"a": {"b": 2, "c": 3}}, {"a": {"b": 1}}),
        ({"a": None}, {"a": [1]}, {"a": None}),
        ({"a": None}, {"a": []}, {}),
        ({"a": None}, {}, {}),
        ({"a": [{"n": 1}]}, {"a": [{"n": 1, "defaulted": True}]}, {}),
        ({"a": [{"n": 1}]}, {"a": [{"n": 1}, {"n": 2}]}, {"a": [{"n": 1}]}),
        ({"a": [{"n": 1, "gone": None}]}, {"a": [{"n": 1, "gone": [1]}]}, {"a": [{"n": 1}]}),
        ({"a": {}}, {}, {"a": {}}),
        ({"a": "1"}, {"a": 1}, {"a": "1"}),
    ],
)
def test_difference(desired: dict[str, Any], live: dict[str, Any], patch: dict[str, Any]) -> None:
    assert difference(desired, live) == patch


_SCALARS = st.one_of(st.booleans(), st.integers(0, 3), st.sampled_from(["", "x"]))
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abc"), st.one_of(inner, st.none()), max_size=3)
    ),
    max_leaves=8,
)
_OBJECTS = st.dictionaries(st.sampled_from("abc"), st.one_of(_VALUES, st.none()), max_size=3)


def _merged(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result


@given(_OBJECTS, _OBJECTS)
def test_after_the_patch_nothing_differs(desired: dict[str, Any], live: dict[str, Any]) -> None:
    live = present(live)
    assert difference(desired, _merged(live, difference(desired, live))) == {}


@given(_OBJECTS)
def test_what_was_created_does_not_differ(desired: dict[str, Any]) -> None:
    assert difference(desired, present(desired)) == {}
