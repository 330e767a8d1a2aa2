"""Where the API server is and how to talk to it: in a cluster from the pod's service account, elsewhere from a kubeconfig.

Files are named, not read, wherever they can rotate: tokens and certificates are read again while the process runs.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import ssl
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from kaito.runtime.errors import ConfigError
from kaito.runtime.transport.credentials import Anonymous, Basic, Credentials, ExecPlugin, StaticToken, TokenFile

_HEADER_NAME = "!#$&'*+-.^_`|~"
"""What the name of a header may have besides letters and digits, but for the sign of an escape."""

SERVICE_ACCOUNT_DIRECTORY = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class Material:
    """PEM bytes given inline or by file; a file is read at each use."""

    data: bytes = b""
    file: Path | None = None

    def read(self) -> bytes:
        """Raises ConfigError where the file cannot be read."""
        if self.file is None:
            return self.data
        try:
            return self.file.read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read {self.file}: {error.strerror}") from error

    def __bool__(self) -> bool:
        return bool(self.data) or self.file is not None


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """How the server is verified and, with ``certificate`` and ``key``, how the client proves who it is."""

    authority: Material = field(default_factory=Material)
    """Certificates to trust; the system's where absent."""
    certificate: Material = field(default_factory=Material)
    key: Material = field(default_factory=Material, repr=False)
    insecure: bool = False
    server_name: str | None = None

    def fingerprint(self, pair: bytes = b"") -> str:
        """Changes when any of the files does, or ``pair``. Reads them."""
        digest = hashlib.sha256(pair)
        for material in (self.authority, self.certificate, self.key):
            digest.update(hashlib.sha256(material.read()).digest())
        return digest.hexdigest()

    def context(self, pair: bytes = b"") -> ssl.SSLContext:
        """A context from what the files hold now, and ``pair``: a certificate and its key that come from elsewhere.

        Raises ConfigError.
        """
        try:
            context = ssl.create_default_context(cadata=self.authority.read().decode() if self.authority else None)
            if self.insecure:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if self.certificate:
                pair = self.certificate.read() + b"\n" + self.key.read()
            if pair:
                # load_cert_chain takes only files; the directory is private and gone when the block ends.
                with tempfile.TemporaryDirectory(prefix="kaito-tls-") as name:
                    file = Path(name, "pair.pem")
                    file.touch(mode=0o600)
                    file.write_bytes(pair)
                    context.load_cert_chain(file)
        except (ssl.SSLError, ValueError) as error:
            raise ConfigError(f"the TLS certificates for the API server do not load: {error}") from error
        return context


@dataclass(frozen=True, slots=True)
class Impersonation:
    """Another user in whose name requests are made, where the credentials' own user may do that."""

    user: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def headers(self) -> list[tuple[str, str]]:
        found = [("Impersonate-User", self.user)]
        if self.uid:
            found.append(("Impersonate-Uid", self.uid))
        found += [("Impersonate-Group", group) for group in self.groups]
        for name, values in self.extra.items():
            # Whatever a header's name may not have is escaped, as client-go does.
            header = f"Impersonate-Extra-{quote(name.lower(), safe=_HEADER_NAME)}"
            found += [(header, value) for value in values]
        return found


@dataclass(frozen=True, slots=True)
class RestConfig:
    """Everything a client needs to reach one API server."""

    server: str
    """Base URL, ``https://host:port``."""
    credentials: Credentials = field(default_factory=Anonymous, repr=False)
    tls: TlsConfig = field(default_factory=TlsConfig)
    namespace: str = "default"
    """The context's or the pod's own namespace."""
    proxy: str | None = None
    qps: float = 0.0
    """Requests per second that this client allows itself, 0 for no limit; watches and the leader lease are exempt."""
    burst: int = 10
    user_agent: str = "kaito"
    impersonate: Impersonation | None = None
    """In whose name requests are made, if not in the credentials' own."""

    def __post_init__(self) -> None:
        """Raises ConfigError for a server that is no HTTP URL."""
        scheme, separator, rest = self.server.partition("://")
        if not separator or scheme.lower() not in ("http", "https") or not rest:
            raise ConfigError(f"the server {self.server!r} is not a URL: use https://host:port")
        object.__setattr__(self, "server", f"{scheme.lower()}://{rest}")


def load_config(
    kubeconfig: str | Path | None = None, *, context: str | None = None, environ: Mapping[str, str] | None = None
) -> RestConfig:
    """The configuration to use, by kubectl's rules.

    ``kubeconfig`` (a path, or several joined by ``:``), else the environment's ``KUBECONFIG``, else the pod's service
    account, else ``~/.kube/config``. Raises ConfigError.
    """
    environ = os.environ if environ is None else environ
    paths = str(kubeconfig) if kubeconfig else environ.get("KUBECONFIG")
    if not paths and environ.get("KUBERNETES_SERVICE_HOST"):
        return in_cluster_config(environ)
    return kubeconfig_config(paths or "~/.kube/config", context=context)


def in_cluster_config(environ: Mapping[str, str], directory: Path | None = None) -> RestConfig:
    """The configuration of a pod: its service account's token and CA, both read again as they rotate.

    ``directory`` defaults to the environment's ``KUBERNETES_SERVICE_ACCOUNT_DIR``, else to where a kubelet mounts it.
    """
    directory = directory or Path(environ.get("KUBERNETES_SERVICE_ACCOUNT_DIR") or SERVICE_ACCOUNT_DIRECTORY)
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise ConfigError("not in a cluster: KUBERNETES_SERVICE_HOST is not set")
    token, authority, namespace = directory / "token", directory / "ca.crt", directory / "namespace"
    for path in (token, authority):
        if not path.is_file():
            raise ConfigError(f"{path} is missing: mount the service account's token into the pod")
    return RestConfig(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        credentials=TokenFile(token),
        tls=TlsConfig(authority=Material(file=authority)),
        namespace=namespace.read_text().strip() if namespace.is_file() else "default",
    )


