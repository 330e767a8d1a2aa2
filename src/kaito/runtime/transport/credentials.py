"""Who the client is: the ``Authorization`` header, and how it is renewed."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, final

from kaito.runtime.clock import Clock, SystemClock, parse_time
from kaito.runtime.errors import ConfigError, Unauthorized

TOKEN_PERIOD = 60.0
"""Seconds after which a token file is read again; a kubelet renews projected tokens long before they expire."""

EXPIRY_LEEWAY = 10.0
"""Seconds before its expiry from which a credential is no longer used."""

PLUGIN_TIMEOUT = 60.0
"""Seconds for one run of a credential plug-in."""


class Credentials(Protocol):
    @property
    def certificate(self) -> bytes:
        """A client certificate and its key, in PEM, of the last ``authorization``; empty for none."""
        ...

    async def authorization(self) -> str | None:
        """The header's value for a request that starts now; None for no header. Raises ConfigError."""
        ...

    def rejected(self, authorization: str | None) -> bool:
        """The server answered 401 to ``authorization``. True where another value may be had, so that one retry is due."""
        ...


@final
@dataclass(frozen=True, slots=True)
class Anonymous:
    certificate: ClassVar[bytes] = b""

    async def authorization(self) -> str | None:
        return None

    def rejected(self, authorization: str | None) -> bool:
        return False


@final
@dataclass(frozen=True, slots=True)
class StaticToken:
    token: str = field(repr=False)
    certificate: ClassVar[bytes] = b""

    async def authorization(self) -> str | None:
        return f"Bearer {self.token}"

    def rejected(self, authorization: str | None) -> bool:
        return False


@final
@dataclass(frozen=True, slots=True)
class Basic:
    username: str
    password: str = field(repr=False)
    certificate: ClassVar[bytes] = b""

    async def authorization(self) -> str | None:
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()

    def rejected(self, authorization: str | None) -> bool:
        return False


@final
class TokenFile:
    """A token in a file that somebody else renews. A file that holds none, or cannot be read, keeps the last one in use."""

    certificate: ClassVar[bytes] = b""

    def __init__(self, path: Path, *, clock: Clock | None = None) -> None:
        self._path = path
        self._clock = clock or SystemClock()
        self._token = ""
        self._read_at = float("-inf")

    async def authorization(self) -> str | None:
        now = self._clock.monotonic()
        if now - self._read_at >= TOKEN_PERIOD or not self._token:
            try:
                # A projected token is a kilobyte on tmpfs: reading it costs less than a thread would.
                token = _usable(self._path.read_bytes().strip())
            except (OSError, ValueError) as error:
                if not self._token:
                    reason = error.strerror if isinstance(error, OSError) else error
                    raise ConfigError(f"cannot read the token {self._path}: {reason}") from error
            else:
                if not token and not self._token:
                    raise ConfigError(f"the token file {self._path} is empty")
                self._token = token or self._token
                self._read_at = now
        return f"Bearer {self._token}"

    def rejected(self, authorization: str | None) -> bool:
        if authorization == f"Bearer {self._token}":
            self._read_at = float("-inf")
        return True


def _usable(token: bytes) -> str:
    """Raises ValueError for what cannot stand in a header."""
    text = token.decode("ascii", errors="replace")
    if not text.isprintable() or not text.isascii():
        raise ValueError("it is not a token but something binary")
    return text


@final
class ExecPlugin:
    """A credential plug-in of ``client.authentication.k8s.io``: a command that prints a token, a client certificate, or both.

    Its result is used until it expires or is refused; one run serves all requests that wait for it.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        api_version: str,
        env: Mapping[str, str] | None = None,
        cluster_info: Mapping[str, Any] | None = None,
        install_hint: str = "",
        clock: Clock | None = None,
    ) -> None:
        self._command = tuple(command)
        self._api_version = api_version
        self._env = dict(env or {})
        self._cluster_info = cluster_info
        self._hint = install_hint
        self._clock = clock or SystemClock()
        self._header: str | None = None
        self.certificate = b""
        self._usable = False
        self._expires: float | None = None
        self._lock = asyncio.Lock()

    @staticmethod
    def from_config(plugin: Mapping[str, Any], *, directory: Path, cluster: Mapping[str, Any]) -> ExecPlugin:
        """The plug-in of a kubeconfig's ``users[].user.exec``. Raises ConfigError."""
        command = str(plugin.get("command") or "")
        if not command:
            raise ConfigError("the user's exec plugin has no command")
        if os.sep in command:
            command = str(directory / command)
        info = None
        if plugin.get("provideClusterInfo"):
            info = {
                "server": cluster.get("server"),
                "certificate-authority-data": cluster.get("certificate-authority-data"),
                "insecure-skip-tls-verify": cluster.get("insecure-skip-tls-verify"),
            }
        return ExecPlugin(
            [command, *map(str, plugin.get("args") or ())],
            api_version=str(plugin.get("apiVersion") or "client.authentication.k8s.io/v1"),
            env={str(item["name"]): str(item["value"]) for item in plugin.get("env") or ()},
            cluster_info=info,
            install_hint=str(plugin.get("installHint") or ""),
        )

    async def authorization(self) -> str | None:
        async with self._lock:
            expired = self._expires is not None and self._clock.now().timestamp() >= self._expires - EXPIRY_LEEWAY
            if not self._usable or expired:
                await self._run()
            return self._header

    def rejected(self, authorization: str | None) -> bool:
        if authorization == self._header:
            self._usable = False
        return True

    async def _run(self) -> None:
        info: dict[str, Any] = {
            "apiVersion": self._api_version,
            "kind": "ExecCredential",
            "spec": {"interactive": False},
        }
        if self._cluster_info is not None:
            info["spec"]["cluster"] = {name: value for name, value in self._cluster_info.items() if value is not None}
        environ = {**os.environ, **self._env, "KUBERNETES_EXEC_INFO": json.dumps(info)}
        name = self._command[0]
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                env=environ,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise ConfigError(
                f"cannot run the credential plugin {name}: {error.strerror}. {self._hint}".strip()
            ) from error
        try:
            async with asyncio.timeout(PLUGIN_TIMEOUT):
                out, err = await process.communicate()
        except TimeoutError as error:
            raise Unauthorized(f"the credential plugin {name} did not end within {PLUGIN_TIMEOUT:g} s") from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise Unauthorized(
                f"the credential plugin {name} failed ({process.returncode}): {err.decode(errors='replace')[:500]}"
            )
        try:
            status = json.loads(out)["status"]
            token = status.get("token")
            pair = [status.get(name) for name in ("clientCertificateData", "clientKeyData")]
            expires = status.get("expirationTimestamp")
            self._expires = parse_time(expires).timestamp() if expires else None
            self._header = f"Bearer {_usable(str(token).encode())}" if token else None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Unauthorized(f"the credential plugin {name} printed no ExecCredential with a status") from error
        if any(pair) and not all(pair):
            raise ConfigError(f"the credential plugin {name} gave a client certificate without its key, or the reverse")
        if not token and not any(pair):
            raise ConfigError(f"the credential plugin {name} gave neither a token nor a client certificate")
        self.certificate = "\n".join(map(str, pair)).encode() if all(pair) else b""
        self._usable = True
