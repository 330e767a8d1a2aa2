"""Authorization by the stored roles and bindings.

Looser than kube-apiserver: whoever may write roles and bindings may grant what they do not hold themselves (there is
no escalation check), and ``aggregationRule`` is stored but not acted on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kaito.devcluster.apiserver.auth.identity import ANONYMOUS, MASTERS, User, service_account_name
from kaito.devcluster.apiserver.objects.meta import details_of
from kaito.devcluster.apiserver.store import Collection, Object, decode
from kaito.runtime import Forbidden, Unauthorized

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kaito.devcluster.apiserver.wire.requests import RequestInfo

GROUP = "rbac.authorization.k8s.io"
_COLLECTIONS = ("roles", "clusterroles", "rolebindings", "clusterrolebindings")


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is to be allowed: an action on a resource, or on a path where ``resource`` is empty."""

    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""
    version: str = ""

    @staticmethod
    def of(info: RequestInfo) -> Attributes:
        if not info.is_resource:
            return Attributes(info.verb, path=info.path)
        return Attributes(
            info.verb, info.group, info.plural, info.subresource, info.namespace, info.name, version=info.version
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """``rbac/v1 PolicyRule``."""

    verbs: frozenset[str]
    groups: frozenset[str] = frozenset()
    resources: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    paths: tuple[str, ...] = ()

    @staticmethod
    def parse(rule: Mapping[str, Any]) -> Rule:
        return Rule(
            frozenset(rule.get("verbs") or ()),
            frozenset(rule.get("apiGroups") or ()),
            frozenset(rule.get("resources") or ()),
            frozenset(rule.get("resourceNames") or ()),
            tuple(rule.get("nonResourceURLs") or ()),
        )

    def allows(self, asked: Attributes) -> bool:
        if not self.verbs & {asked.verb, "*"}:
            return False
        if not asked.resource:
            return any(
                path == "*" or path == asked.path or (path.endswith("*") and asked.path.startswith(path[:-1]))
                for path in self.paths
            )
        if not self.groups & {asked.group, "*"} or (self.names and asked.name not in self.names):
            return False
        if not asked.subresource:
            return bool(self.resources & {asked.resource, "*"})
        return bool(self.resources & {f"{asked.resource}/{asked.subresource}", f"*/{asked.subresource}", "*"})

    def resource_rule(self) -> dict[str, Any]:
        value = {"verbs": sorted(self.verbs), "apiGroups": sorted(self.groups), "resources": sorted(self.resources)}
        return value | ({"resourceNames": sorted(self.names)} if self.names else {})


@dataclass(frozen=True, slots=True)
class _Grant:
    namespace: str
    """``""`` for a grant in the whole cluster."""
    rules: tuple[Rule, ...]


class Authorizer:
    """Answers from the stored RBAC objects; what it derives from them is kept until one of them changes."""

    def __init__(self, collections: Mapping[str, Collection]) -> None:
        self._roles, self._cluster_roles, self._bindings, self._cluster_bindings = (
            collections[f"{name}.{GROUP}"] for name in _COLLECTIONS
        )
        self._seen: tuple[int, ...] = ()
        self._by_subject: dict[tuple[str, str], list[_Grant]] = {}

    def allowed(self, user: User, asked: Attributes) -> bool:
        if MASTERS in user.groups:
            return True
        return any(rule.allows(asked) for grant in self._grants(user, asked.namespace) for rule in grant.rules)

    def check(self, user: User, asked: Attributes) -> None:
        """Raises Forbidden; Unauthorized for those who have not said who they are."""
        if self.allowed(user, asked):
            return
        if user.name == ANONYMOUS:
            raise Unauthorized("Unauthorized")
        raise forbidden(user, asked)

    def rules(self, user: User, namespace: str) -> list[Rule]:
        """What a user may do in a namespace."""
        if MASTERS in user.groups:
            everything = frozenset("*")
            return [Rule(everything, everything, everything), Rule(everything, paths=("*",))]
        return list(dict.fromkeys(rule for grant in self._grants(user, namespace) for rule in grant.rules))

    def _grants(self, user: User, namespace: str) -> Iterator[_Grant]:
        self._refresh()
        subjects = [("User", user.name), *(("Group", group) for group in user.groups)]
        for subject in subjects:
            for grant in self._by_subject.get(subject, ()):
                if not grant.namespace or grant.namespace == namespace:
                    yield grant

    def _refresh(self) -> None:
        collections = (self._roles, self._cluster_roles, self._bindings, self._cluster_bindings)
        seen = tuple(collection.revision for collection in collections)
        if seen == self._seen:
            return
        self._seen = seen
        self._by_subject = {}
        for collection in (self._cluster_bindings, self._bindings):
            for record in collection:
                self._bind(decode(record.body), record.namespace)

    def _bind(self, binding: Object, namespace: str) -> None:
        role = binding.get("roleRef") or {}
        if role.get("kind") == "Role":
            record = self._roles.get(f"{namespace}/{role.get('name')}")
        else:
            record = self._cluster_roles.get(str(role.get("name")))
        if record is None:
            return
        grant = _Grant(namespace, tuple(Rule.parse(rule) for rule in decode(record.body).get("rules") or ()))
        for subject in binding.get("subjects") or ():
            kind, name = subject.get("kind"), subject.get("name", "")
            if kind == "ServiceAccount":
                kind, name = "User", service_account_name(subject.get("namespace") or namespace, name)
            self._by_subject.setdefault((kind, name), []).append(grant)


def forbidden(user: User, asked: Attributes) -> Forbidden:
    """The 403 in kube-apiserver's words."""
    if not asked.resource:
        message = f'forbidden: User "{user.name}" cannot {asked.verb} path "{asked.path}"'
        return Forbidden(message)
    resource = f"{asked.resource}/{asked.subresource}" if asked.subresource else asked.resource
    scope = f'in the namespace "{asked.namespace}"' if asked.namespace else "at the cluster scope"
    qualified = f"{asked.resource}.{asked.group}" if asked.group else asked.resource
    shown = f'{qualified} "{asked.name}"' if asked.name else qualified
    return Forbidden(
        f'{shown} is forbidden: User "{user.name}" cannot {asked.verb} resource "{resource}" '
        f'in API group "{asked.group}" {scope}',
        details=details_of(asked.group, asked.resource, asked.name),
    )
