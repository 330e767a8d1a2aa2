"""``kaito chat``: talk to the model of a Workspace from the terminal."""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from kaito.cli.cluster.connect import CONTEXT, KUBECONFIG, NAMESPACE, Target
from kaito.cli.errors import fail

_TIMEOUT = 600.0
"""Seconds of silence after which an answer is given up."""

Message = dict[str, str]


def chat(
    name: Annotated[str, typer.Argument(help="Name of the Workspace.")],
    message: Annotated[
        str | None, typer.Argument(help="What to say; without it standard input, on a terminal a conversation.")
    ] = None,
    adapter: Annotated[
        str, typer.Option(help="Adapter to answer with; base for none. By default as the Workspace has them.")
    ] = "",
    system: Annotated[str, typer.Option(help="What to tell the model before the conversation.")] = "",
    max_tokens: Annotated[int, typer.Option(help="Tokens of an answer at most.", min=1)] = 512,
    temperature: Annotated[
        float | None, typer.Option(help="0 for the likeliest answer; by default the model's.")
    ] = None,
    namespace: NAMESPACE = None,
    kubeconfig: KUBECONFIG = None,
    context: CONTEXT = None,
) -> None:
    """Talk to the model of a Workspace; its answers stream. /adapter NAME changes the adapter, /new forgets what was said."""
    from kaito.cli.cluster.forward import forwarded

    target = Target.of(kubeconfig, context, namespace)
    with forwarded(target, name) as url:
        model = Model(
            url, adapter, {"max_tokens": max_tokens} | ({} if temperature is None else {"temperature": temperature})
        )
        history: list[Message] = [{"role": "system", "content": system}] if system else []
        try:
            if message is not None or not sys.stdin.isatty():
                model.say(history, message if message is not None else sys.stdin.read())
            else:
                _converse(model, history)
        except KeyboardInterrupt:
            typer.echo()
            raise typer.Exit(130) from None


def _converse(model: Model, history: list[Message]) -> None:
    start = len(history)
    typer.secho(f"{model.name}; /adapter NAME, /new; Ctrl-D ends", dim=True)
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            typer.echo()
            return
        if text == "/new":
            del history[start:]
        elif text.startswith("/adapter"):
            wanted = text.removeprefix("/adapter").strip()
            if model.choose(wanted):
                typer.secho(model.name, dim=True)
            else:
                typer.secho(f"there is no {wanted!r}; there are: {', '.join(model.names)}", fg=typer.colors.YELLOW)
        elif text:
            model.say(history, text)


class Model:
    """What answers at a URL: by the OpenAI API, or where a server has none, by ``/chat``."""

    def __init__(self, url: str, adapter: str, parameters: dict[str, Any]) -> None:
        self._url = url
        self._parameters = parameters
        self.names: list[str] = []
        """The model ids that there are; none for a server that knows ``/chat`` only."""
        self.name = ""
        with self._open("/v1/models", missing=True) as answer:
            if answer is not None:
                self.names = [str(each["id"]) for each in json.load(answer)["data"]]
                self.name = self.names[0]
        if adapter and not self.choose(adapter):
            there = f"there are: {', '.join(self.names)}" if self.names else "this server does not tell adapters apart"
            fail(f"there is no adapter {adapter!r}; {there}")

    def choose(self, name: str) -> bool:
        """Answer as ``name`` from now on; adapters may be joined by ``+``."""
        if not name or any(part not in self.names for part in name.split("+")):
            return False
        self.name = name
        return True

    def say(self, history: list[Message], text: str) -> None:
        """Print the answer to ``text`` as it comes, and add both to ``history``."""
        history.append({"role": "user", "content": text})
        began, pieces = time.monotonic(), list[str]()
        for piece in self._answer(history):
            typer.echo(piece, nl=False)
            sys.stdout.flush()
            pieces.append(piece)
        typer.echo()
        history.append({"role": "assistant", "content": "".join(pieces)})
        if sys.stdout.isatty() and self.names:
            rate = len(pieces) / max(time.monotonic() - began, 1e-9)
            typer.secho(f"{len(pieces)} pieces, {rate:.1f} a second", dim=True)

    def _answer(self, history: list[Message]) -> Iterator[str]:
        if not self.names:
            kwargs = {"max_new_tokens": self._parameters["max_tokens"]}
            with self._open("/chat", {"messages": history, "generate_kwargs": kwargs}) as answer:
                yield str(json.load(answer)["Result"])
            return
        body = {"model": self.name, "stream": True, "messages": history, **self._parameters}
        with self._open("/v1/chat/completions", body) as answer:
            for raw in answer:
                line = raw.decode().strip()
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    fail(event["error"].get("message") or event["error"], code=1)
                for choice in event.get("choices") or ():
                    if piece := (choice.get("delta") or {}).get("content"):
                        yield piece

    def _open(self, path: str, body: dict[str, Any] | None = None, *, missing: bool = False) -> Any:
        from contextlib import nullcontext

        from kaito.cli.cluster.forward import OPENER

        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._url}{path}", data, {"Content-Type": "application/json"})
        try:
            return OPENER.open(request, timeout=_TIMEOUT)
        except urllib.error.HTTPError as error:
            with error:
                if missing and error.code == 404:
                    return nullcontext()
                fail(f"the model server says {error.code}: {_words(error.read())}", code=1)
        except OSError as error:
            reason = getattr(error, "reason", error)
            fail(f"the model server does not answer ({reason}): is the Workspace ready (kaito status)?", code=1)


def _words(body: bytes) -> str:
    """What an error body says, in OpenAI's form or that of ``/chat``."""
    text = body.decode(errors="replace").strip()
    try:
        found = json.loads(text)
        return str(found["error"]["message"] if "error" in found else found["detail"])
    except (ValueError, KeyError, TypeError):
        return text
