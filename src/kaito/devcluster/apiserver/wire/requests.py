"""What a request asks for: path, verb and query parameters, read as kube-apiserver reads them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

from kaito.runtime import BadRequest, Invalid

if TYPE_CHECKING:
    from collections.abc import Mapping

_TRUE = frozenset({"1", "t", "T", "true", "True", "TRUE"})
_FALSE = frozenset({"0", "f", "F", "false", "False", "FALSE"})
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "GET": "get", "HEAD": "get"}
MAX_MANAGER = 128


@dataclass(frozen=True, slots=True)
class Query:
    """The parameters of a query string; of a repeated one the first counts."""

    values: Mapping[str, str] = field(default_factory=dict)
    agent: str = ""
    """The ``User-Agent`` of the request, by whose beginning a writer is known who says no more."""

    @staticmethod
    def parse(text: str, agent: str = "") -> Query:
        if not text:
            return Query(agent=agent)
        values: dict[str, str] = {}
        for name, value in parse_qsl(text, keep_blank_values=True):
            values.setdefault(name, value)
        return Query(values, agent)

    def text(self, name: str) -> str:
        return self.values.get(name, "")

    def flag(self, name: str) -> bool:
        """A boolean in any spelling of Go's ``strconv.ParseBool``; a bare parameter is true."""
        return self.optional_flag(name) or False

    def optional_flag(self, name: str) -> bool | None:
        value = self.values.get(name)
        if value is None:
            return None
        if value == "" or value in _TRUE:
            return True
        if value in _FALSE:
            return False
        raise BadRequest(f'unable to decode the query: parameter "{name}": "{value}" is not a boolean')

    def integer(self, name: str) -> int | None:
        value = self.values.get(name)
        if not value:
            return None
        try:
            return int(value)
        except ValueError:
            raise BadRequest(
                f'unable to decode the query: strconv.ParseInt: parsing "{value}": invalid syntax'
            ) from None

    def manager(self) -> str:
        """Who owns the fields that this request writes. Raises Invalid for a name that cannot be one."""
        name = self.text("fieldManager")
        if len(name) > MAX_MANAGER:
            raise Invalid(f"Invalid value: fieldManager: Too long: may not be more than {MAX_MANAGER} bytes")
        if not name.isprintable():
            raise Invalid(f'Invalid value: fieldManager: "{name}": should only contain printable characters')
        return name or self.agent.partition("/")[0][:MAX_MANAGER] or "unknown"

    def dry_run(self) -> bool:
        """Whether ``dryRun=All`` is asked for; any other value is Invalid, never taken as a real write."""
        value = self.values.get("dryRun")
        if not value:
            return False
        if value != "All":
            raise Invalid(f'Invalid value: dryRun: Unsupported value: "{value}": supported values: "All"')
        return True


NO_QUERY = Query()


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """The parts of a request that routing, authorization and fault rules look at."""

    verb: str
    """get, list, watch, create, update, patch, delete or deletecollection; for other paths the lower-case method."""
    path: str
    query: Query
    group: str = ""
    version: str = ""
    plural: str = ""
    """``""`` where the path is not one of a resource."""
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    proxied: str = ""
    """Of the subresource ``proxy`` what comes behind it, percent-encoded, with its slash in front; else ``""``."""

    @property
    def is_resource(self) -> bool:
        return bool(self.plural)

    @property
    def group_resource(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @staticmethod
    def parse(method: str, raw_path: str, query: Query) -> RequestInfo:
        """``raw_path`` is the path still percent-encoded, so that an encoded slash stays within its segment."""
        parts = [unquote(part) for part in raw_path.split("/") if part]
        plain = RequestInfo(method.lower(), "/" + "/".join(parts), query)
        if parts[:1] == ["api"] and len(parts) >= 3:
            group, version, rest = "", parts[1], parts[2:]
        elif parts[:1] == ["apis"] and len(parts) >= 4:
            group, version, rest = parts[1], parts[2], parts[3:]
        else:
            return plain
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 1:
            # The collections below a namespace and the subresources of a Namespace share one path.
            if len(rest) == 2 or (len(rest) == 3 and rest[2] in ("status", "finalize")):
                namespace = rest[1]
            else:
                namespace, rest = rest[1], rest[2:]
        name, subresource = [*rest, "", ""][1:3]
        proxied = ""
        if subresource == "proxy":
            proxied = _behind(raw_path, len(parts) - len(rest) + 3)
        elif len(rest) > 3:
            subresource = "/".join(rest[2:])
        verb = _VERBS.get(method, method.lower())
        if not name and verb == "get":
            verb = "watch" if query.flag("watch") else "list"
        elif not name and verb == "delete":
            verb = "deletecollection"
        elif verb == "get" and not subresource and query.flag("watch"):
            verb = "watch"
        return RequestInfo(verb, plain.path, query, group, version, rest[0], namespace, name, subresource, proxied)


def _behind(raw_path: str, count: int) -> str:
    """What follows the first ``count`` segments of a path."""
    segments = list(re.finditer("[^/]+", raw_path))
    return raw_path[segments[count - 1].end() :]
