"""Azure's refusals, in the two shapes that clients meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class ArmError(Exception):
    """``flat`` is how AKS itself answers; the front end wraps its errors in ``error``."""

    status: int
    code: str
    message: str
    flat: bool = False
    details: Sequence[Mapping[str, Any]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        if self.flat:
            return {"code": self.code, "details": None, "message": self.message, "subcode": ""}
        return {"error": self.detail()}

    def detail(self) -> dict[str, Any]:
        """As it stands in operations and in ``provisioningError``."""
        detail: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.details:
            detail["details"] = [dict(item) for item in self.details]
        return detail


def bad_request(code: str, message: str) -> ArmError:
    return ArmError(400, code, message, flat=True)


def pool_not_found(name: str) -> ArmError:
    return ArmError(404, "NotFound", f"Agent Pool not found: {name}", flat=True)


def in_progress(operation: str, pool: str) -> ArmError:
    return ArmError(
        409,
        "OperationNotAllowed",
        f"Operation is not allowed because there's an in progress {operation} node pool operation on {pool}. "
        "Please wait for it to finish before starting a new operation.",
        flat=True,
    )


def precondition_failed(pool: str) -> ArmError:
    return ArmError(412, "PreconditionFailed", f"The condition of the request does not hold for agent pool {pool}.")
