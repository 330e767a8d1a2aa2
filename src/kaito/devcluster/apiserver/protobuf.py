"""Protobuf request bodies, which ``kubectl`` from 1.32 on sends from its typed clients. Replies are always JSON.

A body is ``k8s\\0`` and a ``runtime.Unknown`` message around the object. The table below holds the messages of the
kinds that kubectl creates without a manifest; field numbers are those of the API's ``generated.proto`` files.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from kaito.runtime import BadRequest, UnsupportedMediaType

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC: Final = b"k8s\x00"

_MESSAGES: Final = {
    # Each field is number:name=type. No type is a string; * repeats, % maps strings to the type, and ? is a pointer in
    # Go, whose zero value is kept: others are always written and absent from JSON when zero.
    "Unknown": "1:typeMeta=TypeMeta 2:raw=raw 3:contentEncoding 4:contentType",
    "TypeMeta": "1:apiVersion 2:kind",
    "ObjectMeta": "1:name 2:generateName 3:namespace 4:selfLink 5:uid 6:resourceVersion 7:generation=int "
    "8:creationTimestamp=Time 9:deletionTimestamp=Time 10:deletionGracePeriodSeconds=?int 11:labels=%string "
    "12:annotations=%string 13:ownerReferences=*OwnerReference 14:finalizers=*string",
    "OwnerReference": "1:kind 3:name 4:uid 5:apiVersion 6:controller=?bool 7:blockOwnerDeletion=?bool",
    "LabelSelector": "1:matchLabels=%string 2:matchExpressions=*SelectorRequirement",
    "SelectorRequirement": "1:key 2:operator 3:values=*string",
    "ObjectReference": "1:kind 2:namespace 3:name 4:uid 5:apiVersion 6:resourceVersion 7:fieldPath",
    "LocalObjectReference": "1:name",
    "DeleteOptions": "1:gracePeriodSeconds=?int 2:preconditions=Preconditions 3:orphanDependents=?bool "
    "4:propagationPolicy=?string 5:dryRun=*string",
    "Preconditions": "1:uid=?string 2:resourceVersion=?string",
    "Namespace": "1:metadata=ObjectMeta 2:spec=NamespaceSpec 3:status=NamespaceStatus",
    "NamespaceSpec": "1:finalizers=*string",
    "NamespaceStatus": "1:phase",
    "ConfigMap": "1:metadata=ObjectMeta 2:data=%string 3:binaryData=%bytes 4:immutable=?bool",
    "Secret": "1:metadata=ObjectMeta 2:data=%bytes 3:type 4:stringData=%string 5:immutable=?bool",
    "ServiceAccount": "1:metadata=ObjectMeta 2:secrets=*ObjectReference 3:imagePullSecrets=*LocalObjectReference "
    "4:automountServiceAccountToken=?bool",
    "Binding": "1:metadata=ObjectMeta 2:target=ObjectReference",
    "ResourceQuota": "1:metadata=ObjectMeta 2:spec=ResourceQuotaSpec",
    "ResourceQuotaSpec": "1:hard=%Quantity 2:scopes=*string",
    "Service": "1:metadata=ObjectMeta 2:spec=ServiceSpec",
    "ServiceSpec": "1:ports=*ServicePort 2:selector=%string 3:clusterIP 4:type 5:externalIPs=*string 7:sessionAffinity "
    "8:loadBalancerIP 9:loadBalancerSourceRanges=*string 10:externalName 11:externalTrafficPolicy "
    "12:healthCheckNodePort=int 13:publishNotReadyAddresses=bool 17:ipFamilyPolicy=?string 18:clusterIPs=*string "
    "19:ipFamilies=*string 20:allocateLoadBalancerNodePorts=?bool 21:loadBalancerClass=?string "
    "22:internalTrafficPolicy=?string",
    "ServicePort": "1:name 2:protocol 3:port=int 4:targetPort=IntOrString 5:nodePort=int 6:appProtocol=?string",
    "Role": "1:metadata=ObjectMeta 2:rules=*PolicyRule",
    "ClusterRole": "1:metadata=ObjectMeta 2:rules=*PolicyRule 3:aggregationRule=AggregationRule",
    "AggregationRule": "1:clusterRoleSelectors=*LabelSelector",
    "PolicyRule": "1:verbs=*string 2:apiGroups=*string 3:resources=*string 4:resourceNames=*string "
    "5:nonResourceURLs=*string",
    "RoleBinding": "1:metadata=ObjectMeta 2:subjects=*Subject 3:roleRef=RoleRef",
    "ClusterRoleBinding": "1:metadata=ObjectMeta 2:subjects=*Subject 3:roleRef=RoleRef",
    "Subject": "1:kind 2:apiGroup 3:name 4:namespace",
    "RoleRef": "1:apiGroup 2:kind 3:name",
    "SelfSubjectAccessReview": "1:metadata=ObjectMeta 2:spec=AccessReviewSpec",
    "SubjectAccessReview": "1:metadata=ObjectMeta 2:spec=AccessReviewSpec",
    "LocalSubjectAccessReview": "1:metadata=ObjectMeta 2:spec=AccessReviewSpec",
    "AccessReviewSpec": "1:resourceAttributes=?ResourceAttributes 2:nonResourceAttributes=?NonResourceAttributes "
    "3:user 4:groups=*string 5:extra=%ExtraValue 6:uid",
    "ResourceAttributes": "1:namespace 2:verb 3:group 4:version 5:resource 6:subresource 7:name",
    "NonResourceAttributes": "1:path 2:verb",
    "ExtraValue": "1:items=*string",
    "SelfSubjectRulesReview": "1:metadata=ObjectMeta 2:spec=RulesReviewSpec",
    "RulesReviewSpec": "1:namespace",
    "TokenRequest": "1:metadata=ObjectMeta 2:spec=TokenRequestSpec",
    "TokenRequestSpec": "1:audiences=*string 3:boundObjectRef=BoundObjectReference 4:expirationSeconds=?int",
    "BoundObjectReference": "1:kind 2:apiVersion 3:name 4:uid",
    "TokenReview": "1:metadata=ObjectMeta 2:spec=TokenReviewSpec",
    "TokenReviewSpec": "1:token 2:audiences=*string",
    "SelfSubjectReview": "1:metadata=ObjectMeta",
    "Eviction": "1:metadata=ObjectMeta 2:deleteOptions=DeleteOptions",
    "PodDisruptionBudget": "1:metadata=ObjectMeta 2:spec=PodDisruptionBudgetSpec",
    "PodDisruptionBudgetSpec": "1:minAvailable=?IntOrString 2:selector=?LabelSelector 3:maxUnavailable=?IntOrString "
    "4:unhealthyPodEvictionPolicy=?string",
    "PriorityClass": "1:metadata=ObjectMeta 2:value=?int 3:globalDefault=bool 4:description 5:preemptionPolicy=?string",
    "Ingress": "1:metadata=ObjectMeta 2:spec=IngressSpec",
    "IngressSpec": "1:defaultBackend=IngressBackend 2:tls=*IngressTLS 3:rules=*IngressRule 4:ingressClassName=?string",
    "IngressTLS": "1:hosts=*string 2:secretName",
    "IngressRule": "1:host 2:=IngressRuleValue",
    "IngressRuleValue": "1:http=HTTPIngressRuleValue",
    "HTTPIngressRuleValue": "1:paths=*HTTPIngressPath",
    "HTTPIngressPath": "1:path 2:backend=IngressBackend 3:pathType=?string",
    "IngressBackend": "3:resource=TypedObjectReference 4:service=IngressServiceBackend",
    "TypedObjectReference": "1:apiGroup=?string 2:kind 3:name",
    "IngressServiceBackend": "1:name 2:port=ServiceBackendPort",
    "ServiceBackendPort": "1:name 2:number=int",
}

_KINDS: Final = {
    "v1": ("Binding", "ConfigMap", "Namespace", "ResourceQuota", "Secret", "Service", "ServiceAccount"),
    "authentication.k8s.io/v1": ("SelfSubjectReview", "TokenRequest", "TokenReview"),
    "authorization.k8s.io/v1": (
        "LocalSubjectAccessReview",
        "SelfSubjectAccessReview",
        "SelfSubjectRulesReview",
        "SubjectAccessReview",
    ),
    "networking.k8s.io/v1": ("Ingress",),
    "policy/v1": ("Eviction", "PodDisruptionBudget"),
    "rbac.authorization.k8s.io/v1": ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"),
    "scheduling.k8s.io/v1": ("PriorityClass",),
}

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
Json = Any


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    """``""`` for a message whose fields are inlined in JSON."""
    type: str
    repeated: bool
    mapped: bool
    pointer: bool


def decode(body: bytes) -> dict[str, Json]:
    """The object in a protobuf body, as its JSON form. Empty messages and unset fields are left out.

    Raises UnsupportedMediaType for a kind that is not in the table, BadRequest for bytes that are not such a message.
    """
    if not body.startswith(MAGIC):
        raise BadRequest("the body is not a Kubernetes protobuf message: it lacks the prefix k8s\\0")
    try:
        envelope = _message("Unknown", memoryview(body)[len(MAGIC) :])
        meta = envelope.get("typeMeta", {})
        api_version, kind = meta.get("apiVersion", ""), meta.get("kind", "")
        if kind not in _KINDS.get(api_version, ()) and kind != "DeleteOptions":
            raise UnsupportedMediaType(
                f"{kind or 'an object'} in {api_version or 'no version'} is not read from protobuf by this server: "
                'use "--dry-run=client -o yaml | kubectl apply -f -"'
            )
        return {"kind": kind, "apiVersion": api_version, **_message(kind, envelope.get("raw", memoryview(b"")))}
    except (IndexError, UnicodeDecodeError, ValueError, TypeError, OverflowError) as error:
        raise BadRequest(f"the body is not a well-formed protobuf message: {error}") from error


@cache
def _fields(message: str) -> dict[int, _Field]:
    fields = {}
    for entry in _MESSAGES[message].split():
        number, _, rest = entry.partition(":")
        name, _, kind = rest.partition("=")
        kind = kind or "string"
        bare = kind.lstrip("*%?")
        fields[int(number)] = _Field(name, bare, kind[0] == "*", kind[0] == "%", kind[0] == "?")
    return fields


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7
        if shift > 63:
            raise ValueError("a varint is longer than ten bytes")


def _entries(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers and values as they stand on the wire."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, position = _varint(data, position)
            yield number, value
            continue
        if wire == _BYTES:
            length, position = _varint(data, position)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire} is not in use")
        if position + length > len(data):
            raise ValueError(f"field {number} ends beyond its message")
        yield number, data[position : position + length]
        position += length


def _message(name: str, data: memoryview) -> dict[str, Json]:
    decoded: dict[str, Json] = {}
    fields = _fields(name)
    for number, raw in _entries(data):
        field = fields.get(number)
        if field is None:
            continue
        if field.mapped:
            entry = dict(_entries(_chunk(raw)))
            key = str(_chunk(entry.get(1, memoryview(b""))), "utf-8")
            decoded.setdefault(field.name, {})[key] = _value(field.type, entry.get(2, memoryview(b"")))
        elif field.repeated:
            decoded.setdefault(field.name, []).append(_value(field.type, raw))
        elif not field.name:
            decoded |= _message(field.type, _chunk(raw))
        else:
            value = _value(field.type, raw)
            if field.pointer or value not in ("", 0, None, {}):
                decoded[field.name] = value
    return decoded


def _chunk(raw: int | memoryview) -> memoryview:
    if isinstance(raw, int):
        raise TypeError("a number stands where a message or text belongs")
    return raw


def _number(raw: int | memoryview) -> int:
    if not isinstance(raw, int):
        raise TypeError("text stands where a number belongs")
    return raw - 2**64 if raw >= 2**63 else raw


def _value(kind: str, raw: int | memoryview) -> Json:
    match kind:
        case "int":
            return _number(raw)
        case "bool":
            return bool(_number(raw))
        case "string":
            return str(_chunk(raw), "utf-8")
        case "bytes":
            return base64.b64encode(_chunk(raw)).decode()
        case "raw":
            return _chunk(raw)
        case "Time":
            return _time(_chunk(raw))
        case "Quantity":
            return str(_chunk(dict(_entries(_chunk(raw))).get(1, memoryview(b""))), "utf-8")
        case "IntOrString":
            parts = dict(_entries(_chunk(raw)))
            if parts.get(1):
                return str(_chunk(parts.get(3, memoryview(b""))), "utf-8")
            return _number(parts.get(2, 0))
        case "ExtraValue":
            return _message(kind, _chunk(raw)).get("items", [])
    return _message(kind, _chunk(raw))


def _time(data: memoryview) -> str | None:
    """RFC 3339 in seconds; an empty message is the zero time, which is absent."""
    parts = dict(_entries(data))
    if not parts:
        return None
    return datetime.fromtimestamp(_number(parts.get(1, 0)), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
