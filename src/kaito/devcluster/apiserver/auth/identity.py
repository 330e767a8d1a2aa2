"""Authentication: bearer tokens to users.

A token is the static admin token, one that the owner of the server registered, or a JWT that this server signed for a
service account.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from kaito.devcluster.apiserver.store import Collection, decode
from kaito.runtime import Unauthorized

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ANONYMOUS = "system:anonymous"
AUTHENTICATED, UNAUTHENTICATED = "system:authenticated", "system:unauthenticated"
MASTERS = "system:masters"
ISSUER = "https://kubernetes.default.svc.cluster.local"
API_AUDIENCES = (ISSUER,)
DEFAULT_TOKEN_SECONDS = 3600
"""Life of a token when the request says nothing."""
_HALF = 32
"""Bytes of each of the two numbers of an ES256 signature."""


@dataclass(frozen=True, slots=True)
class User:
    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def info(self) -> dict[str, Any]:
        """``authentication/v1 UserInfo``."""
        value: dict[str, Any] = {"username": self.name, "groups": list(self.groups)}
        if self.uid:
            value["uid"] = self.uid
        if self.extra:
            value["extra"] = {name: list(values) for name, values in self.extra.items()}
        return value


ANONYMOUS_USER = User(ANONYMOUS, (UNAUTHENTICATED,))


def service_account_name(namespace: str, name: str) -> str:
    return f"system:serviceaccount:{namespace}:{name}"


@dataclass(frozen=True, slots=True)
class Authenticated:
    user: User
    audiences: tuple[str, ...]


class Authenticator:
    """Knows every token that this server accepts. Signing keys live as long as the object."""

    def __init__(self, accounts: Collection, clock: Callable[[], datetime], tokens: Mapping[str, User]) -> None:
        self.admin_token = secrets.token_urlsafe(32)
        self._accounts = accounts
        self._clock = clock
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._static = {self.admin_token: User("kubernetes-admin", (MASTERS, AUTHENTICATED))}
        for token, user in tokens.items():
            groups = tuple(dict.fromkeys((*user.groups, AUTHENTICATED)))
            self._static[token] = User(user.name, groups, user.uid, user.extra)
        self._verified: dict[str, dict[str, Any]] = {}

    def authenticate(self, header: str) -> User:
        """The user of an ``Authorization`` header; without one the anonymous user. Raises Unauthorized."""
        if not header:
            return ANONYMOUS_USER
        scheme, _, token = header.partition(" ")
        token = token.strip()
        found = self.review(token, API_AUDIENCES) if scheme.lower() == "bearer" and token else None
        if found is None:
            raise Unauthorized("Unauthorized")
        return found.user

    def review(self, token: str, audiences: Sequence[str]) -> Authenticated | None:
        """The user of a token that is valid for one of ``audiences``, and those for which it is."""
        user = self._static.get(token)
        if user is not None:
            return Authenticated(user, tuple(audiences))
        claims = self._claims(token)
        if claims is None or claims["exp"] <= self._clock().timestamp():
            return None
        shared = tuple(audience for audience in audiences if audience in claims["aud"])
        account = claims["kubernetes.io"]["serviceaccount"]
        namespace, name = claims["kubernetes.io"]["namespace"], account["name"]
        record = self._accounts.get(f"{namespace}/{name}")
        if not shared or record is None or decode(record.body)["metadata"]["uid"] != account["uid"]:
            return None
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", AUTHENTICATED)
        return Authenticated(User(service_account_name(namespace, name), groups, account["uid"]), shared)

    def issue(
        self, namespace: str, name: str, uid: str, audiences: Sequence[str] = (), seconds: int = DEFAULT_TOKEN_SECONDS
    ) -> tuple[str, datetime]:
        """A signed token for a service account, and when it expires."""
        now = int(self._clock().timestamp())
        claims = {
            "iss": ISSUER,
            "sub": service_account_name(namespace, name),
            "aud": list(audiences) or list(API_AUDIENCES),
            "iat": now,
            "nbf": now,
            "exp": now + seconds,
            "jti": secrets.token_hex(16),
            "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": name, "uid": uid}},
        }
        signed = f"{_pack(msgspec.json.encode({'alg': 'ES256', 'typ': 'JWT'}))}.{_pack(msgspec.json.encode(claims))}"
        r, s = utils.decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        signature = r.to_bytes(_HALF, "big") + s.to_bytes(_HALF, "big")
        return f"{signed}.{_pack(signature)}", datetime.fromtimestamp(now + seconds, tz=self._clock().tzinfo)

    def _claims(self, token: str) -> dict[str, Any] | None:
        """The claims of a token with a good signature. Those of past tokens are remembered: checking one takes long."""
        claims = self._verified.get(token)
        if claims is None:
            signed, _, signature = token.rpartition(".")
            try:
                raw = _unpack(signature)
                pair = int.from_bytes(raw[:_HALF], "big"), int.from_bytes(raw[_HALF:], "big")
                self._key.public_key().verify(
                    utils.encode_dss_signature(*pair), signed.encode(), ec.ECDSA(hashes.SHA256())
                )
                claims = msgspec.json.decode(_unpack(signed.partition(".")[2]), type=dict[str, Any])
            except (InvalidSignature, binascii.Error, ValueError, msgspec.MsgspecError):
                return None
            self._verified[token] = claims
        return claims


def _pack(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unpack(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
