"""Admission: what the API server asks kaito before it stores a Workspace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kaito.api.resources import WORKSPACES
from kaito.runtime import Client, SelfSignedCertificates, WebhookServer, validating
from kaito.webhooks.workspace import WorkspaceValidator

if TYPE_CHECKING:
    from kaito.api.validation import Catalogue, Policy
    from kaito.runtime import Manager

CONFIGURATION = "validation.workspace.kaito.sh"
"""Name of the ValidatingWebhookConfiguration, and of its webhook."""
PATH = "/validate/workspace.kaito.sh"
SECRET = "workspace-webhook-cert"
"""Secret with the certificate that all replicas serve."""


@dataclass(frozen=True, slots=True)
class WebhookOptions:
    namespace: str
    """Where the Service and the Secret are."""
    service: str = "kaito-webhook-service"
    address: str = ":9443"
    """``host:port`` to listen at."""


def setup(manager: Manager, catalogue: Catalogue, policy: Policy, options: WebhookOptions) -> WebhookServer:
    """Serve admission from ``manager``, on every replica, with a certificate of its own making."""
    # Not the leader's client: followers answer, too.
    client = Client(manager.rest)
    host = f"{options.service}.{options.namespace}.svc"
    names = [host, f"{options.service}.{options.namespace}", f"{host}.cluster.local"]
    certificates = SelfSignedCertificates(
        client, SECRET, options.namespace, names, validating=[CONFIGURATION], clock=manager.clock
    )
    server = WebhookServer(certificates, manager.runtime_metrics, options.address)
    server.add_admission(PATH, validating(WORKSPACES, WorkspaceValidator(client, catalogue, policy)))
    manager.add_server("webhook", server)
    return server
