"""Create, update, patch: validation, status isolation, generation; defaults of the built-in kinds."""

from __future__ import annotations

import base64
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from kaito.devcluster.apiserver.strategies.services import CLUSTER_IPS

if TYPE_CHECKING:
    from devcluster.harness import Kube

DEFAULT = "/api/v1/namespaces/default"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"


def deployment(name: str = "web", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "nginx", "ports": [{"containerPort": 80}]}]},
            },
            **spec,
        },
    }


def pod(name: str = "p", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "nginx:1"}], **spec},
    }


def causes(body: Any) -> list[tuple[str, str]]:
    return [(cause["field"], cause["reason"]) for cause in body["details"]["causes"]]


async def test_a_deployment_gets_its_defaults(kube: Kube) -> None:
    body = (await kube.post(DEPLOYMENTS, deployment())).body
    assert body["metadata"]["generation"] == 1
    assert body["status"] == {}
    template = body["spec"].pop("template")
    assert body["spec"] == {
        "selector": {"matchLabels": {"app": "web"}},
        "replicas": 1,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}},
        "revisionHistoryLimit": 10,
        "progressDeadlineSeconds": 600,
    }
    assert template["spec"] == {
        "containers": [
            {
                "name": "c",
                "image": "nginx",
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "resources": {},
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
                "imagePullPolicy": "Always",
            }
        ],
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        "dnsPolicy": "ClusterFirst",
        "securityContext": {},
        "schedulerName": "default-scheduler",
    }


async def test_generation_counts_the_spec_and_nothing_else(kube: Kube) -> None:
    await kube.post(DEPLOYMENTS, deployment())
    labelled = await kube.merge(f"{DEPLOYMENTS}/web", {"metadata": {"labels": {"a": "b"}}})
    status = await kube.merge(f"{DEPLOYMENTS}/web/status", {"status": {"replicas": 1}})
    scaled = await kube.merge(f"{DEPLOYMENTS}/web", {"spec": {"replicas": 3}})
    generations = [answer.body["metadata"]["generation"] for answer in (labelled, status, scaled)]
    assert generations == [1, 1, 2]


async def test_status_and_main_writes_do_not_touch_each_other(kube: Kube) -> None:
    sent = deployment() | {"status": {"replicas": 7}}
    assert (await kube.post(DEPLOYMENTS, sent)).body["status"] == {}
    main = await kube.strategic(f"{DEPLOYMENTS}/web", {"spec": {"replicas": 2}, "status": {"replicas": 7}})
    assert (main.body["spec"]["replicas"], main.body["status"]) == (2, {})
    status = await kube.put(f"{DEPLOYMENTS}/web/status", deployment(replicas=9) | {"status": {"replicas": 5}})
    assert (status.body["spec"]["replicas"], status.body["status"]) == (2, {"replicas": 5})
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "status": {"capacity": {"cpu": "4"}}}
    created = await kube.post("/api/v1/nodes", node)
    assert created.body["status"]["allocatable"] == {"cpu": "4"}


async def test_unknown_fields_by_directive(kube: Kube) -> None:
    sent = deployment() | {"bogus": 1}
    sent["spec"]["template"]["spec"]["containers"][0]["imagee"] = "x"
    strict = await kube.post(DEPLOYMENTS, sent, fieldValidation="Strict")
    assert strict.status == 400
    assert strict.body["message"].startswith(
        'Deployment in version "v1" cannot be handled as a Deployment: strict decoding error: unknown field '
    )
    assert '"spec.template.spec.containers[0].imagee"' in strict.body["message"]
    warned = await kube.post(DEPLOYMENTS, sent, fieldValidation="Warn")
    assert warned.status == 201
    assert r'299 - "unknown field \"bogus\""' in warned.warnings
    assert "bogus" not in warned.body
    ignored = await kube.put(f"{DEPLOYMENTS}/web", sent, fieldValidation="Ignore")
    assert (ignored.status, ignored.warnings) == (200, [])
    patched = await kube.merge(f"{DEPLOYMENTS}/web", {"spec": {"bogus": 1}}, fieldValidation="Strict")
    assert patched.status == 422
    assert causes(patched.body) == [("patch", "FieldValueInvalid")]
    assert patched.body["message"].endswith('strict decoding error: unknown field "spec.bogus"')


