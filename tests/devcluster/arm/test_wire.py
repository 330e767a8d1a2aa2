"""What a client of Azure Resource Manager sees."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from devcluster.arm.conftest import BODY, POOLS, Arm, Hooks
from kaito.devcluster.arm import ArmOptions, Fault, Plan, Site
from kaito.devcluster.arm.errors import ArmError
from support.waiting import eventually


async def state(arm: Arm, name: str) -> str:
    answer = await arm.get(name)
    return answer.body["properties"]["provisioningState"] if answer.status == 200 else "gone"


async def becomes(arm: Arm, name: str, wanted: str) -> None:
    async def reached() -> bool:
        return await state(arm, name) == wanted

    await eventually(reached)


async def test_a_pool_from_the_request_to_success(arm: Arm, hooks: Hooks) -> None:
    put = await arm.put("gpu1")
    assert put.status == 201
    assert put.body["properties"]["provisioningState"] == "Creating"
    assert put.body["id"].startswith("/subscriptions/sub/resourcegroups/rg/")
    await becomes(arm, "gpu1", "Succeeded")
    got = (await arm.get("gpu1")).body
    assert got["type"] == "Microsoft.ContainerService/managedClusters/agentPools"
    assert (got["properties"]["count"], got["properties"]["osDiskSizeGB"]) == (1, 128)
    assert got["properties"]["eTag"] != put.body["properties"]["eTag"]
    assert hooks.told == [("ready", "gpu1")]
    operation = await arm.call("GET", put.headers["Azure-AsyncOperation"])
    assert operation.body["status"] == "Succeeded"
    assert operation.body["startTime"]
    assert operation.body["endTime"]


async def test_a_deleted_pool_is_seen_deleting_and_then_gone(arm: Arm, hooks: Hooks) -> None:
    await arm.put("gpu1")
    await becomes(arm, "gpu1", "Succeeded")
    deleted = await arm.delete("gpu1")
    assert deleted.status == 202
    assert await state(arm, "gpu1") in ("Deleting", "gone")
    await becomes(arm, "gpu1", "gone")
    assert hooks.told[-1] == ("gone", "gpu1")
    assert (await arm.call("GET", deleted.headers["Azure-AsyncOperation"])).body["status"] == "Succeeded"
    assert (await arm.call("GET", deleted.headers["Location"])).status == 204
    assert (await arm.delete("gpu1")).status == 204


class TestWhileInProgress:
    @pytest.fixture
    def arm_options(self, arm_options: ArmOptions) -> ArmOptions:
        return ArmOptions(site=arm_options.site, create_seconds=3600.0)

    async def test_others_are_refused(self, arm: Arm) -> None:
        put = await arm.put("gpu1")
        for refused in (await arm.put("gpu1"), await arm.delete("gpu1")):
            assert (refused.status, refused.body["code"]) == (409, "OperationNotAllowed")
            assert "in progress create node pool operation" in refused.body["message"]
        assert (await arm.call("GET", put.headers["Azure-AsyncOperation"])).body["status"] == "InProgress"
        assert (await arm.put("gpu2")).status == 201


@pytest.mark.parametrize(
    ("name", "properties", "code", "words"),
    [
        ("Gpu1", {}, "InvalidParameter", "must match"),
        ("averylongname", {}, "InvalidParameter", "must match"),
        ("gpu1", {"vmSize": None}, "InvalidParameter", "vmSize"),
        ("gpu1", {"vmSize": "Standard_NC7"}, "BadRequest", "is not allowed in your subscription in location 'eastus'"),
        ("gpu1", {"count": 1001}, "InvalidParameter", "count"),
        ("gpu1", {"osDiskSizeGB": 29}, "InvalidParameter", "osDiskSizeGB"),
        ("gpu1", {"osType": "Plan9"}, "InvalidParameter", "osType"),
        ("gpu1", {"nodeLabels": {"a/b/c": "d"}}, "InvalidParameter", "nodeLabels"),
        ("gpu1", {"nodeLabels": {"a": "x" * 64}}, "InvalidParameter", "nodeLabels"),
        ("gpu1", {"nodeLabels": {"kubernetes.azure.com/mode": "x"}}, "InvalidParameter", "reserved"),
        ("gpu1", {"nodeTaints": ["sku=gpu"]}, "InvalidParameter", "nodeTaints"),
        ("gpu1", {"tags": {"kaito.sh/owner": "x"}}, "InvalidTagNameCharacters", "kaito.sh/owner"),
    ],
)
async def test_what_azure_refuses(arm: Arm, name: str, properties: dict[str, Any], code: str, words: str) -> None:
    answer = await arm.put(name, {"properties": {**BODY["properties"], **properties}})
    assert (answer.status, answer.body["code"]) == (400, code)
    assert words in answer.body["message"]
    assert not arm.emulator.pools


async def test_the_size_of_a_pool_cannot_change_but_the_rest_can(arm: Arm) -> None:
    await arm.put("gpu1")
    await becomes(arm, "gpu1", "Succeeded")
    resized = await arm.put("gpu1", {"properties": {"vmSize": "Standard_NC12s_v3"}})
    assert (resized.status, resized.body["code"]) == (400, "PropertyChangeNotAllowed")
    tagged = await arm.put("gpu1", {"properties": {**BODY["properties"], "tags": {"a": "b"}}})
    assert (tagged.status, tagged.body["properties"]["provisioningState"]) == (200, "Updating")
    await becomes(arm, "gpu1", "Succeeded")
    assert (await arm.get("gpu1")).body["properties"]["tags"] == {"a": "b"}


async def test_conditions_of_a_request(arm: Arm) -> None:
    assert (await arm.put("gpu1", If_Match='"*"')).status == 412
    assert (await arm.put("gpu1", If_None_Match="*")).status == 201
    await becomes(arm, "gpu1", "Succeeded")
    assert (await arm.put("gpu1", If_None_Match="*")).status == 412
    assert (await arm.delete("gpu1", If_Match='"other"')).status == 412
    etag = (await arm.get("gpu1")).body["properties"]["eTag"]
    assert (await arm.delete("gpu1", If_Match=f'"{etag}"')).status == 202


async def test_lists_come_in_pages(arm: Arm) -> None:
    for name in ("a", "b", "c", "d", "e"):
        arm.emulator.add_pool(name, BODY["properties"])
    page = (await arm.get()).body
    names = [pool["name"] for pool in page["value"]]
    pages = 1
    while link := page.get("nextLink"):
        page = (await arm.call("GET", link)).body
        names += [pool["name"] for pool in page["value"]]
        pages += 1
    assert (names, pages) == (["a", "b", "c", "d", "e"], 3)


async def test_who_and_where(arm: Arm) -> None:
    arm.headers = {}
    assert (await arm.get()).body["error"]["code"] == "AuthenticationFailed"
    arm.headers = {"Authorization": "Bearer token"}
    assert (await arm.call("GET", POOLS, version="")).body["error"]["code"] == "MissingApiVersionParameter"
    for part, code in (("sub", "SubscriptionNotFound"), ("rg", "ResourceGroupNotFound"), ("aks", "ResourceNotFound")):
        answer = await arm.call("GET", POOLS.replace(f"/{part}/", "/other/"))
        assert (answer.status, answer.body["error"]["code"]) == (404, code)
    assert (await arm.call("GET", POOLS.lower())).status == 200
    missing = await arm.get("gpu1")
    assert (missing.status, missing.body["code"]) == (404, "NotFound")
    assert missing.body["message"].startswith("Agent Pool not found")
    assert (await arm.call("PATCH", f"{POOLS}/gpu1")).status == 405
    assert (await arm.call("GET", "/subscriptions/sub/resourceGroups/rg")).status == 404


class TestToken:
    @pytest.fixture
    def arm_options(self, arm_options: ArmOptions) -> ArmOptions:
        return ArmOptions(site=Site(), token="secret")

    async def test_another_token_is_refused(self, arm: Arm) -> None:
        answer = await arm.get()
        assert (answer.status, answer.body["error"]["code"]) == (401, "InvalidAuthenticationToken")


async def test_a_creation_that_fails_says_why(arm: Arm, hooks: Hooks) -> None:
    details = [{"code": "QuotaExceeded", "message": "no more cores"}]
    arm.emulator.faults.plan(Plan(error=ArmError(200, "ReconcileVMSSAgentPoolFailed", "it failed", details=details)))
    put = await arm.put("gpu1")
    await becomes(arm, "gpu1", "Failed")
    told = (await arm.get("gpu1")).body["properties"]["status"]["provisioningError"]
    assert told == {"code": "ReconcileVMSSAgentPoolFailed", "message": "it failed", "details": details}
    operation = await arm.call("GET", put.headers["Azure-AsyncOperation"])
    assert (operation.status, operation.body["status"], operation.body["error"]) == (200, "Failed", told)
    assert hooks.told == []
    assert (await arm.delete("gpu1")).status == 202


async def test_a_hook_that_fails_fails_the_pool(arm: Arm, hooks: Hooks) -> None:
    hooks.failure = RuntimeError("the cluster is away")
    await arm.put("gpu1")
    await becomes(arm, "gpu1", "Failed")
    told = (await arm.get("gpu1")).body["properties"]["status"]["provisioningError"]
    assert "the cluster is away" in told["message"]


async def test_faults_of_requests(arm: Arm) -> None:
    throttled = ArmError(429, "TooManyRequests", "slow down", headers={"Retry-After": "7"})
    arm.emulator.faults.add(Fault(method="GET", pool="gpu1", error=throttled))
    # aiohttp sends an idempotent request once more by itself where its connection is cut.
    arm.emulator.faults.add(Fault(method="PUT", drop="before", count=2))
    arm.emulator.faults.add(Fault(method="PUT", drop="after", count=2))
    answer = await arm.get("gpu1")
    assert (answer.status, answer.headers["Retry-After"], answer.body["error"]["code"]) == (429, "7", "TooManyRequests")
    assert (await arm.get("gpu1")).status == 404
    with pytest.raises(aiohttp.ClientError):
        await arm.put("gpu1")
    assert not arm.emulator.pools
    with pytest.raises(aiohttp.ClientError):
        await arm.put("gpu1")
    assert "gpu1" in arm.emulator.pools


async def test_requests_are_recorded(arm: Arm) -> None:
    await arm.put("gpu1")
    await arm.get()
    put, listed = arm.emulator.requests
    assert (put.method, put.body, put.query) == ("PUT", BODY, {"api-version": "2024-01-01"})
    assert listed.method == "LIST"
