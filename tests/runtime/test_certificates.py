"""Certificates that change while they are served: from files, and self-signed in a Secret shared by replicas."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from kaito.devcluster.apiserver import Fault
from kaito.runtime import (
    CUSTOM_RESOURCE_DEFINITIONS,
    MUTATING_WEBHOOK_CONFIGURATIONS,
    SECRETS,
    VALIDATING_WEBHOOK_CONFIGURATIONS,
    Certificates,
    CertificateWatcher,
    Client,
    ConfigError,
    Conflict,
    Manifest,
    RuntimeMetrics,
    SelfSignedCertificates,
    ServiceUnavailable,
)
from kaito.runtime.serving import certificates as certificates_module
from kaito.runtime.serving import selfsigned as selfsigned_module
from kaito.runtime.serving.issuing import KeyMaterial, renew
from support.certificates import self_signed
from support.front import Front
from support.waiting import eventually

NOW = datetime(2026, 1, 1, tzinfo=UTC)
YEAR = timedelta(days=365)
NAMES = ("webhooks.kaito.svc", "webhooks.kaito.svc.cluster.local")


class ManualClock:
    def __init__(self, now: datetime | None = None) -> None:
        self.time = now or datetime.now(UTC)

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.time.timestamp()


def make(name: str = "localhost") -> KeyMaterial:
    return renew(None, [name], datetime.now(UTC), YEAR)


def make_rsa() -> tuple[bytes, bytes]:
    return self_signed("rsa", rsa.generate_private_key(public_exponent=65537, key_size=2048))


def der(pem: bytes) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem.decode())


@asynccontextmanager
async def listening(context: ssl.SSLContext) -> AsyncIterator[int]:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def served(port: int, context: ssl.SSLContext | None = None, name: str | None = None) -> bytes:
    """The certificate that a handshake shows, DER."""
    if context is None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name or "")
    certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    await writer.wait_closed()
    assert isinstance(certificate, bytes)
    return certificate


class Folder:
    """A Secret volume: files that are links into ``..data``, which is a link to a folder that is replaced as a whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._version = 0

    def publish(self, certificate: bytes, key: bytes) -> None:
        self._version += 1
        version = self.path / f"..{self._version}"
        version.mkdir()
        (version / "tls.crt").write_bytes(certificate)
        (version / "tls.key").write_bytes(key)
        link = self.path / "..data_tmp"
        link.symlink_to(version.name)
        link.rename(self.path / "..data")
        for name in ("tls.crt", "tls.key"):
            if not (self.path / name).is_symlink():
                (self.path / name).symlink_to(f"..data/{name}")


class Watched:
    def __init__(self, path: Path) -> None:
        self.metrics = RuntimeMetrics()
        self.watcher = CertificateWatcher.of_folder(path, self.metrics)

    def count(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"certwatcher_read_certificate{name}_total")


async def test_a_swapped_secret_volume_is_served_to_the_next_client(tmp_path: Path) -> None:
    """Pitfall 87."""
    folder, watched = Folder(tmp_path), Watched(tmp_path)
    first, second = make(), make()
    folder.publish(first.certificate, first.key)
    await watched.watcher.start()
    async with listening(watched.watcher.context) as port:
        assert await served(port) == der(first.certificate)
        assert not watched.watcher.poll()
        folder.publish(second.certificate, second.key)
        assert watched.watcher.poll()
        assert await served(port, name="localhost") == der(second.certificate)
        assert await served(port) == der(second.certificate)
    assert (watched.count(""), watched.count("_errors")) == (3, 0)


async def test_a_broken_pair_is_counted_and_the_old_one_kept(tmp_path: Path) -> None:
    """Pitfall 87."""
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    first, second = make(), make()
    certificate.write_bytes(first.certificate)
    key.write_bytes(first.key)
    watched = Watched(tmp_path)
    await watched.watcher.start()
    async with listening(watched.watcher.context) as port:
        for content in (second.certificate, second.certificate[:100], b"", b"garbage"):
            certificate.write_bytes(content)  # with the old key: mismatched, truncated, empty, wrong
            assert not watched.watcher.poll()
            assert await served(port) == der(first.certificate)
        certificate.unlink()
        assert not watched.watcher.poll()
        assert await served(port) == der(first.certificate)
        assert watched.count("_errors") == 5
        certificate.write_bytes(second.certificate)
        key.write_bytes(second.key)
        assert watched.watcher.poll()
        assert await served(port) == der(second.certificate)


