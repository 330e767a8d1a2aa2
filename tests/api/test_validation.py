from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from kaito.api.validation import FieldError, validate, validate_update
from kaito.api.workspace import Workspace
from kaito.models import Catalogue

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


def errors(manifest: dict[str, Any], cloud: str = "azure") -> dict[str, FieldError]:
    return {error.path: error for error in validate(Workspace.model_validate(manifest), CATALOGUE, cloud)}


def adapter(name: str | None = "a", image: str | None = "r.io/x:1", **more: Any) -> dict[str, Any]:
    source = {key: value for key, value in {"name": name, "image": image}.items() if value is not None}
    return {"source": source, **more}


@pytest.mark.parametrize("manifest", [INFERENCE, TUNING], ids=["inference", "tuning"])
def test_a_good_workspace_has_no_errors(manifest: dict[str, Any]) -> None:
    assert errors(manifest) == {}


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
    ("sku case", changed(INFERENCE, resource__instanceType="standard_nc6s_v3"), "resource.instanceType", "not a supp"),
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
    ("preset and template", changed(INFERENCE, inference__template={"spec": {}}), "inference.template", "exclude"),
    ("preset", changed(INFERENCE, inference__preset__name="phi-99"), "inference.preset.name", "falcon-40b, falcon"),
    (
        "unknown preset with known size",
        changed(INFERENCE, inference__preset__name="PHI-2"),
        "inference.preset.name",
        "'PHI-2' is not a supported preset",
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
        changed(INFERENCE, inference={"template": {}, "adapters": [adapter()]}),
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
        "needs 16Gi",
    ),
    ("no input", changed(TUNING, tuning__input=None), "tuning.input", "needed"),
    ("empty input", changed(TUNING, tuning__input={}), "tuning.input", "exactly one"),
    (
        "two inputs",
        changed(TUNING, tuning__input={"urls": ["https://x"], "image": "r.io/x:1"}),
        "tuning.input",
        "exactly one",
    ),
    (
        "volume",
        changed(TUNING, tuning__input={"volumeSource": {"emptyDir": {}}}),
        "tuning.input.volumeSource",
        "not supported",
    ),
    ("no output", changed(TUNING, tuning__output=None), "tuning.output", "needed"),
    ("no output image", changed(TUNING, tuning__output={}), "tuning.output.image", "needed"),
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


@pytest.mark.parametrize("size", ["Standard_NC_future_v9", "Standard_D4s_v3"])
def test_azure_sizes_outside_the_table_pass_by_prefix(size: str) -> None:
    assert errors(changed(INFERENCE, resource__instanceType=size)) == {}


def test_aws_types_are_known_where_the_cloud_is_aws() -> None:
    manifest = changed(INFERENCE, resource__instanceType="g5.xlarge")
    assert errors(manifest, "aws") == {}
    assert "resource.instanceType" in errors(manifest, "azure")
    assert "resource.instanceType" in errors(INFERENCE, "aws")


@pytest.mark.parametrize(
    ("sample", "paths"),
    [
        ("workspace-phi-3-mini.inference.yaml", set()),
        ("workspace-phi-3-mini-adapter.inference.yaml", {"inference.adapters[0].source.image"}),
        ("workspace-phi-3-mini.tuning.yaml", {"tuning.output.image", "tuning.output.imagePushSecret"}),
    ],
)
def test_placeholders_of_the_samples_are_named(sample: str, paths: set[str]) -> None:
    found = errors(yaml.safe_load((SAMPLES / sample).read_text()))
    assert set(found) == paths
    assert all("is a placeholder: put" in error.message for error in found.values())


def update_errors(new: dict[str, Any], old: dict[str, Any]) -> set[str]:
    found = validate_update(Workspace.model_validate(new), Workspace.model_validate(old), CATALOGUE, "azure")
    return {error.path for error in found}


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
