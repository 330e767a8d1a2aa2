"""What the pusher beside a trainer does, without a shell: it waits for the adapter and pushes it as an image.

Started as ``python -m kaito.devcluster.kubelet.host.pusher RESULTS IMAGE MODEL LOGINS``.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from kaito.devcluster.kubelet.host.watcher import VARIABLE, carriers
from kaito.oci import Keychain, OciError, Reference, push
from kaito.tuning.outcome import ADAPTER, FAILED, Outcome

_POLL = 0.5


def wait_for(outcome: Outcome) -> str:
    """Return when the adapter is complete; otherwise why it never will be."""
    pod = os.environ.get(VARIABLE, "").rpartition(".")[0]
    seen = False
    while not outcome.completed:
        if (outcome.directory / FAILED).exists():
            return (outcome.directory / FAILED).read_text()
        others = set(carriers(f"{pod}.")) - {os.getpid()}
        if seen and not others and not outcome.completed:
            return "the training has ended without a result"
        if others and not seen:
            seen = True
            print("the training runs", flush=True)
        time.sleep(_POLL)
    return ""


def main(results: str, image: str, model: str, logins: str) -> int:
    outcome = Outcome(Path(results))
    if problem := wait_for(outcome):
        print(problem, file=sys.stderr)
        return 1
    keychain = Keychain.load([Path(logins)]) if Path(logins).exists() else Keychain.default()
    with tempfile.TemporaryDirectory() as folder:
        for name in ADAPTER:
            shutil.copyfile(outcome.directory / name, Path(folder, name))
        annotations = {"sh.kaito.model.name": model}
        try:
            reference = Reference.parse(image)
            pushed = asyncio.run(push(Path(folder), reference, keychain, annotations=annotations, say=print))
        except OciError as error:
            print(error, file=sys.stderr)
            return 1
    print(f"Upload complete: {reference}@{pushed.digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
