"""Lists in pages, holding one page at a time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

import msgspec

from kaito.runtime.errors import UNDECODABLE, DecodeError, Expired
from kaito.runtime.objects.resource import Resource
from kaito.runtime.transport.rest import Rest, refuse_table

PAGE_SIZE = 500
"""Objects per page; same as client-go."""


class ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class ListPage(msgspec.Struct, rename="camel"):
    """One page; ``items`` are slices of the answer's bytes and keep it alive."""

    metadata: ListMeta
    items: list[msgspec.Raw] | None = None
    kind: str = ""


_PAGE = msgspec.json.Decoder(ListPage)


class Page(msgspec.Struct):
    resource_version: str
    items: list[msgspec.Raw]
    paged: bool
    """Whether the server cut the list: this is not its only page."""
    restarted: bool = False
    """This page replaces all that came before it."""


async def list_pages(
    rest: Rest,
    resource: Resource[Any],
    path: str,
    query: Mapping[str, str],
    *,
    limit: int = PAGE_SIZE,
    resource_version: str | None = None,
    accept: str = "application/json",
) -> AsyncGenerator[Page, None]:
    """The pages of one consistent list.

    ``resource_version`` None asks for the newest, "0" for whatever the server has at hand. ``limit`` 0 asks for all at
    once. A continue token that expires is answered by one full list at the original version: a page that is ``restarted``.
    Raises Expired only for the first page.
    """
    base = dict(query)
    if limit:
        base["limit"] = str(limit)
    if resource_version is not None:
        base["resourceVersion"] = resource_version
    # A continue token carries the version: naming it twice is refused.
    following = {name: value for name, value in base.items() if name not in ("resourceVersion", "resourceVersionMatch")}
    page = await _fetch(rest, resource, path, base, accept)
    paged = bool(page.metadata.continue_)
    while True:
        token = page.metadata.continue_
        yield Page(page.metadata.resource_version, page.items or [], paged)
        if not token:
            return
        try:
            page = await _fetch(rest, resource, path, following | {"continue": token}, accept)
        except Expired:
            base.pop("limit", None)
            page = await _fetch(rest, resource, path, base, accept)
            yield Page(page.metadata.resource_version, page.items or [], True, restarted=True)
            return


async def _fetch(rest: Rest, resource: Resource[Any], path: str, query: Mapping[str, str], accept: str) -> ListPage:
    answer = await rest.send("GET", path, query=query, accept=accept, patient=True)
    try:
        page = _PAGE.decode(answer.body)
    except UNDECODABLE as error:
        raise DecodeError(f"the answer to a list of {resource.group_resource} is not a list: {error}") from error
    refuse_table(page.kind, f"a list of {resource.group_resource}")
    return page
