"""Credentials for registries from Docker's configuration files, such as mounted pull secrets."""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from kaito.oci.errors import CredentialsError
from kaito.oci.reference import DOCKER_HUB

FILES = ("config.json", ".dockerconfigjson")
"""What the file is called in ``~/.docker`` and in a mounted Secret."""


@dataclass(frozen=True, slots=True)
class Login:
    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    """A refresh token, with which the registry's token service gives out others."""

    def basic(self) -> str:
        """The value of an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


@final
class Keychain:
    """The logins of one or more configuration files; an earlier file comes first."""

    def __init__(self, documents: Iterable[tuple[Path, Mapping[str, Any]]] = ()) -> None:
        self._documents = list(documents)

    @staticmethod
    def load(paths: Iterable[Path]) -> Keychain:
        """``paths`` are files, or folders with one of ``FILES``. Raises CredentialsError for one that cannot be used."""
        return Keychain((file, _read(file)) for file in map(_file, paths))

    @staticmethod
    def default() -> Keychain:
        """``$DOCKER_CONFIG`` or ``~/.docker``, where that is there. Raises CredentialsError."""
        folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
        return Keychain.load([folder]) if any((folder / name).exists() for name in FILES) else Keychain()

    def login(self, registry: str) -> Login | None:
        """What to say to ``registry``; None where nothing is known of it. Raises CredentialsError."""
        names = {
            registry,
            f"https://{registry}",
            f"https://{registry}/v1/",
            f"https://{registry}/v2/",
            f"http://{registry}",
        }
        if registry == DOCKER_HUB:
            names |= {"https://index.docker.io/v1/", "index.docker.io", "registry-1.docker.io"}
        for file, document in self._documents:
            entries = document.get("auths") or {}
            for name, entry in entries.items():
                if name.rstrip("/") in {known.rstrip("/") for known in names} and entry:
                    return _login(file, name, entry)
            helper = (document.get("credHelpers") or {}).get(registry) or document.get("credsStore")
            if helper:
                raise CredentialsError(
                    f"{file} leaves {registry} to the credential helper {helper!r}, which does not exist in a container: "
                    f"put the login under auths, as kubectl create secret docker-registry does"
                )
        return None


def _file(path: Path) -> Path:
    if path.is_dir():
        found = next((path / name for name in FILES if (path / name).is_file()), None)
        if found is None:
            raise CredentialsError(f"{path} has neither {FILES[0]} nor {FILES[1]}")
        return found
    return path


def _read(file: Path) -> Mapping[str, Any]:
    try:
        document = json.loads(file.read_bytes())
    except OSError as error:
        raise CredentialsError(f"cannot read {file}: {error.strerror}") from error
    except ValueError:
        raise CredentialsError(f"{file} is not JSON") from None  # the cause would quote the file
    if not isinstance(document, dict) or not isinstance(document.get("auths", {}), dict):
        raise CredentialsError(f"{file} is not a Docker configuration: it needs a map 'auths'")
    return document


def _login(file: Path, name: str, entry: Any) -> Login:
    if not isinstance(entry, dict):
        raise CredentialsError(f"{file}: the entry of {name} must be a map")
    token = str(entry.get("identitytoken") or "")
    if auth := entry.get("auth"):
        try:
            username, colon, password = base64.b64decode(str(auth), validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise CredentialsError(f"{file}: 'auth' of {name} is not base64 of user:password") from None
        if not colon:
            raise CredentialsError(f"{file}: 'auth' of {name} is not base64 of user:password")
        return Login(username, password.rstrip("\0"), token)
    return Login(str(entry.get("username") or ""), str(entry.get("password") or ""), token)
