"""The review APIs: objects that are answered, never stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kaito.devcluster.apiserver.auth.identity import API_AUDIENCES, Authenticator, User
from kaito.devcluster.apiserver.auth.rbac import Attributes, Authorizer
from kaito.devcluster.apiserver.objects import meta
from kaito.devcluster.apiserver.schema import Cause
from kaito.runtime import BadRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from kaito.devcluster.apiserver.objects.registry import Kind
    from kaito.devcluster.apiserver.store import Object


class Reviews:
    def __init__(self, authenticator: Authenticator, authorizer: Authorizer) -> None:
        self._authenticator = authenticator
        self._authorizer = authorizer
        self._answers: dict[str, Callable[[Kind, Object, User, str], Object]] = {
            "selfsubjectaccessreviews.authorization.k8s.io": self._self_access,
            "subjectaccessreviews.authorization.k8s.io": self._access,
            "localsubjectaccessreviews.authorization.k8s.io": self._local_access,
            "selfsubjectrulesreviews.authorization.k8s.io": self._rules,
            "tokenreviews.authentication.k8s.io": self._token,
            "selfsubjectreviews.authentication.k8s.io": self._self,
        }

    def answers(self, kind: Kind) -> bool:
        return kind.info.group_resource in self._answers

    def answer(self, kind: Kind, body: Any, user: User, namespace: str) -> Object:
        """The review with its status. Raises BadRequest or Invalid."""
        obj = meta.check_type(body, kind)
        return obj | {"status": self._answers[kind.info.group_resource](kind, obj, user, namespace)}

    def _self_access(self, kind: Kind, obj: Object, user: User, namespace: str) -> Object:
        return self._decide(user, self._attributes(kind, obj))

    def _access(self, kind: Kind, obj: Object, user: User, namespace: str) -> Object:
        spec = obj.get("spec") or {}
        if not spec.get("user") and not spec.get("groups"):
            raise meta.invalid(
                kind.info, "", [Cause.invalid("spec.user", "", "at least one of user or group must be specified")]
            )
        subject = User(spec.get("user") or "", tuple(spec.get("groups") or ()))
        return self._decide(subject, self._attributes(kind, obj))

    def _local_access(self, kind: Kind, obj: Object, user: User, namespace: str) -> Object:
        asked = ((obj.get("spec") or {}).get("resourceAttributes") or {}).get("namespace")
        if asked != namespace:
            why = "must match metadata.namespace"
            raise meta.invalid(kind.info, "", [Cause.invalid("spec.resourceAttributes.namespace", asked, why)])
        return self._access(kind, obj, user, namespace)

    def _attributes(self, kind: Kind, obj: Object) -> Attributes:
        spec = obj.get("spec") or {}
        resource, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
        if resource is not None and path is None:
            names = ("group", "resource", "subresource", "namespace", "name", "version")
            return Attributes(resource.get("verb", ""), **{name: resource.get(name) or "" for name in names})
        if path is not None and resource is None:
            return Attributes(path.get("verb", ""), path=path.get("path", ""))
        why = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
        raise meta.invalid(kind.info, "", [Cause.invalid("spec.resourceAttributes", resource, why)])

    def _decide(self, user: User, asked: Attributes) -> Object:
        if self._authorizer.allowed(user, asked):
            return {"allowed": True, "reason": "RBAC: allowed"}
        return {"allowed": False}

    def _rules(self, kind: Kind, obj: Object, user: User, namespace: str) -> Object:
        about = (obj.get("spec") or {}).get("namespace")
        if not about:
            raise BadRequest("no namespace on request")
        rules = self._authorizer.rules(user, about)
        return {
            "resourceRules": [rule.resource_rule() for rule in rules if not rule.paths],
            "nonResourceRules": [
                {"verbs": sorted(rule.verbs), "nonResourceURLs": list(rule.paths)} for rule in rules if rule.paths
            ],
            "incomplete": False,
        }

    def _token(self, kind: Kind, obj: Object, user: User, namespace: str) -> Object:
        spec = obj.get("spec") or {}
        if not spec.get("token"):
            raise BadRequest("token is required for TokenReview in authentication")
        found = self._authenticator.review(spec["token"], tuple(spec.get("audiences") or ()) or API_AUDIENCES)
        if found is None:
            return {"authenticated": False, "user": {}, "error": "invalid bearer token"}
        return {"authenticated": True, "user": found.user.info(), "audiences": list(found.audiences)}

    def _self(self, kind: Kind, obj: Object, user: User, namespace: str) -> Object:
        return {"userInfo": user.info()}
