"""Serving certificates that change while the process serves.

A ``ServingContext`` is one TLS context that stays with its listener for ever; each new handshake is given the newest
certificate. What is newest comes from ``Certificates``: files that are watched (here), or a certificate of the process's
own, kept in a Secret (``selfsigned``).
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import tempfile
from pathlib import Path
from typing import Protocol, final

from kaito.runtime.errors import ConfigError
from kaito.runtime.log import get_logger
from kaito.runtime.metrics.runtime import RuntimeMetrics

POLL_PERIOD = 10.0
"""Seconds between two looks at the files; same as controller-runtime's."""

_log = get_logger("certificates")


class Certificates(Protocol):
    """Keeps the context of a listener supplied with a valid certificate."""

    @property
    def context(self) -> ssl.SSLContext:
        """The same for ever; complete handshakes are possible after ``start``."""
        ...

    async def start(self) -> None:
        """Obtain the first certificate. Raises RuntimeFault."""
        ...

    async def run(self) -> None:
        """Follow its changes until cancelled."""
        ...


@final
class ServingContext:
    """A TLS context whose certificate can be replaced between two handshakes.

    Loading a second pair into a live context would leave the first one in place where the type of key differs, and a
    broken one half loaded. So every pair gets a context of its own, and the handshake is sent on to the newest one.
    """

    def __init__(self, client_authority: bytes = b"") -> None:
        """With ``client_authority``, PEM, clients must present a certificate that it has signed. Raises ConfigError."""
        self._client_authority = client_authority
        self.context = self._bare()
        self.context.sni_callback = self._choose
        self._newest: ssl.SSLContext | None = None

    def replace(self, certificate: bytes, key: bytes) -> None:
        """Serve this pair, PEM, from the next handshake on. Raises ConfigError, and then goes on with the old one."""
        context = self._bare()
        # load_cert_chain takes only files; the directory is private and gone when the block ends.
        with tempfile.TemporaryDirectory(prefix="kaito-tls-") as name:
            pair = Path(name, "pair.pem")
            pair.touch(mode=0o600)
            pair.write_bytes(certificate + b"\n" + key)
            try:
                # Without a password OpenSSL would ask for one on the terminal.
                context.load_cert_chain(pair, password="")
            except (ssl.SSLError, ValueError) as error:
                raise ConfigError(f"the certificate and its key do not load: {error}") from error
        self._newest = context

    def _bare(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        if self._client_authority:
            try:
                context.load_verify_locations(cadata=self._client_authority.decode())
            except (ssl.SSLError, ValueError) as error:
                raise ConfigError(f"the certificate authority of clients does not load: {error}") from error
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _choose(
        self, connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _context: ssl.SSLContext
    ) -> int | None:
        if self._newest is None:
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        connection.context = self._newest
        return None


@final
class CertificateWatcher:
    """A pair of PEM files, as a Secret volume or cert-manager keeps them.

    They are read every ten seconds and compared by content: a kubelet swaps a symbolic link some levels up, which no watch
    of the files themselves would see. A pair that is half written, broken or mismatched is logged and counted, and the old
    one is kept.
    """

    def __init__(
        self, certificate: Path, key: Path, metrics: RuntimeMetrics, *, client_authority: Path | None = None
    ) -> None:
        """Raises ConfigError where ``client_authority`` is given and does not load."""
        self._certificate = certificate
        self._key = key
        self._metrics = metrics
        self._serving = ServingContext(_read(client_authority) if client_authority else b"")
        self._fingerprint = b""
        self._reported = ""

    @staticmethod
    def of_folder(folder: Path, metrics: RuntimeMetrics) -> CertificateWatcher:
        """The pair ``tls.crt`` and ``tls.key``, as Secrets of type ``kubernetes.io/tls`` are mounted."""
        return CertificateWatcher(folder / "tls.crt", folder / "tls.key", metrics)

    @property
    def context(self) -> ssl.SSLContext:
        return self._serving.context

    async def start(self) -> None:
        """Raises ConfigError where the pair cannot be read or does not load."""
        self._load()

    async def run(self) -> None:
        while True:
            await asyncio.sleep(POLL_PERIOD)
            self.poll()

    def poll(self) -> bool:
        """Look at the files; whether a new pair is served from now on."""
        try:
            changed = self._load()
        except ConfigError as error:
            if str(error) != self._reported:
                self._reported = str(error)
                _log.warning("kept the old certificate", error=str(error))
            return False
        self._reported = ""
        if changed:
            _log.info("serving a new certificate", file=str(self._certificate))
        return changed

    def _load(self) -> bool:
        self._metrics.certificate_reads_total.inc()
        try:
            certificate, key = _read(self._certificate), _read(self._key)
            fingerprint = hashlib.sha256(certificate).digest() + hashlib.sha256(key).digest()
            if fingerprint == self._fingerprint:
                return False
            try:
                self._serving.replace(certificate, key)
            except ConfigError as error:
                raise ConfigError(f"{self._certificate} and {self._key}: {error}") from error
        except ConfigError:
            self._metrics.certificate_read_errors_total.inc()
            raise
        self._fingerprint = fingerprint
        return True


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
