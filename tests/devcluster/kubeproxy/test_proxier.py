"""Services answer at their addresses."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from devcluster.living import Living
from kaito.devcluster.cluster import ClusterOptions, Controllers, LocalCluster
from kaito.runtime import EVENTS, PODS, SERVICES, Manifest
from support.pods import listening, loopback_address, running_pod, saying, set_status
from support.waiting import eventually

PORT = 8080


async def service(living: Living, *ports: Manifest, name: str = "web", **spec: Any) -> str:
    """Its address."""
    body: Manifest = {
        "metadata": {"name": name},
        "spec": {"selector": {"app": "web"}, "ports": list(ports) or [{"port": PORT, "targetPort": 5000}], **spec},
    }
    return str((await living.create(SERVICES, body))["spec"]["clusterIP"])


async def pod(living: Living, name: str, address: str, *ports: Manifest) -> None:
    await running_pod(living.client, living.namespace, name, address, ports=ports, app="web")


async def ask(address: str, port: int = PORT, line: str = "hello") -> str:
    """One line there and back; ``refused`` or ``cut`` where nobody answers."""
    try:
        reader, writer = await asyncio.open_connection(address, port)
    except ConnectionRefusedError:
        return "refused"
    try:
        writer.write(f"{line}\n".encode())
        async with asyncio.timeout(5):
            return (await reader.readline()).decode().strip() or "cut"
    except ConnectionError:
        return "cut"
    finally:
        writer.transport.abort()


async def answers(address: str, expected: str, port: int = PORT) -> None:
    async def probe() -> bool:
        return await ask(address, port) == expected

    await eventually(probe)


async def test_a_service_leads_to_its_pods_in_turn(living: Living) -> None:
    first, second = loopback_address(), loopback_address()
    async with listening(saying("a"), first, 5000), listening(saying("b"), second, 5000):
        address = await service(living)
        assert await ask(address) == "refused"
        await pod(living, "a", first)
        await answers(address, "a: hello")
        await pod(living, "b", second)
        await answers(address, "b: hello")
        heard = [await ask(address) for _ in range(6)]
        assert sorted(heard) == ["a: hello"] * 3 + ["b: hello"] * 3

        await set_status(living.client, living.namespace, "a", ready=False)

        async def only_b() -> bool:
            return {await ask(address) for _ in range(4)} == {"b: hello"}

        await eventually(only_b)
        await set_status(living.client, living.namespace, "b", ready=False)
        await answers(address, "refused")


async def test_a_backend_that_is_not_there_is_passed_over(living: Living) -> None:
    there, gone = loopback_address(), loopback_address()
    async with listening(saying("there"), there, 5000):
        address = await service(living)
        await pod(living, "gone", gone)
        await answers(address, "cut")
        await pod(living, "there", there)
        await answers(address, "there: hello")
        assert {await ask(address) for _ in range(4)} == {"there: hello"}


async def test_named_ports_are_found_in_each_pod(living: Living) -> None:
    old, new = loopback_address(), loopback_address()
    async with listening(saying("old"), old, 5000), listening(saying("new"), new, 6000):
        address = await service(living, {"port": PORT, "targetPort": "http"})
        await pod(living, "old", old, {"name": "http", "containerPort": 5000})
        await pod(living, "new", new, {"name": "http", "containerPort": 6000})
        await answers(address, "old: hello")
        await answers(address, "new: hello")


async def test_a_changed_service_moves_and_a_deleted_one_closes(living: Living) -> None:
    where = loopback_address()
    async with listening(saying("a"), where, 5000):
        address = await service(living)
        await pod(living, "a", where)
        await answers(address, "a: hello")
        await living.patch(SERVICES, "web", {"spec": {"ports": [{"port": 8090, "targetPort": 5000}]}})
        await answers(address, "a: hello", 8090)
        await answers(address, "refused")
        await living.delete(SERVICES, "web")
        await answers(address, "refused", 8090)


async def test_connections_outlive_the_readiness_of_their_pod(living: Living) -> None:
    where = loopback_address()
    async with listening(saying("a"), where, 5000):
        address = await service(living)
        await pod(living, "a", where)
        await answers(address, "a: hello")
        reader, writer = await asyncio.open_connection(address, PORT)
        writer.write(b"one\n")
        assert await reader.readline() == b"a: one\n"
        await set_status(living.client, living.namespace, "a", ready=False)
        await answers(address, "refused")
        writer.write(b"two\n")
        assert await reader.readline() == b"a: two\n"
        writer.write_eof()
        assert await reader.read() == b"bye\n"
        writer.transport.close()


async def test_a_client_stays_with_its_pod_where_the_service_says_so(living: Living) -> None:
    first, second = loopback_address(), loopback_address()
    async with listening(saying("a"), first, 5000), listening(saying("b"), second, 5000):
        await pod(living, "a", first)
        await pod(living, "b", second)
        address = await service(living, sessionAffinity="ClientIP")

        async def probe() -> str:
            heard = await ask(address)
            return heard if heard != "refused" else ""

        held = await eventually(probe)
        assert {await ask(address) for _ in range(5)} == {held}


async def test_an_address_in_use_is_said_and_had_later(living: Living) -> None:
    where = loopback_address()
    taken = socket.create_server((loopback_address(), PORT))
    with taken:
        address = taken.getsockname()[0]
        fixed = f"127.{64 + int(address.split('.')[1]) % 64}.{address.split('.', 2)[2]}"
        with socket.create_server((fixed, PORT)):
            await service(living, clusterIP=fixed)
            await pod(living, "a", where)

            async def told() -> bool:
                events = await living.client.list(EVENTS, living.namespace)
                notes = [event["note"] if "note" in event else event["message"] for event in events]
                return any(f"{fixed}:{PORT}: another program listens there" in note for note in notes)

            await eventually(told)
        async with listening(saying("a"), where, 5000):
            # Any change of the Service or its endpoints is a reason to try again.
            await living.patch(SERVICES, "web", {"metadata": {"labels": {"again": "1"}}})
            await answers(fixed, "a: hello")


async def test_services_answer_again_after_a_restart_with_the_state_kept(cluster: LocalCluster, living: Living) -> None:
    where = loopback_address()
    async with listening(saying("a"), where, 5000):
        address = await service(living)
        await pod(living, "a", where)
        await answers(address, "a: hello")
        await cluster.controllers.stop()
        assert await ask(address) == "refused"
        again = Controllers(cluster.config, ClusterOptions())
        await again.start()
        try:
            await answers(address, "a: hello")
        finally:
            await again.stop()
        assert await ask(address) == "refused"


async def test_pretended_pods_leave_a_service_without_an_answer(living: Living) -> None:
    address = await service(living)
    body = {"metadata": {"name": "p", "labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    await living.create(PODS, body)
    await living.until(PODS, "p", lambda pod: pod["status"].get("podIP"))
    assert await ask(address) == "refused"
