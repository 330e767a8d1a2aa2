from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from kaito.devcluster.apiserver.discovery import openapi_protobuf, openapi_v2
from kaito.devcluster.apiserver.discovery.openapi import group_version_document
from kaito.devcluster.apiserver.objects.builtins import BUILTINS, ResourceInfo, SubresourceInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from devcluster.harness import Kube

STATUS = SubresourceInfo("Widget", "example.com", "v1", ("get", "patch", "update"))
WIDGET = ResourceInfo(
    "example.com", "v1", "Widget", "widgets", "widget", True, subresources={"status": STATUS}, list_kind="WidgetList"
)
WIDGET_SCHEMA = {
    "type": "object",
    "description": "Widget is a thing.",
    "properties": {
        "resource": {
            "type": "object",
            "description": "What the widget needs.",
            "required": ["size"],
            "properties": {"size": {"type": "integer", "description": "How large it is."}},
        }
    },
}
VERSIONS = sorted({(info.group, info.version) for info in BUILTINS})


def _document(group: str, version: str) -> dict[str, Any]:
    infos = [info for info in BUILTINS if (info.group, info.version) == (group, version)]
    return group_version_document(group, version, infos, {})


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "$ref" and isinstance(item, str):
                yield item.rpartition("/")[2]
            else:
                yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


@pytest.mark.parametrize(("group", "version"), VERSIONS)
def test_a_document_is_closed_and_has_what_kubectl_needs(group: str, version: str) -> None:
    document = _document(group, version)
    assert set(_references(document)) <= set(document["components"]["schemas"])
    operations = [item for path in document["paths"].values() for key, item in path.items() if key != "parameters"]
    assert len({item["operationId"] for item in operations}) == len(operations)
    for operation in operations:
        assert operation["x-kubernetes-action"]
        assert operation["x-kubernetes-group-version-kind"]["kind"]
        if operation["x-kubernetes-action"] in ("patch", "post", "put"):
            names = {parameter["name"] for parameter in operation["parameters"]}
            assert {"dryRun", "fieldManager", "fieldValidation"} <= names


def test_a_custom_resource_has_metadata_and_a_list() -> None:
    document = group_version_document("example.com", "v1", [WIDGET], {"Widget": WIDGET_SCHEMA})
    schema = document["components"]["schemas"]["com.example.v1.Widget"]
    assert schema["properties"]["metadata"]["allOf"][0]["$ref"].endswith(".ObjectMeta")
    assert schema["x-kubernetes-group-version-kind"] == [{"group": "example.com", "version": "v1", "kind": "Widget"}]
    assert "com.example.v1.WidgetList" in document["components"]["schemas"]
    item = document["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets/{name}"]
    assert "application/strategic-merge-patch+json" not in item["patch"]["requestBody"]["content"]
    assert "/apis/example.com/v1/namespaces/{namespace}/widgets/{name}/status" in document["paths"]
    assert WIDGET_SCHEMA["properties"].keys() == {"resource"}


def _serve(recorder: Any) -> None:
    groups = [("apps", "v1", "deployments", "Deployment"), ("example.com", "v1", "widgets", "Widget")]
    listed = []
    documents = {"apis/apps/v1": _document("apps", "v1"), "api/v1": _document("", "v1")}
    documents["apis/example.com/v1"] = group_version_document("example.com", "v1", [WIDGET], {"Widget": WIDGET_SCHEMA})
    for group, version, plural, kind in groups:
        served = {"groupVersion": f"{group}/{version}", "version": version}
        listed.append({"name": group, "versions": [served], "preferredVersion": served})
        verbs = ["create", "get", "list", "patch", "update"]
        resource = {"name": plural, "singularName": kind.lower(), "kind": kind, "namespaced": True, "verbs": verbs}
        recorder.serve(
            f"/apis/{group}/{version}",
            {"kind": "APIResourceList", "groupVersion": f"{group}/{version}", "resources": [resource]},
        )
    recorder.serve("/apis", {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed})
    index = {"paths": {path: {"serverRelativeURL": f"/openapi/v3/{path}?hash=1"} for path in documents}}
    recorder.serve("/openapi/v3", index)
    for path, document in documents.items():
        recorder.serve(f"/openapi/v3/{path}", document)