async def test_bodies_that_are_not_the_object(kube: Kube) -> None:
    wrong_type = await kube.post(DEPLOYMENTS, deployment(replicas="many"))
    assert wrong_type.status == 400
    assert "spec.replicas" in wrong_type.body["message"]
    for body, words in (
        ({"kind": "Deployment", "metadata": {}}, "Object 'apiVersion' is missing"),
        ({"apiVersion": "apps/v1", "metadata": {}}, "Object 'Kind' is missing"),
        (deployment() | {"kind": "Pod"}, "does not match the expected kind"),
        (deployment() | {"apiVersion": "v1"}, "does not match the expected API version"),
    ):
        answer = await kube.post(DEPLOYMENTS, body)
        assert answer.status == 400
        assert words in answer.body["message"]
    assert (await kube.call("POST", DEPLOYMENTS, b"{nonsense")).status == 400
    assert (await kube.call("POST", DEPLOYMENTS, b"")).status == 400
    assert (await kube.call("POST", DEPLOYMENTS, b"x", content_type="text/csv")).status == 415
    huge = await kube.call("POST", DEPLOYMENTS, b" " * (3 * 1024 * 1024 + 1))
    assert (huge.status, huge.body["reason"]) == (413, "RequestEntityTooLarge")


async def test_yaml_bodies_and_replies(kube: Kube) -> None:
    text = yaml.safe_dump(deployment()).encode()
    created = await kube.call(
        "POST", DEPLOYMENTS, text, content_type="application/yaml", headers={"Accept": "application/yaml"}
    )
    assert created.status == 201
    assert yaml.safe_load(created.text)["metadata"]["name"] == "web"


async def test_selectors_must_match_and_stay(kube: Kube) -> None:
    mismatched = await kube.post(DEPLOYMENTS, deployment(selector={"matchLabels": {"app": "other"}}))
    assert ("spec.template.metadata.labels", "FieldValueInvalid") in causes(mismatched.body)
    assert "`selector` does not match template `labels`" in mismatched.body["message"]
    missing = deployment()
    del missing["spec"]["selector"]
    assert ("spec.selector", "FieldValueRequired") in causes((await kube.post(DEPLOYMENTS, missing)).body)
    await kube.post(DEPLOYMENTS, deployment())
    changed = deployment(selector={"matchLabels": {"app": "x"}})
    changed["spec"]["template"]["metadata"]["labels"] = {"app": "x"}
    answer = await kube.put(f"{DEPLOYMENTS}/web", changed)
    assert causes(answer.body) == [("spec.selector", "FieldValueInvalid")]
    assert answer.body["message"].endswith("field is immutable")


