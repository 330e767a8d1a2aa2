from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kaito.api.workspace import Workspace
from kaito.controllers.workspace.manifests.job import STANDARD_CONFIGS, build_config, build_job
from kaito.controllers.workspace.manifests.order import build_machine, build_node_claim, order_name
from kaito.controllers.workspace.manifests.ownership import difference, differing, present
from kaito.controllers.workspace.manifests.pod import Rendering, affinity
from kaito.controllers.workspace.manifests.published import launch_command
from kaito.controllers.workspace.manifests.revision import build_revision, specification_hash
from kaito.controllers.workspace.manifests.service import build_headless_service, build_service
from kaito.controllers.workspace.manifests.workload import build_services, build_workload
from kaito.controllers.workspace.settings import images_of
from kaito.inference.adapters import discover
from kaito.inference.engines.vllm import plan
from kaito.inference.settings import parse
from kaito.models import Catalogue, Preset, choose
from kaito.tuning.main import parser

CATALOGUE = Catalogue.default()
SCRIPTS = {script.name: script for script in entry_points(group="console_scripts")}
OWNER = {
    "apiVersion": "kaito.sh/v1beta1",
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


REGISTRY = "mcr.microsoft.com/aks/kaito"
OWN_IMAGES = images_of("r.io/kaito-{engine}:1")
CLAIMED = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [
                {"matchExpressions": [{"key": "claim.kaito.sh/default.workspace-phi-3-mini", "operator": "Exists"}]}
            ]
        }
    }
}
TOLERATIONS = [
    {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
    {"key": "sku", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"},
    {"key": "kubernetes.azure.com/scalesetpriority", "operator": "Equal", "value": "spot", "effect": "NoSchedule"},
]


def preset(name: str) -> Preset:
    found = CATALOGUE.preset(name)
    assert found is not None
    return found


def workload(manifest: dict[str, Any], **options: Any) -> dict[str, Any]:
    """The workload of a preset, as the controller would render it on nodes of the instance type."""
    workspace = Workspace.model_validate(manifest)
    assert workspace.inference is not None
    spec = workspace.inference.preset
    assert spec is not None
    found, size = preset(spec.name), workspace.resource.instance_type
    sku = CATALOGUE.sku("azure", size)
    serving = choose(
        found,
        size,
        sku,
        count=workspace.resource.count,
        wanted=workspace.metadata.annotation("kaito.sh/runtime") or "",
        private=spec.access_mode == "private",
        own_image=True,
        adapters=bool(workspace.inference.adapters),
    )
    assert (serving.problem, serving.fit.problem) == ("", "")
    settings: dict[str, Any] = {
        "revision": 1,
        "registry": REGISTRY,
        "own_images": OWN_IMAGES,
        "preset": found,
        "serving": serving,
        "nodes": serving.fit.nodes,
        "gpus": sku.gpus if sku else 0,
        "capability": sku.capability if sku else 0.0,
    }
    return build_workload(workspace, Rendering(**(settings | options)))


def test_the_deployment_of_the_phi_3_sample(sample: dict[str, Any]) -> None:
    assert workload(sample) == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "workspace-phi-3-mini",
            "namespace": "default",
            "labels": {"kaito.sh/workspace": "workspace-phi-3-mini"},
            "annotations": {
                "workspace.kaito.io/revision": "1",
                "workspace.kaito.io/inputs": "revision=1 engine=published nodes=1 gpus=1",
            },
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
                    "affinity": CLAIMED,
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
                    "tolerations": TOLERATIONS,
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
    pod = workload(sample, own_images={})["spec"]["template"]["spec"]
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
        "volumeMounts": [mounts[1]],
    }


def test_adapters_are_pulled_by_kaitos_own_image_where_there_is_one(sample: dict[str, Any]) -> None:
    """Whose images need no shell."""
    source = {"name": "one", "image": "r.io/one:1", "imagePullSecrets": ["b"]}
    sample["inference"]["adapters"] = [{"source": source}]
    pod = workload(sample)["spec"]["template"]["spec"]
    (container,) = pod["initContainers"]
    assert (container["name"], container["image"]) == ("one", "r.io/kaito-tuning:1")
    assert [*container["command"], *container["args"]] == [
        "kaito",
        "oci",
        "pull",
        "r.io/one:1",
        "/mnt/adapter/one",
        "--config=/run/kaito/logins/0",
    ]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["login-0-one"]["secret"]["secretName"] == "b"
    assert {"name": "login-0-one", "mountPath": "/run/kaito/logins/0", "readOnly": True} in container["volumeMounts"]


def test_adapters_from_volumes_are_mounted(sample: dict[str, Any]) -> None:
    claim = {"persistentVolumeClaim": {"claimName": "adapters"}}
    sample["inference"]["adapters"] = [{"source": {"name": "one", "volumeSource": claim}, "strength": "0.5"}]
    pod = workload(sample)["spec"]["template"]["spec"]
    assert "initContainers" not in pod
    assert pod["volumes"] == [{"name": "adapter-0", **claim}]
    mount = {"name": "adapter-0", "mountPath": "/mnt/adapter/one", "readOnly": True}
    assert pod["containers"][0]["volumeMounts"] == [mount]


def test_torchrun_presets_have_rendezvous_flags(sample: dict[str, Any]) -> None:
    rendering = Rendering(revision=1, registry=REGISTRY)
    assert launch_command(Workspace.model_validate(sample), preset("llama-2-7b"), rendering) == (
        "cd /workspace/llama/llama-2 && torchrun --master_addr=localhost --master_port=29500 --nnodes=1 --node_rank=0 "
        "--nproc_per_node=1 --max_restarts=3 --rdzv_backend=c10d --rdzv_endpoint=localhost:29500 --rdzv_id=rdzv_id "
        "inference_api.py --max_batch_size=8 --max_seq_len=512"
    )


def test_a_distributed_preset_is_a_stateful_set_with_names_for_its_pods(sample: dict[str, Any]) -> None:
    sample["resource"] |= {"count": 2, "instanceType": "Standard_NC6s_v3"}
    private = {"name": "llama-2-13b-chat", "accessMode": "private", "presetOptions": {"image": "r.io/llama:1"}}
    sample["inference"] = {"preset": private, "adapters": [{"source": {"name": "one", "image": "r.io/one:1"}}]}
    built = workload(sample)
    assert built["kind"] == "StatefulSet"
    spec = built["spec"]
    assert (spec["replicas"], spec["podManagementPolicy"]) == (2, "Parallel")
    assert spec["serviceName"] == "workspace-phi-3-mini-headless"
    (container,) = spec["template"]["spec"]["containers"]
    first = "workspace-phi-3-mini-0.workspace-phi-3-mini-headless.default.svc.cluster.local"
    command = container["command"][2]
    for flag in (
        "--nnodes=2",
        "--nproc_per_node=1",
        "--node_rank=$(echo $HOSTNAME | grep -o '[^-]*$')",
        f"--master_addr={first}",
        f"--rdzv_endpoint={first}:29500",
        "--rdzv_id=job",
    ):
        assert flag in command
    assert [item["name"] for item in spec["template"]["spec"]["initContainers"]] == ["one"]
    assert container["env"] == [{"name": "one", "value": "1.0"}]
    # What one Workspace needs must not reach the next.
    assert "--nnodes=1 " in launch_command(
        Workspace.model_validate(sample), preset("llama-2-7b"), Rendering(revision=1, registry=REGISTRY)
    )


def test_services_of_a_model_that_is_spread(sample: dict[str, Any]) -> None:
    workspace = Workspace.model_validate(sample)
    sku = CATALOGUE.sku("azure", "Standard_NC6s_v3")
    serving = choose(preset("llama-2-13b"), "Standard_NC6s_v3", sku, count=2, private=True)
    rendering = Rendering(revision=1, registry=REGISTRY, serving=serving, nodes=2)
    front, headless = build_services(workspace, rendering)
    assert front["spec"]["selector"] == {
        "kaito.sh/workspace": "workspace-phi-3-mini",
        "statefulset.kubernetes.io/pod-name": "workspace-phi-3-mini-0",
    }
    assert headless == build_headless_service(workspace)
    assert (headless["metadata"]["name"], headless["spec"]["clusterIP"]) == ("workspace-phi-3-mini-headless", "None")


def test_kaitos_own_server(sample: dict[str, Any]) -> None:
    sample["resource"]["instanceType"] = "Standard_NC24ads_A100_v4"
    options = {"modelAccessSecret": "hub"}
    sample["inference"] = {
        "preset": {"name": "llama-3.3-70b-instruct", "presetOptions": options},
        "config": "mine",
    }
    built = workload(sample, config_hash="abc")
    assert (built["kind"], built["spec"]["replicas"]) == ("StatefulSet", 3)
    pod = built["spec"]["template"]
    assert pod["metadata"]["annotations"] == {"kaito.sh/config-hash": "abc"}
    (container,) = pod["spec"]["containers"]
    assert (container["image"], container["command"]) == ("r.io/kaito-vllm:1", ["kaito-inference"])
    first = "workspace-phi-3-mini-0.workspace-phi-3-mini-headless.default.svc.cluster.local"
    assert container["args"] == [
        "--config=/mnt/config/inference_config.yaml",
        "--distributed-executor-backend=ray",
        "--engine=vllm",
        "--model=meta-llama/Llama-3.3-70B-Instruct",
        "--pipeline-parallel-size=3",
        f"--ray-address={first}:6379",
        "--served-model-name=llama-3.3-70b-instruct",
        "--tensor-parallel-size=1",
    ]
    names = {variable["name"]: variable for variable in container["env"]}
    assert names["HF_TOKEN"]["valueFrom"] == {"secretKeyRef": {"name": "hub", "key": "HF_TOKEN"}}
    assert "POD_INDEX" in names
    assert container["startupProbe"]["failureThreshold"] == 327
    assert container["readinessProbe"]["httpGet"] == {"path": "/health", "port": 5000}
    assert {"name": "config-volume", "configMap": {"name": "mine"}} in pod["spec"]["volumes"]


@pytest.mark.parametrize(
    ("engine", "size", "name"),
    [
        ("openvino", "Standard_D8s_v5", "phi-3-mini-4k-instruct"),
        ("transformers", "Standard_D8s_v5", "phi-3-mini-4k-instruct"),
        ("transformers", "Standard_NC6s_v3", "phi-3-mini-4k-instruct"),
        ("vllm", "Standard_NC6s_v3", "phi-3-mini-4k-instruct"),
        ("vllm", "Standard_NC24ads_A100_v4", "llama-3.3-70b-instruct"),
    ],
)
def test_the_server_understands_what_it_is_started_with(
    sample: dict[str, Any], tmp_path: Path, engine: str, size: str, name: str
) -> None:
    sample["metadata"]["annotations"] = {"kaito.sh/runtime": engine}
    sample["resource"]["instanceType"] = size
    claim = {"persistentVolumeClaim": {"claimName": "adapters"}}
    adapters = [
        {"source": {"name": "image", "image": "r.io/one:1"}, "strength": "0.5"},
        {"source": {"name": "volume", "volumeSource": claim}},
    ]
    sample["inference"] = {"preset": {"name": name}, "config": "mine"}
    if engine != "openvino":
        sample["inference"]["adapters"] = adapters
    built = workload(sample)
    assert built["spec"]["template"]["metadata"]["labels"]["kaito.sh/runtime"] == engine, "its metrics are scraped"
    assert "kaito.sh/runtime" not in built["spec"]["selector"]["matchLabels"]
    pod = built["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert container["command"] == [SCRIPTS["kaito-inference"].name]
    (config,) = [word for word in container["args"] if word.startswith("--config=")]
    file = config.removeprefix("--config=")
    assert file == f"{mounts['config-volume']}/inference_config.yaml"
    mine = tmp_path / "inference_config.yaml"
    mine.write_text(yaml.safe_dump({engine: {"max_model_len": 1024}}))
    arguments = [word.replace(file, str(mine)) for word in container["args"]]
    environment = {item["name"]: item["value"] for item in container["env"] if "value" in item}

    settings = parse(arguments, environment)
    found = preset(name)
    model = found.facts.openvino if engine == "openvino" else found.model
    assert (settings.engine, settings.model, settings.name) == (engine, model, name)
    assert (settings.max_model_len, settings.port) == (1024, container["ports"][0]["containerPort"])
    if engine != "openvino":
        for adapter in ("image", "volume"):
            directory = tmp_path / "adapters" / adapter
            directory.mkdir(parents=True)
            (directory / "adapter_config.json").write_text("{}")
        strengths = {each.name: each.strength for each in discover(str(tmp_path / "adapters"), environment)}
        assert strengths == {"image": 0.5, "volume": 1.0}
        assert settings.adapters_dir == mounts["adapter-volume"]
        assert mounts["adapter-1"] == f"{settings.adapters_dir}/volume"

    if engine != "vllm":
        assert settings.extra == {}, "every flag is one of the server's own"
        assert settings.revision == (found.revision if engine == "transformers" else "")
        return
    nodes = built["spec"]["replicas"]
    assert settings.dtype == ("float16" if size == "Standard_NC6s_v3" else "auto")
    for index in range(nodes):
        launch = plan(settings, [name], (), environment | {"POD_INDEX": str(index)})
        assert "--tensor-parallel-size=1" in launch.command
        assert launch.nodes == (nodes if index == 0 else 1)
        assert bool(launch.worker) == (index > 0)
    assert (nodes > 1) == ("POD_INDEX" in {item["name"] for item in container["env"]})


def test_old_gpus_compute_in_half_precision(sample: dict[str, Any]) -> None:
    sample["metadata"]["annotations"] = {"kaito.sh/runtime": "vllm"}
    (container,) = workload(sample)["spec"]["template"]["spec"]["containers"]
    assert "--dtype=float16" in container["args"]


def test_without_gpus_the_model_runs_on_the_cpu(sample: dict[str, Any]) -> None:
    sample["resource"]["instanceType"] = "Standard_D8s_v5"
    (container,) = workload(sample)["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "r.io/kaito-openvino:1"
    assert container["args"] == [
        "--engine=openvino",
        "--model=OpenVINO/Phi-3-mini-4k-instruct-int4-ov",
        "--served-model-name=phi-3-mini-4k-instruct",
    ]
    assert "resources" not in container
    sample["inference"]["adapters"] = [{"source": {"name": "a", "image": "r.io/a:1"}}]
    (container,) = workload(sample)["spec"]["template"]["spec"]["containers"]
    assert "--engine=transformers" in container["args"]
    assert any(argument.startswith("--revision=") for argument in container["args"])


def test_a_configuration_changes_the_parameters_of_a_published_image(sample: dict[str, Any]) -> None:
    config = {"transformers": {"torch_dtype": "float16", "pipeline": "conversational", "note": "a b"}}
    command = launch_command(
        Workspace.model_validate(sample),
        preset("phi-3-mini-4k-instruct"),
        Rendering(revision=1, registry=REGISTRY, config=config),
    )
    assert command.endswith(
        "inference_api.py '--note=a b' --pipeline=conversational --torch_dtype=float16 --trust_remote_code"
    )


def template_of(manifest: dict[str, Any], template: dict[str, Any], **options: Any) -> dict[str, Any]:
    manifest["inference"] = {"template": template}
    rendering = Rendering(**({"revision": 3, "registry": REGISTRY} | options))
    built: dict[str, Any] = build_workload(Workspace.model_validate(manifest), rendering)["spec"]["template"]
    return built


def test_a_template_keeps_what_is_its_own(sample: dict[str, Any]) -> None:
    term = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["1"]}]}
    own = {
        "podAntiAffinity": {"x": 1},
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term, {}]}},
    }
    template = {
        "metadata": {"labels": {"app": "mine"}},
        "spec": {
            "containers": [{"name": "c", "livenessProbe": {"exec": {"command": ["true"]}}}],
            "tolerations": [{"key": "x"}, TOLERATIONS[1]],
            "affinity": own,
        },
    }
    built = template_of(sample, template)
    assert built["metadata"]["labels"] == {"app": "mine", "kaito.sh/workspace": "workspace-phi-3-mini"}
    assert [item["key"] for item in built["spec"]["tolerations"]] == [
        "x",
        "sku",
        "nvidia.com/gpu",
        "kubernetes.azure.com/scalesetpriority",
    ]
    assert built["spec"]["containers"] == template["spec"]["containers"]
    assert built["spec"]["affinity"]["podAntiAffinity"] == {"x": 1}
    combined = built["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    keys = [[item["key"] for item in entry["matchExpressions"]] for entry in combined["nodeSelectorTerms"]]
    claim = "claim.kaito.sh/default.workspace-phi-3-mini"
    assert keys == [["zone", claim], [claim]]


def test_the_affinity_says_the_claim_and_nothing_else(sample: dict[str, Any]) -> None:
    sample["resource"]["labelSelector"] = {}
    assert affinity(Workspace.model_validate(sample)) == CLAIMED


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
    name = order_name(workspace, 0)
    assert build_machine(workspace, name, "50Gi") == {
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


def test_the_node_claim(sample: dict[str, Any]) -> None:
    claim = build_node_claim(Workspace.model_validate(sample), "ws123456789", "50Gi")
    assert claim["apiVersion"] == "karpenter.sh/v1"
    assert claim["metadata"]["annotations"] == {"karpenter.sh/do-not-disrupt": "true"}
    assert claim["metadata"]["labels"] == {
        "apps": "phi-3",
        "karpenter.sh/nodepool": "kaito",
        "kaito.sh/workspace": "workspace-phi-3-mini",
        "kaito.sh/workspacenamespace": "default",
    }
    requirements = {item["key"]: item["values"] for item in claim["spec"]["requirements"]}
    assert requirements == {
        "karpenter.sh/nodepool": ["kaito"],
        "node.kubernetes.io/instance-type": ["Standard_NC6s_v3"],
        "kubernetes.io/os": ["linux"],
    }
    assert claim["spec"]["resources"] == {"requests": {"storage": "50Gi"}}


def test_machine_names_are_pool_names_and_depend_on_the_uid_alone(sample: dict[str, Any]) -> None:
    workspace = Workspace.model_validate(sample)
    names = {order_name(workspace, index) for index in range(50)}
    assert len(names) == 50
    assert all(len(name) == 11 and name.startswith("ws") and name.isalnum() for name in names)
    sample["metadata"]["labels"] = {"x": "y"}
    assert order_name(Workspace.model_validate(sample), 0) in names
    sample["metadata"]["uid"] = "another"
    assert order_name(Workspace.model_validate(sample), 0) not in names


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
        ({"a": {}}, {}, {}),
        ({"limits": {"cpu": "1000m"}}, {"limits": {"cpu": "1"}}, {}),
        ({"env": {"value": "1.0"}}, {"env": {"value": "1"}}, {"env": {"value": "1.0"}}),
        ({"a": "1"}, {"a": 1}, {"a": "1"}),
    ],
)
def test_difference(desired: dict[str, Any], live: dict[str, Any], patch: dict[str, Any]) -> None:
    assert difference(desired, live) == patch


