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
import random
import ssl
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, final

from kaito.runtime.clock import Clock, SystemClock
from kaito.runtime.errors import AlreadyExists, Conflict, NotFound, RuntimeFault
from kaito.runtime.log import get_logger
from kaito.runtime.objects.resource import (
    CUSTOM_RESOURCE_DEFINITIONS,
    MUTATING_WEBHOOK_CONFIGURATIONS,
    SECRETS,
    VALIDATING_WEBHOOK_CONFIGURATIONS,
    Manifest,
    Resource,
)
from kaito.runtime.serving.certificates import ServingContext
from kaito.runtime.transport.client import Client
from kaito.runtime.transport.conflicts import retry_on_conflict

if TYPE_CHECKING:
    from kaito.runtime.serving.issuing import KeyMaterial

VALIDITY = timedelta(days=365)
"""Life of a serving certificate; it is replaced when a third of it is left."""
CHECK_PERIOD = 60.0
"""Seconds, ±10 %, between two looks at the Secret and the webhook configurations."""
SETTLE = 5.0
"""Seconds for the API server to notice a new authority before it meets a certificate signed by it."""


_log = get_logger("certificates")


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
        from kaito.runtime.serving.issuing import renew

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
            await retry_on_conflict(partial(self._trust, resource, name))
        return await retry_on_conflict(self._ensure)

    async def _ensure(self) -> KeyMaterial:
        from kaito.runtime.serving.issuing import KeyMaterial, renew

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
