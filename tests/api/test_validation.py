from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from kaito.api.defaulting import read_workspace
from kaito.api.validation import FieldError, Policy, Verdict, validate, validate_update
from kaito.models import Catalogue

SEEDS = Path(__file__).parents[1] / "seeds"
SAMPLES = Path(__file__).parents[2] / "config" / "samples"
CATALOGUE = Catalogue.default()

INFERENCE: dict[str, Any] = {
    "metadata": {"name": "w", "namespace": "default"},
    "resource": {"instanceType": "Standard_NC6s_v3", "labelSelector": {"matchLabels": {"apps": "phi-3"}}},
    "inference": {"preset": {"name": "phi-3-mini-4k-instruct"}},
}
TUNING: dict[str, Any] = {
    "metadata": {"name": "t", "namespace": "default"},
    "resource": {"instanceType": "Standard_NC6s_v3", "labelSelector": {"matchLabels": {"app": "tune"}}},
    "tuning": {
        "preset": {"name": "phi-3-mini-4k-instruct"},
        "method": "qlora",
        "input": {"urls": ["https://example.com/data.parquet"]},
        "output": {"image": "registry.example.com/phi/adapter:0.0.1", "imagePushSecret": "push"},
    },
}


def changed(base: dict[str, Any], **paths: Any) -> dict[str, Any]:
    """``base`` with values set at ``a__b__c``; None removes."""
    result = deepcopy(base)
    for path, value in paths.items():
        *parents, last = path.split("__")
        target = result
        for part in parents:
            target = target.setdefault(part, {})
        if value is None:
            target.pop(last, None)
        else:
            target[last] = value
    return result


def judged(manifest: dict[str, Any], **policy: Any) -> Verdict:
    return validate(read_workspace(manifest), CATALOGUE, Policy(**policy))


def errors(manifest: dict[str, Any], **policy: Any) -> dict[str, FieldError]:
    return {error.path: error for error in judged(manifest, **policy).errors}


def adapter(name: str | None = "a", image: str | None = "r.io/x:1", **more: Any) -> dict[str, Any]:
    source = {key: value for key, value in {"name": name, "image": image}.items() if value is not None}
    return {"source": source, **more}


@pytest.mark.parametrize("manifest", [INFERENCE, TUNING], ids=["inference", "tuning"])
def test_a_good_workspace_has_no_errors(manifest: dict[str, Any]) -> None:
    assert errors(manifest) == {}


RUNTIME = "metadata.annotations[kaito.sh/runtime]"
URL = "tuning.input.urls[0]"

CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("neither", changed(INFERENCE, inference=None), "inference", "one of inference and tuning"),
    ("both", {**TUNING, "inference": INFERENCE["inference"]}, "tuning", "exclude each other"),
    ("name", changed(INFERENCE, metadata__name="1.bad"), "metadata.name", "beginning with a letter"),
    ("count", changed(INFERENCE, resource__count=0), "resource.count", "at least 1"),
    ("tuning count", changed(TUNING, resource__count=2), "resource.count", "one node"),
    ("selector", changed(INFERENCE, resource__labelSelector=None), "resource.labelSelector", "needed"),
    (
        "expressions",
        changed(INFERENCE, resource__labelSelector={"matchExpressions": [{"key": "a", "operator": "Exists"}]}),
        "resource.labelSelector.matchExpressions[0]",
        "operator In",
    ),
    (
        "label value",
        changed(INFERENCE, resource__labelSelector={"matchLabels": {"a": "b c"}}),
        "resource.labelSelector",
        "not a label value",
    ),
    (
        "own label",
        changed(INFERENCE, resource__labelSelector={"matchLabels": {"kaito.sh/workspace": "other"}}),
        "resource.labelSelector",
        "choose another label",
    ),
    ("sku", changed(INFERENCE, resource__instanceType="Standard_B2s"), "resource.instanceType", "not a supported"),
    (
        "sku case",
        changed(INFERENCE, resource__instanceType="standard_nv6"),
        "resource.instanceType",
        "has 8Gi of GPU memory",
    ),
    ("no size", changed(INFERENCE, resource__instanceType=None), "resource.instanceType", "is needed"),
    (
        "a size without GPUs",
        changed(INFERENCE, resource__instanceType="Standard_D4s_v3"),
        "resource.instanceType",
        "has no GPU, which preset phi-3-mini-4k-instruct needs: choose a size with GPUs, or start the operator with",
    ),
    (
        "the cloud's own label",
        changed(INFERENCE, resource__labelSelector={"matchLabels": {"agentpool": "gpu"}}),
        "resource.labelSelector",
        "is set by the cloud alone",
    ),
    (
        "the cloud's own domain",
        changed(INFERENCE, resource__labelSelector={"matchLabels": {"kubernetes.azure.com/mode": "user"}}),
        "resource.labelSelector",
        "is set by the cloud alone",
    ),
    (
        "a label of every node",
        changed(INFERENCE, resource__labelSelector={"matchLabels": {"kubernetes.io/os": "linux"}}),
        "resource.labelSelector",
        "it selects nodes of others",
    ),
    ("runtime", changed(INFERENCE, metadata__annotations={"kaito.sh/runtime": "llama.cpp"}), RUNTIME, "not an engine"),
    (
        "runtime without image",
        changed(INFERENCE, metadata__annotations={"kaito.sh/runtime": "vllm"}),
        RUNTIME,
        "--runtime-image",
    ),
    (
        "preset that is downloaded",
        changed(INFERENCE, inference__preset__name="qwen2.5-coder-7b-instruct"),
        "resource.instanceType",
        "--runtime-image",
    ),
    (
        "template without containers",
        changed(INFERENCE, inference={"template": {"spec": {}}}),
        "inference.template.spec.containers",
        "at least one container",
    ),
    (
        "template with a placeholder",
        changed(INFERENCE, inference={"template": {"spec": {"containers": [{"image": "<YOUR_IMAGE>"}]}}}),
        "inference.template.spec.containers[0].image",
        "is a placeholder",
    ),
    (
        "placeholder with spaces",
        changed(INFERENCE, inference__adapters=[adapter(image="<YOUR IMAGE URL>")]),
        "inference.adapters[0].source.image",
        "is a placeholder",
    ),
    (
        "adapter named like the Workspace",
        changed(INFERENCE, inference__adapters=[adapter("w")]),
        "inference.adapters[0].source.name",
        "choose another name",
    ),
    (
        "adapter from two places",
        changed(
            INFERENCE,
            inference__adapters=[{"source": {"name": "a", "image": "r.io/x:1", "volumeSource": {"emptyDir": {}}}}],
        ),
        "inference.adapters[0].source",
        "exactly one",
    ),
    (
        "config of a template",
        changed(INFERENCE, inference={"template": {"spec": {"containers": [{}]}}, "config": "c"}),
        "inference.config",
        "remove config",
    ),
    ("local data", changed(TUNING, tuning__input={"urls": ["http://169.254.169.254/x"]}), URL, "own network"),
    ("data on this machine", changed(TUNING, tuning__input={"urls": ["http://localhost:8000/x"]}), URL, "own network"),
    ("data by file", changed(TUNING, tuning__input={"urls": ["file:///etc/passwd"]}), URL, "must be an address"),
    ("data to be named", changed(TUNING, tuning__input={"urls": ["https://DATA_HERE"]}), URL, "is a placeholder"),
    (
        "too little memory",
        changed(INFERENCE, resource__instanceType="Standard_NV6"),
        "resource.instanceType",
        "has 8Gi of GPU memory; preset phi-3-mini-4k-instruct needs 9Gi",
    ),
    (
        "too few gpus",
        changed(INFERENCE, inference__preset={"name": "falcon-40b"}, resource__instanceType="Standard_NC24ads_A100_v4"),
        "resource.instanceType",
        "needs",
    ),
    ("amd", changed(INFERENCE, resource__instanceType="Standard_NG32ads_V620_v1"), "resource.instanceType", "NVIDIA"),
    ("no preset", changed(INFERENCE, inference={}), "inference.preset", "one of preset and template"),
    (
        "preset and template",
        changed(INFERENCE, inference__template={"spec": {"containers": [{}]}}),
        "inference.template",
        "exclude",
    ),
    ("preset", changed(INFERENCE, inference__preset__name="phi-99"), "inference.preset.name", "falcon-40b, falcon"),
    (
        "unknown preset with known size",
        changed(INFERENCE, inference__preset__name="PHI-22"),
        "inference.preset.name",
        "'PHI-22' is not a supported preset",
    ),
    (
        "private only",
        changed(INFERENCE, inference__preset={"name": "llama-2-7b"}),
        "inference.preset.accessMode",
        "is not public",
    ),
    (
        "private without image",
        changed(INFERENCE, inference__preset={"name": "phi-2", "accessMode": "private"}),
        "inference.preset.presetOptions.image",
        "needs the image",
    ),
    (
        "adapters without preset",
        changed(INFERENCE, inference={"template": {"spec": {"containers": [{}]}}, "adapters": [adapter()]}),
        "inference.adapters",
        "need a preset",
    ),
    (
        "eleven adapters",
        changed(INFERENCE, inference__adapters=[adapter(f"a{index}") for index in range(11)]),
        "inference.adapters",
        "at most 10",
    ),
    (
        "twins",
        changed(INFERENCE, inference__adapters=[adapter("x"), adapter("x")]),
        "inference.adapters[1].source.name",
        "two adapters",
    ),
    ("no source", changed(INFERENCE, inference__adapters=[{}]), "inference.adapters[0].source", "needed"),
    (
        "no adapter name",
        changed(INFERENCE, inference__adapters=[adapter(None)]),
        "inference.adapters[0].source.name",
        "needs a name",
    ),
    (
        "adapter name",
        changed(INFERENCE, inference__adapters=[adapter("A_b")]),
        "inference.adapters[0].source.name",
        "container",
    ),
    (
        "strength text",
        changed(INFERENCE, inference__adapters=[adapter(strength="strong")]),
        "inference.adapters[0].strength",
        "between 0 and 1",
    ),
    (
        "strength size",
        changed(INFERENCE, inference__adapters=[adapter(strength="1.5")]),
        "inference.adapters[0].strength",
        "between 0 and 1",
    ),
    (
        "adapter image without tag",
        changed(INFERENCE, inference__adapters=[adapter(image="r.io/x")]),
        "inference.adapters[0].source.image",
        "full image reference",
    ),
    ("method", changed(TUNING, tuning__method="full"), "tuning.method", "lora or qlora"),
    ("no tuning preset", changed(TUNING, tuning__preset=None), "tuning.preset", "needed"),
    (
        "preset that cannot be tuned",
        changed(TUNING, tuning__preset={"name": "falcon-7b-instruct"}),
        "tuning.preset.name",
        "cannot be tuned",
    ),
    (
        "too small to tune",
        changed(TUNING, tuning__preset={"name": "falcon-7b"}, resource__instanceType="Standard_NV12ads_A10_v5"),
        "resource.instanceType",
        "has 8Gi of GPU memory; tuning falcon-7b with qlora needs 11.5 GiB = 4.3 weights in 4 bits",
    ),
    ("no input", changed(TUNING, tuning__input=None), "tuning.input", "needed"),
    ("empty input", changed(TUNING, tuning__input={}), "tuning.input", "exactly one"),
    (
        "two inputs",
        changed(TUNING, tuning__input={"urls": ["https://x"], "image": "r.io/x:1"}),
        "tuning.input",
        "exactly one",
    ),
    ("no output", changed(TUNING, tuning__output=None), "tuning.output", "needed"),
    ("no output image", changed(TUNING, tuning__output={}), "tuning.output.image", "exactly one"),
    (
        "no push secret",
        changed(TUNING, tuning__output={"image": "r.io/x:1"}),
        "tuning.output.imagePushSecret",
        "credentials",
    ),
    (
        "upper case repository",
        changed(TUNING, tuning__output__image="r.io/Adapter:1"),
        "tuning.output.image",
        "lower case",
    ),
    (
        "digest to push to",
        changed(TUNING, tuning__output__image=f"r.io/x@sha256:{'0' * 64}"),
        "tuning.output.image",
        "registry/repository:tag",
    ),
]