def test_a_field_that_is_not_wanted_any_more_is_removed() -> None:
    before = {"a": 1, "b": {"c": 1, "d": 2}, "list": [{"n": 1, "x": 1}]}
    live = {"a": 1, "b": {"c": 1, "d": 2, "theirs": 3}, "list": [{"n": 1, "x": 1, "defaulted": True}]}
    desired = {"b": {"c": 1}, "list": [{"n": 1}]}
    assert difference(desired, live, before) == {"a": None, "b": {"d": None}, "list": [{"n": 1}]}


def test_what_differs_is_named_by_its_path() -> None:
    desired = {
        "spec": {"containers": [{"name": "w", "image": "a", "resources": {"limits": {"cpu": "1"}}}], "replicas": 1}
    }
    live = {
        "spec": {
            "containers": [{"name": "w", "image": "b", "resources": {"limits": {"cpu": "1000m"}}, "more": 1}],
            "replicas": 3,
        }
    }
    assert list(differing(desired, live)) == ["spec.containers[0].image", "spec.replicas"]


TUNING: dict[str, Any] = {
    "preset": {"name": "phi-3-mini-128k-instruct"},
    "method": "qlora",
    "input": {"urls": ["https://example.com/a.parquet?download=true", "https://example.com/b.json"]},
    "output": {"image": "r.io/phi/adapter:1", "imagePushSecret": "push"},
}


