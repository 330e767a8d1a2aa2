"""Errors of the runtime.

::

    RuntimeFault
    ├── ApiError                    the server answered with a Status (code, reason, details, retry_after)
    │   ├── BadRequest              400
    │   ├── Unauthorized            401
    │   ├── Forbidden               403
    │   ├── NotFound                404
    │   ├── MethodNotAllowed        405
    │   ├── NotAcceptable           406
    │   ├── AlreadyExists           409, reason AlreadyExists
    │   ├── Conflict                409, reason Conflict
    │   ├── Expired                 410 (Expired, Gone)
    │   ├── RequestTooLarge         413
    │   ├── UnsupportedMediaType    415
    │   ├── Invalid                 422
    │   ├── TooManyRequests         429
    │   ├── InternalError           500
    │   ├── NotImplementedByServer  501
    │   ├── ServiceUnavailable      503
    │   └── ServerTimeout           504 (Timeout, ServerTimeout)
    ├── TransportError              no answer: the request may be sent again
    │   └── OutcomeUnknown          no answer to a write: it may or may not have been carried out
    ├── CacheError
    │   ├── CacheNotStarted
    │   ├── NotCached           read from an informer that was removed
    │   └── SyncTimeout
    ├── NoKindMatch                 the server has no such kind (yet)
    ├── ConfigError                 a setting that cannot work; says which and why
    ├── DecodeError                 bytes that are not the object they should be
    ├── StopTimeout                 parts of the manager did not end when they were told to
    ├── TerminalError               a reconcile failed in a way that trying again cannot mend
    └── FencedError                 a write refused because the leader lease is no longer certain
        └── LeadershipLost          the lease is lost; the process must end

``ApiError`` serves both sides of the wire: the client raises what it received, the local API server raises what it
will send. ``ApiError.status()`` and ``ApiError.from_status()`` are inverse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

UNDECODABLE = (ValueError, RecursionError)
"""What decoders raise for bytes that are not the value: malformed JSON, text that is not UTF-8, nesting without end."""


class RuntimeFault(Exception):
    """Base of every error the runtime raises on purpose."""


class ApiError(RuntimeFault):
    """A ``metav1.Status`` failure.

    ``retry_after`` is in seconds, from the ``Retry-After`` header or ``details.retryAfterSeconds``.
    """

    code: int = 500
    reason: str = "InternalError"

    def __init__(
        self,
        message: str,
        *,
        code: int | None = None,
        reason: str | None = None,
        details: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        if reason is not None:
            self.reason = reason
        self.details: dict[str, Any] = dict(details or {})
        self.retry_after = retry_after

    @property
    def causes(self) -> Sequence[Mapping[str, str]]:
        """``details.causes``: mappings with ``reason``, ``message`` and, for validation, ``field``."""
        return self.details.get("causes") or ()

    def has_cause(self, reason: str) -> bool:
        return any(cause.get("reason") == reason for cause in self.causes)

    def status(self) -> dict[str, Any]:
        """The ``metav1.Status`` object as it goes over the wire."""
        details = dict(self.details)
        if self.retry_after is not None:
            details["retryAfterSeconds"] = max(0, round(self.retry_after))
        status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        if details:
            status["details"] = details
        return status

    @staticmethod
    def from_status(status: Mapping[str, Any], *, code: int = 0, retry_after: float | None = None) -> ApiError:
        """The error for a Status object; ``code`` is the HTTP code, used when the body carries none."""
        body_code = status.get("code")
        code = body_code if isinstance(body_code, int) and body_code else code or 500
        reason = str(status.get("reason") or "")
        details = status.get("details")
        details = details if isinstance(details, Mapping) else {}
        if retry_after is None and isinstance(details.get("retryAfterSeconds"), int) and details["retryAfterSeconds"]:
            retry_after = float(details["retryAfterSeconds"])
        kind = _BY_REASON.get(reason) or _BY_CODE.get(code) or ApiError
        message = str(status.get("message") or reason or f"the server answered {code}")
        return kind(message, code=code, reason=reason or kind.reason, details=details, retry_after=retry_after)


class BadRequest(ApiError):
    code = 400
    reason = "BadRequest"


class Unauthorized(ApiError):
    code = 401
    reason = "Unauthorized"


class Forbidden(ApiError):
    code = 403
    reason = "Forbidden"


class NotFound(ApiError):
    code = 404
    reason = "NotFound"


class MethodNotAllowed(ApiError):
    code = 405
    reason = "MethodNotAllowed"


class NotAcceptable(ApiError):
    code = 406
    reason = "NotAcceptable"


class AlreadyExists(ApiError):
    code = 409
    reason = "AlreadyExists"


class Conflict(ApiError):
    code = 409
    reason = "Conflict"


class Expired(ApiError):
    """The resource version or continue token is older than what the server remembers."""

    code = 410
    reason = "Expired"


class RequestTooLarge(ApiError):
    code = 413
    reason = "RequestEntityTooLarge"


class UnsupportedMediaType(ApiError):
    code = 415
    reason = "UnsupportedMediaType"


class Invalid(ApiError):
    code = 422
    reason = "Invalid"


class TooManyRequests(ApiError):
    code = 429
    reason = "TooManyRequests"


class InternalError(ApiError):
    code = 500
    reason = "InternalError"


class NotImplementedByServer(ApiError):
    code = 501
    reason = "NotImplemented"


class ServiceUnavailable(ApiError):
    code = 503
    reason = "ServiceUnavailable"


class ServerTimeout(ApiError):
    code = 504
    reason = "Timeout"


_BY_CODE: dict[int, type[ApiError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    405: MethodNotAllowed,
    406: NotAcceptable,
    409: Conflict,
    410: Expired,
    413: RequestTooLarge,
    415: UnsupportedMediaType,
    422: Invalid,
    429: TooManyRequests,
    500: InternalError,
    501: NotImplementedByServer,
    503: ServiceUnavailable,
    504: ServerTimeout,
}
_KINDS: tuple[type[ApiError], ...] = (*_BY_CODE.values(), AlreadyExists)
_BY_REASON: dict[str, type[ApiError]] = {kind.reason: kind for kind in _KINDS} | {
    "Gone": Expired,
    "ServerTimeout": ServerTimeout,
}


class TransportError(RuntimeFault):
    """The request got no answer and had no effect on the server."""


class OutcomeUnknown(TransportError):
    """A write got no answer: it may or may not have been carried out. Read before writing again."""


class CacheError(RuntimeFault):
    """A read that the cache cannot answer."""


class CacheNotStarted(CacheError):
    """A cached read before the manager started its informers."""


class NotCached(CacheError):
    """A read from an informer that was removed."""


class SyncTimeout(CacheError):
    """Informers did not finish their first list in time; the message names each and its last error."""


class NoKindMatch(RuntimeFault):
    """The server's discovery names no resource of this kind; it may appear later."""


class ConfigError(RuntimeFault):
    """A setting that cannot work."""


class DecodeError(RuntimeFault):
    """Bytes that are not the object they should be."""


class StopTimeout(RuntimeFault):
    """Parts of the manager did not end within its grace period; the message names them."""


class TerminalError(RuntimeFault):
    """A reconcile failed for good: it is counted and logged, and not tried again until the object changes."""


class FencedError(RuntimeFault):
    """A write was refused because this process can no longer be sure to hold the leader lease."""


class LeadershipLost(FencedError):
    """The leader lease could not be renewed in time."""
