"""A certificate authority and serving certificate of the process's own, for clusters without cert-manager.

They live in one Secret that all replicas share. Whoever finds them missing, unusable or near their end makes new ones; the
Secret's resource version decides between several. The authority's certificate is then put into the webhook configurations,
and only after that is a new serving certificate used, so that the API server can always verify what it meets. An authority
that was replaced stays trusted until it expires.

Needs no leadership: followers serve webhooks too. Give it a ``Client`` without a leader's fence.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import random
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kaito.runtime.certificates import ServingContext
from kaito.runtime.client import Client
from kaito.runtime.clock import Clock, SystemClock
from kaito.runtime.errors import AlreadyExists, Conflict, NotFound, RuntimeFault
from kaito.runtime.helpers import retry_on_conflict
from kaito.runtime.log import get_logger
from kaito.runtime.resource import (
    CUSTOM_RESOURCE_DEFINITIONS,
    MUTATING_WEBHOOK_CONFIGURATIONS,
    SECRETS,
    VALIDATING_WEBHOOK_CONFIGURATIONS,
    Manifest,
    Resource,
)

VALIDITY = timedelta(days=365)
"""Life of a serving certificate; it is replaced when a third of it is left."""
AUTHORITY_VALIDITY = timedelta(days=10 * 365)
CHECK_PERIOD = 60.0
"""Seconds, ±10 %, between two looks at the Secret and the webhook configurations."""
SETTLE = 5.0
"""Seconds for the API server to notice a new authority before it meets a certificate signed by it."""

_PEM = serialization.Encoding.PEM
_FIELDS = ("ca.crt", "ca.key", "tls.crt", "tls.key")

_log = get_logger("certificates")


@dataclass(frozen=True, slots=True)
class KeyMaterial:
    """What the Secret holds, each as PEM."""

    authorities: bytes
    """The authority that signs, then those that it has replaced and that have not expired."""
    authority_key: bytes
    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return "<KeyMaterial>"

    def data(self) -> dict[str, str]:
        values = (self.authorities, self.authority_key, self.certificate, self.key)
        return {name: base64.b64encode(value).decode() for name, value in zip(_FIELDS, values, strict=True)}

    @staticmethod
    def of(secret: Manifest) -> KeyMaterial | None:
        """None where the Secret lacks a part, as one that an installer left empty does."""
        data = secret.get("data") or {}
        try:
            values = [base64.b64decode(data[name], validate=True) for name in _FIELDS]
        except (KeyError, binascii.Error):
            return None
        return KeyMaterial(*values)


def renew(current: KeyMaterial | None, names: Sequence[str], now: datetime, validity: timedelta) -> KeyMaterial:
    """``current`` where it serves ``names`` and has more than a third of its life left, else what replaces it."""
    authority = _authority(current, now)
    if current is None or authority is None:
        old = [] if current is None else _certificates(current.authorities)
        made = _make_authority(now)
        trusted = [made[0], *(certificate for certificate in old if certificate.not_valid_after_utc > now)]
        bundle = b"".join(certificate.public_bytes(_PEM) for certificate in trusted)
        return _issue(made, bundle, names, now, validity)
    if _serves(current, authority[0], names, now):
        return current
    return _issue(authority, current.authorities, names, now, validity)


_Authority = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def _certificates(pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        return []


def _private_key(pem: bytes) -> ec.EllipticCurvePrivateKey | None:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        return None
    return key if isinstance(key, ec.EllipticCurvePrivateKey) else None


def _pair(certificate_pem: bytes, key_pem: bytes, now: datetime) -> _Authority | None:
    """The first certificate and its key; None where they do not load, do not match, or a third of life is all there is."""
    certificates, key = _certificates(certificate_pem), _private_key(key_pem)
    if not certificates or key is None or certificates[0].public_key() != key.public_key():
        return None
    certificate = certificates[0]
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc - life / 3:
        return None
    return certificate, key


def _authority(current: KeyMaterial | None, now: datetime) -> _Authority | None:
    return None if current is None else _pair(current.authorities, current.authority_key, now)


def _serves(current: KeyMaterial, authority: x509.Certificate, names: Sequence[str], now: datetime) -> bool:
    pair = _pair(current.certificate, current.key, now)
    if pair is None:
        return False
    try:
        pair[0].verify_directly_issued_by(authority)
        alternatives = pair[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return set(names) <= set(alternatives.get_values_for_type(x509.DNSName))


def _make_authority(now: datetime) -> _Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    # Two authorities of one name would be taken for each other when a certificate's issuer is looked for.
    name = _name(f"kaito-webhook-ca-{x509.random_serial_number() & 0xFFFFFFFF:08x}")
    certificate = (
        _builder(name, name, key, now, AUTHORITY_VALIDITY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate, key


def _issue(
    authority: _Authority, bundle: bytes, names: Sequence[str], now: datetime, validity: timedelta
) -> KeyMaterial:
    issuer, issuer_key = authority
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(_name(names[0][:64]), issuer.subject, key, now, validity)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    return KeyMaterial(bundle, _key_pem(issuer_key), certificate.public_bytes(_PEM), _key_pem(key))


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    # An hour back, for API servers whose clock is behind.
    start = now - timedelta(hours=1)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(now + life)


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


@final
class EphemeralCertificates:
    """A certificate that exists only in this process, for clients that do not verify, such as a scraper in the cluster."""

    def __init__(self, name: str = "localhost", *, clock: Clock | None = None) -> None:
        self._name = name
        self._clock = clock or SystemClock()
        self._serving = ServingContext()

    @property
    def context(self) -> ssl.SSLContext:
        return self._serving.context

    async def start(self) -> None:
        material = renew(None, [self._name], self._clock.now(), VALIDITY)
        self._serving.replace(material.certificate, material.key)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(VALIDITY.total_seconds() / 2)
            await self.start()


@final
class SelfSignedCertificates:
    """The ``Certificates`` of a webhook server, shared by its replicas through a Secret."""

    def __init__(
        self,
        client: Client,
        secret: str,
        namespace: str,
        names: Sequence[str],
        *,
        validating: Sequence[str] = (),
        mutating: Sequence[str] = (),
        conversions: Sequence[str] = (),
        validity: timedelta = VALIDITY,
        clock: Clock | None = None,
    ) -> None:
        """Serve the DNS ``names``, as a rule ``service.namespace.svc``. ``validating`` and ``mutating`` name the webhook
        configurations, ``conversions`` the CustomResourceDefinitions, that get the authority's certificate; one that does
        not exist yet gets it once it does.
        """
        if not names:
            raise ValueError("a serving certificate needs at least one DNS name")
        self._client = client
        self._secret, self._namespace = secret, namespace
        self._names = tuple(names)
        self._trusting: list[tuple[Resource[Manifest], str]] = [
            *((VALIDATING_WEBHOOK_CONFIGURATIONS, name) for name in validating),
            *((MUTATING_WEBHOOK_CONFIGURATIONS, name) for name in mutating),
            *((CUSTOM_RESOURCE_DEFINITIONS, name) for name in conversions),
        ]
        self._validity = validity
        self._clock = clock or SystemClock()
        self._serving = ServingContext()
        self._served: KeyMaterial | None = None
        self._reported: set[str] = set()

    @property
    def context(self) -> ssl.SSLContext:
        return self._serving.context

    async def start(self) -> None:
        self._serve(await self.publish())

    async def run(self) -> None:
        while True:
            await asyncio.sleep(CHECK_PERIOD * random.uniform(0.9, 1.1))
            try:
                await self.refresh()
            except RuntimeFault as error:
                self._report(f"kept the old certificate: {error}")
            else:
                self._reported.clear()

    async def refresh(self) -> None:
        """Renew what has to be renewed, and serve what is in the Secret. Raises RuntimeFault, and then nothing changes."""
        material = await self.publish()
        if material != self._served:
            await asyncio.sleep(SETTLE)
            self._serve(material)
            _log.info("serving a new certificate", secret=f"{self._namespace}/{self._secret}")

    def _serve(self, material: KeyMaterial) -> None:
        self._serving.replace(material.certificate, material.key)
        self._served = material

    async def publish(self) -> KeyMaterial:
        """The Secret's content, valid, and trusted by all webhook configurations."""
        for resource, name in self._trusting:
            await retry_on_conflict(lambda resource=resource, name=name: self._trust(resource, name))  # type: ignore[misc]
        return await retry_on_conflict(self._ensure)

    async def _ensure(self) -> KeyMaterial:
        try:
            secret = await self._client.get(SECRETS, self._secret, self._namespace)
        except NotFound:
            material = renew(None, self._names, self._clock.now(), self._validity)
            metadata = {"name": self._secret, "namespace": self._namespace}
            try:
                await self._client.create(
                    SECRETS,
                    {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata}
                    | {"data": material.data()},
                )
            except AlreadyExists as error:
                raise Conflict(f"another replica made the Secret {self._secret} first") from error
            return material
        current = KeyMaterial.of(secret)
        material = renew(current, self._names, self._clock.now(), self._validity)
        if material != current:
            await self._client.update(SECRETS, secret | {"data": (secret.get("data") or {}) | material.data()})
            _log.info("renewed the certificate", secret=f"{self._namespace}/{self._secret}")
        return material

    async def _trust(self, resource: Resource[Manifest], name: str) -> None:
        try:
            # Read before the Secret: a write that rests on an older Secret then finds this version outdated.
            configuration = await self._client.get(resource, name)
        except NotFound:
            self._report(f"there is no {resource.kind} {name} to put the certificate authority into")
            return
        material = await self._ensure()
        bundle = base64.b64encode(material.authorities).decode()
        places = _client_configurations(configuration)
        if any(place.get("caBundle") != bundle for place in places):
            for place in places:
                place["caBundle"] = bundle
            await self._client.update(resource, configuration)
            _log.info("put the certificate authority in place", kind=resource.kind, name=name)

    def _report(self, text: str) -> None:
        if text not in self._reported:
            self._reported.add(text)
            _log.warning(text)


def _client_configurations(configuration: Manifest) -> list[Manifest]:
    """Every ``clientConfig`` in a webhook configuration or a CustomResourceDefinition."""
    if configuration.get("kind") == CUSTOM_RESOURCE_DEFINITIONS.kind:
        webhook = (configuration["spec"].get("conversion") or {}).get("webhook")
        return [webhook.setdefault("clientConfig", {})] if webhook else []
    return [webhook.setdefault("clientConfig", {}) for webhook in configuration.get("webhooks") or []]