def job(sample: dict[str, Any], *, own_images: Mapping[str, str] = OWN_IMAGES, **tuning: Any) -> dict[str, Any]:
    sample.pop("inference", None)
    sample["tuning"] = TUNING | tuning
    workspace = Workspace.model_validate(sample)
    assert workspace.tuning is not None
    assert workspace.tuning.preset is not None
    found = preset(workspace.tuning.preset.name)
    config = STANDARD_CONFIGS[workspace.tuning.method.lower()]
    rendering = Rendering(revision=2, registry=REGISTRY, own_images=own_images, preset=found, gpus=1, config=config)
    return build_job(workspace, workspace.tuning, workspace.tuning.preset, found, rendering)


def test_the_job_of_the_tuning_example(sample: dict[str, Any]) -> None:
    built = job(sample)
    assert built["metadata"]["annotations"]["workspace.kaito.io/revision"] == "2"
    assert built["spec"]["backoffLimit"] == 0
    pod = built["spec"]["template"]["spec"]
    assert pod["affinity"] == CLAIMED
    assert {"nvidia.com/gpu", "sku", "gpu"} <= {item["key"] for item in pod["tolerations"]}
    assert pod["restartPolicy"] == "Never"
    assert pod["imagePullSecrets"] == [{"name": "push"}]
    (download,) = pod["initContainers"]
    assert download["env"][0]["value"].split() == TUNING["input"]["urls"]
    trainer, pusher = pod["containers"]
    assert trainer["image"] == f"{REGISTRY}/kaito-phi-3-mini-128k-instruct:0.0.2"
    assert "accelerate launch --num_processes=1 fine_tuning.py" in trainer["command"][2]
    assert trainer["env"][0]["name"] == "DEFAULT_TARGET_MODULES"
    assert trainer["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    mounts = {mount["name"]: mount["mountPath"] for mount in trainer["volumeMounts"]}
    assert mounts == {
        "dshm": "/dev/shm",
        "config-volume": "/mnt/config",
        "results-volume": "/mnt/results",
        "data-volume": "/mnt/data",
    }
    assert pusher["securityContext"]["privileged"] is False
    assert {"name": "IMAGE", "value": "r.io/phi/adapter:1"} in pusher["env"]
    assert not any("dind" in container["image"] for container in pod["containers"])
    config = {"configMap": {"name": "workspace-phi-3-mini-qlora-params"}, "name": "config-volume"}
    assert config in pod["volumes"]


def test_tuning_data_and_results_on_volumes(sample: dict[str, Any]) -> None:
    claim = {"persistentVolumeClaim": {"claimName": "data"}}
    pod = job(sample, input={"volumeSource": claim}, output={"volumeSource": claim})["spec"]["template"]["spec"]
    assert "initContainers" not in pod
    assert len(pod["containers"]) == 1
    assert {"name": "data-volume", **claim} in pod["volumes"]
    assert {"name": "results-volume", **claim} in pod["volumes"]


def test_tuning_data_from_an_image(sample: dict[str, Any]) -> None:
    data = {"image": "r.io/data:1", "imagePullSecrets": ["pull"]}
    pod = job(sample, own_images={}, input=data)["spec"]["template"]["spec"]
    (extract,) = pod["initContainers"]
    assert (extract["name"], extract["image"]) == ("data-extractor", "r.io/data:1")
    assert pod["imagePullSecrets"] == [{"name": "pull"}, {"name": "push"}]


def test_models_without_a_published_image_are_tuned_by_kaitos_own(sample: dict[str, Any]) -> None:
    template = job(sample, preset={"name": "phi-4"})["spec"]["template"]
    assert template["metadata"]["labels"]["kaito.sh/runtime"] == "tuning"
    pod = template["spec"]
    (trainer,) = pod["containers"]
    assert trainer["image"] == "r.io/kaito-tuning:1"
    assert trainer["command"] == [
        "kaito-tuning",
        "train",
        "--model=microsoft/phi-4",
        "--push=r.io/phi/adapter:1",
        "--push-config=/run/kaito/logins/push",
    ]
    assert parser().parse_args(trainer["command"][1:]).push == "r.io/phi/adapter:1", "the tuner understands it"
    (loader,) = pod["initContainers"]
    assert (loader["image"], loader["command"]) == ("r.io/kaito-tuning:1", ["kaito-tuning", "download"])
    assert {"name": "docker-config", "mountPath": "/run/kaito/logins/push", "readOnly": True} in trainer["volumeMounts"]


def scribble(value: Any) -> None:
    """Change everything in a manifest."""
    for item in list(value.values()) if isinstance(value, dict) else value:
        if isinstance(item, dict | list):
            scribble(item)
    value.clear()


@pytest.mark.parametrize("kind", ["published", "own server", "several nodes", "template", "tuning"])
def test_equal_workspaces_make_equal_workloads_whatever_became_of_the_first(sample: dict[str, Any], kind: str) -> None:
    adapters = [{"source": {"name": name, "image": f"r.io/{name}:1"}} for name in ("one", "two")]
    sample["inference"]["adapters"] = adapters
    if kind == "own server":
        sample["metadata"]["annotations"] = {"kaito.sh/runtime": "vllm"}
    elif kind == "several nodes":
        options = {"image": "r.io/llama:1"}
        sample["inference"]["preset"] = {"name": "llama-2-13b", "accessMode": "private", "presetOptions": options}
        sample["resource"]["count"] = 2

    def made() -> dict[str, Any]:
        given = deepcopy(sample)
        if kind == "template":
            return template_of(given, {"spec": {"containers": [{"name": "c", "image": "nginx:1"}]}})
        return job(given) if kind == "tuning" else workload(given)

    first = made()
    before = deepcopy(first)
    scribble(first)
    assert made() == before
    assert json.dumps(made()) == json.dumps(before), "in the same order, too"


@pytest.mark.parametrize(("method", "four_bits"), [("lora", False), ("QLoRA", True)])
def test_the_standard_configuration(sample: dict[str, Any], method: str, four_bits: bool) -> None:
    job(sample, method=method)
    workspace = Workspace.model_validate(sample)
    assert workspace.tuning is not None
    made = build_config(workspace, workspace.tuning)
    assert made["metadata"]["name"] == f"workspace-phi-3-mini-{method.lower()}-params"
    config = yaml.safe_load(made["data"]["training_config.yaml"])["training_config"]
    assert config["QuantizationConfig"]["load_in_4bit"] is four_bits
    assert config["TrainingArguments"]["output_dir"] == "/mnt/results"


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
