"""The engine ``vllm`` for real: needs ``KAITO_TEST_VLLM``, a Python that has vLLM for CPUs."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx2
import pytest

from inference.contract import ADAPTERS, ANSWER, CHAT, GRACE, api
from inference.real import Real, unpacked

PYTHON = os.environ.get("KAITO_TEST_VLLM", "")
SOURCES = Path(__file__).parents[2] / "src"
STARTING = 420.0
"""Seconds; 40 on two cores that have nothing else to do."""

pytestmark = [
    pytest.mark.models,
    pytest.mark.skipif(not PYTHON, reason="vLLM is left out: KAITO_TEST_VLLM names no Python that has it"),
    pytest.mark.skipif(
        find_spec("peft") is None, reason="the model for vLLM is made with transformers (make test-models)"
    ),
]


@pytest.fixture(scope="module")
def vllm(adapters: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environ = {
        "PYTHONPATH": str(SOURCES),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }
    strengths = {name: str(strength) for name, strength in ADAPTERS.items()}
    command = [PYTHON, "-m", "kaito.inference", "--engine=vllm", f"--model={unpacked()}", f"--adapters-dir={adapters}"]
    command += [
        "--served-model-name=smol",
        "--host=127.0.0.1",
        f"--port={port}",
        "--max-model-len=512",
        "--enforce-eager",
    ]
    log = tmp_path_factory.mktemp("vllm") / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, text=True, env={**os.environ, **environ, **strengths}
        )
    real = Real(f"http://127.0.0.1:{port}", process)
    try:
        until = time.monotonic() + STARTING
        while not _healthy(real.url):
            assert process.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < until, log.read_text()[-4000:]
        yield real
    finally:
        process.terminate()
        try:
            process.wait(GRACE)
        finally:
            process.kill()
            process.wait()


def _healthy(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/health", timeout=1).status_code == 200
    except httpx2.HTTPError:
        time.sleep(0.2)
        return False


def test_the_launcher_becomes_vllm_with_the_adapters_as_models(vllm: Real) -> None:
    with api(vllm) as client:
        assert {model.id for model in client.models.list()} == {"smol", "base", *ADAPTERS}
        assert client.chat.completions.create(**CHAT).choices[0].message.content == ANSWER
        stream = client.chat.completions.create(**CHAT, stream=True)
        assert "".join(part.choices[0].delta.content or "" for part in stream) == ANSWER
    assert "vllm:num_requests_running" in httpx2.get(f"{vllm.url}/metrics", timeout=60).text


def test_strengths_are_in_the_weights_of_the_adapters(vllm: Real, reference: dict[str, float]) -> None:
    told = {model: vllm.likeliest(model, 1)[0][1] for model in ("base", "zero", "one", "two.v1", "smol")}
    assert told["zero"] == told["base"]
    expected = {model: reference[{"zero": "base", "smol": "one+two.v1"}.get(model, model)] for model in told}
    assert told == pytest.approx(expected, abs=0.1)
