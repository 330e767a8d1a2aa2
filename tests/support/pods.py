"""Pods whose processes are listeners of the test, each at a loopback address of its own."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from kaito.runtime import NODES, PODS, AlreadyExists, Client, Manifest

NETWORK = IPv4Network("127.192.0.0/10")
NODE = "of-the-tests"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def loopback_address() -> str:
    """One that nobody else uses, as far as chance can tell."""
    return str(IPv4Address(int(NETWORK[0]) + secrets.randbelow(NETWORK.num_addresses - 2) + 1))


@asynccontextmanager
async def listening(handler: Handler, address: str, port: int = 0) -> AsyncIterator[int]:
    """A TCP server; gives its port. Its connections have ended when the context has."""
    tasks: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.transport.close()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(carry(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accepted, address, port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def saying(name: str) -> Handler:
    """Answers each line with the name and the line; at the end of input with ``bye``."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(name.encode() + b": " + line)
            await writer.drain()
        writer.write(b"bye\n")
        await writer.drain()

    return talk


@dataclass(frozen=True)
class Pod:
    name: str
    address: str


async def running_pod(
    client: Client,
    namespace: str,
    name: str,
    address: str,
    *,
    ports: Iterator[Manifest] | tuple[Manifest, ...] = (),
    **labels: str,
) -> Manifest:
    """A pod that runs, is ready, and that no kubelet looks after."""
    node: Manifest = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
    with suppress(AlreadyExists):
        await client.create(NODES, node)
    body: Manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"nodeName": NODE, "containers": [{"name": "main", "image": "i", "ports": list(ports)}]},
    }
    await client.create(PODS, body)
    return await set_status(client, namespace, name, podIP=address)


async def set_status(client: Client, namespace: str, name: str, *, ready: bool = True, **fields: Any) -> Manifest:
    status = {
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        **fields,
    }
    return await client.patch(PODS, name, {"status": status}, namespace=namespace, subresource="status")
