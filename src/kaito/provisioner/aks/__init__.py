"""Azure Kubernetes Service: an instance is an agent pool of one node, of the same name as its Machine.

``config`` reads the environment, ``pools`` translates between instances and agent pools, ``classify`` gives Azure's errors
their types, ``identity`` gets tokens, ``client`` builds the SDK's client, ``throttle`` keeps the pauses that Azure asks for,
and ``provider`` makes the calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kaito.provisioner.aks.config import AksConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kaito.provisioner.provider import CloudProvider, Guard


def from_environ(environ: Mapping[str, str], guard: Guard) -> CloudProvider:
    """The provider for the cluster that the environment names. Raises ConfigError for what is missing or cannot work."""
    config = AksConfig.from_environ(environ)
    from kaito.provisioner.aks.provider import AksProvider

    return AksProvider(config, guard)
