"""Writes docker/locks: for each image, the exact packages with their hashes. ``make locks``.

An image holds kaito itself without the packages that its pyproject.toml requires of everybody: the model images need few of the
operator's.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "docker" / "locks"
MODEL_SIDE = ("aiohttp", "prometheus-client", "pydantic", "PyYAML", "typer")
"""What model servers and tuners need of the packages that kaito requires; ``kaito oci`` is part of each."""
IMAGES = {
    "operator": ("",),
    "inference-cpu": ("inference-cpu",),
    "inference-gpu": ("inference", "inference-vllm"),
    "tuning": ("tuning",),
}
"""By image, the extras in it; the operator has what kaito requires of everybody."""
PYTHON = "3.11"
"""The oldest that kaito runs on; a lock is good for newer ones too."""
HEADER = "# Written by `make locks`; do not edit.\n"


def requirements(image: str) -> list[str]:
    """What pyproject.toml wants in ``image``; for ``build``, what makes the wheel."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = document["project"]
    if image == "build":
        found: list[str] = document["build-system"]["requires"]
        return found
    extras = project["optional-dependencies"]
    wanted = [each for each in project["dependencies"] if image == "operator" or name_of(each) in MODEL_SIDE]
    pending = [extra for extra in IMAGES[image] if extra]
    while pending:
        for requirement in extras[pending.pop()]:
            own = re.fullmatch(r"kaito\[(.+)\]", requirement)
            if own:
                pending += own[1].split(",")
            else:
                wanted.append(requirement)
    return sorted(set(wanted))


def name_of(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


def write(image: str) -> None:
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "compile",
        "-",
        "--quiet",
        "--upgrade",
        "--generate-hashes",
        "--universal",
    ]
    command += ["--python-version", PYTHON, "--no-header", "--no-annotate"]
    done = subprocess.run(
        command, input="\n".join(requirements(image)), stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT
    )
    (LOCKS / f"{image}.txt").write_text(HEADER + done.stdout, encoding="utf-8")


def main() -> None:
    for image in ("build", *IMAGES):
        write(image)


if __name__ == "__main__":
    main()
