"""How ``kaito demo`` tells its story: titles, commands as a user would type them, and what they print."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from kaito.cli.errors import fail
from kaito.devcluster.state import StateFolder

ANSWER_TIMEOUT = 120.0
"""Seconds that a model may take for one answer."""


class Story:
    """Prints what happens, with the seconds since the beginning."""

    def __init__(self, kubectl: Path, folder: StateFolder) -> None:
        self._kubectl = kubectl
        self._environ = {
            **os.environ,
            "KUBECONFIG": str(folder.kubeconfig),
            "KUBECACHEDIR": str(folder.kubectl_cache),
        }
        self._started = time.monotonic()
        self._told: set[str] = set()

    def title(self, text: str) -> None:
        typer.echo()
        typer.secho(text, bold=True)

    def note(self, text: str) -> None:
        typer.secho(text, dim=True)

    def say(self, text: str, *, good: bool = False) -> None:
        seconds = typer.style(f"{time.monotonic() - self._started:6.1f}s", dim=True)
        typer.echo(f"{seconds}  {typer.style(text, fg=typer.colors.GREEN) if good else text}")

    def news(self, text: str, *, good: bool = False) -> None:
        """Say it unless it has been said before."""
        if text not in self._told:
            self._told.add(text)
            self.say(text, good=good)

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """What kubectl prints; ends the program with its complaint where it fails."""
        done = subprocess.run(
            [self._kubectl, *arguments], env=self._environ, input=stdin, capture_output=True, text=True, check=False
        )
        if done.returncode:
            fail(f"kubectl {' '.join(arguments[:2])}: {done.stderr.strip()}", code=1)
        return done.stdout

    def show(self, *arguments: str) -> None:
        """A kubectl command as a user would type it, and what it prints."""
        typer.secho(f"$ kubectl {' '.join(arguments)}", fg=typer.colors.CYAN)
        typer.echo(self.kubectl(*arguments), nl=False)

    def apply(self, manifest: str, *, quiet: bool = False) -> None:
        """Apply YAML that is in no file, and show it unless ``quiet``."""
        if not quiet:
            typer.secho("$ kubectl apply -f - <<END", fg=typer.colors.CYAN)
            typer.echo(f"{manifest}END")
        said = self.kubectl("apply", "-f", "-", stdin=manifest)
        if not quiet:
            typer.echo(said, nl=False)

    def post(self, url: str, body: Mapping[str, Any], *, stream: bool = False) -> Iterator[str]:
        """The lines of the answer to a request, which is shown and sent by the user's own curl; ends the program where it
        fails."""
        data = json.dumps(body)
        options = ["-N"] if stream else []
        words = ["curl", "-sS", *options, url, "-H", "Content-Type: application/json", "-d", data]
        typer.secho(f"$ {shlex.join(words)}", fg=typer.colors.CYAN)
        if shutil.which("curl"):
            words[1:2] = ["-sS", "--fail-with-body", "--noproxy", "*", "--max-time", f"{ANSWER_TIMEOUT:g}"]
            with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as curl:
                assert curl.stdout is not None
                lines = [*curl.stdout] if not stream else curl.stdout
                yield from (line.rstrip("\n") for line in lines)
            if curl.returncode:
                fail(f"{url}: there was no answer", code=1)
            return
        request = urllib.request.Request(url, data.encode(), {"Content-Type": "application/json"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=ANSWER_TIMEOUT) as answer:
            yield from (line.decode().rstrip("\n") for line in answer)
