"""Command lines of vLLM."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from kaito.inference.engines.vllm import Launch, Module, arguments, plan
from kaito.inference.errors import ConfigError
from kaito.inference.settings import parse

DEFAULTS = {
    "--disable-access-log-for-endpoints=/health,/metrics",
    "--host=0.0.0.0",
    "--max-model-len=auto",
    "--model=owner/name",
    "--port=5000",
    "--served-model-name",
    "phi",
}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], set()),
        (
            ["--tensor-parallel-size=4"],
            {"--tensor-parallel-size=4"},
        ),
        (["--dtype=float16", "--revision=abc"], {"--dtype=float16", "--revision=abc"}),
        (["--trust-remote-code"], {"--trust-remote-code"}),
        (["--max-batch=8"], {"--max-num-seqs=8"}),
        (["--chat-template=/t.jinja"], {"--chat-template=/t.jinja"}),
        (["--kaito-disable-rate-limit", "--kaito_max_probe_steps=6"], set()),
        (["--enable-prefix-caching"], {"--enable-prefix-caching"}),
    ],
)
def test_flags_become_flags_of_vllm(given: list[str], expected: set[str]) -> None:
    settings = parse(["--engine=vllm", "--model=owner/name", *given], {})
    assert set(arguments(settings, ["phi"], ())) == DEFAULTS | expected


def test_the_file_stands_above_the_flags_and_may_hold_anything(tmp_path: Path) -> None:
    file = tmp_path / "inference_config.yaml"
    file.write_text(
        "vllm:\n  max-model-len: 4096\n  cpu-offload-gb: 0\n  enable-prefix-caching: false\n"
        "  speculative-config: {method: ngram}\nkv_cache_cpu_memory_utilization: 0.5\n"
    )
    words = arguments(parse(["--engine=vllm", f"--config={file}", "--max-model-len=100"], {}), ["phi"], ())
    assert {"--max-model-len=4096", "--cpu-offload-gb=0", "--no-enable-prefix-caching"} < set(words)
    assert '--speculative-config={"method": "ngram"}' in words


def test_adapters_are_models_beside_the_base() -> None:
    settings = parse(["--engine=vllm", "--model=owner/name", "--served-model-name=phi"], {})
    words = arguments(settings, ["base", "zero"], (Module("phi", "/t/0", 24), Module("a.b", "/t/1", 8)))
    assert {"--enable-lora", "--max-loras=2", "--max-lora-rank=32"} < set(words)
    assert words[words.index("--served-model-name") :][:3] == ["--served-model-name", "base", "zero"]
    place = words.index("--lora-modules")
    assert [json.loads(word) for word in words[place + 1 :]] == [
        {"name": "phi", "path": "/t/0", "base_model_name": "base"},
        {"name": "a.b", "path": "/t/1", "base_model_name": "base"},
    ]
    with pytest.raises(ConfigError, match=r"rank 600 .* --combination-type=svd"):
        arguments(settings, ["base"], (Module("phi", "/t/0", 600),))


SPREAD = ["--engine=vllm", "--model=o/n", "--pipeline-parallel-size=3", "--distributed-executor-backend=ray",
          "--ray-address=w-0.w-headless.ns.svc:6379"]  # fmt: skip


def test_a_model_on_one_node_is_just_served() -> None:
    settings = parse(["--engine=vllm", "--model=o/n"], {})
    command = (sys.executable, "-m", "vllm.entrypoints.openai.api_server", *arguments(settings, ["phi"], ()))
    assert plan(settings, ["phi"], (), {"POD_INDEX": "1"}) == Launch(command)


def test_the_first_of_several_nodes_leads_and_serves() -> None:
    launch = plan(parse(SPREAD, {}), ["phi"], (), {"POD_INDEX": "0"})
    assert launch.head == ("ray", "start", "--head", "--port=6379", "--disable-usage-stats")
    assert (launch.worker, launch.nodes) == ((), 3)
    assert {"--pipeline-parallel-size=3", "--distributed-executor-backend=ray"} < set(launch.command)
    assert not any("ray-address" in word for word in launch.command)


def test_the_others_work_for_the_first() -> None:
    launch = plan(parse(SPREAD, {}), ["phi"], (), {"POD_INDEX": "2"})
    assert launch.worker == (
        "ray", "start", "--address=w-0.w-headless.ns.svc:6379", "--block", "--disable-usage-stats",
    )  # fmt: skip
    assert not launch.head


@pytest.mark.parametrize("environ", [{}, {"POD_INDEX": "x"}])
def test_a_pod_that_does_not_know_its_place_says_so(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="POD_INDEX"):
        plan(parse(SPREAD, {}), ["phi"], (), environ)
