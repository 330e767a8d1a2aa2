"""Reaching the cluster that kubectl would reach."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kaito.cli.errors import fail

if TYPE_CHECKING:
    from kaito.runtime import Client, RestConfig

KUBECONFIG = Annotated[
    str | None, typer.Option("--kubeconfig", help="Kubeconfig to use; by default $KUBECONFIG, else ~/.kube/config.")
]
CONTEXT = Annotated[str | None, typer.Option("--context", help="Context of the kubeconfig.")]
NAMESPACE = Annotated[str | None, typer.Option("--namespace", "-n", help="Namespace; by default the context's.")]
OUTPUT = Annotated[str, typer.Option("--output", "-o", help="json for programs; by default text.")]


@dataclass(frozen=True, slots=True)
class Target:
    """Which cluster and namespace are meant."""

    kubeconfig: str | None
    context: str | None
    namespace: str
    config: RestConfig

    @staticmethod
    def of(kubeconfig: str | None, context: str | None, namespace: str | None) -> Target:
        """Ends the program where there is no such cluster."""
        from kaito.runtime import ConfigError, configure_logging, load_config

        configure_logging(level="error")
        try:
            config = load_config(kubeconfig, context=context)
        except ConfigError as error:
            fail(error)
        return Target(kubeconfig, context, namespace or config.namespace, config)

    def kubectl(self) -> list[str]:
        """The beginning of a kubectl command line that means the same."""
        from kaito.devcluster.kubectl import find_kubectl

        try:
            words = [str(find_kubectl())]
        except FileNotFoundError as error:
            fail(error)
        if self.kubeconfig:
            words += ["--kubeconfig", self.kubeconfig]
        if self.context:
            words += ["--context", self.context]
        return [*words, "--namespace", self.namespace]

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        from kaito.runtime import Client, Rest, RuntimeMetrics

        rest = Rest(self.config, RuntimeMetrics())
        try:
            yield Client(rest, field_manager="kubectl-kaito")
        finally:
            await rest.aclose()


def run(what: Coroutine[Any, Any, None]) -> None:
    """Run a command to its end; what the cluster refuses becomes a line of words."""
    from kaito.runtime import ApiError, Forbidden, RuntimeFault, Unauthorized

    try:
        asyncio.run(what)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    except Unauthorized as error:
        fail(f"{error.message}: log in to the cluster again", code=1)
    except Forbidden as error:
        fail(f"{error.message}: ask for a role that allows it (kubectl auth can-i --list)", code=1)
    except ApiError as error:
        fail(error.message, code=1)
    except RuntimeFault as error:
        fail(f"{error}: is this the right cluster (kubectl config current-context), and does it run?", code=1)
