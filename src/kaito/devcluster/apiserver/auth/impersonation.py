"""Impersonation: acting as somebody else, for those who may."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote

from kaito.devcluster.apiserver.auth.identity import ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, User
from kaito.devcluster.apiserver.auth.rbac import Attributes, Authorizer
from kaito.runtime import BadRequest

if TYPE_CHECKING:
    from multidict import MultiMapping

USER, GROUP, UID, EXTRA = "Impersonate-User", "Impersonate-Group", "Impersonate-Uid", "impersonate-extra-"
_SERVICE_ACCOUNT = "system:serviceaccount:"


def impersonate(user: User, headers: MultiMapping[str], authorizer: Authorizer) -> User:
    """The user that the headers ask to act as, else ``user``. Raises Forbidden or BadRequest."""
    name = headers.get(USER, "")
    groups = tuple(headers.getall(GROUP, ()))
    uid = headers.get(UID, "")
    extra: dict[str, list[str]] = {}
    for key in dict.fromkeys(key for key in headers if key.lower().startswith(EXTRA)):
        extra[unquote(key[len(EXTRA) :].lower())] = list(headers.getall(key, ()))
    if not name:
        if groups or uid or extra:
            raise BadRequest("requested impersonation of groups, uid or extra without impersonating a user")
        return user
    namespace, _, account = name.removeprefix(_SERVICE_ACCOUNT).partition(":")
    is_account = name.startswith(_SERVICE_ACCOUNT) and account
    if is_account:
        authorizer.check(user, Attributes("impersonate", "", "serviceaccounts", "", namespace, account))
    else:
        authorizer.check(user, Attributes("impersonate", "", "users", "", "", name))
    for group in groups:
        authorizer.check(user, Attributes("impersonate", "", "groups", "", "", group))
    if uid:
        authorizer.check(user, Attributes("impersonate", "authentication.k8s.io", "uids", "", "", uid))
    for key, values in extra.items():
        for value in values:
            asked = Attributes("impersonate", "authentication.k8s.io", "userextras", key, "", value)
            authorizer.check(user, asked)
    if is_account and not groups:
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}")
    implied = UNAUTHENTICATED if name == ANONYMOUS else AUTHENTICATED
    return User(name, tuple(dict.fromkeys((*groups, implied))), uid, extra)
