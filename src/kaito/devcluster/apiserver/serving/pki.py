"""The certificate authority and server certificate of one API server, and kubeconfigs that trust it."""

from __future__ import annotations

import base64
import ssl
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kaito.devcluster.apiserver.strategies.services import KUBERNETES_IP

VALIDITY = timedelta(days=365)
DNS_NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
ADDRESSES = ("127.0.0.1", "::1", KUBERNETES_IP)


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """PEM of the CA certificate, of the server's certificate and of its key."""

    ca: bytes
    certificate: bytes
    key: bytes

    def ssl_context(self) -> ssl.SSLContext:
        """For the listening side. The key touches the disk for as long as ``ssl`` needs to read it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        with tempfile.TemporaryDirectory(prefix="kaito-apiserver-") as folder:
            certificate, key = Path(folder, "tls.crt"), Path(folder, "tls.key")
            certificate.write_bytes(self.certificate)
            key.touch(mode=0o600)
            key.write_bytes(self.key)
            context.load_cert_chain(certificate, key)
        return context

    @staticmethod
    def create(now: datetime | None = None) -> ServerIdentity:
        now = now or datetime.now(UTC)
        ca_key = ec.generate_private_key(ec.SECP256R1())
        ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kaito-dev-ca")])
        ca = (
            _certificate(ca_name, ca_name, ca_key.public_key(), now)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.DNSName(name) for name in DNS_NAMES]
        names += [x509.IPAddress(ip_address(address)) for address in ADDRESSES]
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kube-apiserver")])
        certificate = (
            _certificate(name, ca_name, key.public_key(), now)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        return ServerIdentity(
            ca.public_bytes(pem),
            certificate.public_bytes(pem),
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        )

    @staticmethod
    def load(folder: Path) -> ServerIdentity:
        """The identity kept in ``folder``, made there first if it is not. Files: ca.crt, tls.crt, tls.key."""
        paths = [folder / name for name in ("ca.crt", "tls.crt", "tls.key")]
        if all(path.exists() for path in paths):
            return ServerIdentity(*(path.read_bytes() for path in paths))
        identity = ServerIdentity.create()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path, content in zip(paths, (identity.ca, identity.certificate, identity.key), strict=True):
            path.touch(mode=0o600)
            path.write_bytes(content)
        return identity


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + VALIDITY)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def kubeconfig(url: str, ca: bytes, token: str, *, user: str, namespace: str = "default") -> dict[str, Any]:
    """A kubeconfig with one context, ready to be written as YAML or JSON."""
    cluster: dict[str, Any] = {"server": url}
    if url.startswith("https:"):
        cluster["certificate-authority-data"] = base64.b64encode(ca).decode()
    context = f"{user}@kaito-dev"
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "kaito-dev", "cluster": cluster}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [
            {"name": context, "context": {"cluster": "kaito-dev", "user": user, "namespace": namespace}},
        ],
        "current-context": context,
    }