async def test_a_pod_gets_status_tolerations_and_requests(kube: Kube) -> None:
    sent = pod()
    sent["spec"]["containers"][0]["resources"] = {"limits": {"cpu": "2", "nvidia.com/gpu": "1"}}
    body = (await kube.post(f"{DEFAULT}/pods", sent)).body
    assert body["status"] == {"phase": "Pending", "qosClass": "Burstable"}
    assert body["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "2", "nvidia.com/gpu": "1"}
    assert body["spec"]["containers"][0]["imagePullPolicy"] == "IfNotPresent"
    assert {item["key"] for item in body["spec"]["tolerations"]} == {
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    }
    assert (body["spec"]["priority"], body["spec"]["serviceAccountName"]) == (0, "default")
    assert body["spec"]["enableServiceLinks"] is True


async def test_pod_validation(kube: Kube) -> None:
    bad = pod(containers=[{"name": "c", "image": "x"}, {"name": "c", "image": "x"}])
    bad["spec"]["containers"][0]["volumeMounts"] = [{"name": "gone", "mountPath": "/x"}]
    bad["spec"]["containers"][1]["resources"] = {"requests": {"nvidia.com/gpu": "1"}}
    found = causes((await kube.post(f"{DEFAULT}/pods", bad)).body)
    assert ("spec.containers[1].name", "FieldValueDuplicate") in found
    assert ("spec.containers[0].volumeMounts[0].name", "FieldValueNotFound") in found
    assert ("spec.containers[1].resources.limits", "FieldValueRequired") in found
    assert ("spec.containers", "FieldValueRequired") in causes(
        (await kube.post(f"{DEFAULT}/pods", pod(containers=[]))).body
    )

    await kube.post(f"{DEFAULT}/pods", pod())
    image = await kube.strategic(f"{DEFAULT}/pods/p", {"spec": {"containers": [{"name": "c", "image": "nginx:2"}]}})
    assert image.status == 200
    moved = await kube.merge(f"{DEFAULT}/pods/p", {"spec": {"nodeName": "n"}})
    assert causes(moved.body) == [("spec", "FieldValueForbidden")]
    unknown = await kube.post(f"{DEFAULT}/pods", pod("q", priorityClassName="none"))
    assert (unknown.status, unknown.body["message"]) == (
        403,
        'pods "q" is forbidden: no PriorityClass with name none was found',
    )


async def test_services_get_addresses_and_keep_them(kube: Kube) -> None:
    service: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "s"},
        "spec": {"ports": [{"port": 80}], "selector": {"app": "web"}},
    }
    created = (await kube.post(f"{DEFAULT}/services", service)).body
    address = created["spec"]["clusterIP"]
    assert ip_address(address) in CLUSTER_IPS
    assert created["spec"]["clusterIPs"] == [address]
    assert created["spec"]["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": 80}]
    assert created["status"] == {"loadBalancer": {}}
    again = await kube.put(f"{DEFAULT}/services/s", service)
    assert again.body["spec"]["clusterIP"] == address
    assert (await kube.merge(f"{DEFAULT}/services/s", {"spec": {"clusterIP": str(CLUSTER_IPS[9])}})).status == 422
    exposed = await kube.merge(f"{DEFAULT}/services/s", {"spec": {"type": "LoadBalancer"}})
    assert exposed.body["spec"]["ports"][0]["nodePort"] in range(30000, 32768)
    headless = service | {"metadata": {"name": "h"}, "spec": {"clusterIP": "None", "selector": {"app": "web"}}}
    assert (await kube.post(f"{DEFAULT}/services", headless)).body["spec"]["clusterIPs"] == ["None"]
    named = service | {"metadata": {"name": "1s"}}
    assert "a DNS-1035 label must consist of" in (await kube.post(f"{DEFAULT}/services", named)).body["message"]


async def test_jobs_get_a_selector_and_keep_it(kube: Kube) -> None:
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": {"template": template}}
    path = "/apis/batch/v1/namespaces/default/jobs"
    created = (await kube.post(path, job)).body
    labels = created["spec"]["template"]["metadata"]["labels"]
    assert created["spec"]["selector"] == {
        "matchLabels": {"batch.kubernetes.io/controller-uid": created["metadata"]["uid"]}
    }
    assert labels["job-name"] == labels["batch.kubernetes.io/job-name"] == "j"
    assert (created["spec"]["completions"], created["spec"]["parallelism"], created["spec"]["backoffLimit"]) == (
        1,
        1,
        6,
    )
    assert (await kube.put(f"{path}/j", job)).rv == created["metadata"]["resourceVersion"]
    image = {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "y"}]}}}}
    assert causes((await kube.strategic(f"{path}/j", image)).body) == [("spec.template", "FieldValueInvalid")]
    always = job | {
        "metadata": {"name": "k"},
        "spec": {"template": {"spec": template["spec"] | {"restartPolicy": "Always"}}},
    }
    assert ("spec.template.spec.restartPolicy", "FieldValueNotSupported") in causes(
        (await kube.post(path, always)).body
    )