async def test_a_key_of_another_type_leaves_nothing_of_the_old_pair(tmp_path: Path) -> None:
    folder, watched = Folder(tmp_path), Watched(tmp_path)
    elliptic, (certificate, key) = make(), make_rsa()
    folder.publish(elliptic.certificate, elliptic.key)
    await watched.watcher.start()
    only_elliptic = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    only_elliptic.check_hostname = False
    only_elliptic.verify_mode = ssl.CERT_NONE
    only_elliptic.maximum_version = ssl.TLSVersion.TLSv1_2
    only_elliptic.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    async with listening(watched.watcher.context) as port:
        assert await served(port, only_elliptic) == der(elliptic.certificate)
        folder.publish(certificate, key)
        assert watched.watcher.poll()
        assert await served(port) == der(certificate)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await served(port, only_elliptic)


async def test_the_files_are_looked_at_regularly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates_module, "POLL_PERIOD", 0.01)
    folder, watched = Folder(tmp_path), Watched(tmp_path)
    first, second = make(), make()
    folder.publish(first.certificate, first.key)
    await watched.watcher.start()
    task = asyncio.create_task(watched.watcher.run())
    async with listening(watched.watcher.context) as port:
        folder.publish(second.certificate, second.key)

        async def changed() -> bool:
            return await served(port) == der(second.certificate)

        await eventually(changed)
    task.cancel()
    await asyncio.wait([task])


async def test_a_missing_or_encrypted_key_is_an_error_at_the_start(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    with pytest.raises(ConfigError, match=r"cannot read .*tls\.crt"):
        await watched.watcher.start()
    material = make()
    encrypted = serialization.load_pem_private_key(material.key, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    Folder(tmp_path).publish(material.certificate, encrypted)
    with pytest.raises(ConfigError, match="do not load"):
        await watched.watcher.start()


async def test_clients_can_be_asked_for_a_certificate(tmp_path: Path) -> None:
    server, stranger = make(), make()
    Folder(tmp_path).publish(server.certificate, server.key)
    known = make_rsa()
    authority = tmp_path / "ca.crt"
    authority.write_bytes(known[0])
    watcher = CertificateWatcher(
        tmp_path / "tls.crt", tmp_path / "tls.key", RuntimeMetrics(), client_authority=authority
    )
    await watcher.start()
    assert watcher.context.verify_mode is ssl.CERT_REQUIRED

    def client(*certificate_and_key: bytes) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        # In TLS 1.3 a client learns of a refusal only when it reads.
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        if certificate_and_key:
            pair = tmp_path / "client.pem"
            pair.write_bytes(b"".join(certificate_and_key))
            context.load_cert_chain(pair)
        return context

    async with listening(watcher.context) as port:
        assert await served(port, client(*known)) == der(server.certificate)
        for refused in ((), (stranger.certificate, stranger.key)):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await served(port, client(*refused))


def test_material_is_kept_while_it_is_good() -> None:
    material = renew(None, NAMES, NOW, YEAR)
    assert renew(material, NAMES, NOW + timedelta(days=200), YEAR) is material
    assert renew(material, NAMES[:1], NOW, YEAR) is material


def test_a_certificate_near_its_end_is_replaced_under_the_same_authority() -> None:
    material = renew(None, NAMES, NOW, YEAR)
    later = renew(material, NAMES, NOW + timedelta(days=250), YEAR)
    assert later.authorities == material.authorities
    assert later.certificate != material.certificate
    assert x509.load_pem_x509_certificate(later.certificate).not_valid_after_utc == NOW + timedelta(days=250) + YEAR


def test_a_certificate_for_other_names_is_replaced() -> None:
    material = renew(None, ["old.kaito.svc"], NOW, YEAR)
    assert renew(material, NAMES, NOW, YEAR).authorities == material.authorities


@pytest.mark.parametrize("field", ["certificate", "key"])
def test_a_damaged_or_foreign_pair_is_replaced(field: str) -> None:
    material, other = renew(None, NAMES, NOW, YEAR), renew(None, NAMES, NOW, YEAR)
    for content in (b"", b"junk", getattr(other, field)):
        parts = {name: getattr(material, name) for name in ("authorities", "authority_key", "certificate", "key")}
        damaged = KeyMaterial(**{**parts, field: content})
        mended = renew(damaged, NAMES, NOW, YEAR)
        assert mended.authorities == material.authorities
        assert mended.certificate != material.certificate


def test_a_certificate_of_another_authority_is_replaced() -> None:
    material, other = renew(None, NAMES, NOW, YEAR), renew(None, NAMES, NOW, YEAR)
    mixed = KeyMaterial(material.authorities, material.authority_key, other.certificate, other.key)
    assert renew(mixed, NAMES, NOW, YEAR).certificate not in (material.certificate, other.certificate)


def test_a_replaced_authority_stays_trusted_until_it_expires() -> None:
    material = renew(None, NAMES, NOW, YEAR)
    later = NOW + timedelta(days=9 * 365)
    renewed = renew(material, NAMES, later, YEAR)
    authorities = x509.load_pem_x509_certificates(renewed.authorities)
    assert [material.authorities] == [
        authority.public_bytes(serialization.Encoding.PEM) for authority in authorities[1:]
    ]
    assert authorities[0].subject != authorities[1].subject
    much_later = renew(renewed, NAMES, later + timedelta(days=9 * 365), YEAR)
    assert len(x509.load_pem_x509_certificates(much_later.authorities)) == 2


def configuration(kind: str, *names: str) -> Manifest:
    webhooks = [
        {
            "name": f"{name}.kaito.sh",
            "clientConfig": {"service": {"name": "webhooks", "namespace": "kaito", "path": f"/{name}"}},
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "rules": [
                {"apiGroups": ["kaito.sh"], "apiVersions": ["*"], "operations": ["CREATE"], "resources": ["workspaces"]}
            ],
        }
        for name in names
    ]
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": names[0]},
        "webhooks": webhooks,
    }


def bundles(manifest: Manifest) -> list[bytes]:
    return [base64.b64decode(webhook["clientConfig"].get("caBundle", "")) for webhook in manifest["webhooks"]]


def verifying(authorities: bytes) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authorities.decode())


