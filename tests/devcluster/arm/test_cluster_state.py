"""The cluster stops and starts, operations go as planned, and other programs script all of it."""

from __future__ import annotations

import asyncio
import io
import re
import signal
import sys
import time
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from devcluster.arm.conftest import BODY, POOLS, SITE, Arm
from kaito.devcluster.arm import ArmOptions, Fault, Plan, Pool, build_nodes, joining
from kaito.devcluster.arm.errors import ArmError
from kaito.devcluster.arm.pools import requested_properties
from support.waiting import eventually

CLUSTER = POOLS.removesuffix("/agentPools")


async def power(arm: Arm) -> tuple[str, str]:
    properties = (await arm.call("GET", CLUSTER)).body["properties"]
    return properties["provisioningState"], properties["powerState"]["code"]


async def becomes(arm: Arm, name: str, wanted: str) -> None:
    async def reached() -> bool:
        answer = await arm.get(name)
        return wanted == (answer.body["properties"]["provisioningState"] if answer.status == 200 else "gone")

    await eventually(reached)


async def test_the_cluster_says_how_it_is(arm: Arm) -> None:
    answer = await arm.call("GET", CLUSTER)
    assert answer.status == 200
    assert (answer.body["name"], answer.body["location"]) == ("aks", "eastus")
    assert await power(arm) == ("Succeeded", "Running")


async def test_a_stopped_cluster_takes_no_change(arm: Arm) -> None:
    pool = arm.emulator.add_pool("gpu1", BODY["properties"])
    etag = pool.etag
    stop = await arm.call("POST", f"{CLUSTER}/stop")
    assert stop.status == 202

    async def stopped() -> bool:
        return await power(arm) == ("Succeeded", "Stopped")

    await eventually(stopped)
    assert (await arm.call("GET", stop.headers["Azure-AsyncOperation"])).body["status"] == "Succeeded"
    for refused in (await arm.put("gpu2"), await arm.delete("gpu1")):
        assert (refused.status, refused.body["code"]) == (409, "OperationNotAllowed")
        assert "is in state Stopped" in refused.body["message"]
    assert (await arm.get("gpu1")).body["properties"]["powerState"] == {"code": "Stopped"}
    await arm.call("POST", f"{CLUSTER}/start")

    async def started() -> bool:
        return await power(arm) == ("Succeeded", "Running")

    await eventually(started)
    assert (await arm.get("gpu1")).body["properties"]["eTag"] != etag
    assert (await arm.delete("gpu1", If_Match=f'"{etag}"')).status == 412
    assert (await arm.delete("gpu1")).status == 202


class TestWhileItStops:
    @pytest.fixture
    def arm_options(self, arm_options: ArmOptions) -> ArmOptions:
        return replace(arm_options, delete_seconds=3600.0)

    async def test_others_are_refused(self, arm: Arm) -> None:
        await arm.call("POST", f"{CLUSTER}/stop")
        assert await power(arm) == ("Stopping", "Running")
        for refused in (await arm.put("gpu1"), await arm.call("POST", f"{CLUSTER}/start")):
            assert "Another operation (Stopping) is in progress" in refused.body["message"]


class TestExclusive:
    @pytest.fixture
    def arm_options(self, arm_options: ArmOptions) -> ArmOptions:
        return replace(arm_options, create_seconds=3600.0, exclusive=True)

    async def test_one_operation_at_a_time(self, arm: Arm) -> None:
        arm.emulator.add_pool("idle", BODY["properties"])
        assert (await arm.put("gpu1")).status == 201
        for refused in (await arm.put("gpu2"), await arm.delete("idle")):
            assert "Another agentpool operation (gpu1 - Creating) is in progress" in refused.body["message"]


async def test_an_operation_ends_when_it_was_asked_about_often_enough(arm: Arm) -> None:
    arm.emulator.faults.plan(Plan(polls=3, retry_after=1))
    put = await arm.put("gpu1")
    assert put.headers["Retry-After"] == "1"
    link = put.headers["Azure-AsyncOperation"]
    for _ in range(2):
        answer = await arm.call("GET", link)
        assert (answer.body["status"], answer.headers["Retry-After"]) == ("InProgress", "1")
    await arm.call("GET", link)
    await becomes(arm, "gpu1", "Succeeded")
    assert "Retry-After" not in (await arm.call("GET", link)).headers


async def test_an_operation_that_is_forgotten(arm: Arm) -> None:
    arm.emulator.faults.plan(Plan(forgotten=True))
    put = await arm.put("gpu1")
    assert (await arm.call("GET", put.headers["Azure-AsyncOperation"])).status == 404
    await becomes(arm, "gpu1", "Succeeded")


async def test_an_operation_may_take_longer_than_others(arm: Arm) -> None:
    arm.emulator.faults.plan(Plan(seconds=3600.0), pool="slow")
    await arm.put("slow")
    await arm.put("quick")
    await becomes(arm, "quick", "Succeeded")
    assert (await arm.get("slow")).body["properties"]["provisioningState"] == "Creating"


