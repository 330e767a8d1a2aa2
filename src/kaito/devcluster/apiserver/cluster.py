"""The parts of one API server, put together: everything but HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kaito.devcluster.apiserver.auth.identity import Authenticator, User
from kaito.devcluster.apiserver.auth.rbac import Authorizer
from kaito.devcluster.apiserver.auth.reviews import Reviews
from kaito.devcluster.apiserver.bootstrap import bootstrap, publish
from kaito.devcluster.apiserver.discovery.crd import Definitions
from kaito.devcluster.apiserver.discovery.discovery import Discovery
from kaito.devcluster.apiserver.objects.registry import Registry
from kaito.devcluster.apiserver.store import Store
from kaito.devcluster.apiserver.verbs.admission import Admission
from kaito.devcluster.apiserver.verbs.applies import Applier
from kaito.devcluster.apiserver.verbs.deletes import Deleter
from kaito.devcluster.apiserver.verbs.subresources import Subresources
from kaito.devcluster.apiserver.verbs.watch import WatchHub
from kaito.devcluster.apiserver.verbs.writes import Writer
from kaito.devcluster.apiserver.webhooks import Webhooks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime


class Cluster:
    """A cluster's state and the rules that change it. Starts with what a new cluster holds."""

    def __init__(
        self,
        *,
        clock: Callable[[], datetime],
        tokens: Mapping[str, User],
        window: int,
        bookmark_interval: float,
        watch_buffer: int,
    ) -> None:
        self.clock = clock
        self.store = Store(window)
        self.registry = Registry(self.store)
        self.watches = WatchHub(self.store, bookmark_interval=bookmark_interval, buffer=watch_buffer)
        self.writer = Writer(Admission(self.store.collections), clock)
        self.applier = Applier(self.writer)
        self.deleter = Deleter(self.writer)
        self.definitions = Definitions(self.registry, self.store, self.writer, self.deleter)
        self.discovery = Discovery(self.registry, self.definitions)
        self.authenticator = Authenticator(self.store.collection("serviceaccounts"), clock, tokens)
        self.authorizer = Authorizer(self.store.collections)
        self.reviews = Reviews(self.authenticator, self.authorizer)
        self.subresources = Subresources(self.registry, self.writer, self.applier, self.deleter, self.authenticator)
        self.webhooks = Webhooks(self.store.collections, self.registry)
        bootstrap(self.registry, self.writer)

    def publish(self, address: str, port: int) -> None:
        """Say in the cluster where its API server listens."""
        publish(self.registry, self.writer, address, port)

    def drop_expired(self) -> None:
        """Remove the objects whose time to live is over: events."""
        now = self.clock().timestamp()
        for kind in self.registry:
            if kind.ttl is None or kind.conversion is not None:
                continue
            for record in tuple(kind.collection):
                if record.expires is not None and record.expires <= now:
                    self.writer.remove(kind, record)