async def test_secrets_and_config_maps(kube: Kube) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": "b"}}
    created = (await kube.post(f"{DEFAULT}/secrets", secret)).body
    assert (created["type"], created["data"]) == ("Opaque", {"a": base64.b64encode(b"b").decode()})
    assert "stringData" not in created
    assert causes((await kube.merge(f"{DEFAULT}/secrets/s", {"type": "x/y"})).body) == [("type", "FieldValueInvalid")]
    sealed = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "b"}, "immutable": True}
    await kube.post(f"{DEFAULT}/configmaps", sealed)
    refused = await kube.merge(f"{DEFAULT}/configmaps/c", {"data": {"a": "c"}})
    assert causes(refused.body) == [("data", "FieldValueForbidden")]


async def test_stateful_sets_change_only_where_they_may(kube: Kube) -> None:
    path = "/apis/apps/v1/namespaces/default/statefulsets"
    stateful = deployment() | {"kind": "StatefulSet"}
    stateful["spec"]["serviceName"] = "web"
    created = (await kube.post(path, stateful)).body
    assert created["spec"]["podManagementPolicy"] == "OrderedReady"
    assert created["spec"]["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}
    assert (await kube.merge(f"{path}/web", {"spec": {"replicas": 3}})).status == 200
    assert causes((await kube.merge(f"{path}/web", {"spec": {"serviceName": "x"}})).body) == [
        ("spec", "FieldValueForbidden")
    ]


async def test_both_kinds_of_events_are_one(kube: Kube) -> None:
    core, events = f"{DEFAULT}/events", "/apis/events.k8s.io/v1/namespaces/default/events"
    about = {"kind": "Pod", "name": "p", "namespace": "default"}
    old = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "old"},
        "involvedObject": about,
        "message": "hello",
        "reason": "Why",
        "source": {"component": "me"},
        "count": 2,
        "type": "Normal",
    }
    assert (await kube.post(core, old)).status == 201
    new = (await kube.get(f"{events}/old")).body
    assert (new["note"], new["regarding"], new["deprecatedCount"]) == ("hello", about, 2)
    assert new["apiVersion"] == "events.k8s.io/v1"
    modern = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": "new"},
        "regarding": about,
        "note": "bye",
        "reason": "Why",
        "action": "Did",
        "type": "Warning",
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "me",
        "reportingInstance": "me-1",
    }
    assert (await kube.post(events, modern)).status == 201
    assert (await kube.get(f"{core}/new")).body["message"] == "bye"
    found = await kube.get(core, fieldSelector="involvedObject.name=p,type=Warning")
    assert [item["metadata"]["name"] for item in found.body["items"]] == ["new"]
    assert found.body["items"][0]["reportingComponent"] == "me"
    found = await kube.get(events, fieldSelector="regarding.name=p,reportingController=me")
    assert [item["metadata"]["name"] for item in found.body["items"]] == ["new"]
    watch = await kube.watch(events, fieldSelector="reason=Why")
    assert await watch.take(2) == [("ADDED", "new"), ("ADDED", "old")]
    series = {"series": {"count": 5, "lastObservedTime": "2026-01-01T00:00:05.000000Z"}}
    assert (await kube.merge(f"{events}/new", series)).body["series"]["count"] == 5
    assert (await kube.get(f"{core}/new")).body["series"]["count"] == 5


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"note": "€" * 342}, "note"),
        ({"reason": "R" * 129}, "reason"),
        ({"type": "Odd"}, "type"),
        ({"action": ""}, "action"),
        ({"series": {"count": 1, "lastObservedTime": "2026-01-01T00:00:05.000000Z"}}, "series.count"),
        ({"regarding": {"kind": "Pod", "name": "p", "namespace": "elsewhere"}}, "regarding.namespace"),
    ],
)
async def test_events_are_checked(kube: Kube, change: dict[str, Any], field: str) -> None:
    path = "/apis/events.k8s.io/v1/namespaces/default/events"
    event = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": "e"},
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default"},
        "note": "€" * 341,
        "reason": "Why",
        "action": "Did",
        "type": "Normal",
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "me",
        "reportingInstance": "me-1",
    }
    refused = await kube.post(path, {**event, **change})
    assert (refused.status, [cause["field"] for cause in refused.body["details"]["causes"]]) == (422, [field])
    assert (await kube.post(path, event)).status == 201
    changed = await kube.merge(f"{path}/e", {"note": "other"})
    assert (changed.status, [cause["field"] for cause in changed.body["details"]["causes"]]) == (422, ["note"])


