"""Admission: may this write happen, and what should be filled in first.

An author writes a ``Validator`` or a ``Defaulter`` over objects of a ``Resource``, plain manifests or typed ones. To deny,
it raises an ``ApiError``, such as ``Forbidden`` or ``Invalid``, which the user sees word for word. Anything else it raises
is a bug: the write is denied with 500 and the bug is counted and logged. Every answer carries the request's uid.
"""

from __future__ import annotations

import base64
import enum
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec

from kaito.runtime.errors import ApiError, BadRequest, InternalError
from kaito.runtime.log import get_logger
from kaito.runtime.objects.resource import Resource
from kaito.runtime.serving.webhook.answer import Answer
from kaito.runtime.serving.webhook.patch import json_patch

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

LIMIT = 7 << 20
"""Bytes of a review: two objects of etcd's largest size, escaped; same as controller-runtime's."""

API_VERSIONS = ("admission.k8s.io/v1", "admission.k8s.io/v1beta1")

_log = get_logger("webhook")


class Operation(enum.StrEnum):
    CREATE = "CREATE"
    UPDATE = "UPDATE"
    DELETE = "DELETE"
    CONNECT = "CONNECT"


class GroupVersionKind(msgspec.Struct, frozen=True):
    group: str = ""
    version: str = ""
    kind: str = ""


class GroupVersionResource(msgspec.Struct, frozen=True):
    group: str = ""
    version: str = ""
    resource: str = ""


class UserInfo(msgspec.Struct, frozen=True):
    """Who asks."""

    username: str = ""
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: dict[str, list[str]] = {}


