"""Discovery, version and OpenAPI documents, made from the registry and kept until it changes."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kaito.devcluster.apiserver.discovery import openapi, openapi_protobuf, openapi_v2
from kaito.devcluster.apiserver.store import encode
from kaito.devcluster.apiserver.wire.negotiation import JSON, media_type
from kaito.devcluster.apiserver.wire.replies import Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kaito.devcluster.apiserver.discovery.crd import Definitions
    from kaito.devcluster.apiserver.objects.builtins import ResourceInfo
    from kaito.devcluster.apiserver.objects.registry import Registry
    from kaito.devcluster.apiserver.wire.requests import RequestInfo

VERSION = {
    "major": "1",
    "minor": "32",
    "gitVersion": "v1.32.0+kaito",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "2024-12-11T17:59:15Z",
    "goVersion": "",
    "compiler": "",
    "platform": "linux/amd64",
}
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
_VERSION_NAME = re.compile(r"v(\d+)(?:(alpha|beta)(\d+))?\Z")
_STABILITY = {"alpha": 0, "beta": 1, None: 2}
_ROOTS = ("/api", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version")
_OPENAPI_V2_TYPES = (*openapi_v2.PROTOBUF_TYPES, JSON, "*/*")
_IMMUTABLE = "public, immutable, max-age=31536000"


class Discovery:
    """Answers everything that is not about an object."""

    def __init__(self, registry: Registry, definitions: Definitions) -> None:
        self._registry = registry
        self._definitions = definitions
        self._generation = -1
        self._memo: dict[str, Any] = {}

    def reply(self, info: RequestInfo, accept: str, if_none_match: str) -> Reply | None:
        """The answer to a GET of a path that is not one of a resource; None when there is nothing there."""
        if self._generation != self._registry.generation:
            self._generation = self._registry.generation
            self._memo.clear()
        parts = info.path.strip("/").split("/")
        match parts:
            case ["version"]:
                return Reply(encode(VERSION))
            case ["healthz" | "livez" | "readyz", *rest] if len(rest) <= 1:
                return Reply(b"ok", content_type="text/plain; charset=utf-8")
            case ["api"]:
                return self._groups(accept, if_none_match, core=True)
            case ["apis"]:
                return self._groups(accept, if_none_match, core=False)
            case ["api", version] if self._registry.serves("", version):
                return self._document(f"resources//{version}", lambda: self._resource_list("", version))
            case ["apis", group] if self._registry.of_group(group):
                return self._document(f"group/{group}", lambda: self._api_group(group, top=True))
            case ["apis", group, version] if self._registry.serves(group, version):
                return self._document(f"resources/{group}/{version}", lambda: self._resource_list(group, version))
            case ["openapi", "v2"]:
                return self._openapi_v2(accept, if_none_match)
            case ["openapi", "v3"]:
                return self._document("openapi", self._openapi_index)
            case ["openapi", "v3", "api", version] if self._registry.serves("", version):
                return self._openapi("", version, if_none_match)
            case ["openapi", "v3", "apis", group, version] if self._registry.serves(group, version):
                return self._openapi(group, version, if_none_match)
            case [""]:
                return Reply(
                    encode(
                        {
                            "paths": [
                                "/api",
                                "/apis",
                                "/healthz",
                                "/livez",
                                "/openapi/v2",
                                "/openapi/v3",
                                "/readyz",
                                "/version",
                            ]
                        }
                    )
                )
        return None

    def _memoized(self, name: str, build: Callable[[], Any]) -> Any:
        if name not in self._memo:
            self._memo[name] = build()
        return self._memo[name]

    def _document(self, name: str, build: Callable[[], Any]) -> Reply:
        return Reply(self._memoized(name, lambda: encode(build())))

    def _group_names(self) -> list[str]:
        return list(dict.fromkeys(kind.info.group for kind in self._registry if kind.info.group))

    def _infos(self, group: str, version: str) -> list[ResourceInfo]:
        return [kind.info for kind in self._registry.of_group(group) if kind.info.version == version]

    def _versions(self, group: str) -> list[str]:
        return sorted(
            {kind.info.version for kind in self._registry.of_group(group)}, key=version_priority, reverse=True
        )

    def _groups(self, accept: str, if_none_match: str, *, core: bool) -> Reply:
        if not wants_aggregated(accept):
            return self._document("versions" if core else "groups", self._api_versions if core else self._group_list)
        body, tag = self._memoized(f"aggregated/{core}", lambda: _tagged(self._aggregated(core=core)))
        return _conditional(body, tag, if_none_match, AGGREGATED, {"Vary": "Accept"})

    def _aggregated(self, *, core: bool) -> dict[str, Any]:
        return {
            "kind": "APIGroupDiscoveryList",
            "apiVersion": "apidiscovery.k8s.io/v2",
            "metadata": {},
            "items": [
                {
                    "metadata": {"name": group, "creationTimestamp": None} if group else {"creationTimestamp": None},
                    "versions": [
                        {
                            "version": version,
                            "resources": [_aggregated_resource(info) for info in self._infos(group, version)],
                            "freshness": "Current",
                        }
                        for version in self._versions(group)
                    ],
                }
                for group in ([""] if core else self._group_names())
            ],
        }

    def _api_versions(self) -> dict[str, Any]:
        return {"kind": "APIVersions", "versions": self._versions(""), "serverAddressByClientCIDRs": []}

    def _group_list(self) -> dict[str, Any]:
        groups = [self._api_group(group) for group in self._group_names()]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}

    def _api_group(self, group: str, *, top: bool = False) -> dict[str, Any]:
        versions = [{"groupVersion": f"{group}/{version}", "version": version} for version in self._versions(group)]
        head = {"kind": "APIGroup", "apiVersion": "v1"} if top else {}
        return {**head, "name": group, "versions": versions, "preferredVersion": versions[0]}

    def _resource_list(self, group: str, version: str) -> dict[str, Any]:
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": f"{group}/{version}" if group else version,
            "resources": [entry for info in self._infos(group, version) for entry in _legacy_resources(info)],
        }

    def _openapi_index(self) -> dict[str, Any]:
        paths = {}
        for group in ("", *self._group_names()):
            for version in self._versions(group):
                path = f"apis/{group}/{version}" if group else f"api/{version}"
                paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={self._fingerprint(group, version)}"}
        return {"paths": paths}

    def _fingerprint(self, group: str, version: str) -> str:
        """A hash of all that a document is made of, without making it."""

        def build() -> str:
            infos = [_fingerprinted(info) for info in self._infos(group, version)]
            material = encode([VERSION, infos, self._definitions.schemas(group, version)])
            return hashlib.sha256(material).hexdigest().upper()

        return str(self._memoized(f"fingerprint/{group}/{version}", build))

    def _openapi(self, group: str, version: str, if_none_match: str) -> Reply:
        body = self._memoized(
            f"openapi/{group}/{version}",
            lambda: encode(self._openapi_document(group, version)),
        )
        headers = {"Cache-Control": _IMMUTABLE, "Vary": "Accept"}
        return _conditional(body, self._fingerprint(group, version), if_none_match, JSON, headers)

    def _openapi_document(self, group: str, version: str) -> dict[str, Any]:
        return openapi.group_version_document(
            group, version, self._infos(group, version), self._definitions.schemas(group, version)
        )

    def _openapi_v2(self, accept: str, if_none_match: str) -> Reply:
        def build() -> dict[str, Any]:
            places = [(group, version) for group in ("", *self._group_names()) for version in self._versions(group)]
            return openapi_v2.document(self._openapi_document(group, version) for group, version in places)

        def form(name: str, written: Callable[[dict[str, Any]], bytes]) -> bytes:
            return bytes(self._memoized(f"openapi/v2/{name}", lambda: written(self._memoized("openapi/v2", build))))

        offered = [media_type(offer)[0] for offer in accept.split(",")]
        wants_protobuf = next(
            (kind in openapi_v2.PROTOBUF_TYPES for kind in offered if kind in _OPENAPI_V2_TYPES), False
        )
        body = form("protobuf", openapi_protobuf.document) if wants_protobuf else form("json", encode)
        content_type = openapi_v2.PROTOBUF if wants_protobuf else JSON
        tag = hashlib.sha256(body).hexdigest().upper()
        return _conditional(body, tag, if_none_match, content_type, {"Vary": "Accept"})


def version_priority(version: str) -> tuple[int, int, int, str]:
    """Sort key of version names: stable before beta before alpha, later before earlier, others last."""
    match = _VERSION_NAME.match(version)
    if match is None:
        return (-1, 0, 0, version)
    return (_STABILITY[match[2]], int(match[1]), int(match[3] or 0), version)


def wants_aggregated(accept: str) -> bool:
    """Whether aggregated discovery v2 is asked for; v2beta1 is not served, so that its clients fall back."""
    for offer in accept.split(","):
        kind, parameters = media_type(offer)
        if kind == JSON and parameters.get("as") == "APIGroupDiscoveryList" and parameters.get("v") == "v2":
            return True
    return False


def _fingerprinted(info: ResourceInfo) -> dict[str, Any]:
    return {
        "kind": info.kind,
        "plural": info.plural,
        "namespaced": info.namespaced,
        "verbs": info.verbs,
        "subresources": {name: asdict(subresource) for name, subresource in info.subresources.items()},
    }


def _aggregated_resource(info: ResourceInfo) -> dict[str, Any]:
    value: dict[str, Any] = {
        "resource": info.plural,
        "responseKind": {"group": info.group, "version": info.version, "kind": info.kind},
        "scope": "Namespaced" if info.namespaced else "Cluster",
        "singularResource": info.singular,
        "verbs": list(info.verbs),
    }
    if info.short_names:
        value["shortNames"] = list(info.short_names)
    if info.categories:
        value["categories"] = list(info.categories)
    if info.subresources:
        value["subresources"] = [
            {
                "subresource": name,
                "responseKind": {"group": sub.group, "version": sub.version, "kind": sub.kind},
                "verbs": list(sub.verbs),
            }
            for name, sub in info.subresources.items()
        ]
    return value


def _legacy_resources(info: ResourceInfo) -> Iterable[dict[str, Any]]:
    value: dict[str, Any] = {
        "name": info.plural,
        "singularName": info.singular,
        "namespaced": info.namespaced,
        "kind": info.kind,
        "verbs": list(info.verbs),
    }
    if info.short_names:
        value["shortNames"] = list(info.short_names)
    if info.categories:
        value["categories"] = list(info.categories)
    yield value
    for name, sub in info.subresources.items():
        entry = {"name": f"{info.plural}/{name}", "singularName": "", "namespaced": info.namespaced, "kind": sub.kind}
        if (sub.group, sub.version) != (info.group, info.version):
            entry |= {"group": sub.group, "version": sub.version}
        yield entry | {"verbs": list(sub.verbs)}


def _tagged(value: Any) -> tuple[bytes, str]:
    body = encode(value)
    return body, hashlib.sha256(body).hexdigest().upper()


def _conditional(body: bytes, tag: str, if_none_match: str, content_type: str, headers: dict[str, str]) -> Reply:
    headers = {**headers, "ETag": f'"{tag}"'}
    if tag in if_none_match:
        return Reply(b"", 304, content_type, headers=headers)
    return Reply(body, content_type=content_type, headers=headers)