async def test_the_authority_reaches_the_webhook_configurations(client: Client, namespace: str) -> None:
    await client.create(
        VALIDATING_WEBHOOK_CONFIGURATIONS,
        configuration("ValidatingWebhookConfiguration", f"{namespace}-a", f"{namespace}-b"),
    )
    certificates: Certificates = SelfSignedCertificates(
        client, "webhook-cert", namespace, NAMES, validating=[f"{namespace}-a"], mutating=[f"{namespace}-later"]
    )
    await certificates.start()
    trusted = bundles(await client.get(VALIDATING_WEBHOOK_CONFIGURATIONS, f"{namespace}-a"))
    assert len(trusted) == 2
    assert trusted[0] == trusted[1]
    async with listening(certificates.context) as port:
        await served(port, verifying(trusted[0]), NAMES[0])
        with pytest.raises(ssl.SSLCertVerificationError):
            await served(port, verifying(trusted[0]), "other.kaito.svc")
    await client.create(
        MUTATING_WEBHOOK_CONFIGURATIONS, configuration("MutatingWebhookConfiguration", f"{namespace}-later")
    )
    assert isinstance(certificates, SelfSignedCertificates)
    await certificates.refresh()
    assert bundles(await client.get(MUTATING_WEBHOOK_CONFIGURATIONS, f"{namespace}-later")) == trusted[:1]
    await client.delete(VALIDATING_WEBHOOK_CONFIGURATIONS, f"{namespace}-a")
    await client.delete(MUTATING_WEBHOOK_CONFIGURATIONS, f"{namespace}-later")


async def test_conversion_webhooks_of_definitions_are_supplied_too(client: Client, namespace: str) -> None:
    plural = f"things{namespace.removeprefix('test-')}"
    schema = {"openAPIV3Schema": {"type": "object"}}
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {
                "plural": plural,
                "kind": plural.capitalize(),
                "singular": plural,
                "listKind": f"{plural.capitalize()}List",
            },
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
        },
    }
    await client.create(CUSTOM_RESOURCE_DEFINITIONS, definition)
    certificates = SelfSignedCertificates(
        client, "webhook-cert", namespace, NAMES, conversions=[f"{plural}.example.com"]
    )
    await certificates.start()  # without a conversion webhook there is nothing to do
    stored = await client.get(CUSTOM_RESOURCE_DEFINITIONS, f"{plural}.example.com")
    assert "webhook" not in (stored["spec"].get("conversion") or {})
    await client.delete(CUSTOM_RESOURCE_DEFINITIONS, f"{plural}.example.com")


