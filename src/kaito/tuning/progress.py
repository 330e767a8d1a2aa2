"""How far a training is: kept by the trainer, served over HTTP as JSON, Prometheus metrics and a page with the loss curve."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any, Literal, NamedTuple, final

State = Literal["starting", "training", "saving", "pushing", "completed", "failed"]

CURVE = 500
"""Points that are kept of the loss; a longer training keeps every second, fourth, … one."""


class Point(NamedTuple):
    step: int
    loss: float


@final
class Progress:
    """Written by the trainer's thread, read by the server's."""

    def __init__(self, model: str = "", *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._began = clock()
        self._training_began = 0.0
        self._first_step = 0
        self._every = 1
        self._logged = 0
        self._values: dict[str, Any] = {
            "state": "starting",
            "model": model,
            "step": 0,
            "steps": 0,
            "epoch": 0.0,
            "loss": None,
            "eval_loss": None,
            "learning_rate": None,
            "tokens": 0,
            "error": "",
        }
        self._curve: list[Point] = []
        self._eval_curve: list[Point] = []

    def begin(self, steps: int, *, at: int = 0) -> None:
        """``steps`` in all, of which ``at`` are done by an earlier process."""
        with self._lock:
            self._training_began, self._first_step = self._clock(), at
            self._values |= {"state": "training", "steps": steps, "step": at}

    def enter(self, state: State, error: str = "") -> None:
        with self._lock:
            self._values |= {"state": state, "error": error}

    def log(self, step: int, values: dict[str, float]) -> None:
        """What the trainer has logged at ``step``: any of loss, eval_loss, learning_rate, epoch, tokens."""
        with self._lock:
            self._values["step"] = max(step, self._values["step"])
            for key in ("loss", "eval_loss", "learning_rate", "epoch", "tokens"):
                if key in values and math.isfinite(values[key]):
                    self._values[key] = values[key]
            if math.isfinite(values.get("loss", math.nan)):
                self._logged += 1
                if self._logged % self._every == 0:
                    self._curve.append(Point(step, values["loss"]))
                if len(self._curve) > CURVE:
                    self._curve, self._every = self._curve[::2], self._every * 2
            if math.isfinite(values.get("eval_loss", math.nan)):
                self._eval_curve.append(Point(step, values["eval_loss"]))

    def snapshot(self) -> dict[str, Any]:
        """All of it; times in seconds, ``eta`` None where it cannot be told."""
        with self._lock:
            now, done = self._clock(), self._values["step"] - self._first_step
            left = self._values["steps"] - self._values["step"]
            training = self._values["state"] == "training"
            eta = (now - self._training_began) / done * left if training and done > 0 else None
            return self._values | {
                "elapsed": now - self._began,
                "eta": eta,
                "curve": [list(point) for point in self._curve],
                "eval_curve": [list(point) for point in self._eval_curve],
            }

    def line(self) -> str:
        """One line for a log."""
        now = self.snapshot()
        parts = [f"step {now['step']} of {now['steps']}"]
        parts += [
            f"{name.replace('_', ' ')} {now[name]:.4g}" for name in ("loss", "eval_loss") if now[name] is not None
        ]
        if now["eta"] is not None:
            minutes, seconds = divmod(round(now["eta"]), 60)
            parts.append(f"{minutes // 60}:{minutes % 60:02}:{seconds:02} left")
        return ", ".join(parts)

    def metrics(self) -> str:
        """In Prometheus' text format."""
        now = self.snapshot()
        state = now["state"]
        lines = []
        for name, kind, text, value in (
            ("step", "gauge", "Optimizer steps done", now["step"]),
            ("steps", "gauge", "Optimizer steps in all", now["steps"]),
            ("epoch", "gauge", "Epochs done", now["epoch"]),
            ("loss", "gauge", "Training loss that was logged last", now["loss"]),
            ("eval_loss", "gauge", "Evaluation loss that was logged last", now["eval_loss"]),
            ("learning_rate", "gauge", "Learning rate that was logged last", now["learning_rate"]),
            ("tokens_total", "counter", "Tokens trained on", now["tokens"]),
            ("eta_seconds", "gauge", "Seconds that are left, by the pace so far", now["eta"]),
        ):
            lines += [f"# HELP kaito_tuning_{name} {text}", f"# TYPE kaito_tuning_{name} {kind}"]
            if value is not None:
                lines.append(f"kaito_tuning_{name} {float(value)!r}")
        lines += ["# HELP kaito_tuning_state What the tuner is doing", "# TYPE kaito_tuning_state gauge"]
        for each in ("starting", "training", "saving", "pushing", "completed", "failed"):
            lines.append(f'kaito_tuning_state{{state="{each}"}} {float(each == state)!r}')
        return "\n".join(lines) + "\n"


class _Handler(BaseHTTPRequestHandler):
    progress: Progress
    server_version = "kaito-tuning"
    sys_version = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        wants_json = "application/json" in self.headers.get("Accept", "")
        if path == "/" and not wants_json:
            page = files("kaito.tuning").joinpath("progress.html").read_bytes()
            self._answer(page, "text/html; charset=utf-8")
        elif path in ("/", "/progress") or (path == "/metrics" and wants_json):
            self._answer(json.dumps(self.progress.snapshot()).encode(), "application/json")
        elif path == "/metrics":
            self._answer(self.progress.metrics().encode(), "text/plain; version=0.0.4; charset=utf-8")
        elif path in ("/healthz", "/health"):
            self._answer(b"ok\n", "text/plain; charset=utf-8")
        else:
            self._answer(
                b"not found: there is /, /progress, /metrics and /healthz\n", "text/plain", HTTPStatus.NOT_FOUND
            )

    def _answer(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Who reads the progress is not worth a line."""


@contextmanager
def serving(progress: Progress, port: int, host: str = "") -> Iterator[int]:
    """Serve ``progress`` while inside; the port, which is a free one for 0."""
    handler = type("Handler", (_Handler,), {"progress": progress})
    server = ThreadingHTTPServer((host, port), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="progress", daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
