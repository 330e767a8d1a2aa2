"""Command line, configuration file and adapters of the model server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kaito.inference.adapters import Models, discover, empty
from kaito.inference.errors import ConfigError, ModelError, UnknownModel
from kaito.inference.hardware import parse_gpus
from kaito.inference.protocol import Adapter
from kaito.inference.settings import parse


def test_flags_of_the_operator() -> None:
    settings = parse(["--engine=openvino", "--model=owner/name", "--revision=abc", "--served-model-name=phi"], {})
    assert (settings.engine, settings.model, settings.revision, settings.name) == (
        "openvino",
        "owner/name",
        "abc",
        "phi",
    )
    assert (settings.port, settings.host, settings.adapters_dir) == (5000, "0.0.0.0", "/mnt/adapter")


def test_flags_of_the_published_server() -> None:
    settings = parse(
        ["--torch_dtype", "bfloat16", "--pipeline", "text-generation", "--trust_remote_code", "--load_in_4bit",
         "--pretrained_model_name_or_path", "/w"],
        {"LOCAL_RANK": "2"},
    )  # fmt: skip
    assert (settings.dtype, settings.pipeline, settings.model, settings.port) == (
        "bfloat16",
        "text-generation",
        "/w",
        5002,
    )
    assert settings.trust_remote_code
    assert settings.extra == {"load_in_4bit": True}


def test_the_section_of_the_engine_stands_above_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "inference_config.yaml"
    file.write_text("openvino: {max-batch: 3, cache_size: 2}\nvllm: {max-batch: 9}\nmax_probe_steps: 6\n")
    settings = parse([f"--config={file}", "--engine=openvino", "--max-batch=5", "--max-queue=7"], {})
    assert (settings.max_batch, settings.max_queue, settings.extra) == (3, 7, {"cache_size": 2})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port=x"], "--port: .*integer.*'x'"),
        (["--engine=other"], "--engine: .*openvino.*'other'"),
        (["serve"], "serve: is no flag"),
        (["--config=/nowhere"], "--config: /nowhere: No such file"),
        (["--max-batch=0"], "--max-batch: .*greater than or equal to 1"),
    ],
)
def test_a_setting_that_cannot_work_is_named(arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse(arguments, {})


@pytest.mark.parametrize("text", ["[]", "vllm: 3", "{", "\x00"])
def test_a_configuration_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"--config: .*c\.yaml"):
        parse([f"--config={file}", "--engine=vllm"], {})


def _adapter(root: Path, name: str) -> None:
    (root / name).mkdir()
    (root / name / "adapter_config.json").write_text("{}")


def test_adapters_lie_in_directories_and_their_strengths_in_the_environment(tmp_path: Path) -> None:
    for name in ("style.v1", "facts"):
        _adapter(tmp_path, name)
    (tmp_path / "nothing").mkdir()
    assert discover(str(tmp_path), {"style.v1": "0.25"}) == (
        Adapter("facts", str(tmp_path / "facts"), 1.0),
        Adapter("style.v1", str(tmp_path / "style.v1"), 0.25),
    )
    assert empty(str(tmp_path)) == ["nothing"]
    assert discover(str(tmp_path / "missing"), {}) == ()
    for strength in ("much", "1.5", "-1", "nan"):
        with pytest.raises(ConfigError, match="strength of the adapter facts"):
            discover(str(tmp_path), {"facts": strength})


def test_names_that_mean_a_model_are_no_names_of_adapters() -> None:
    for name in ("phi", "base"):
        with pytest.raises(ModelError, match="rename"):
            Models("phi", [Adapter(name, "/a")])


def test_combinations_are_the_same_in_any_order() -> None:
    models = Models("phi", [Adapter("a", "/a"), Adapter("b", "/b"), Adapter("c", "/c")])
    assert models.resolve("b+a") == models.resolve("a+b") == (Adapter("a", "/a"), Adapter("b", "/b"))
    with pytest.raises(UnknownModel):
        models.resolve("a+")


def test_an_adapter_of_strength_zero_is_told_of_and_adds_nothing() -> None:
    models = Models("phi", [Adapter("a", "/a", 0.0), Adapter("b", "/b")])
    assert models.listed == ("phi", "base", "a", "b")
    assert models.mixes == {"phi": (Adapter("b", "/b"),), "base": (), "a": (), "b": (Adapter("b", "/b"),)}


def test_memory_of_gpus_is_in_gigabytes() -> None:
    assert parse_gpus("0, NVIDIA A100, 25, 55, 1024, 81920\n") == [
        {
            "id": "0",
            "name": "NVIDIA A100",
            "load": "25.00%",
            "temperature": "55 C",
            "memory": {"used": "1.00 GB", "total": "80.00 GB"},
        }
    ]


def test_the_server_needs_nothing_of_the_operator() -> None:
    needed = (
        "import sys\n"
        "for name in ('aiohttp', 'azure', 'kubernetes_asyncio', 'msgspec', 'structlog', 'torch', 'openvino', 'typer'):\n"
        "    sys.modules[name] = None\n"
        "import kaito.inference.__main__, kaito.inference.server\n"
        "assert not any(name.startswith(('kaito.runtime', 'kaito.api')) for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", needed], check=True, timeout=60)


def test_what_cannot_work_ends_the_program_with_words() -> None:
    command = [sys.executable, "-m", "kaito.inference", "--engine=openvino", "--model=/nowhere", "--port=0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode in (1, 2)
    assert "ERROR kaito.inference: --" in ended.stderr
    assert "Traceback" not in ended.stderr
