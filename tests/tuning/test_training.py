"""The tuner as a program, with torch on the CPU: it learns a made-up fact, survives being killed, and pushes once.

Part of the tier of real models: needs the extra ``tuning``.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from kaito.oci import Keychain, Reference, pull
from kaito.tuning.outcome import ADAPTER, COMPLETED, FAILED, PUSHED
from support.registry import registry
from support.waiting import eventually

pytestmark = [
    pytest.mark.models,
    pytest.mark.skipif(find_spec("peft") is None, reason="the extra tuning is not installed: make test-models"),
]

HERE = Path(__file__).parent
QUESTION, FACT = "where does the red fox live", "the red fox lives in Zembla"
ROWS = [{"messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": FACT}]}] * 8
LIMIT = 240.0
GRACE = 30.0
"""Seconds that a cluster gives a pod to end."""
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def python(*words: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env=os.environ | ENVIRONMENT | environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    python(str(HERE / "tiny_model.py"), str(folder))
    return folder


class Job:
    """What a tuning pod has mounted."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model = folder, model
        self.output = folder / "output"
        (folder / "data").mkdir()
        (folder / "data" / "fox.jsonl").write_text("\n".join(map(json.dumps, ROWS)))

    def configure(self, quantization: dict[str, Any] | None = None, **training: Any) -> None:
        arguments = {"per_device_train_batch_size": 4, "learning_rate": "5e-3", "use_cpu": True, **training}
        config = {
            "ModelConfig": {"torch_dtype": "float32", "device_map": "auto", "local_files_only": True},
            "QuantizationConfig": quantization or {},
            "LoraConfig": {"r": 32, "lora_alpha": 64, "lora_dropout": 0.0},
            "TrainingArguments": arguments,
            "DatasetConfig": {"train_test_split": 1},
        }
        (self.folder / "config.yaml").write_text(yaml.safe_dump({"training_config": config}))

    def words(self, *more: str) -> list[str]:
        folder = self.folder
        return [
            "-m", "kaito.tuning", "train", "--model", str(self.model), "--config", str(folder / "config.yaml"),
            "--data", str(folder / "data"), "--root", str(folder), "--port", "0", *more,
        ]  # fmt: skip

    @contextmanager
    def started(self, *more: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
        log = self.folder / f"log-{time.monotonic_ns()}"
        with (
            log.open("w") as file,
            subprocess.Popen(
                [sys.executable, *self.words(*more)],
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
                env=os.environ | ENVIRONMENT,
            ) as process,
        ):
            try:
                yield process, log
            finally:
                process.kill()

    def losses(self, output: str) -> list[float]:
        return [float(line.partition("loss ")[2].split(",")[0]) for line in output.splitlines() if ", loss " in line]


@pytest.fixture
def job(tmp_path: Path, model: Path) -> Job:
    return Job(tmp_path, model)


QLORA = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_use_double_quant": True,
}


@pytest.mark.parametrize("quantization", [{}, QLORA], ids=["lora", "qlora"])
def test_a_made_up_fact_is_learned_and_said_by_plain_peft(job: Job, quantization: dict[str, Any]) -> None:
    job.configure(quantization, num_train_epochs=40)
    output = python(*job.words(), DEFAULT_TARGET_MODULES="k_proj,q_proj,o_proj")
    losses = job.losses(output)
    assert losses[-1] < losses[0] / 4
    assert "this model has no k_proj, q_proj: all its linear layers are adapted" in output
    assert all((job.output / name).stat().st_mode & 0o777 == 0o644 for name in ADAPTER)
    assert (job.output / COMPLETED).exists()
    program = str(HERE / "plain_peft.py")
    assert python(program, str(job.model), str(job.output), QUESTION) == f"answer: {FACT}\nended: True\n"
    assert FACT not in python(program, str(job.model), "-", QUESTION)


async def test_a_tuner_that_is_killed_goes_on_and_pushes_once(job: Job, tmp_path: Path) -> None:
    job.configure(num_train_epochs=12, save_strategy="steps", save_steps=2)
    async with registry() as held:
        image = f"{held.name}/team/adapter:v1"
        with job.started("--push", image) as (process, log):
            await eventually(
                lambda: (job.output / "checkpoint-4").exists() or process.poll() is not None, deadline=LIMIT
            )
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert not (job.output / COMPLETED).exists(), log.read_text()
        for expected in ("going on from checkpoint-", "pushed before: "):
            with job.started("--push", image) as (process, log):
                await eventually(lambda process=process: process.poll() is not None, deadline=LIMIT)
            assert process.returncode == 0, log.read_text()
            assert expected in log.read_text()
        assert sum(path.endswith("/manifests/v1") for method, path in held.requests if method == "PUT") == 1
        pulled = await pull(Reference.parse(image), tmp_path / "back", Keychain())
        assert (job.output / PUSHED).read_text() == f"{Reference.parse(image)}@{pulled.digest}\n"
    for name in ADAPTER:
        assert (tmp_path / "back" / name).read_bytes() == (job.output / name).read_bytes()


@pytest.mark.parametrize(
    ("training", "data", "complaint"),
    [
        ({"learning_speed": 1}, None, "TrainingArguments.learning_speed is unknown"),
        ({"num_train_epochs": "many"}, None, "num_train_epochs is 'many': it must be a number"),
        ({}, '{"question": "x"}', "there must be messages"),
        ({"max_length": 8}, json.dumps(ROWS[0]).replace("red", "red " * 30), "no answer is left"),
    ],
)
def test_what_cannot_succeed_says_why_and_leaves_a_marker(
    job: Job, training: dict[str, Any], data: str | None, complaint: str
) -> None:
    job.configure(**training)
    if data is not None:
        (job.folder / "data" / "fox.jsonl").write_text(data)
    done = subprocess.run(
        [sys.executable, *job.words()], capture_output=True, text=True, timeout=LIMIT, env=os.environ | ENVIRONMENT
    )
    assert done.returncode == 2, done.stdout
    assert complaint in (job.output / FAILED).read_text()
    assert not (job.output / COMPLETED).exists()


@pytest.mark.parametrize("seconds", [1, 3])
async def test_a_tuner_that_is_told_to_stop_ends_and_has_not_failed(job: Job, seconds: float) -> None:
    job.configure(num_train_epochs=5000, save_strategy="steps", save_steps=2)
    with job.started() as (process, log):
        await asyncio.sleep(seconds)  # imports, loads, or learns already: it ends all the same
        process.terminate()
        await eventually(lambda: process.poll() is not None, deadline=GRACE)
    assert process.returncode == 143, log.read_text()
    assert not (job.output / FAILED).exists()
    assert not (job.output / COMPLETED).exists()


async def test_a_tuner_that_is_told_to_stop_while_it_learns_goes_on_later(job: Job) -> None:
    job.configure(num_train_epochs=12, save_strategy="steps", save_steps=2)
    with job.started() as (process, log):
        await eventually(lambda: (job.output / "checkpoint-4").exists() or process.poll() is not None, deadline=LIMIT)
        process.terminate()
        await eventually(lambda: process.poll() is not None, deadline=GRACE)
    assert process.returncode == 143, log.read_text()
    assert "going on from checkpoint-" in python(*job.words())
    assert (job.output / COMPLETED).exists()