async def test_partial_metadata(kube: Kube) -> None:
    await kube.post(DEPLOYMENTS, deployment())
    accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
    listed = await kube.call("GET", DEPLOYMENTS, headers={"Accept": accept})
    assert listed.body["kind"] == "PartialObjectMetadataList"
    assert set(listed.body["items"][0]) == {"kind", "apiVersion", "metadata"}
    assert (await kube.call("GET", DEPLOYMENTS, headers={"Accept": "text/html"})).status == 406


async def test_patch_types(kube: Kube) -> None:
    await kube.post(DEPLOYMENTS, deployment())
    path = f"{DEPLOYMENTS}/web"
    sidecar = {"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "s"}]}}}}
    merged = await kube.strategic(path, sidecar)
    assert {c["name"] for c in merged.body["spec"]["template"]["spec"]["containers"]} == {"side", "c"}
    tested = await kube.json_patch(path, [{"op": "test", "path": "/spec/replicas", "value": 7}])
    assert tested.status == 422
    replaced = await kube.json_patch(path, [{"op": "replace", "path": "/spec/replicas", "value": 7}])
    assert replaced.body["spec"]["replicas"] == 7
    assert (await kube.call("PATCH", path, b"{}")).status == 415
    assert (await kube.merge(f"{DEPLOYMENTS}/none", {})).status == 404
    renamed = await kube.merge(path, {"metadata": {"name": "other"}})
    assert renamed.status in (400, 422)


async def test_put_does_not_create(kube: Kube) -> None:
    assert (await kube.put(f"{DEPLOYMENTS}/web", deployment())).status == 404


async def test_large_replies_are_compressed_for_those_who_ask(kube: Kube) -> None:
    big = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "b" * 200_000}}
    await kube.post(f"{DEFAULT}/configmaps", big)
    zipped = await kube.call("GET", f"{DEFAULT}/configmaps/c", headers={"Accept-Encoding": "gzip"})
    plain = await kube.call("GET", f"{DEFAULT}/configmaps/c", headers={"Accept-Encoding": "identity"})
    assert zipped.headers.get("Content-Encoding") == "gzip"
    assert "Content-Encoding" not in plain.headers
    assert zipped.body == plain.body


async def test_autoscalers_of_both_versions_are_the_same(kube: Kube) -> None:
    paths = [f"/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers" for version in ("v1", "v2")]
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
    spec = {"scaleTargetRef": target, "maxReplicas": 3, "targetCPUUtilizationPercentage": 80}
    head = {"kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"}}
    made = await kube.post(paths[0], {"apiVersion": "autoscaling/v1", **head, "spec": spec})
    assert (made.status, made.body["spec"]) == (201, {**spec, "minReplicas": 1})
    newer = (await kube.get(f"{paths[1]}/web")).body
    cpu = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}
    assert newer["spec"] == {"scaleTargetRef": target, "maxReplicas": 3, "minReplicas": 1, "metrics": [cpu]}
    memory = {
        "type": "Resource",
        "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}},
    }
    more = {"metrics": [memory, cpu], "behavior": {"scaleDown": {"stabilizationWindowSeconds": 5}}}
    await kube.merge(f"{paths[1]}/web", {"spec": more})
    older = await kube.merge(f"{paths[0]}/web", {"spec": {"maxReplicas": 4, "targetCPUUtilizationPercentage": 50}})
    assert older.body["spec"] == {**spec, "minReplicas": 1, "maxReplicas": 4, "targetCPUUtilizationPercentage": 50}
    kept = (await kube.get(f"{paths[1]}/web")).body
    assert kept["spec"]["metrics"][1:] == [memory]
    assert kept["spec"]["behavior"] == more["behavior"]
    assert "annotations" not in kept["metadata"]
