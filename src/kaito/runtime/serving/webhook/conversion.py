"""Conversion of custom resources between the versions of their definition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from kaito.runtime.errors import ApiError, BadRequest, Invalid
from kaito.runtime.log import get_logger
from kaito.runtime.objects.resource import Manifest
from kaito.runtime.serving.webhook.answer import Answer

API_VERSION = "apiextensions.k8s.io/v1"
LIMIT = 256 << 20
"""Bytes of a review: a whole list may have to be converted."""

Converter = Callable[[Manifest, str], Manifest]
"""An object and the ``apiVersion`` it is wanted in, to the converted object. Raises ApiError where that is impossible.

Metadata must stay as it is but for labels and annotations. With many versions, convert by way of one hub version.
"""

_log = get_logger("webhook")


class _Request(msgspec.Struct, rename={"api_version": "desiredAPIVersion"}):
    uid: str = ""
    api_version: str = ""
    objects: list[Manifest] = []


class _Review(msgspec.Struct):
    kind: str
    request: _Request


_REVIEW = msgspec.json.Decoder(_Review)


async def review(convert: Converter, body: bytes) -> Answer:
    """The answer to an encoded ConversionReview: all objects in their order, or the first failure. Never raises an
    Exception."""
    uid = ""
    try:
        try:
            asked = _REVIEW.decode(body)
        except msgspec.MsgspecError as error:
            raise BadRequest(f"the request is not a ConversionReview: {error}") from error
        uid = asked.request.uid
        if asked.kind != "ConversionReview":
            raise BadRequest(f"expected a ConversionReview, got {asked.kind}")
        wanted = asked.request.api_version
        converted = [_convert(convert, obj, wanted) for obj in asked.request.objects]
    except ApiError as error:
        return Answer(_failure(uid, error.message, error.code))
    except Exception as error:
        _log.exception("a conversion webhook failed", uid=uid, error=str(error))
        return Answer(_failure(uid, f"the conversion failed: {type(error).__name__}: {error}", 500), error)
    # An answer without ``result.status`` is refused by the API server.
    return Answer(_encode({"uid": uid, "convertedObjects": converted, "result": {"status": "Success"}}))


def refuse(error: ApiError) -> dict[str, Any]:
    """The answer to a request whose body was not read."""
    return _failure("", error.message, error.code)


def _convert(convert: Converter, obj: Manifest, wanted: str) -> Manifest:
    if obj.get("apiVersion") == wanted:
        return obj
    name, uid = _identity(obj)
    converted = convert(obj, wanted)
    if converted.get("apiVersion") != wanted or _identity(converted) != (name, uid):
        raise Invalid(f"{name}: the conversion to {wanted} gave {converted.get('apiVersion')} of another identity")
    return converted


def _identity(obj: Manifest) -> tuple[str, str]:
    metadata = obj.get("metadata") or {}
    return f"{metadata.get('namespace', '')}/{metadata.get('name', '')}", metadata.get("uid", "")


def _failure(uid: str, message: str, code: int) -> dict[str, Any]:
    return _encode(
        {"uid": uid, "convertedObjects": [], "result": {"status": "Failure", "message": message, "code": code}}
    )


def _encode(response: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": "ConversionReview", "response": response}
