"""Measures the model server beside its bare engines: ``make bench-model``.

The same model (SmolLM2, 135 million parameters), prompts and numbers of tokens for all. A server and its bare engines are in
memory together and take turns, so that a machine that is busy with other things slows all of them. Two processes with the same
engine differ by a tenth, so that there are several of each. No two requests have the same prompt: what an engine keeps of a
prompt that it has seen plays no part.
"""

from __future__ import annotations

import argparse
import itertools
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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hack.bench.bare import CACHE, MODEL, PIPELINES, TOKENS
from hack.bench.document import PAGE, write_model_server
from hack.bench.figures import table

GROUPS = 4
"""Of a server and its bare engines, each in a process that is started for it."""
ROUNDS = 3
TOGETHER = 8
REQUESTS = 500
WARM = 300
"""Requests after which memory is read for the first time: caches are full then."""
LIBRARIES = {"openvino": "openvino_genai", "transformers": "peft"}
FASTER = {"openvino": 3.0, "transformers": 2.0, "vllm": 3.0}
"""How much faster requests at once have to be than one after another."""
FLAGS = {
    "openvino": ("--drain-delay=0", *(f"--{name}={value}" for name, value in CACHE.items())),
    "transformers": ("--drain-delay=0",),
    "vllm": ("--enforce-eager",),
}
SHARE = 0.95
"""Of the bare engine's tokens per second that the server has to give one request."""
GROWTH = 1.05
"""How much memory may grow over the requests after the first ones."""

_numbers = itertools.count(1000)


def a_prompt() -> str:
    """One that nobody has had before; all are of the same length."""
    return f"Story {next(_numbers)}: once upon a time there was a little red fox who lived in a deep forest, and every morning"


@dataclass(frozen=True, kw_only=True)
class Measured:
    engine: str
    alone: list[float]
    """Tokens per second of one request at a time, in each group."""
    bare: dict[str, list[float]]
    """Those of each bare pipeline."""
    after_another: float
    together: float
    early: float
    late: float
    """Resident memory in MB after the first requests and after all."""

    def shares(self, pipeline: str) -> list[float]:
        return sorted(own / bare for own, bare in zip(self.alone, self.bare[pipeline], strict=True))

    @property
    def beside(self) -> list[list[str]]:
        rows = []
        for pipeline, rates in self.bare.items():
            shares = self.shares(pipeline)
            rows.append(
                [
                    self.engine, pipeline, f"{median(rates):.1f}", f"{median(self.alone):.1f}", f"{median(shares):.2f}",
                    f"{shares[0]:.2f}-{shares[-1]:.2f}", f"{min(rates):.1f}-{max(rates):.1f}",
                ]
            )  # fmt: skip
        return rows

    @property
    def crowd(self) -> list[str]:
        return [
            self.engine, f"{self.after_another:.1f}", f"{self.together:.1f}", f"{self.together / self.after_another:.1f}x",
            f"{self.early:.0f}", f"{self.late:.0f}",
        ]  # fmt: skip

    @property
    def missed(self) -> list[str]:
        goals = {
            f"one request at {SHARE} of {pipeline}": median(self.shares(pipeline)) >= SHARE for pipeline in self.bare
        } | {
            f"{TOGETHER} at once {FASTER[self.engine]:g}x": self.together >= FASTER[self.engine] * self.after_another,
            f"memory flat over {REQUESTS} requests": self.late <= GROWTH * self.early,
        }
        return [f"{self.engine}: {goal}" for goal, met in goals.items() if not met]


_BESIDE = ["engine", "bare", "tokens/s", "server, tokens/s", "share", "of the groups", "bare, of the groups"]
_CROWD = [
    "engine", f"{TOGETHER} one after another, tokens/s", f"{TOGETHER} at once", "ratio", f"RSS after {WARM} requests, MB",
    f"after {REQUESTS}",
]  # fmt: skip


@contextmanager
def running(engine: str, pipeline: str) -> Iterator[Callable[[str], float]]:
    """A bare pipeline in a process of its own: answers a prompt and says how many tokens per second that were."""
    command = [sys.executable, str(Path(__file__).with_name("bare.py")), engine, pipeline]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=_environment()
    ) as process:
        assert process.stdin
        assert process.stdout
        try:
            if process.stdout.readline() != "ready\n":
                raise SystemExit(f"the bare engine {engine} did not start: {' '.join(command)} says why")

            def answer(prompt: str) -> float:
                assert process.stdin
                assert process.stdout
                process.stdin.write(f"{prompt}\n")
                process.stdin.flush()
                return float(process.stdout.readline())

            yield answer
        finally:
            process.kill()


