"""Resources that are known only at run time: from a group and kind to what requests need.

The server's catalogue is asked for on first use, in one aggregated document for all groups where the server has it, else
group by group. What is found stays found. What is not found is looked for again, at most every ten seconds, so that a
definition that is installed later is seen and one that never comes costs little.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple, TypeVar, final

import msgspec

from kaito.runtime.clock import Clock, SystemClock
from kaito.runtime.errors import DecodeError, NoKindMatch, NotFound, RuntimeFault
from kaito.runtime.objects.resource import Manifest, Resource, manifest_resource
from kaito.runtime.transport.rest import Rest

T = TypeVar("T")

NEGATIVE_TTL = 10.0
"""Seconds for which a kind that was not found is taken to be absent."""

_ACCEPT = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;q=0.9"


class _Kind(msgspec.Struct):
    kind: str = ""


class _Discovered(msgspec.Struct, rename="camel"):
    resource: str
    scope: str
    response_kind: _Kind | None = None
    verbs: list[str] = []


class _Version(msgspec.Struct):
    version: str
    resources: list[_Discovered] = []


class _Name(msgspec.Struct):
    name: str = ""


class _Group(msgspec.Struct):
    metadata: _Name = msgspec.field(default_factory=_Name)
    versions: list[_Version] = []


class _GroupVersion(msgspec.Struct):
    version: str


class _LegacyGroup(msgspec.Struct, rename="camel"):
    name: str
    versions: list[_GroupVersion]
    preferred_version: _GroupVersion | None = None


class _Catalogue(msgspec.Struct):
    """APIGroupDiscoveryList, APIGroupList or APIVersions, whichever the server answers with."""

    kind: str
    items: list[_Group] = []
    groups: list[_LegacyGroup] = []
    versions: list[str] = []


class _LegacyResource(msgspec.Struct):
    name: str
    kind: str
    namespaced: bool
    verbs: list[str] = []


class _LegacyResources(msgspec.Struct):
    resources: list[_LegacyResource] = []


class _Served(NamedTuple):
    resource: Resource[Manifest]
    verbs: frozenset[str]


_Versions = dict[str, list[_Served]]
"""What a group has in each version, the preferred one first."""
_Kinds = dict[str, dict[str, Resource[Manifest]]]
"""Resources of a group by version, the preferred one first, and kind."""


@final
class Discovery:
    """Safe to use from many tasks: those that miss at the same time share one look."""

    def __init__(self, rest: Rest, *, clock: Clock | None = None) -> None:
        self._rest = rest
        self._clock = clock or SystemClock()
        self._groups: dict[str, _Kinds] = {}
        self._looked: dict[str, float] = {}
        self._failures: dict[str, tuple[float, RuntimeFault]] = {}
        self._lock = asyncio.Lock()

    async def resource(self, group: str, kind: str, version: str = "") -> Resource[Manifest]:
        """The resource of ``kind``, in ``version`` or else the first in the server's order of preference that has it.

        Raises NoKindMatch where the server has none, and ApiError or TransportError where it did not say.
        """
        asked = self._clock.monotonic()
        found = self._find(group, kind, version)
        if found is not None:
            return found
        async with self._lock:
            found = self._find(group, kind, version)
            if found is not None:
                return found
            failed = self._failures.get(group)
            if failed is not None and failed[0] >= asked:
                raise failed[1]
            looked = self._looked.get(group, self._looked.get(_root(group), float("-inf")))
            if self._clock.monotonic() - looked >= NEGATIVE_TTL:
                try:
                    await self._look(group)
                except RuntimeFault as error:
                    self._failures[group] = (self._clock.monotonic(), error)
                    raise
                self._failures.pop(group, None)
                found = self._find(group, kind, version)
        if found is None:
            named = f"{kind}.{group}" if group else kind
            raise NoKindMatch(
                f"the server has no kind {named}{f' in version {version}' if version else ''}: "
                "is its CustomResourceDefinition installed?"
            )
        return found

    async def of_manifest(self, manifest: Manifest) -> Resource[Manifest]:
        """The resource of an object, by its ``apiVersion`` and ``kind``."""
        group, slash, version = str(manifest.get("apiVersion", "")).rpartition("/")
        return await self.resource(group if slash else "", str(manifest.get("kind", "")), version)

    async def with_verbs(self, *verbs: str) -> list[Resource[Manifest]]:
        """Every resource that has all ``verbs``, in the first version of its group that serves it so. Always asks the server.

        Raises ApiError or TransportError where it did not say.
        """
        wanted = frozenset(verbs)
        found: dict[tuple[str, str], Resource[Manifest]] = {}
        for root in (_root(""), _root("*")):
            catalogue = await self._ask(root)
            for versions in (await self._everything(catalogue)).values():
                for served in (entry for entries in versions.values() for entry in entries):
                    if served.verbs >= wanted:
                        found.setdefault((served.resource.group, served.resource.plural), served.resource)
        return list(found.values())

    def invalidate(self) -> None:
        """Forget everything, as after a definition was replaced by one with another plural or scope."""
        self._groups.clear()
        self._looked.clear()

    def _find(self, group: str, kind: str, version: str) -> Resource[Manifest] | None:
        for served, kinds in self._groups.get(group, {}).items():
            if version in ("", served) and kind in kinds:
                return kinds[kind]
        return None

    async def _look(self, group: str) -> None:
        root = _root(group)
        catalogue = await self._ask(root)
        if catalogue.kind == "APIGroupDiscoveryList":
            core = root == "/api"
            kept = {name: kinds for name, kinds in self._groups.items() if (name == "") != core}
            self._groups = kept | {item.metadata.name: _by_kind(_aggregated(item)) for item in catalogue.items}
            for name in [name for name in self._looked if _root(name) == root]:
                del self._looked[name]
            self._looked[root] = self._clock.monotonic()
            return
        self._groups[group] = _by_kind(await self._listed(group, _versions(catalogue, group)))
        self._looked[group] = self._clock.monotonic()

    async def _ask(self, root: str) -> _Catalogue:
        return _decode((await self._rest.send("GET", root, accept=_ACCEPT)).body, _Catalogue)

    async def _everything(self, catalogue: _Catalogue) -> dict[str, _Versions]:
        if catalogue.kind == "APIGroupDiscoveryList":
            return {item.metadata.name: _aggregated(item) for item in catalogue.items}
        groups = [item.name for item in catalogue.groups] or [""]
        return {group: await self._listed(group, _versions(catalogue, group)) for group in groups}

    async def _listed(self, group: str, versions: list[str]) -> _Versions:
        """What a group has, by a request for each version; a version that has gone meanwhile is left out."""
        found: _Versions = {}
        for version in versions:
            path = f"/apis/{group}/{version}" if group else f"/api/{version}"
            try:
                listed = _decode((await self._rest.send("GET", path)).body, _LegacyResources)
            except NotFound:
                continue
            found[version] = [
                _Served(
                    manifest_resource(group, version, item.kind, item.name, namespaced=item.namespaced),
                    frozenset(item.verbs),
                )
                for item in listed.resources
                if "/" not in item.name
            ]
        return found


def _root(group: str) -> str:
    return "/apis" if group else "/api"


def _decode(body: bytes, model: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=model)
    except msgspec.MsgspecError as error:
        raise DecodeError(f"the server's answer is not a discovery document: {error}") from error


def _aggregated(group: _Group) -> _Versions:
    name = group.metadata.name
    return {
        version.version: [
            _Served(
                manifest_resource(
                    name, version.version, item.response_kind.kind, item.resource, namespaced=item.scope == "Namespaced"
                ),
                frozenset(item.verbs),
            )
            for item in version.resources
            if item.response_kind is not None
        ]
        for version in group.versions
    }


def _by_kind(versions: _Versions) -> _Kinds:
    return {
        version: {served.resource.kind: served.resource for served in entries} for version, entries in versions.items()
    }


def _versions(catalogue: _Catalogue, group: str) -> list[str]:
    if not group:
        return catalogue.versions
    for item in catalogue.groups:
        if item.name == group:
            preferred = [item.preferred_version.version] if item.preferred_version else []
            return list(dict.fromkeys([*preferred, *(served.version for served in item.versions)]))
    return []
