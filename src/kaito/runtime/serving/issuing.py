"""Makes certificate authorities and the serving certificates they sign. Pure but for randomness.

Imported where a certificate has to be judged or made, and not before: ``cryptography`` costs 8 MB.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kaito.runtime.objects.resource import Manifest

AUTHORITY_VALIDITY = timedelta(days=10 * 365)

_PEM = serialization.Encoding.PEM
_FIELDS = ("ca.crt", "ca.key", "tls.crt", "tls.key")


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
