from __future__ import annotations

from pathlib import Path

import pytest

from kaito.api.quantity import Quantity
from kaito.models import Catalogue

CATALOGUE = Catalogue.default()

PRESETS = [
    # name, access, tag, disk, GPUs, memory, per GPU, timeout, launcher, world size, can be tuned
    ("falcon-7b", "public", "0.0.6", "50Gi", 1, "14Gi", "0", 1800, "accelerate", 1, True),
    ("falcon-7b-instruct", "public", "0.0.6", "50Gi", 1, "14Gi", "0", 1800, "accelerate", 1, False),
    ("falcon-40b", "public", "0.0.7", "400Gi", 2, "90Gi", "0", 1800, "accelerate", 1, True),
    ("falcon-40b-instruct", "public", "0.0.7", "400Gi", 2, "90Gi", "0", 1800, "accelerate", 1, False),
    ("mistral-7b", "public", "0.0.7", "100Gi", 1, "14Gi", "0", 1800, "accelerate", 1, True),
    ("mistral-7b-instruct", "public", "0.0.7", "100Gi", 1, "16Gi", "0", 1800, "accelerate", 1, False),
    ("phi-2", "public", "0.0.5", "50Gi", 1, "12Gi", "0", 1800, "accelerate", 1, True),
    ("phi-3-mini-4k-instruct", "public", "0.0.2", "50Gi", 1, "9Gi", "0", 1800, "accelerate", 1, True),
    ("phi-3-mini-128k-instruct", "public", "0.0.2", "50Gi", 1, "9Gi", "0", 1800, "accelerate", 1, True),
    ("phi-3-medium-4k-instruct", "public", "0.0.2", "50Gi", 1, "28Gi", "0", 1800, "accelerate", 1, True),
    ("phi-3-medium-128k-instruct", "public", "0.0.2", "50Gi", 1, "28Gi", "0", 1800, "accelerate", 1, True),
    ("llama-2-7b", "private", "0.0.3", "34Gi", 1, "14Gi", "14Gi", 600, "torchrun", 1, False),
    ("llama-2-7b-chat", "private", "0.0.3", "34Gi", 1, "16Gi", "14Gi", 600, "torchrun", 1, False),
    ("llama-2-13b", "private", "0.0.3", "46Gi", 2, "30Gi", "15Gi", 1200, "torchrun", 2, False),
    ("llama-2-13b-chat", "private", "0.0.3", "46Gi", 2, "30Gi", "15Gi", 1200, "torchrun", 2, False),
    ("llama-2-70b", "private", "0.0.3", "158Gi", 8, "152Gi", "19Gi", 1800, "torchrun", 8, False),
    ("llama-2-70b-chat", "private", "0.0.3", "158Gi", 8, "192Gi", "19Gi", 1800, "torchrun", 8, False),
]


@pytest.mark.parametrize("row", PRESETS, ids=lambda row: row[0])
def test_presets(row: tuple[object, ...]) -> None:
    preset = CATALOGUE.preset(str(row[0]))
    assert preset is not None
    assert row == (
        preset.name,
        preset.access,
        preset.tag,
        str(preset.disk),
        preset.gpus,
        str(preset.memory),
        str(preset.per_gpu_memory),
        preset.timeout,
        preset.launcher,
        preset.world_size,
        preset.tuning is not None,
    )
    assert preset.distributed == (preset.world_size > 1)
    assert preset.private_only == (preset.access == "private")


def test_every_other_preset_is_downloaded() -> None:
    published = {row[0] for row in PRESETS}
    others = [preset for preset in CATALOGUE.presets() if preset.name not in published]
    assert len(others) == 19
    for preset in others:
        assert not preset.published
        assert (preset.disk, preset.timeout) == (preset.facts.disk, preset.facts.timeout)


def test_names_are_found_in_any_case_and_by_the_hubs_name() -> None:
    phi = CATALOGUE.preset("phi-3-mini-4k-instruct")
    assert phi is not None
    assert CATALOGUE.preset("Phi-3-Mini-4K-instruct") is phi
    assert CATALOGUE.preset("microsoft/Phi-3-mini-4k-instruct") is phi
    granite = CATALOGUE.preset("IBM-granite/granite-4.1-8b")
    assert granite is not None
    assert granite.name == "ibm-granite/granite-4.1-8b"
    assert CATALOGUE.preset("phi-99") is None


def test_models_of_ones_own_stand_beside_the_others(tmp_path: Path) -> None:
    own = tmp_path / "models.yaml"
    own.write_text(
        "models:\n"
        "  - {name: acme/rocket-1b, weights: 2.0, kvBytes: 4096, attention: GQA, context: 8192,"
        " architecture: LlamaForCausalLM, licence: mit, transformers: true, openvino: acme/rocket-1b-int4-ov}\n"
    )
    preset = Catalogue.with_models(own).preset("acme/rocket-1b")
    assert preset is not None
    assert preset.engines == ("transformers", "vllm", "openvino")
    own.write_text("models: [{name: acme/rocket-1b}]")
    with pytest.raises(ValueError, match="kvBytes"):
        Catalogue.with_models(own)


def test_public_images() -> None:
    preset = CATALOGUE.preset("phi-3-mini-4k-instruct")
    assert preset is not None
    assert preset.image("mcr.microsoft.com/aks/kaito") == (
        "mcr.microsoft.com/aks/kaito/kaito-phi-3-mini-4k-instruct:0.0.2"
    )


@pytest.mark.parametrize(
    ("cloud", "name", "gpus", "memory"),
    [
        ("azure", "Standard_NC6s_v3", 1, 16),
        ("azure", "Standard_NC24rs_v3", 4, 64),
        ("azure", "Standard_NC64as_T4_v3", 4, 64),
        ("azure", "Standard_ND40rs_v2", 8, 256),
        ("azure", "Standard_ND96asr_v4", 8, 320),
        ("azure", "Standard_ND96amsr_A100_v4", 8, 640),
        ("azure", "Standard_NV6ads_A10_v5", 1, 4),
        ("azure", "Standard_NV72ads_A10_v5", 2, 48),
        ("aws", "p2.16xlarge", 16, 192),
        ("aws", "p4de.24xlarge", 8, 640),
        ("aws", "g5.12xlarge", 4, 96),
        ("aws", "g4dn.metal", 8, 128),
        ("aws", "inf2.24xlarge", 6, 192),
    ],
)
def test_instance_types(cloud: str, name: str, gpus: int, memory: int) -> None:
    sku = CATALOGUE.sku(cloud, name)
    assert sku is not None
    assert (sku.gpus, sku.memory) == (gpus, Quantity.gib(memory))
    assert sku.per_gpu_memory * gpus == sku.memory


def test_sizes_are_found_in_their_own_cloud_in_any_case() -> None:
    assert CATALOGUE.sku("aws", "Standard_NC6s_v3") is None
    assert CATALOGUE.sku("azure", "standard_nc6s_v3") is CATALOGUE.sku("azure", "Standard_NC6s_v3")
    assert CATALOGUE.sku("gcp", "a2-highgpu-1g") is None


def test_sizes_without_nvidia_gpus_say_so() -> None:
    vendors = {name: CATALOGUE.sku("azure", name).vendor for name in CATALOGUE.sku_names("azure")}
    assert {name for name, vendor in vendors.items() if vendor != "nvidia"} == {
        "Standard_NG32ads_V620_v1",
        "Standard_NG32adms_V620_v1",
        "Standard_NV32as_v4",
    }


def test_the_catalogue_is_read_once() -> None:
    assert Catalogue.default() is Catalogue.default()