class AdmissionRequest(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """``admission.k8s.io/v1`` AdmissionRequest."""

    uid: str
    operation: Operation
    kind: GroupVersionKind = GroupVersionKind()
    resource: GroupVersionResource = GroupVersionResource()
    sub_resource: str = ""
    name: str = ""
    namespace: str = ""
    user_info: UserInfo = UserInfo()
    object: msgspec.Raw = msgspec.Raw(b"null")
    """The object to be stored, JSON; ``null`` on DELETE."""
    old_object: msgspec.Raw = msgspec.Raw(b"null")
    """The object as it is stored, JSON; ``null`` on CREATE."""
    dry_run: bool | None = None
    options: msgspec.Raw = msgspec.Raw(b"null")


@dataclass(frozen=True, slots=True)
class AdmissionResponse:
    allowed: bool
    status: Mapping[str, Any] | None = None
    """The ``metav1.Status`` of a denial."""
    patch: tuple[Mapping[str, Any], ...] = ()
    """Operations of a JSON patch; only of an allowed mutating request."""
    warnings: tuple[str, ...] = ()
    """Shown to the user by kubectl; at most 256 characters each."""

    @staticmethod
    def denied(error: ApiError, warnings: Iterable[str] = ()) -> AdmissionResponse:
        return AdmissionResponse(False, error.status(), warnings=tuple(warnings))


AdmissionHandler = Callable[[AdmissionRequest], Awaitable[AdmissionResponse]]


class Validator(Protocol[T_contra]):
    """Judges writes of one resource. Each method returns warnings, or None, and raises ApiError to deny."""

    async def validate_create(self, new: T_contra, request: AdmissionRequest) -> Iterable[str] | None: ...

    async def validate_update(
        self, old: T_contra, new: T_contra, request: AdmissionRequest
    ) -> Iterable[str] | None: ...

    async def validate_delete(self, old: T_contra, request: AdmissionRequest) -> Iterable[str] | None: ...


class Defaulter(Protocol[T]):
    """Fills in what the user left out, on create and update."""

    async def default(self, obj: T, request: AdmissionRequest) -> T:
        """The object as it should be; it may be ``obj``, changed. Raises ApiError to deny."""
        ...


def validating(resource: Resource[T], *validators: Validator[T]) -> AdmissionHandler:
    """Asks ``validators`` in turn; the first denial decides. Warnings add up, also on a denial."""

    async def handle(request: AdmissionRequest) -> AdmissionResponse:
        _expect(resource, request)
        warnings: list[str] = []
        for validator in validators:
            # Each gets objects of its own, so that none can change what the next one sees.
            try:
                match request.operation:
                    case Operation.CREATE:
                        told = await validator.validate_create(_decode(resource, request.object, "object"), request)
                    case Operation.UPDATE:
                        old = _decode(resource, request.old_object, "oldObject")
                        told = await validator.validate_update(
                            old, _decode(resource, request.object, "object"), request
                        )
                    case Operation.DELETE:
                        told = await validator.validate_delete(
                            _decode(resource, request.old_object, "oldObject"), request
                        )
                    case Operation.CONNECT:
                        told = None
            except ApiError as error:
                return AdmissionResponse.denied(error, warnings)
            warnings += told or ()
        return AdmissionResponse(True, warnings=tuple(warnings))

    return handle


def defaulting(resource: Resource[T], *defaulters: Defaulter[T]) -> AdmissionHandler:
    """Applies ``defaulters`` in turn, each to what the one before returned, and answers with the difference.

    Fields that ``resource``'s type does not know survive. Deletions are let through untouched.
    """

    async def handle(request: AdmissionRequest) -> AdmissionResponse:
        if request.operation not in (Operation.CREATE, Operation.UPDATE):
            return AdmissionResponse(True)
        _expect(resource, request)
        obj = _decode(resource, request.object, "object")
        known = _plain(resource.encode(obj))
        try:
            for defaulter in defaulters:
                obj = await defaulter.default(obj, request)
        except ApiError as error:
            return AdmissionResponse.denied(error)
        patch = json_patch(_plain(request.object), known, _plain(resource.encode(obj)))
        return AdmissionResponse(True, patch=tuple(patch))

    return handle


def _expect(resource: Resource[Any], request: AdmissionRequest) -> None:
    asked = request.kind
    if (asked.group, asked.version, asked.kind) != (resource.group, resource.version, resource.kind):
        raise BadRequest(
            f"this webhook is for {resource}, the request is about {asked.kind}.{asked.group}/{asked.version}: "
            "correct the rules of the webhook configuration"
        )


def _plain(data: bytes | msgspec.Raw) -> Any:
    return msgspec.json.decode(data)


def _decode(resource: Resource[T], data: msgspec.Raw, field: str) -> T:
    raw = bytes(data)
    if raw == b"null":
        raise BadRequest(f"there is no object to decode: request.{field} is empty")
    try:
        return resource.decode(raw)
    except ValueError as error:  # msgspec's and pydantic's errors are ValueErrors
        raise BadRequest(f"request.{field} is not a {resource.kind}: {error}") from error


class _Review(msgspec.Struct, rename="camel"):
    api_version: str = ""
    kind: str = ""
    request: msgspec.Raw = msgspec.Raw(b"null")


class _Identified(msgspec.Struct):
    uid: str = ""


_REVIEW = msgspec.json.Decoder(_Review)
_IDENTIFIED = msgspec.json.Decoder(_Identified)
_REQUEST = msgspec.json.Decoder(AdmissionRequest)


async def review(handler: AdmissionHandler, body: bytes) -> Answer:
    """The answer of ``handler`` to an encoded AdmissionReview; never raises an Exception."""
    api_version, uid = API_VERSIONS[0], ""
    try:
        try:
            asked = _REVIEW.decode(body)
            if asked.api_version in API_VERSIONS:
                api_version = asked.api_version
            uid = _IDENTIFIED.decode(asked.request).uid
            if asked.kind != "AdmissionReview" or asked.api_version not in API_VERSIONS:
                raise BadRequest(f"expected an AdmissionReview, got {asked.kind or 'no kind'} of {asked.api_version!r}")
            request = _REQUEST.decode(asked.request)
        except msgspec.MsgspecError as error:
            raise BadRequest(f"the request is not an AdmissionReview: {error}") from error
        return Answer(_encode(api_version, uid, await handler(request)))
    except ApiError as error:
        return Answer(_encode(api_version, uid, AdmissionResponse.denied(error)))
    except Exception as error:
        _log.exception("an admission webhook failed", uid=uid, error=str(error))
        told = InternalError(f"the webhook failed: {type(error).__name__}: {error}")
        return Answer(_encode(api_version, uid, AdmissionResponse.denied(told)), error)


def refuse(error: ApiError) -> dict[str, Any]:
    """The answer to a request whose body was not read, and whose uid is therefore unknown."""
    return _encode(API_VERSIONS[0], "", AdmissionResponse.denied(error))


def _encode(api_version: str, uid: str, response: AdmissionResponse) -> dict[str, Any]:
    body: dict[str, Any] = {"uid": uid, "allowed": response.allowed}
    if response.status is not None:
        body["status"] = dict(response.status)
    if response.patch and response.allowed:
        body["patch"] = base64.b64encode(msgspec.json.encode(response.patch)).decode()
        body["patchType"] = "JSONPatch"
    if response.warnings:
        body["warnings"] = [str(warning) for warning in response.warnings]
    return {"apiVersion": api_version, "kind": "AdmissionReview", "response": body}
