"""Nodes that join a cluster without a node lifecycle controller."""

from __future__ import annotations

from kaito.runtime import NODES, Client, Manifest


async def join(client: Client, node: Manifest) -> None:
    """Create the Node, and play that controller's part: take away the taint with which the API server starts new Nodes."""
    made = await client.create(NODES, node)
    await client.patch(NODES, made["metadata"]["name"], {"spec": {"taints": node["spec"].get("taints")}})
