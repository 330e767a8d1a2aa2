"""What can go wrong between kaito and a cloud.

::

    ProviderError               anything that is not known better: tried again with growing delays
    ├── InstanceNotFound        there is no instance of that name (never: no cluster, no resource group)
    ├── CapacityUnavailable     the cloud has none of that size right now
    ├── AuthenticationFailed    the cloud does not take the token, or none is to be had
    ├── InstanceBusy            another operation is going on             transient
    ├── ClusterNotReady         the cluster itself is stopped or changing transient
    ├── Throttled               too many requests                         transient
    ├── Unavailable             no answer, or a fault on the cloud's side transient
    ├── QuotaExceeded           the subscription may not have more        terminal
    ├── SkuUnavailable          the size is not offered there             terminal
    ├── InvalidRequest          the request can never succeed             terminal
    ├── AuthorizationFailed     the identity lacks a permission           terminal
    └── NotOwned                an instance of that name is someone else's terminal

Transient errors say nothing about the instance and pass by themselves; terminal ones last until a person acts.
"""

from __future__ import annotations

from typing import ClassVar


class ProviderError(Exception):
    """``code`` and ``message`` are the cloud's own; ``retry_after`` is in seconds, where the cloud named a time."""

    transient: ClassVar[bool] = False
    terminal: ClassVar[bool] = False

    def __init__(self, message: str, *, code: str = "", retry_after: float | None = None) -> None:
        super().__init__(f"{code}: {message}" if code and code not in message else message)
        self.message = message
        self.code = code
        self.retry_after = retry_after


class InstanceNotFound(ProviderError):
    pass


class CapacityUnavailable(ProviderError):
    pass


class AuthenticationFailed(ProviderError):
    pass


class InstanceBusy(ProviderError):
    transient = True


class ClusterNotReady(ProviderError):
    transient = True


class Throttled(ProviderError):
    transient = True


class Unavailable(ProviderError):
    transient = True


class QuotaExceeded(ProviderError):
    terminal = True


class SkuUnavailable(ProviderError):
    terminal = True


class InvalidRequest(ProviderError):
    terminal = True


class AuthorizationFailed(ProviderError):
    terminal = True


class NotOwned(ProviderError):
    terminal = True