async def test_the_sizes_on_offer(arm: Arm) -> None:
    skus = {
        sku["name"]: sku
        for sku in (await arm.call("GET", "/subscriptions/sub/providers/Microsoft.Compute/skus")).body["value"]
    }
    offers = {entry["name"]: entry["value"] for entry in skus["Standard_NC6s_v3"]["capabilities"]}
    assert (offers["vCPUs"], offers["GPUs"]) == ("6", "1")
    assert "GPUs" not in {entry["name"] for entry in skus["Standard_D4s_v5"]["capabilities"]}
    assert (await arm.call("GET", "/subscriptions/other/providers/Microsoft.Compute/skus")).status == 404


class TestLatency:
    @pytest.fixture
    def arm_options(self, arm_options: ArmOptions) -> ArmOptions:
        return replace(arm_options, latency=0.05)

    async def test_answers_take_their_time(self, arm: Arm) -> None:
        started = time.monotonic()
        await arm.get()
        assert time.monotonic() - started >= 0.05


def test_a_node_joins_before_it_is_ready(arm_options: ArmOptions) -> None:
    pool = Pool(SITE, "gpu1", requested_properties(SITE, "gpu1", BODY))
    pool.instances = (0,)
    (node,) = build_nodes(pool)
    early = joining(node)
    assert "providerID" not in early["spec"]
    assert node["spec"]["providerID"]
    assert [taint["key"] for taint in early["spec"]["taints"]] == [
        "node.kubernetes.io/not-ready",
        "node.cloudprovider.kubernetes.io/uninitialized",
    ]
    assert [entry["status"] for entry in (early["status"]["conditions"][-1], node["status"]["conditions"][-1])] == [
        "False",
        "True",
    ]


class TestControl:
    """Scripting over HTTP, for other programs."""

    async def test_a_fault_is_laid_and_lifted(self, arm: Arm) -> None:
        error = {"status": 429, "code": "TooManyRequests", "message": "slow", "headers": {"Retry-After": "7"}}
        laid = await arm.call("POST", "/emulator/faults", {"method": "LIST", "error": error, "count": -1})
        assert laid.status == 204
        assert [(await arm.get()).status for _ in range(2)] == [429, 429]
        assert (await arm.call("DELETE", "/emulator/faults")).status == 204
        assert (await arm.get()).status == 200

    async def test_the_creation_of_a_pool_is_planned(self, arm: Arm) -> None:
        error = {
            "status": 200,
            "code": "AllocationFailed",
            "message": "none left",
            "details": [{"code": "X", "message": "y"}],
        }
        await arm.call("POST", "/emulator/plans", {"pool": "gpu1", "error": error})
        await arm.put("gpu1")
        await becomes(arm, "gpu1", "Failed")
        told = (await arm.get("gpu1")).body["properties"]["status"]["provisioningError"]
        assert told == {"code": "AllocationFailed", "message": "none left", "details": [{"code": "X", "message": "y"}]}

    async def test_requests_are_told_without_their_tokens(self, arm: Arm) -> None:
        await arm.put("gpu1")
        (told,) = (await arm.call("GET", "/emulator/requests")).body
        assert (told["method"], told["body"], told["query"]) == ("PUT", BODY, {"api-version": "2024-01-01"})
        assert "authorization" not in {name.lower() for name in told["headers"]}

    @pytest.mark.parametrize(
        ("method", "path", "body", "words"),
        [
            ("POST", "faults", {"methods": "GET"}, "methods"),
            ("POST", "faults", {"drop": "sometimes"}, "drop"),
            ("POST", "plans", {"nodes": "two"}, "nodes"),
            ("POST", "anything", {}, "POST and DELETE /emulator/faults"),
        ],
    )
    async def test_what_is_not_understood(self, arm: Arm, method: str, path: str, body: Any, words: str) -> None:
        answer = await arm.call(method, f"/emulator/{path}", body)
        assert answer.status in (400, 404)
        assert words in answer.body["error"]["message"]


async def test_faults_by_chance_hit_some(arm: Arm) -> None:
    arm.emulator.faults.add(Fault(error=ArmError(500, "InternalServerError", "oops"), count=-1, share=0.5))
    answers = [(await arm.get()).status for _ in range(40)]
    assert {200, 500} == set(answers)


async def test_the_emulator_alone(tmp_path: Any) -> None:
    """As a process, with the plain Azure SDK as its client."""
    command = [sys.executable, "-m", "kaito", "dev", "arm", "--port=0", "--create-seconds=0.1", "--delete-seconds=0.1"]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe)
    try:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        url = line.split(" emulated at ")[1].split(";")[0]
        await asyncio.to_thread(pools_by_sdk, url)
        async with aiohttp.ClientSession() as session, session.get(f"{url}/emulator/requests") as answer:
            methods = [request["method"] for request in await answer.json()]
        assert {"PUT", "LIST", "DELETE", "OPERATION"} <= set(methods)
    finally:
        process.send_signal(signal.SIGINT)
        ended = await process.wait()
    assert ended == 0


def pools_by_sdk(url: str) -> None:
    """What docs/local-cluster.md shows."""
    page = (Path(__file__).parents[3] / "docs" / "local-cluster.md").read_text()
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "azure.mgmt" in block]
    told = io.StringIO()
    with redirect_stdout(told):
        exec(code.replace("http://127.0.0.1:8099", url).replace("polling_interval=1", "polling_interval=0"), {})
    assert told.getvalue().splitlines() == ["gpu1 Succeeded", "['gpu1']"]
