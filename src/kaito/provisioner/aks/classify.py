"""The types of Azure's errors, as a table.

Codes come from the ARM front end, from AKS itself and, nested in the details of a failed deployment, from the compute
provider; statuses alone say little (every conflict is a 409, a failed operation is reported with 200). What no rule knows
stays a plain ProviderError, which is tried again and shown as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kaito.provisioner.errors import (
    AuthenticationFailed,
    AuthorizationFailed,
    CapacityUnavailable,
    InstanceBusy,
    InstanceNotFound,
    InvalidRequest,
    ProviderError,
    QuotaExceeded,
    SkuUnavailable,
    Throttled,
    Unavailable,
)

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class AzureError:
    """An error as Azure told it, from whichever of its shapes."""

    code: str
    message: str
    inner: tuple[AzureError, ...] = ()
    """The details of an error that sums up others."""

    def walk(self) -> Iterable[AzureError]:
        """This error and all within it, the innermost first."""
        for error in self.inner:
            yield from error.walk()
        yield self

    def text(self) -> str:
        """Every code and message that says something new, the outermost first."""
        said: list[str] = []
        for error in reversed(list(self.walk())):
            words = (
                f"{error.code}: {error.message}" if error.code and error.code not in error.message else error.message
            )
            if words and not any(words in earlier for earlier in said):
                said.append(words)
        return "; ".join(said)


@dataclass(frozen=True, slots=True)
class Rule:
    """Applies where all that it names holds: one of the codes, one of the texts (lower case), one of the statuses."""

    kind: type[ProviderError]
    codes: frozenset[str] = frozenset()
    texts: tuple[str, ...] = ()
    statuses: frozenset[int] = frozenset()

    def matches(self, codes: frozenset[str], text: str, status: int) -> bool:
        return (
            (not self.codes or not self.codes.isdisjoint(codes))
            and (not self.texts or any(part in text for part in self.texts))
            and (not self.statuses or status in self.statuses)
        )


def _codes(names: str) -> frozenset[str]:
    return frozenset(name.lower() for name in names.split())


RULES: tuple[Rule, ...] = (
    Rule(InstanceNotFound, codes=_codes("NotFound"), statuses=frozenset({404})),
    Rule(
        QuotaExceeded,
        codes=_codes("QuotaExceeded ErrCode_InsufficientVCPUQuota InsufficientVCPUQuota"),
    ),
    Rule(
        QuotaExceeded,
        texts=(
            "cores quota",
            "exceeding approved",
            "lowprioritycores",
            "quota increase",
            "quota limit",
            "total regional cores",
        ),
    ),
    Rule(
        CapacityUnavailable,
        codes=_codes(
            "AllocationFailed ZonalAllocationFailed OverconstrainedAllocationRequest OverconstrainedZonalAllocationRequest"
        ),
    ),
    Rule(CapacityUnavailable, codes=_codes("SkuNotAvailable"), texts=("capacity restriction",)),
    Rule(SkuUnavailable, codes=_codes("SkuNotAvailable VMSizeNotSupported")),
    Rule(
        SkuUnavailable,
        texts=("is not allowed in your subscription in location", "is currently not available in location"),
    ),
    Rule(Throttled, statuses=frozenset({429})),
    Rule(
        Throttled,
        codes=_codes("TooManyRequests TooManyRequestsReceived SubscriptionRequestsThrottled OperationThrottled"),
    ),
    Rule(AuthenticationFailed, statuses=frozenset({401})),
    Rule(AuthenticationFailed, codes=_codes("InvalidAuthenticationToken ExpiredAuthenticationToken")),
    Rule(AuthorizationFailed, statuses=frozenset({403})),
    Rule(
        AuthorizationFailed,
        codes=_codes("AuthorizationFailed LinkedAuthorizationFailed RequestDisallowedByPolicy"),
    ),
    Rule(
        InvalidRequest,
        codes=_codes(
            "ResourceGroupNotFound ResourceNotFound ParentResourceNotFound SubscriptionNotFound InvalidSubscriptionId "
            "MissingSubscriptionRegistration InvalidParameter InvalidRequestContent LinkedInvalidPropertyId "
            "InsufficientSubnetSize PropertyChangeNotAllowed VMSizeDoesNotSupportEphemeralOS VMCacheSizeTooSmall"
        ),
    ),
    Rule(
        InstanceBusy,
        codes=_codes(
            "OperationNotAllowed Conflict EtagMismatch OriginalEtagNotExpect PreconditionFailed OperationPreempted "
            "AnotherOperationInProgress"
        ),
    ),
    Rule(InstanceBusy, statuses=frozenset({412})),
    Rule(
        InstanceBusy, texts=("operation in progress", "is in progress", "in progress create"), statuses=frozenset({409})
    ),
    Rule(Unavailable, statuses=frozenset({408, 500, 502, 503, 504})),
    Rule(InvalidRequest, statuses=frozenset({400})),
)
"""The first that matches decides: what is certain comes before what a word or a status suggests."""


def classify(error: AzureError, status: int = 0, *, retry_after: float | None = None) -> ProviderError:
    """The error with its type; ``status`` is the HTTP status, 0 where the error was not an answer's own."""
    codes = frozenset(part.code.lower() for part in error.walk() if part.code)
    text = error.text()
    lowered = text.lower()
    kind = next((rule.kind for rule in RULES if rule.matches(codes, lowered, status)), ProviderError)
    return kind(text or f"Azure answered {status} without saying why", code=error.code, retry_after=retry_after)
