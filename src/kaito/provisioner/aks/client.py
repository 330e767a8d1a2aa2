"""The SDK's client, with kaito's identity and guard, and without what the SDK does by itself.

Retries are the Machine controller's affair: the SDK would sleep for as long as a Retry-After header says. Neither does it
register resource providers in the subscription, which is for the subscription's owner to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from azure.core.pipeline.policies import (
    ContentDecodePolicy,
    HeadersPolicy,
    ProxyPolicy,
    RequestIdPolicy,
    SansIOHTTPPolicy,
    UserAgentPolicy,
)
from azure.mgmt.containerservice._version import VERSION
from azure.mgmt.containerservice.aio import ContainerServiceClient

from kaito.provisioner.aks.config import PUBLIC_ENDPOINT
from kaito.provisioner.aks.identity import EmulatorCredential, TokenPolicy

if TYPE_CHECKING:
    from azure.core.pipeline import PipelineRequest

    from kaito.provisioner.aks.config import AksConfig
    from kaito.provisioner.provider import Guard

API_VERSION = "2026-08-01"
USER_AGENT = "kaito"
CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 30.0
"""Seconds."""
WRITES = ("PUT", "POST", "PATCH", "DELETE")


@final
class GuardPolicy(SansIOHTTPPolicy[Any, Any]):
    """The last word before a write goes out: time has passed since it was decided on, if only for a token."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def on_request(self, request: PipelineRequest[Any]) -> None:
        if request.http_request.method in WRITES:
            self._guard()


def make_client(config: AksConfig, guard: Guard) -> tuple[ContainerServiceClient, TokenPolicy]:
    """The client and its tokens, both to be closed. Raises ConfigError for an identity that cannot work."""
    tokens = TokenPolicy(config, f"{config.endpoint or PUBLIC_ENDPOINT}/.default")
    options: dict[str, Any] = {"connection_verify": config.ca_file} if config.ca_file else {}
    client = ContainerServiceClient(
        EmulatorCredential(""),  # never asked: ``tokens`` is the identity
        config.subscription_id,
        config.endpoint or PUBLIC_ENDPOINT,
        api_version=API_VERSION,
        policies=[
            RequestIdPolicy(),
            HeadersPolicy(),
            UserAgentPolicy(user_agent=USER_AGENT, sdk_moniker=f"mgmt-containerservice/{VERSION}"),
            ProxyPolicy(),
            ContentDecodePolicy(),
            tokens,
            GuardPolicy(guard),
        ],
        connection_timeout=CONNECT_TIMEOUT,
        read_timeout=READ_TIMEOUT,
        **options,
    )
    return client, tokens
