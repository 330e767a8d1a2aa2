"""Names of images: ``registry/repository:tag`` or ``…@sha256:…``, as Docker reads them."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from kaito.oci.errors import ReferenceError

_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?\Z")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")

DOCKER_HUB = "docker.io"
_HUB_API = "registry-1.docker.io"


@dataclass(frozen=True, slots=True)
class Reference:
    registry: str
    """Host and port, as the name says them."""
    repository: str
    tag: str
    digest: str = ""
    """``sha256:…``; decides where both are named."""

    @staticmethod
    def parse(text: str) -> Reference:
        """Raises ReferenceError. A name without registry is Docker Hub's, one without tag or digest ``latest``."""
        rest, at, digest = text.partition("@")
        if at and not DIGEST.match(digest):
            raise ReferenceError(f"{text!r}: {digest!r} is not a digest: it must be sha256: and 64 hexadecimal digits")
        head, slash, tail = rest.partition("/")
        if slash and ("." in head or ":" in head or head in ("localhost", DOCKER_HUB) or head.startswith("[")):
            registry, path = head, tail
        else:
            registry, path = DOCKER_HUB, rest
        path, colon, tag = path.partition(":")
        if registry == DOCKER_HUB and "/" not in path:
            path = f"library/{path}"
        if not _HOST.match(registry):
            raise ReferenceError(f"{text!r}: {registry!r} is not the name of a registry")
        if not _REPOSITORY.match(path):
            raise ReferenceError(
                f"{text!r}: {path!r} is not the name of a repository: lower-case letters, digits, '.', '_', '-' and '/'"
            )
        if colon and not _TAG.match(tag):
            raise ReferenceError(f"{text!r}: {tag!r} is not a tag: at most 128 letters, digits, '.', '_' and '-'")
        return Reference(registry, path, tag or ("" if digest else "latest"), digest)

    @property
    def host(self) -> str:
        """Where the registry answers."""
        return _HUB_API if self.registry == DOCKER_HUB else self.registry

    @property
    def loopback(self) -> bool:
        """Whether the registry is on this machine, where it needs no TLS."""
        name = self.host.rpartition(":")[0] if self.host.rpartition("]")[2].startswith(":") else self.host
        name = name.partition(":")[0] if name.count(":") == 1 else name.strip("[]")
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return name == "localhost"

    @property
    def version(self) -> str:
        """The digest or, without one, the tag."""
        return self.digest or self.tag

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.registry}/{self.repository}{tag}{f'@{self.digest}' if self.digest else ''}"
