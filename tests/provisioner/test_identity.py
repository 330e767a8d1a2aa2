"""Workload identity against a token endpoint over TLS: tokens that are rejected or expire, and token files that rotate."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from kaito.devcluster.apiserver.serving.pki import ServerIdentity
from kaito.devcluster.arm import ArmEmulator, ArmOptions, Fault, Pool, TokenServer
from kaito.devcluster.arm.errors import ArmError
from kaito.provisioner import AuthenticationFailed, CloudProvider, Unavailable, load_provider
from provisioner.conftest import SITE


async def nothing(pool: Pool) -> None:
    pass


@dataclass
class Tenant:
    """A cloud behind TLS, whose identity trusts what stands in ``file``."""

    arm: ArmEmulator
    tokens: TokenServer
    file: Path
    accepted: set[str]
    provider: Callable[..., CloudProvider]

    def rotate(self, assertion: str) -> None:
        """The kubelet writes a new service account token, and the old one's life is over."""
        self.file.write_text(assertion)
        self.accepted.clear()
        self.accepted.add(assertion)

    def bearers(self) -> list[str]:
        return [request.headers["Authorization"] for request in self.arm.requests]


@pytest.fixture
async def tenant(tmp_path: Path) -> AsyncIterator[Tenant]:
    identity = ServerIdentity.create()
    (tmp_path / "ca.pem").write_bytes(identity.ca)
    tls = identity.ssl_context()
    accepted = {"assertion-1"}
    file = tmp_path / "token"
    file.write_text("assertion-1")
    made: list[CloudProvider] = []
    async with TokenServer(accepted.__contains__, tls, tenant="tenant", client_id="client") as tokens:
        options = ArmOptions(site=SITE, authority=tokens, tls=tls, create_seconds=0.0, delete_seconds=0.0)
        async with ArmEmulator(options, on_pool_ready=nothing, on_pool_gone=nothing) as arm:

            def provider(**changes: str) -> CloudProvider:
                environ = {
                    "ARM_SUBSCRIPTION_ID": "sub",
                    "ARM_RESOURCE_GROUP": "rg",
                    "AZURE_CLUSTER_NAME": "aks",
                    "AZURE_TENANT_ID": "tenant",
                    "AZURE_CLIENT_ID": "client",
                    "AZURE_FEDERATED_TOKEN_FILE": str(file),
                    "AZURE_AUTHORITY_HOST": tokens.url,
                    "AZURE_RESOURCE_MANAGER_ENDPOINT": arm.url,
                    "AZURE_CA_FILE": str(tmp_path / "ca.pem"),
                    **changes,
                }
                made.append(load_provider("aks", environ))
                return made[-1]

            yield Tenant(arm, tokens, file, accepted, provider)
            for each in made:
                await each.aclose()


async def test_the_service_account_token_is_exchanged_once(tenant: Tenant) -> None:
    aks = tenant.provider()
    for _ in range(3):
        assert await aks.list() == []
    assert tenant.tokens.assertions == ["assertion-1"]
    assert len(set(tenant.bearers())) == 1


async def test_a_rejected_token_is_fetched_anew_and_tried_again_at_once(tenant: Tenant) -> None:
    aks = tenant.provider()
    await aks.list()
    tenant.tokens.revoke()
    assert await aks.list() == []
    assert await aks.list() == []
    assert len(tenant.tokens.assertions) == 2
    assert [len(set(tenant.bearers())), len(tenant.bearers())] == [2, 4]


async def test_a_token_that_is_about_to_expire_is_not_used(tenant: Tenant) -> None:
    tenant.tokens.lifetime = 60.0
    aks = tenant.provider()
    await aks.list()
    tenant.tokens.lifetime = 3600.0
    await aks.list()
    await aks.list()
    assert len(tenant.tokens.assertions) == 2


async def test_a_token_file_that_has_rotated_is_read_again(tenant: Tenant) -> None:
    aks = tenant.provider()
    await aks.list()
    tenant.rotate("assertion-2")
    tenant.tokens.revoke()
    assert await aks.list() == []
    assert tenant.tokens.assertions == ["assertion-1", "assertion-2"]


async def test_a_missing_token_file_passes_by_itself(tenant: Tenant) -> None:
    tenant.file.unlink()
    aks = tenant.provider()
    with pytest.raises(Unavailable, match=r"cannot read the token of the workload identity.*No such file") as raised:
        await aks.list()
    assert raised.value.transient
    tenant.rotate("assertion-2")
    assert await aks.list() == []


async def test_an_assertion_that_is_not_trusted_says_so(tenant: Tenant) -> None:
    tenant.accepted.clear()
    aks = tenant.provider()
    with pytest.raises(AuthenticationFailed, match="AADSTS700024") as raised:
        await aks.list()
    assert not raised.value.terminal
    assert tenant.arm.requests == type(tenant.arm.requests)()
    tenant.accepted.add("assertion-1")
    assert await aks.list() == []


async def test_azure_that_takes_no_token_is_asked_twice(tenant: Tenant) -> None:
    refused = ArmError(401, "InvalidAuthenticationToken", "The access token is invalid.")
    fault = tenant.arm.faults.add(Fault(error=refused, count=-1))
    with pytest.raises(AuthenticationFailed, match="InvalidAuthenticationToken: The access token is invalid"):
        await tenant.provider().list()
    assert fault.hits == 2


async def test_a_token_endpoint_that_is_away(tenant: Tenant) -> None:
    await tenant.tokens.__aexit__()
    with pytest.raises(Unavailable):
        await tenant.provider().list()


async def test_a_certificate_that_nobody_vouches_for(tenant: Tenant) -> None:
    with pytest.raises(Unavailable, match="cannot reach Azure"):
        await tenant.provider(AZURE_CA_FILE="").list()