def test_kubectl_explains_by_it(recorder: Any) -> None:
    _serve(recorder)
    shown = recorder.run("explain", "widget.resource")
    assert shown.returncode == 0, shown.stderr
    assert "What the widget needs." in shown.stdout
    assert "How large it is." in shown.stdout
    assert "-required-" in shown.stdout
    built_in = recorder.run("explain", "deployment.spec.template.spec.containers.image")
    assert "Container image name" in built_in.stdout, built_in.stderr
    metadata = recorder.run("explain", "widget.metadata.labels")
    assert "Map of string keys and values" in metadata.stdout, metadata.stderr


def _manifest(*containers: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "demo"},
        "spec": {"selector": {}, "template": {"spec": {"containers": list(containers)}}},
    }


def test_kubectl_apply_finds_merge_keys_in_it(recorder: Any) -> None:
    _serve(recorder)
    first, second = {"name": "a", "image": "1"}, {"name": "b", "image": "1"}
    live = _manifest(first, second)
    live["metadata"]["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": json.dumps(live)}
    recorder.serve("/apis/apps/v1/namespaces/demo/deployments/web", live)
    recorder.run(
        "apply", "-f", "-", stdin=json.dumps(_manifest({"name": "b", "image": "2"}, {"name": "c", "image": "3"}))
    )
    sent = next(item for item in recorder.requests if item.method == "PATCH")
    assert sent.content_type == "application/strategic-merge-patch+json"
    spec = json.loads(sent.body)["spec"]["template"]["spec"]
    assert spec["$setElementOrder/containers"] == [{"name": "b"}, {"name": "c"}]
    assert {"$patch": "delete", "name": "a"} in spec["containers"]


def test_version_2_says_the_same_of_everything() -> None:
    parts = [_document(group, version) for group, version in VERSIONS]
    schema = {
        "type": "object",
        "properties": {
            "port": {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]},
            "maybe": {"type": "string", "nullable": True, "description": "It may be null."},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        },
    }
    parts.append(group_version_document("example.com", "v1", [WIDGET], {"Widget": schema}))
    whole = openapi_v2.document(parts)
    assert {path for part in parts for path in part["paths"]} == whole["paths"].keys()
    assert "#/components" not in json.dumps(whole)
    for name in _references(whole["definitions"]):
        assert name.removeprefix("#/definitions/") in whole["definitions"]
    for item in whole["paths"].values():
        for method in item.keys() - {"parameters"}:
            assert item[method]["x-kubernetes-group-version-kind"]["kind"]
    metadata = whole["definitions"]["io.k8s.api.core.v1.Pod"]["properties"]["metadata"]
    assert metadata["$ref"] == "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
    widget = whole["definitions"]["com.example.v1.Widget"]["properties"]
    assert widget["port"] == {"x-kubernetes-int-or-string": True}
    assert widget["maybe"] == {"description": "It may be null."}
    assert widget["free"] == {"x-kubernetes-preserve-unknown-fields": True}


def test_kubectl_explains_by_version_2_too(recorder: Any) -> None:
    _serve(recorder)
    parts = [_document("apps", "v1"), group_version_document("example.com", "v1", [WIDGET], {"Widget": WIDGET_SCHEMA})]
    recorder.serve("/openapi/v2", openapi_protobuf.document(openapi_v2.document(parts)))
    shown = recorder.run("explain", "widget.resource", "--output=plaintext-openapiv2")
    assert "How large it is." in shown.stdout, shown.stderr
    assert "-required-" in shown.stdout
    built_in = recorder.run("explain", "deployment.spec.replicas", "--output=plaintext-openapiv2")
    assert "FIELD:    replicas <integer>" in built_in.stdout, built_in.stderr


async def test_version_2_is_served_as_json_and_protobuf(kube: Kube) -> None:
    plain = await kube.get("/openapi/v2")
    assert plain.body["swagger"] == "2.0"
    tag = plain.headers["ETag"]
    assert (await kube.call("GET", "/openapi/v2", headers={"If-None-Match": tag})).status == 304
    for accept in openapi_v2.PROTOBUF_TYPES:
        url = f"{kube.server.url}/openapi/v2"
        async with kube.session.get(url, headers={"Accept": accept, "Authorization": f"Bearer {kube.token}"}) as answer:
            assert answer.headers["Content-Type"] == openapi_v2.PROTOBUF
            assert (await answer.read()).startswith(b"\n\x032.0")
