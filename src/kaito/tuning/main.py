"""``kaito-tuning``: train an adapter as a mounted configuration says, and push it.

A process that was killed is started again with the same words: it goes on from its last checkpoint, pushes what is complete,
and does nothing where that is done.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from kaito.oci import Keychain, OciError, Reference, push
from kaito.scratch import Scratch
from kaito.termination import Termination
from kaito.tuning.config import ROOT, load_config
from kaito.tuning.download import MAX_BYTES, download
from kaito.tuning.errors import TuningError
from kaito.tuning.outcome import ADAPTER, Outcome
from kaito.tuning.progress import Progress, serving

PORT = 5000
MODEL = "/workspace/weights"
_TERMINATED = 143
"""What the shell says of a program that SIGTERM has ended."""
_ENDING = 5.0
"""Seconds to leave what is being done: a checkpoint is on disk, and an unfinished one is of no use."""


def say(text: str) -> None:
    print(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {text}", flush=True)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kaito-tuning", description=(__doc__ or "").partition("\n\n")[2])
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    train = commands.add_parser("train", help="train an adapter, then push it if an image is named")
    train.add_argument(
        "--model",
        default=MODEL,
        help="folder, GGUF file, package:NAME for the GGUF file in an installed package, or name on a hub (%(default)s)",
    )
    train.add_argument(
        "--config", type=Path, default=Path(os.environ.get("YAML_FILE_PATH") or f"{ROOT}/config/training_config.yaml")
    )
    train.add_argument("--data", type=Path, default=Path(os.environ.get("DATASET_FOLDER_PATH") or f"{ROOT}/data"))
    train.add_argument("--root", default=ROOT, help="what the output must lie below, in place of /mnt (%(default)s)")
    train.add_argument("--host", default="", help="address of the progress over HTTP (all)")
    train.add_argument("--port", type=int, default=PORT, help="of the progress over HTTP (%(default)s)")
    train.add_argument("--push", metavar="IMAGE", help="push the adapter as this image")
    train.add_argument(
        "--push-config", type=Path, action="append", default=[], help="Docker configuration with the login"
    )
    train.add_argument("--plain-http", action="store_true", help="push without TLS; so is always done on this machine")
    fetch = commands.add_parser("download", help="load datasets from URLs")
    fetch.add_argument("urls", nargs="*", default=(os.environ.get("DATA_URLS") or "").split())
    fetch.add_argument("--data", type=Path, default=Path(os.environ.get("DATA_VOLUME_PATH") or f"{ROOT}/data"))
    fetch.add_argument("--max-bytes", type=int, default=MAX_BYTES, help="of one file (%(default)s)")
    fetch.add_argument("--allow-private", action="store_true", help="also from private networks and this machine")
    return parser


def main() -> NoReturn:
    """Exits with 0, 1 where the training failed, 2 where it cannot succeed as it was asked for, and 143 after SIGTERM."""
    Termination(_TERMINATED).interrupt(within=_ENDING)
    sys.exit(run())


def run(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    given = parser().parse_args(arguments)
    if given.command == "download":
        return _download(given)
    return _train(given)


def _download(given: argparse.Namespace) -> int:
    if not given.urls:
        say("error: there is nothing to download: name URLs, or set DATA_URLS")
        return 2
    try:
        asyncio.run(
            download(given.urls, given.data, max_bytes=given.max_bytes, allow_private=given.allow_private, say=say)
        )
    except TuningError as error:
        say(f"error: {error}")
        return 1
    return 0


def _train(given: argparse.Namespace) -> int:
    progress = Progress(Path(given.model).name)
    with serving(progress, given.port, given.host):
        try:
            config = load_config(given.config, root=given.root)
        except TuningError as error:
            return _failed(progress, None, str(error), 2)
        outcome = Outcome(config.output)
        try:
            if not outcome.completed:
                from kaito.tuning.train import train

                train(config, given.model, given.data, progress, say)
                say(f"the adapter is complete: {config.output}")
            if given.push and int(os.environ.get("RANK") or 0) == 0:
                progress.enter("pushing")
                _push(given, outcome)
        except (TuningError, OciError) as error:
            return _failed(progress, outcome, str(error), 2)
        except Exception as error:  # whatever torch raises: the marker tells those who wait for the other one
            _failed(progress, outcome, f"{type(error).__name__}: {error}", 1)
            raise
        progress.enter("completed")
    return 0


def _push(given: argparse.Namespace, outcome: Outcome) -> None:
    """Exactly once: the marker is written when the registry has the image, and a repeated push is the same image."""
    if outcome.pushed:
        say(f"pushed before: {outcome.pushed}")
        return
    import shutil

    reference = Reference.parse(given.push)
    keychain = Keychain.load(given.push_config) if given.push_config else Keychain.default()
    with Scratch("tuning") as folder:
        for name in ADAPTER:
            shutil.copyfile(outcome.directory / name, folder / name)
        annotations = {"sh.kaito.model.name": Path(given.model).name}
        pushed = asyncio.run(
            push(folder, reference, keychain, annotations=annotations, plain=given.plain_http, say=say)
        )
    outcome.note_push(f"{reference}@{pushed.digest}")
    say(f"pushed {reference}@{pushed.digest}")


def _failed(progress: Progress, outcome: Outcome | None, reason: str, status: int) -> int:
    say(f"error: {reason}")
    progress.enter("failed", reason)
    if outcome is not None:
        outcome.fail(reason)
    return status