@pytest.mark.parametrize("configured", [True, False])
async def test_replicas_that_start_together_agree(client: Client, namespace: str, configured: bool) -> None:
    name = f"{namespace}-v"
    await client.create(VALIDATING_WEBHOOK_CONFIGURATIONS, configuration("ValidatingWebhookConfiguration", name))
    validating = [name] if configured else []
    replicas = [
        SelfSignedCertificates(client, "webhook-cert", namespace, NAMES, validating=validating) for _ in range(4)
    ]
    materials = await asyncio.gather(*(replica.publish() for replica in replicas))
    assert all(material == materials[0] for material in materials)
    stored = KeyMaterial.of(await client.get(SECRETS, "webhook-cert", namespace))
    assert stored == materials[0]
    trusted = materials[0].authorities if configured else b""
    assert bundles(await client.get(VALIDATING_WEBHOOK_CONFIGURATIONS, name)) == [trusted]
    await client.delete(VALIDATING_WEBHOOK_CONFIGURATIONS, name)


async def test_an_empty_secret_of_an_installer_is_filled(client: Client, namespace: str) -> None:
    await client.create(
        SECRETS,
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "webhook-cert", "namespace": namespace, "labels": {"app": "kaito"}},
        },
    )
    await SelfSignedCertificates(client, "webhook-cert", namespace, NAMES).start()
    secret = await client.get(SECRETS, "webhook-cert", namespace)
    assert KeyMaterial.of(secret) is not None
    assert secret["metadata"]["labels"] == {"app": "kaito"}


async def test_rotation_publishes_before_it_serves_and_all_replicas_follow(
    client: Client, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selfsigned_module, "SETTLE", 0.0)
    name = f"{namespace}-v"
    await client.create(VALIDATING_WEBHOOK_CONFIGURATIONS, configuration("ValidatingWebhookConfiguration", name))
    clock = ManualClock(datetime.now(UTC) - timedelta(days=8 * 365))
    replicas = [
        SelfSignedCertificates(
            client, "webhook-cert", namespace, NAMES, validating=[name], clock=clock, validity=timedelta(days=10 * 365)
        )
        for _ in range(2)
    ]
    for replica in replicas:
        await replica.start()
    async with listening(replicas[0].context) as one, listening(replicas[1].context) as other:
        before = await served(one)
        clock.time = datetime.now(UTC)
        await replicas[0].refresh()
        (trusted,) = bundles(await client.get(VALIDATING_WEBHOOK_CONFIGURATIONS, name))
        assert len(x509.load_pem_x509_certificates(trusted)) == 2
        after = await served(one, verifying(trusted), NAMES[0])
        assert after != before
        # The second replica still serves the old certificate, and the API server still trusts it.
        assert await served(other, verifying(trusted), NAMES[0]) == before
        await replicas[1].refresh()
        assert await served(other, verifying(trusted), NAMES[0]) == after
    await client.delete(VALIDATING_WEBHOOK_CONFIGURATIONS, name)


async def test_an_unreachable_api_server_leaves_the_certificate_in_service(
    client: Client, front: Front, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selfsigned_module, "CHECK_PERIOD", 0.01)
    monkeypatch.setattr(selfsigned_module, "SETTLE", 0.0)
    certificates = SelfSignedCertificates(client, "webhook-cert", namespace, NAMES)
    await certificates.start()
    async with listening(certificates.context) as port:
        before = await served(port)
        fault = front.faults.add(Fault("get", "secrets", error=ServiceUnavailable("down"), count=-1))
        task = asyncio.create_task(certificates.run())
        await eventually(lambda: fault.hits >= 3)
        assert await served(port) == before
        front.faults.remove(fault)
        await client.delete(SECRETS, "webhook-cert", namespace)

        async def renewed() -> bool:
            return await served(port) != before

        await eventually(renewed)
        task.cancel()
        await asyncio.wait([task])


async def test_a_lasting_conflict_is_told(client: Client, front: Front, namespace: str) -> None:
    front.faults.add(Fault("create", "secrets", error=Conflict("again"), count=-1))
    with pytest.raises(Conflict):
        await SelfSignedCertificates(client, "webhook-cert", namespace, NAMES).start()
    front.faults.clear()


def test_private_keys_do_not_show_in_representations() -> None:
    assert "PRIVATE" not in repr(make())