@pytest.mark.parametrize(("manifest", "path", "words"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_is_wrong_is_said_with_its_field(manifest: dict[str, Any], path: str, words: str) -> None:
    found = errors(manifest)
    assert path in found
    assert words in found[path].message


def test_all_errors_come_at_once() -> None:
    found = errors(changed(INFERENCE, resource={"instanceType": "tiny"}, inference={"preset": {"name": "nope"}}))
    assert set(found) == {"resource.instanceType", "resource.labelSelector", "inference.preset.name"}


def test_images_may_be_pinned_by_digest_where_they_are_pulled() -> None:
    image = f"registry.example.com:5000/a/b:1@sha256:{'a' * 64}"
    assert errors(changed(INFERENCE, inference__adapters=[adapter(image=image)])) == {}


def test_exact_capacity_is_enough() -> None:
    manifest = changed(INFERENCE, inference__preset={"name": "mistral-7b-instruct"})
    assert errors(manifest) == {}


def test_azure_sizes_outside_the_table_pass_by_prefix() -> None:
    assert errors(changed(INFERENCE, resource__instanceType="Standard_NC_future_v9")) == {}
    template = {"template": {"spec": {"containers": [{"name": "c", "image": "nginx"}]}}}
    assert errors(changed(INFERENCE, resource__instanceType="Standard_D4s_v3", inference=template)) == {}


def test_the_first_version_has_a_default_size() -> None:
    manifest = changed(INFERENCE, resource__instanceType=None, apiVersion="kaito.sh/v1alpha1")
    assert errors(manifest) == {}
    assert read_workspace(manifest).resource.instance_type == "Standard_NC12s_v3"


def test_without_machines_sizes_have_no_meaning() -> None:
    manifest = changed(INFERENCE, resource__labelSelector={"matchLabels": {"kubernetes.io/os": "linux"}})
    assert errors(manifest, makes_nodes=False) == {}
    assert "has no effect" in judged(manifest, makes_nodes=False).warnings[0]
    assert errors(changed(manifest, resource__instanceType=None), makes_nodes=False) == {}


def test_what_the_arithmetic_refuses_can_be_tried_all_the_same() -> None:
    manifest = changed(INFERENCE, resource__instanceType="Standard_NV6")
    bypassed = judged(changed(manifest, metadata__annotations={"kaito.sh/bypass-resource-checks": ""}))
    assert bypassed.errors == ()
    (warning,) = bypassed.warnings
    assert "has 8Gi of GPU memory" in warning


@pytest.mark.parametrize("method", ["qlora", "QLoRA", "lora"])
@pytest.mark.parametrize("preset", ["phi-3-mini-4k-instruct", "phi-3-mini-128k-instruct"])
def test_the_published_examples_fit_on_the_size_that_they_name(method: str, preset: str) -> None:
    assert errors(changed(TUNING, tuning__method=method, tuning__preset={"name": preset})) == {}


def test_volumes_hold_data_adapters_and_results() -> None:
    claim = {"persistentVolumeClaim": {"claimName": "data"}}
    assert errors(changed(TUNING, tuning__input={"volumeSource": claim})) == {}
    assert errors(changed(TUNING, tuning__output={"volumeSource": claim})) == {}
    source = {"name": "a", "volumeSource": claim}
    assert errors(changed(INFERENCE, inference__adapters=[{"source": source}])) == {}


def test_kaitos_own_server_runs_what_nobody_published() -> None:
    manifest = changed(
        INFERENCE,
        inference__preset__name="Qwen/Qwen2.5-Coder-32B-Instruct",
        resource__instanceType="Standard_NC24ads_A100_v4",
    )
    assert errors(manifest, own_image=True) == {}
    assert "resource.instanceType" in errors(manifest)
    on_one_node = changed(manifest, metadata__annotations={"kaito.sh/runtime": "transformers"})
    assert "uses one node only" in errors(on_one_node, own_image=True)["resource.instanceType"].message
    cpu = changed(INFERENCE, resource__instanceType="Standard_D8s_v5")
    assert errors(cpu, own_image=True) == {}
    gated = changed(manifest, inference__preset__name="llama-3.1-8b-instruct")
    secret = "inference.preset.presetOptions.modelAccessSecret"
    assert set(errors(gated, own_image=True)) == {secret}


@pytest.mark.parametrize("name", ["base", "phi-3-mini-4k-instruct"])
def test_what_kaitos_own_server_calls_the_model_is_no_name_of_an_adapter(name: str) -> None:
    manifest = changed(INFERENCE, inference__adapters=[adapter("fine"), adapter(name)])
    own = changed(manifest, metadata__annotations={"kaito.sh/runtime": "transformers"})
    found = errors(own, own_image=True)
    assert set(found) == {"inference.adapters[1].source.name"}
    assert "choose another name" in found["inference.adapters[1].source.name"].message
    assert errors(manifest, own_image=True) == {}, "the published image has no such names"


def test_old_gpus_do_not_run_vllm() -> None:
    manifest = changed(
        INFERENCE, resource__instanceType="Standard_ND6s", metadata__annotations={"kaito.sh/runtime": "vllm"}
    )
    assert "compute capability" in errors(manifest, own_image=True)["resource.instanceType"].message


def test_aws_types_are_known_where_the_cloud_is_aws() -> None:
    manifest = changed(INFERENCE, resource__instanceType="g5.xlarge")
    assert errors(manifest, cloud="aws") == {}
    assert "resource.instanceType" in errors(manifest)
    assert "resource.instanceType" in errors(INFERENCE, cloud="aws")


@pytest.mark.parametrize(
    ("seed", "paths"),
    [
        ("workspace-phi-3-mini.inference.yaml", set()),
        ("workspace-phi-3-mini-adapter.inference.yaml", {"inference.adapters[0].source.image"}),
        ("workspace-phi-3-mini.tuning.yaml", {"tuning.output.image", "tuning.output.imagePushSecret"}),
    ],
)
def test_placeholders_of_the_published_examples_are_named(seed: str, paths: set[str]) -> None:
    found = errors(yaml.safe_load((SEEDS / seed).read_text()))
    assert set(found) == paths
    assert all("is a placeholder: put" in error.message for error in found.values())


def test_the_samples_have_names_of_their_own_and_no_errors() -> None:
    documents = [
        document for path in sorted(SAMPLES.glob("*.yaml")) for document in yaml.safe_load_all(path.read_text())
    ]
    names = [(document["kind"], document["metadata"]["name"]) for document in documents]
    assert len(set(names)) == len(names)
    for document in documents:
        if document["kind"] == "Workspace":
            assert errors(document) == {}, document["metadata"]["name"]


def update_errors(new: dict[str, Any], old: dict[str, Any]) -> set[str]:
    found = validate_update(read_workspace(new), read_workspace(old), CATALOGUE, Policy())
    return {error.path for error in found.errors}


@pytest.mark.parametrize(
    ("base", "change", "path"),
    [
        (INFERENCE, {"resource__count": 2}, "resource.count"),
        (INFERENCE, {"resource__instanceType": "Standard_NC12s_v3"}, "resource.instanceType"),
        (INFERENCE, {"resource__labelSelector": {"matchLabels": {"a": "b"}}}, "resource.labelSelector"),
        (INFERENCE, {"inference__preset__name": "phi-2"}, "inference.preset"),
        (INFERENCE, {"inference": None, "tuning": TUNING["tuning"]}, "tuning"),
        (TUNING, {"tuning__method": "lora"}, "tuning.method"),
        (TUNING, {"tuning__preset": {"name": "phi-2"}}, "tuning.preset"),
        (TUNING, {"tuning__input__name": "other"}, "tuning.input.name"),
    ],
)
def test_what_cannot_be_changed(base: dict[str, Any], change: dict[str, Any], path: str) -> None:
    assert path in update_errors(changed(base, **change), base)


def test_what_can_be_changed() -> None:
    assert update_errors(changed(INFERENCE, inference__adapters=[adapter()]), INFERENCE) == set()
    assert update_errors(changed(INFERENCE, resource__preferredNodes=["n"]), INFERENCE) == set()
    assert update_errors(changed(TUNING, tuning__method="QLoRA", tuning__config="mine"), TUNING) == set()
    same_labels = {"matchExpressions": [{"key": "apps", "operator": "In", "values": ["phi-3"]}]}
    assert update_errors(changed(INFERENCE, resource__labelSelector=same_labels), INFERENCE) == set()


def test_an_update_is_not_blamed_for_what_was_wrong_before() -> None:
    legacy = changed(INFERENCE, inference__preset__name="phi-1")
    assert update_errors(changed(legacy, resource__preferredNodes=["n"]), legacy) == set()


def test_an_object_that_is_being_deleted_is_left_alone() -> None:
    going = changed(INFERENCE, resource__count=9, metadata__deletionTimestamp="2024-11-16T12:00:00Z")
    assert update_errors(going, INFERENCE) == set()
