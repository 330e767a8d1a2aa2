"""The API server that component tests run against.

By default the one of the local cluster, in the test's own event loop. ``KAITO_TEST_KUBECONFIG`` names any cluster instead;
``KUBEBUILDER_ASSETS`` a folder with ``etcd`` and ``kube-apiserver``, which are then started for the test run, as
controller-runtime's envtest does.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

from kaito.devcluster.apiserver import ApiServer
from kaito.runtime import Material, RestConfig, StaticToken, TlsConfig
from kaito.runtime.testing import named_by_environment
from support.front import Front


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """An API server and its administrator."""

    config: RestConfig
    front: Front
    """Where ``config`` leads; it can misbehave for any API server behind it."""


def of_server(server: ApiServer, token: str = "") -> RestConfig:
    """How a client reaches an API server of the local cluster, as its administrator or with ``token``."""
    return RestConfig(
        server=server.url,
        credentials=StaticToken(token or server.admin_token),
        tls=TlsConfig(authority=Material(data=server.ca_pem)),
        user_agent="kaito-tests",
    )


def external() -> AbstractContextManager[RestConfig | None]:
    """The real API server that the environment names, None if it names none."""
    return named_by_environment("KAITO_TEST_KUBECONFIG")
