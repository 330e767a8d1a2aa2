"""Get and list: resource version semantics and paging.

A continue token holds the revision of the first page and the path to go on after, so that all pages show one state. A
token whose revision is forgotten is Expired, and the error carries a token that goes on from the present state.
"""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from kaito.devcluster.apiserver.objects import meta
from kaito.devcluster.apiserver.objects.fields import Selection
from kaito.runtime import ApiError, BadRequest, Expired, Invalid, ServerTimeout

if TYPE_CHECKING:
    from kaito.devcluster.apiserver.objects.registry import Kind
    from kaito.devcluster.apiserver.store import Record, Store
    from kaito.devcluster.apiserver.wire.requests import Query

EXACT, NOT_OLDER_THAN = "Exact", "NotOlderThan"
_EXPIRED_TOKEN = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter, or use the continue token in this response to retrieve the remainder of the results. "
    "Continuing with the provided token results in an inconsistent list - objects that were created, modified, or "
    "deleted between the time the first chunk was returned and now may show up in the list."
)


@dataclass(frozen=True, slots=True)
class Page:
    """A list, or one page of it, with the ListMeta that goes with it."""

    records: list[Record]
    metadata: dict[str, Any]


class ExpiredPage(Expired):
    """410 with the token to go on from in ``metadata.continue`` of its Status."""

    def __init__(self, token: str) -> None:
        super().__init__(_EXPIRED_TOKEN)
        self.token = token

    def status(self) -> dict[str, Any]:
        return ApiError.status(self) | {"metadata": {"continue": self.token}}


@dataclass(frozen=True, slots=True)
class _Token:
    """``revision`` 0 goes on from the present state."""

    revision: int
    after: str

    def encode(self) -> str:
        raw = msgspec.json.encode([self.revision, self.after])
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    @staticmethod
    def decode(text: str) -> _Token:
        try:
            raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            return _Token(*msgspec.json.decode(raw, type=tuple[int, str]))
        except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
            raise BadRequest(f"continue key is not valid: {error}") from error


def selection_of(kind: Kind, namespace: str, name: str, query: Query) -> Selection:
    return Selection.parse(
        namespace if kind.info.namespaced else "",
        query.text("labelSelector"),
        query.text("fieldSelector"),
        known=kind.field_labels,
        custom=kind.custom,
        name=name,
    )


def parse_revision(text: str) -> int:
    """A resource version as a number; 0 for ``""``. Raises Invalid."""
    if not text:
        return 0
    if not text.isascii() or not text.isdecimal():
        raise Invalid(
            f'Invalid value: resourceVersion: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax'
        )
    return int(text)


def check_not_ahead(store: Store, revision: int) -> None:
    if revision > store.revision:
        message = f"Too large resource version: {revision}, current: {store.revision}"
        causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
        raise ServerTimeout(message, details={"causes": causes}, retry_after=1)


def get(store: Store, kind: Kind, namespace: str, name: str, query: Query) -> Record:
    check_not_ahead(store, parse_revision(query.text("resourceVersion")))
    return find(kind, namespace, name)


def find(kind: Kind, namespace: str, name: str) -> Record:
    """The record of an object. Raises NotFound."""
    record = kind.collection.get(kind.path(namespace, name))
    if record is None:
        raise meta.not_found(kind.info, name)
    return record


def list_page(store: Store, kind: Kind, namespace: str, query: Query) -> Page:
    """The list that a query asks for. Raises Expired, ServerTimeout, BadRequest or Invalid."""
    selection = selection_of(kind, namespace, "", query)
    wanted, match = query.text("resourceVersion"), query.text("resourceVersionMatch")
    limit = max(0, query.integer("limit") or 0)
    token_text = query.text("continue")
    _check_options(wanted, match, token_text, query)
    after = ""
    revision = store.revision
    if token_text:
        token = _Token.decode(token_text)
        after, revision = token.after, token.revision or revision
    else:
        number = parse_revision(wanted)
        check_not_ahead(store, number)
        if number == 0 and wanted:
            # "Any version": kube-apiserver answers from its watch cache, which does not page.
            limit = 0
        elif number and (match == EXACT or (not match and limit)):
            revision = number
    try:
        records = kind.collection.at(revision, selection.namespace)
    except Expired:
        if token_text:
            raise ExpiredPage(_Token(0, after).encode()) from None
        raise Expired("The resourceVersion for the provided list is too old.") from None
    start = bisect_right(records, after, key=lambda record: record.path) if after else 0
    metadata: dict[str, Any] = {"resourceVersion": str(revision)}
    if not selection.filtered:
        rest = records[start:] if start else records
        if not limit or len(rest) <= limit:
            return Page(rest, metadata)
        page = rest[:limit]
        metadata["remainingItemCount"] = len(rest) - limit
    else:
        page = []
        for index in range(start, len(records)):
            if selection.matches(records[index]):
                if limit and len(page) == limit:
                    break
                page.append(records[index])
        else:
            return Page(page, metadata)
    return Page(page, {"continue": _Token(revision, page[-1].path).encode(), **metadata})


def _check_options(wanted: str, match: str, token: str, query: Query) -> None:
    problem = ""
    if query.flag("sendInitialEvents"):
        problem = "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"
    elif match and match not in (EXACT, NOT_OLDER_THAN):
        problem = f'resourceVersionMatch: Unsupported value: "{match}": supported values: "Exact", "NotOlderThan"'
    elif match and token:
        problem = "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided"
    elif match and not wanted:
        problem = (
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"
        )
    elif match == EXACT and wanted == "0":
        problem = 'resourceVersionMatch: Forbidden: resourceVersionMatch "Exact" is forbidden for resourceVersion "0"'
    if problem:
        raise Invalid(f'ListOptions.meta.k8s.io "" is invalid: {problem}')
    if token and wanted not in ("", "0"):
        raise BadRequest("specifying resource version is not allowed when using continue")
