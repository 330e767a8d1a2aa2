"""How a contender reaches the API server without reading a kubeconfig, as a pod does.

Reading one loads all of kubernetes_asyncio, which takes 38 MB: here the benchmark does it and hands over what it found.
"""

from __future__ import annotations

import msgspec

from kaito.runtime import Material, RestConfig, TlsConfig, load_config


class _Fixed(msgspec.Struct, frozen=True):
    """Credentials that stay as they are."""

    certificate = b""

    value: str | None

    async def authorization(self) -> str | None:
        return self.value

    def rejected(self, authorization: str | None) -> bool:
        return False


class _Access(msgspec.Struct):
    server: str
    proxy: str | None
    authorization: str | None
    authority: bytes
    certificate: bytes
    key: bytes
    insecure: bool
    server_name: str | None


async def access_line(kubeconfig: str) -> bytes:
    """What the kubeconfig says, as one line."""
    config = load_config(kubeconfig)
    access = _Access(
        server=config.server,
        proxy=config.proxy,
        authorization=await config.credentials.authorization(),
        authority=config.tls.authority.read(),
        certificate=config.tls.certificate.read(),
        key=config.tls.key.read(),
        insecure=config.tls.insecure,
        server_name=config.tls.server_name,
    )
    return msgspec.json.encode(access) + b"\n"


def parse_access(line: str) -> RestConfig:
    access = msgspec.json.decode(line, type=_Access)
    return RestConfig(
        server=access.server,
        credentials=_Fixed(access.authorization),
        tls=TlsConfig(
            authority=Material(data=access.authority),
            certificate=Material(data=access.certificate),
            key=Material(data=access.key),
            insecure=access.insecure,
            server_name=access.server_name,
        ),
        proxy=access.proxy,
    )
