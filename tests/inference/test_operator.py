"""What the operator starts is what the server takes."""

from __future__ import annotations

import pytest

from kaito.api.workspace import Workspace
from kaito.controllers.workspace.manifests.pod import ADAPTER_DIRECTORY, CONFIG_DIRECTORY, Rendering
from kaito.controllers.workspace.manifests.server import WEIGHTS_DIRECTORY, server_arguments
from kaito.inference import adapters
from kaito.inference.settings import Settings, parse
from kaito.models import Catalogue, judge


@pytest.mark.parametrize("engine", ["openvino", "transformers", "vllm"])
def test_the_operators_command_line_is_understood(engine: str) -> None:
    preset = Catalogue.default().preset("phi-3-mini-4k-instruct")
    assert preset
    workspace = Workspace.model_validate({"metadata": {"name": "w", "namespace": "n"}})
    settings = parse(server_arguments(workspace, preset, engine, Rendering(revision=1, registry="r", gpus=2)), {})
    model = preset.facts.openvino if engine == "openvino" else preset.model
    assert (settings.engine, settings.model, settings.name) == (engine, model, preset.name)
    assert settings.extra == ({"tensor_parallel_size": "2"} if engine == "vllm" else {})


def test_paths_are_the_operators() -> None:
    assert (Settings().model, Settings().adapters_dir) == (WEIGHTS_DIRECTORY, ADAPTER_DIRECTORY)
    assert CONFIG_DIRECTORY == "/mnt/config"


def test_the_operator_knows_what_the_model_is_called_without_adapters() -> None:
    assert judge.BASE == adapters.BASE
