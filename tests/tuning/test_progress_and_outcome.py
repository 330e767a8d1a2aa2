"""How far a training is, and what it leaves for those who come after."""

from __future__ import annotations

import json
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kaito.tuning.main import run
from kaito.tuning.outcome import ADAPTER, COMPLETED, FAILED, PUSHED, Outcome
from kaito.tuning.progress import CURVE, Progress, serving


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_time_that_is_left_follows_the_pace_of_this_process() -> None:
    clock = Clock()
    progress = Progress("phi", clock=clock)
    progress.begin(100, at=40)
    assert progress.snapshot()["eta"] is None
    clock.now += 20
    progress.log(50, {"loss": 1.5, "learning_rate": 1e-4, "epoch": 0.5})
    assert progress.snapshot()["eta"] == pytest.approx(100.0)
    assert progress.line() == "step 50 of 100, loss 1.5, 0:01:40 left"
    progress.enter("completed")
    assert progress.snapshot()["eta"] is None


def test_a_long_training_keeps_a_curve_of_bounded_length() -> None:
    progress = Progress()
    progress.begin(5000)
    for step in range(1, 5001):
        progress.log(step, {"loss": 1 / step})
    curve = progress.snapshot()["curve"]
    assert CURVE / 2 <= len(curve) <= CURVE + 1
    assert curve[0][0] < 50
    assert curve[-1][0] > 4900
    progress.log(5001, {"loss": float("nan")})
    json.dumps(progress.snapshot(), allow_nan=False)


def get(port: int, path: str, accept: str = "*/*") -> tuple[str, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def test_it_is_served_as_page_json_and_metrics() -> None:
    progress = Progress("phi-3")
    progress.begin(10)
    progress.log(3, {"loss": 2.5, "eval_loss": 2.0})
    with serving(progress, 0, "127.0.0.1") as port:
        kind, page = get(port, "/", "text/html")
        assert kind.startswith("text/html")
        assert "polyline" in page
        for path in ("/progress", "/", "/metrics"):
            said = json.loads(get(port, path, "application/json")[1])
            assert (said["model"], said["step"], said["curve"]) == ("phi-3", 3, [[3, 2.5]])
        families = {family.name: family for family in text_string_to_metric_families(get(port, "/metrics")[1])}
        values = {name: family.samples[0].value for name, family in families.items() if len(family.samples) == 1}
        assert (values["kaito_tuning_step"], values["kaito_tuning_loss"], values["kaito_tuning_eval_loss"]) == (
            3,
            2.5,
            2,
        )
        states = {sample.labels["state"]: sample.value for sample in families["kaito_tuning_state"].samples}
        assert [state for state, value in states.items() if value] == ["training"]
        assert get(port, "/healthz")[1] == "ok\n"
        with pytest.raises(HTTPError, match="404"):
            get(port, "/secrets")


def test_markers_say_how_it_ended(tmp_path: Path) -> None:
    outcome = Outcome(tmp_path / "results")
    outcome.fail("no memory")
    assert (outcome.directory / FAILED).read_text() == "no memory\n"
    for name in ADAPTER:
        (outcome.directory / name).write_text("x")
        (outcome.directory / name).chmod(0o600)
    assert not outcome.completed
    outcome.complete(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    assert (outcome.directory / COMPLETED).read_text() == "2026-01-02-03-04-05\n"
    assert not (outcome.directory / FAILED).exists()
    assert {(outcome.directory / name).stat().st_mode & 0o777 for name in ADAPTER} == {0o644}
    assert outcome.completed
    assert outcome.pushed == ""
    outcome.note_push("r.io/a@sha256:1")
    assert Outcome(outcome.directory).pushed == "r.io/a@sha256:1"
    assert {path.name for path in outcome.directory.iterdir()} == {*ADAPTER, COMPLETED, PUSHED}


def test_the_newest_whole_checkpoint_is_gone_on_from(tmp_path: Path) -> None:
    for name, whole in (
        ("checkpoint-9", True),
        ("checkpoint-10", True),
        ("checkpoint-11", False),
        ("checkpoint-x", True),
    ):
        (tmp_path / name).mkdir()
        if whole:
            (tmp_path / name / "trainer_state.json").write_text("{}")
    found = Outcome(tmp_path).checkpoint
    assert found is not None
    assert found.name == "checkpoint-10"


def test_the_program_says_what_is_wrong_and_marks_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    words = ["train", "--config", str(config), "--data", str(tmp_path / "none"), "--root", str(tmp_path), "--port", "0"]
    assert run(words) == 2
    assert "cannot read the training configuration" in capsys.readouterr().out
    assert run(["download"]) == 2
    assert "there is nothing to download" in capsys.readouterr().out


def test_what_is_complete_is_not_trained_again_and_pushed_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tuner that was killed after the training, or after the push, and is started again."""
    config = tmp_path / "config.yaml"
    config.write_text("training_config: {}")
    outcome = Outcome(tmp_path / "output")
    outcome.directory.mkdir()
    for name in ADAPTER:
        (outcome.directory / name).write_text("x")
    outcome.complete()
    pushes: list[Any] = []

    async def push(folder: Path, reference: Any, *_: Any, **__: Any) -> Any:
        pushes.append(sorted(path.name for path in folder.iterdir()))
        return type("Pushed", (), {"digest": "sha256:1"})

    monkeypatch.setattr("kaito.tuning.main.push", push)
    words = ["train", "--config", str(config), "--root", str(tmp_path), "--port", "0", "--push", "r.io/team/adapter:v1"]
    for _ in range(2):
        assert run(words) == 0
    assert pushes == [sorted(ADAPTER)]
    assert "pushed before: r.io/team/adapter:v1@sha256:1" in capsys.readouterr().out
