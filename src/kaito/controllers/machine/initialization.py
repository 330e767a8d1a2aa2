"""The initialization step: the Node is ready for the pods that it was made for. Once it was, it stays initialized."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from kaito.api import labels
from kaito.controllers.machine import nodes
from kaito.controllers.machine.claims import INITIALIZED
from kaito.controllers.pipeline import Outcome, Proceed, Wait
from kaito.runtime import NODES, NotFound

if TYPE_CHECKING:
    from kaito.controllers.machine.claims import Claim
    from kaito.controllers.machine.context import ClaimContext
    from kaito.runtime import Manifest


class InitializationStep:
    condition: ClassVar[str] = INITIALIZED
    failed: ClassVar[str] = "InitializationFailed"
    missing: ClassVar[tuple[str, str]] = ("MachineNotInitialized", "Machine is not initialized")

    async def reconcile(self, ctx: ClaimContext) -> Outcome:
        node = ctx.node
        assert node is not None, "the registration step has proceeded"
        if not ctx.claim.holds(INITIALIZED):
            obstacle = _obstacle(ctx.claim, node)
            if obstacle is not None:
                return Wait(*obstacle)
        name = nodes.name_of(node)
        if nodes.label(node, labels.NODE_INITIALIZED) != "true":
            try:
                await ctx.client.patch(NODES, name, {"metadata": {"labels": {labels.NODE_INITIALIZED: "true"}}})
            except NotFound:
                return Wait("NodeNotFound", f"Node {name} has gone")
        return Proceed(message=f"Node {name} is ready for pods")


def _obstacle(claim: Claim, node: Manifest) -> tuple[str, str] | None:
    """Reason and message of what the Node still lacks."""
    name = nodes.name_of(node)
    if not nodes.is_ready(node):
        return "NodeNotReady", f"Node {name} is not ready"
    if taint := nodes.startup_taint_left(node, claim.startup_taints):
        return "StartupTaintsExist", f"Node {name} still has the startup taint {taint}"
    if taint := nodes.ephemeral_taint_left(node):
        return "KnownEphemeralTaintsExist", f"Node {name} still has the taint {taint}"
    requested = claim.resources.requests or {}
    wanted = [key for key in requested if key != "storage" and claim.resources.request(key)]
    if resource := nodes.resource_missing(node, wanted):
        return "ResourceNotRegistered", f"Node {name} does not offer {resource} yet"
    return None
