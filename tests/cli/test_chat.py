"""``kaito chat`` with servers that speak the OpenAI API, and with one that knows ``/chat`` only."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import typer

from kaito.cli.cluster.chat import Model
from kaito.cli.cluster.tune import describe


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *, openai: bool) -> None:
        self.openai = openai
        self.bodies: list[dict[str, Any]] = []
        self.refuse = 0
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        ids = [{"id": "phi"}, {"id": "base"}, {"id": "law"}]
        self._send(json.dumps({"data": ids}).encode(), 200 if self.server.openai else 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append({"path": self.path, **body})
        if self.server.refuse:
            self._send(json.dumps({"error": {"message": "too busy"}}).encode(), self.server.refuse)
        elif self.path == "/chat":
            self._send(json.dumps({"Result": "as one"}).encode())
        else:
            pieces = [{"choices": [{"delta": {"content": text}}]} for text in ("in ", "pieces")]
            events = [f"data: {json.dumps(each)}\n\n" for each in pieces]
            self._send(("".join(events) + "data: [DONE]\n\n").encode())

    def _send(self, body: bytes, code: int = 200) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(*, openai: bool = True) -> Iterator[Server]:
    with Server(openai=openai) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_an_answer_streams_and_the_conversation_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    history: list[dict[str, str]] = []
    with serving() as server:
        model = Model(server.url, "", {"max_tokens": 7, "temperature": 0.0})
        model.say(history, "one")
        assert model.choose("law")
        model.say(history, "two")
    assert capsys.readouterr().out == "in pieces\nin pieces\n"
    first, second = server.bodies
    assert (first["model"], second["model"]) == ("phi", "law")
    assert (first["max_tokens"], first["temperature"], first["stream"]) == (7, 0.0, True)
    assert [each["content"] for each in second["messages"]] == ["one", "in pieces", "two"]


def test_adapters_are_named_as_the_server_names_them(capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as server:
        assert Model(server.url, "law+base", {}).name == "law+base"
        with pytest.raises(typer.Exit):
            Model(server.url, "tax", {})
    assert "there is no adapter 'tax'; there are: phi, base, law" in capsys.readouterr().err


def test_a_server_that_knows_chat_only(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(openai=False) as server:
        Model(server.url, "", {"max_tokens": 9}).say([], "hello")
        assert server.bodies[0]["path"] == "/chat"
        assert server.bodies[0]["generate_kwargs"] == {"max_new_tokens": 9}
        with pytest.raises(typer.Exit):
            Model(server.url, "law", {})
    said = capsys.readouterr()
    assert said.out == "as one\n"
    assert "does not tell adapters apart" in said.err


def test_what_a_server_refuses_is_said_in_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as server:
        model = Model(server.url, "", {})
        server.refuse = 429
        with pytest.raises(typer.Exit):
            model.say([], "hello")
    assert "the model server says 429: too busy" in capsys.readouterr().err
    with pytest.raises(typer.Exit):
        model.say([], "hello")
    assert "does not answer" in capsys.readouterr().err


def test_progress_in_a_line() -> None:
    now = {"state": "training", "step": 5, "steps": 20, "loss": 1.25, "eval_loss": None, "eta": 75.0, "error": ""}
    assert describe(now) == "training  [#####...............] 5/20  loss 1.250  1m15s left"
    assert describe({"state": "failed", "step": 0, "steps": 0, "error": "no data"}) == "failed  no data"
