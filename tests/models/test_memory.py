"""How much memory serving and tuning take: the arithmetic, and what it decides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaito.models import PUBLISHED, Catalogue, Preset, Sku, TuningSettings, choose, sku_of_node, tuning_fit
from kaito.models.estimator import fit

CATALOGUE = Catalogue.default()


def preset(name: str) -> Preset:
    found = CATALOGUE.preset(name)
    assert found is not None
    return found


def sku(name: str) -> Sku:
    found = CATALOGUE.sku("azure", name)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("size", "nodes", "spread"),
    [("Standard_NC24ads_A100_v4", 2, True), ("Standard_NC48ads_A100_v4", 1, False)],
)
def test_a_model_of_61_gib_takes_two_gpus_of_80(size: str, nodes: int, spread: bool) -> None:
    found = fit(preset("qwen2.5-coder-32b-instruct"), sku(size), 1, engine="vllm")
    assert (found.problem, found.nodes, found.spread) == ("", nodes, spread)
    assert "62.3 GiB of weights" in found.arithmetic


def test_a_longer_request_takes_more_cache() -> None:
    model, size = preset("phi-3-mini-128k-instruct"), sku("Standard_NC6s_v3")
    assert fit(model, size, 1, engine="vllm").nodes == 1
    assert "leaves nothing" in fit(model, size, 1, engine="vllm", max_length=131072).problem


def test_published_images_need_what_their_publisher_says() -> None:
    model = preset("llama-2-13b")
    assert fit(model, sku("Standard_NC12s_v3"), 1, engine=PUBLISHED).problem == ""
    assert "2 x Standard_NC6s_v3" in fit(preset("falcon-40b"), sku("Standard_NC6s_v3"), 2, engine=PUBLISHED).problem
    assert "cannot be shared evenly by 3 nodes" in fit(model, sku("Standard_NC12s_v3"), 3, engine=PUBLISHED).problem


@pytest.mark.parametrize(
    ("name", "method", "size", "fits"),
    [
        ("phi-3-mini-128k-instruct", "qlora", "Standard_NC6s_v3", True),
        ("phi-3-mini-128k-instruct", "lora", "Standard_NC6s_v3", True),
        ("falcon-7b", "qlora", "Standard_NC6s_v3", True),
        ("falcon-7b", "lora", "Standard_NC6s_v3", False),
        ("phi-3-medium-4k-instruct", "lora", "Standard_NC24ads_A100_v4", True),
        ("falcon-40b", "lora", "Standard_NC24ads_A100_v4", False),
        ("falcon-40b", "lora", "Standard_NC48ads_A100_v4", True),
    ],
)
def test_what_can_be_tuned_where(name: str, method: str, size: str, fits: bool) -> None:
    found = tuning_fit(preset(name), sku(size), TuningSettings.of(method))
    assert (found.problem == "") is fits
    assert "weights in" in found.arithmetic


def test_each_gpu_trains_a_copy_if_it_can() -> None:
    size = sku("Standard_NC48ads_A100_v4")
    assert tuning_fit(preset("phi-3-mini-4k-instruct"), size, TuningSettings.of("lora")).processes == 2
    assert tuning_fit(preset("falcon-40b"), size, TuningSettings.of("lora")).processes == 1


def test_a_training_configuration_decides_about_memory() -> None:
    config = {
        "QuantizationConfig": {"load_in_8bit": True},
        "LoraConfig": {"r": 64},
        "TrainingArguments": {"per_device_train_batch_size": 4, "gradient_checkpointing": True},
    }
    settings = TuningSettings.of("QLoRA", config)
    assert settings == TuningSettings("qlora", bits=8, double_quantization=False, rank=64, batch=4, checkpointing=True)
    model, size = preset("phi-3-mini-4k-instruct"), sku("Standard_NC6s_v3")
    assert tuning_fit(model, size, settings).problem == ""
    heavy = TuningSettings("qlora", bits=4, batch=8)
    assert "8 x 1024 tokens" in tuning_fit(model, size, heavy).problem


@given(
    name=st.sampled_from([entry.name for entry in CATALOGUE.presets()] + [entry.name for entry in CATALOGUE.models()]),
    size=st.sampled_from([entry.name for entry in CATALOGUE.skus("azure")]),
    count=st.integers(1, 8),
    wanted=st.sampled_from(["", "vllm", "transformers", "openvino"]),
)
def test_every_preset_is_judged_on_every_size(name: str, size: str, count: int, wanted: str) -> None:
    served = choose(preset(name), size, sku(size), count=count, wanted=wanted, own_image=True)
    assert served.problem or served.fit.problem or served.fit.nodes >= count


@pytest.mark.parametrize(
    ("name", "size", "wanted", "adapters", "engine", "trouble"),
    [
        ("phi-3-mini-4k-instruct", "Standard_D4s_v5", "", False, "openvino", ""),
        ("phi-3-mini-4k-instruct", "Standard_D2s_v5", "", False, "openvino", ""),
        ("phi-3-mini-4k-instruct", "Standard_D2ls_v5", "", False, "openvino", "too small"),
        ("phi-3-mini-4k-instruct", "Standard_D2s_v5", "transformers", False, "transformers", "too small"),
        ("phi-3-mini-4k-instruct", "Standard_D4s_v5", "", True, "transformers", ""),
        ("phi-3-mini-4k-instruct", "Standard_D4s_v5", "openvino", True, "openvino", "without adapters"),
        ("phi-4", "Standard_D4s_v5", "", False, "openvino", ""),
        ("phi-4", "standard_d2ads_v6", "", False, "openvino", "too small"),
        ("qwen2.5-coder-7b-instruct", "Standard_D16s_v3", "", False, "transformers", ""),
        ("llama-3.1-8b-instruct", "Standard_D4s_v3", "vllm", False, "vllm", "runtime: transformers"),
        ("llama-3.1-8b-instruct", "Standard_D4s_v3", "openvino", False, "openvino", "cannot serve"),
        ("ministral-3-3b-instruct", "Standard_D4s_v3", "", False, "published", "has no GPU"),
        ("phi-3-mini-4k-instruct", "Standard_D2_v2", "", False, "openvino", ""),
        ("phi-3-mini-4k-instruct", "Standard_NC6s_v3", "openvino", False, "openvino", ""),
    ],
)
def test_what_runs_without_gpus(name: str, size: str, wanted: str, adapters: bool, engine: str, trouble: str) -> None:
    known = CATALOGUE.sku("azure", size)
    found = choose(preset(name), size, known, count=1, wanted=wanted, own_image=True, adapters=adapters)
    assert found.engine == engine
    told = found.problem or found.fit.problem
    assert trouble in told
    assert bool(trouble) == bool(told)
    if not found.problem:
        assert not found.gpu


def test_the_arithmetic_of_a_node_without_gpus() -> None:
    found = choose(preset("phi-4"), "Standard_D2s_v5", None, count=1, own_image=True)
    assert found.fit.problem == (
        "Standard_D2s_v5 is too small for phi-4: 9.1 GiB of weights, 1.9 GiB for the cache of 2048 tokens and the runtime; "
        "of 8 GiB of memory 6.8 are used"
    )


def test_what_a_node_says_of_its_gpus() -> None:
    labels = {
        "nvidia.com/gpu.product": "NVIDIA-A100-80GB-PCIe",
        "nvidia.com/gpu.count": "2",
        "nvidia.com/gpu.memory": "81920",
        "nvidia.com/cuda.compute.major": "8",
        "nvidia.com/cuda.compute.minor": "0",
    }
    found = sku_of_node("gpu-node", labels, 0)
    assert found is not None
    assert (found.gpus, str(found.memory), found.model, found.capability) == (2, "160Gi", "NVIDIA-A100-80GB-PCIe", 8.0)
    assert sku_of_node("gpu-node", {"nvidia.com/gpu.count": "2"}, 0) is None
    assert sku_of_node("gpu-node", {"nvidia.com/gpu.memory": "15360"}, 1) is not None