class Server:
    def __init__(self, url: str, pid: int) -> None:
        self._url = url
        self._pid = pid

    def complete(self, prompt: str, tokens: int = TOKENS) -> int:
        body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        request = urllib.request.Request(
            f"{self._url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=600) as response:
            answer: dict[str, Any] = json.load(response)
        return int(answer["usage"]["completion_tokens"])

    def answer(self, prompt: str) -> float:
        """Tokens per second of one request."""
        began = time.monotonic()
        return self.complete(prompt) / (time.monotonic() - began)

    def rate(self, requests: int, at_once: int) -> float:
        """Tokens per second of all requests together."""
        began = time.monotonic()
        with ThreadPoolExecutor(at_once) as pool:
            tokens = sum(pool.map(self.complete, [a_prompt() for _ in range(requests)]))
        return tokens / (time.monotonic() - began)

    def resident(self) -> float:
        """MB of the process and of those that it has started."""
        return sum(map(_resident, [self._pid, *_children(self._pid)]))


@contextmanager
def served(engine: str, python: str) -> Iterator[Server]:
    model = MODEL if engine != "vllm" else str(_directory_of_model())
    command = [python, "-m", "kaito.inference", f"--engine={engine}", f"--model={model}", "--host=127.0.0.1"]
    command += ["--port=5199", "--max-model-len=1024", *FLAGS[engine]]
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
    groups: list[dict[str, float]] = []
    for number in range(1, GROUPS + 1):
        with served(engine, python) as server:
            groups.append(_in_turns(engine, server))
            print(engine, *(f"{name} {rate:.1f}" for name, rate in groups[-1].items()), flush=True)
            if number == GROUPS:
                after_another = server.rate(TOGETHER, 1)
                together = server.rate(TOGETHER, TOGETHER)
                early = 0.0
                with ThreadPoolExecutor(TOGETHER) as pool:
                    answers = pool.map(lambda _: server.complete(a_prompt(), 4), range(REQUESTS))
                    for done, _ in enumerate(answers, 1):
                        if done == WARM:
                            early = server.resident()
                late = server.resident()
    return Measured(
        engine=engine,
        alone=[group["server"] for group in groups],
        bare={pipeline: [group[pipeline] for group in groups] for pipeline in PIPELINES.get(engine, ())},
        after_another=after_another,
        together=together,
        early=early,
        late=late,
    )


def _in_turns(engine: str, server: Server) -> dict[str, float]:
    """The median of each, after a first answer that is not counted; who begins changes from round to round."""
    with ExitStack() as stack:
        contenders: dict[str, Callable[[str], float]] = {"server": server.answer}
        for pipeline in PIPELINES.get(engine, ()):
            contenders[pipeline] = stack.enter_context(running(engine, pipeline))
        for answer in contenders.values():
            answer(a_prompt())
        rates: dict[str, list[float]] = {name: [] for name in contenders}
        names = list(contenders)
        for _ in range(ROUNDS):
            prompt = a_prompt()
            for name in names:
                rates[name].append(contenders[name](prompt))
            names.append(names.pop(0))
    return {name: median(each) for name, each in rates.items()}


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
        "the likeliest each time; no two requests have the same prompt.\n\n"
        f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}; "
        f"{', '.join(libraries)}.\n\n"
        "One request at a time:\n\n"
        f"{table([row for each in measured for row in each.beside], _BESIDE)}\n\n"
        f"{GROUPS} groups of a server and its bare engines, each in a process that is started for it, since two processes with "
        f"the same engine differ; in each group they take turns for {ROUNDS} rounds, of which the median counts. *share* is "
        "the median of the groups' shares; beside it are the lowest and the highest. `LLMPipeline` is what OpenVINO has for "
        "one request at a time, as it comes; `ContinuousBatchingPipeline` is what the server steps, with the server's "
        "settings. The server asks for huge pages where its weights are OpenVINO's, the bare engines do not.\n\n"
        "Many requests:\n\n"
        f"{table([each.crowd for each in measured], _CROWD)}\n\n"
        f"Goals: one request at {SHARE} of each bare engine's tokens/s; {TOGETHER} at once {FASTER['transformers']:g} times "
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
    arguments = parser.parse_args()
    engines = [name for name in arguments.engine or sorted(LIBRARIES) if find_spec(LIBRARIES[name]) is not None]
    pythons = dict.fromkeys(engines, sys.executable) | ({"vllm": arguments.vllm} if arguments.vllm else {})
    measured = []
    for engine, python in pythons.items():
        measured.append(measure(engine, python))
    write_model_server(arguments.output, _text(measured))
    print(_text(measured))
    if any(each.missed for each in measured):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
