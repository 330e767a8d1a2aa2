"""Identity, RBAC, impersonation, tokens, reviews."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from kaito.devcluster.apiserver import ApiServerOptions, User

if TYPE_CHECKING:
    from devcluster.harness import Kube

RBAC = "/apis/rbac.authorization.k8s.io/v1"
DEFAULT = "/api/v1/namespaces/default"
REVIEWS = "/apis/authorization.k8s.io/v1"


class MovableClock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
def server_options(clock: MovableClock) -> ApiServerOptions:
    return ApiServerOptions(tokens={"bobs-token": User("bob", ("devs",))}, clock=clock)


@pytest.fixture
async def bob(kube: Kube) -> Kube:
    return kube.acting("bobs-token")


async def allow(kube: Kube, subject: dict[str, Any], *rules: dict[str, Any], namespace: str = "default") -> None:
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "r"},
        "rules": list(rules),
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "b"},
        "roleRef": {"kind": "Role", "name": "r"},
        "subjects": [subject],
    }
    assert (await kube.post(f"{RBAC}/namespaces/{namespace}/roles", role)).status == 201
    assert (await kube.post(f"{RBAC}/namespaces/{namespace}/rolebindings", binding)).status == 201


async def account(kube: Kube, name: str = "robot") -> None:
    body = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
    assert (await kube.post(f"{DEFAULT}/serviceaccounts", body)).status == 201


async def test_the_anonymous_see_health_and_version_only(kube: Kube) -> None:
    nobody = kube.acting("")
    for path in ("/healthz", "/livez", "/readyz", "/version", "/version/"):
        assert (await nobody.get(path)).status == 200
    for path in ("/api", f"{DEFAULT}/pods"):
        answer = await nobody.get(path)
        assert (answer.status, answer.body["reason"]) == (401, "Unauthorized")
    assert (await kube.acting("wrong").get("/healthz")).status == 401


async def test_what_no_role_allows_is_forbidden(kube: Kube, bob: Kube) -> None:
    answer = await bob.get(f"{DEFAULT}/pods/x")
    assert answer.status == 403
    assert answer.body["message"] == (
        'pods "x" is forbidden: User "bob" cannot get resource "pods" in API group "" in the namespace "default"'
    )
    assert answer.body["details"] == {"name": "x", "kind": "pods"}
    cluster = await bob.get("/apis/apps/v1/deployments")
    assert cluster.body["message"].endswith(
        'cannot list resource "deployments" in API group "apps" at the cluster scope'
    )
    assert (await bob.get("/api")).status == 200
    assert (await bob.get("/metrics")).body["message"] == 'forbidden: User "bob" cannot get path "/metrics"'


async def test_roles_take_effect_and_lose_it_at_once(kube: Kube, bob: Kube) -> None:
    await allow(
        kube,
        {"kind": "Group", "name": "devs"},
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"], "resourceNames": ["mine"]},
        {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
    )
    assert (await bob.get(f"{DEFAULT}/configmaps/mine")).status == 404
    assert (await bob.get(f"{DEFAULT}/configmaps/yours")).status == 403
    assert (await bob.get("/api/v1/namespaces/kube-system/configmaps/mine")).status == 403
    assert (await bob.get(f"{DEFAULT}/pods/x/log")).status == 404
    assert (await bob.get(f"{DEFAULT}/pods/x")).status == 403
    await kube.delete(f"{RBAC}/namespaces/default/rolebindings/b")
    assert (await bob.get(f"{DEFAULT}/configmaps/mine")).status == 403


async def test_service_account_tokens(kube: Kube, clock: MovableClock) -> None:
    await account(kube)
    await allow(
        kube,
        {"kind": "ServiceAccount", "name": "robot", "namespace": "default"},
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]},
    )
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}}
    issued = await kube.post(f"{DEFAULT}/serviceaccounts/robot/token", request)
    assert issued.status == 201
    assert issued.body["status"]["expirationTimestamp"] == "2026-01-01T00:10:00Z"
    robot = kube.acting(issued.body["status"]["token"])
    assert (await robot.get(f"{DEFAULT}/configmaps")).status == 200
    assert "system:serviceaccount:default:robot" in (await robot.get(f"{DEFAULT}/pods")).body["message"]

    tampered = issued.body["status"]["token"][:-4] + "AAAA"
    assert (await kube.acting(tampered).get(f"{DEFAULT}/configmaps")).status == 401
    foreign = kube.acting(kube.server.issue_token("default", "robot", "elsewhere"))
    assert (await foreign.get(f"{DEFAULT}/configmaps")).status == 401
    clock.now += timedelta(seconds=601)
    assert (await robot.get(f"{DEFAULT}/configmaps")).status == 401

    other = kube.acting(kube.server.issue_token("default", "robot"))
    assert (await other.get(f"{DEFAULT}/configmaps")).status == 200
    await kube.delete(f"{DEFAULT}/serviceaccounts/robot")
    await account(kube)
    assert (await other.get(f"{DEFAULT}/configmaps")).status == 401, "an account of the same name is another account"
    short = await kube.post(f"{DEFAULT}/serviceaccounts/robot/token", request | {"spec": {"expirationSeconds": 5}})
    assert short.status == 422


async def test_impersonation_needs_permission(kube: Kube, bob: Kube) -> None:
    as_bob = {"Impersonate-User": "bob"}
    assert (await kube.call("GET", f"{DEFAULT}/pods", headers=as_bob)).status == 403
    masters = {"Impersonate-User": "root", "Impersonate-Group": "system:masters"}
    assert (await kube.call("GET", f"{DEFAULT}/pods", headers=masters)).status == 200
    refused = await bob.call("GET", f"{DEFAULT}/pods", headers={"Impersonate-User": "alice"})
    assert refused.body["message"] == (
        'users "alice" is forbidden: User "bob" cannot impersonate resource "users" in API group "" at the cluster scope'
    )
    lone = await kube.call("GET", f"{DEFAULT}/pods", headers={"Impersonate-Group": "devs"})
    assert lone.status == 400


async def test_access_reviews(kube: Kube, bob: Kube) -> None:
    await allow(
        kube,
        {"kind": "User", "name": "bob"},
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list"]},
    )
    attributes = {"group": "apps", "resource": "deployments", "verb": "list", "namespace": "default"}

    async def review(client: Kube, kind: str, path: str, **spec: Any) -> Any:
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
        answer = await client.post(path, body)
        assert answer.status == 201, answer.text
        return answer.body["status"]

    own = f"{REVIEWS}/selfsubjectaccessreviews"
    assert (await review(bob, "SelfSubjectAccessReview", own, resourceAttributes=attributes))["allowed"]
    denied = attributes | {"verb": "delete"}
    assert not (await review(bob, "SelfSubjectAccessReview", own, resourceAttributes=denied))["allowed"]
    path = {"path": "/healthz", "verb": "get"}
    assert (await review(bob, "SelfSubjectAccessReview", own, nonResourceAttributes=path))["allowed"]
    other = f"{REVIEWS}/subjectaccessreviews"
    assert (await review(kube, "SubjectAccessReview", other, user="bob", resourceAttributes=attributes))["allowed"]
    assert not (await review(kube, "SubjectAccessReview", other, user="eve", resourceAttributes=attributes))["allowed"]
    rules = await review(bob, "SelfSubjectRulesReview", f"{REVIEWS}/selfsubjectrulesreviews", namespace="default")
    assert {"verbs": ["get", "list"], "apiGroups": ["apps"], "resources": ["deployments"]} in rules["resourceRules"]
    assert (
        await kube.post(own, {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"})
    ).status == 422


async def test_token_and_self_reviews(kube: Kube, bob: Kube) -> None:
    authentication = "/apis/authentication.k8s.io/v1"
    me = await bob.post(
        f"{authentication}/selfsubjectreviews", {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    )
    assert me.body["status"]["userInfo"] == {"username": "bob", "groups": ["devs", "system:authenticated"]}
    for token, good in (("bobs-token", True), ("nonsense", False)):
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
        status = (await kube.post(f"{authentication}/tokenreviews", body)).body["status"]
        assert status["authenticated"] is good


async def test_bindings_do_not_change_their_role(kube: Kube) -> None:
    await allow(kube, {"kind": "User", "name": "bob"}, {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]})
    changed = await kube.merge(f"{RBAC}/namespaces/default/rolebindings/b", {"roleRef": {"name": "other"}})
    assert changed.status == 422
    assert "cannot change roleRef" in changed.body["message"]