def kubeconfig_config(paths: str, *, context: str | None = None) -> RestConfig:
    """The configuration of a kubeconfig's current, or the named, context. Raises ConfigError."""
    merged = _merged(paths)
    contexts, clusters, users = (_named(merged, kind) for kind in ("contexts", "clusters", "users"))
    name = context or merged["current-context"]
    if not name:
        raise ConfigError(f"{paths} has no current-context: name one")
    chosen = _lookup(contexts, name, "context", paths)
    context_body = chosen.body.get("context") or {}
    entry = _lookup(clusters, context_body.get("cluster", ""), "cluster", paths)
    cluster = entry.body.get("cluster") or {}
    server = cluster.get("server")
    if not server:
        raise ConfigError(f"cluster {context_body.get('cluster')!r} in {entry.file} has no server")
    user_name = context_body.get("user")
    user = _lookup(users, user_name, "user", paths) if user_name else _Entry({}, entry.file)
    user_body = user.body.get("user") or {}
    return RestConfig(
        server=str(server).rstrip("/"),
        credentials=_credentials(user_body, user.file, cluster),
        tls=TlsConfig(
            authority=_material(cluster, "certificate-authority", entry.file),
            certificate=_material(user_body, "client-certificate", user.file),
            key=_material(user_body, "client-key", user.file),
            insecure=bool(cluster.get("insecure-skip-tls-verify")),
            server_name=cluster.get("tls-server-name"),
        ),
        namespace=context_body.get("namespace") or "default",
        proxy=cluster.get("proxy-url"),
        impersonate=_impersonation(user_body, user.file),
    )


def _impersonation(user: Mapping[str, Any], file: Path) -> Impersonation | None:
    name, uid = user.get("as"), user.get("as-uid")
    groups, extra = user.get("as-groups") or (), user.get("as-user-extra") or {}
    if not name:
        if uid or groups or extra:
            raise ConfigError(f"{file} has as-uid, as-groups or as-user-extra without as: name the user to act for")
        return None
    return Impersonation(
        str(name),
        str(uid or ""),
        tuple(map(str, groups)),
        {str(key): tuple(map(str, values or ())) for key, values in extra.items()},
    )


class _Entry(msgspec.Struct, frozen=True):
    body: Mapping[str, Any]
    file: Path
    """The kubeconfig it stands in: relative paths start there."""


def _merged(paths: str) -> Any:
    # Imported here: it loads every generated model of the Kubernetes API (38 MB, 0.4 s).
    from kubernetes_asyncio.config.kube_config import KubeConfigMerger

    files = [Path(path).expanduser() for path in paths.split(os.pathsep) if path]
    existing = [file for file in files if file.is_file()]
    if not existing:
        raise ConfigError(f"no kubeconfig at {paths}: set KUBECONFIG, pass --kubeconfig, or run in a cluster")
    import yaml  # a pod has no kubeconfig, and a start waits for every import

    current = None
    for file in existing:
        try:
            document = yaml.safe_load(file.read_text()) or {}
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(f"cannot read the kubeconfig {file}: {error}") from error
        if not isinstance(document, dict):
            raise ConfigError(f"{file} is not a kubeconfig: it should be a mapping")
        # The first file to name a context wins, as with kubectl; the merger takes the last.
        current = current or document.get("current-context")
    merged = KubeConfigMerger(os.pathsep.join(map(str, existing))).config
    if merged is None:
        raise ConfigError(f"{paths} is empty")
    merged.value["current-context"] = current or ""
    return merged


def _named(merged: Any, kind: str) -> dict[str, _Entry]:
    return {node.value["name"]: _Entry(node.value, Path(node.path)) for node in merged.value.get(kind) or ()}


def _lookup(entries: Mapping[str, _Entry], name: str, kind: str, paths: str) -> _Entry:
    try:
        return entries[name]
    except KeyError:
        known = ", ".join(sorted(entries)) or "none"
        raise ConfigError(f"{paths} has no {kind} {name!r}; it has: {known}") from None


def _material(body: Mapping[str, Any], name: str, file: Path) -> Material:
    if data := body.get(f"{name}-data"):
        try:
            return Material(data=base64.b64decode(data, validate=True))
        except (binascii.Error, ValueError) as error:
            raise ConfigError(f"{name}-data in {file} is not base64: {error}") from error
    if path := body.get(name):
        return Material(file=file.parent / path)
    return Material()


def _credentials(user: Mapping[str, Any], file: Path, cluster: Mapping[str, Any]) -> Credentials:
    if path := user.get("tokenFile"):
        return TokenFile(file.parent / path)
    if token := user.get("token"):
        return StaticToken(str(token).strip())
    if user.get("username") and user.get("password"):
        return Basic(str(user["username"]), str(user["password"]))
    if plugin := user.get("exec"):
        return ExecPlugin.from_config(plugin, directory=file.parent, cluster=cluster)
    if provider := user.get("auth-provider"):
        raise ConfigError(
            f"{file} uses the auth-provider {provider.get('name')!r}, which Kubernetes removed in 1.26: use an exec plugin"
        )
    return Anonymous()
