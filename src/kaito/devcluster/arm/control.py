"""The emulator's own interface, below ``/emulator``: what it was asked, and what shall go wrong.

It exists so that other tools and other processes can script the emulator; nothing of it is Azure's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from kaito.devcluster.arm.errors import ArmError
from kaito.devcluster.arm.faults import Fault, Plan
from kaito.devcluster.arm.routes import Call, Reply

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kaito.devcluster.arm.faults import Faults
    from kaito.devcluster.arm.server import Recorded

PREFIX = "/emulator/"


class _Error(msgspec.Struct, forbid_unknown_fields=True):
    status: int
    code: str
    message: str
    flat: bool = False
    details: list[dict[str, Any]] = []
    headers: dict[str, str] = {}

    def made(self) -> ArmError:
        return ArmError(self.status, self.code, self.message, self.flat, self.details, self.headers)


class _Fault(msgspec.Struct, forbid_unknown_fields=True):
    method: str = "*"
    pool: str = ""
    error: _Error | None = None
    delay: float = 0.0
    drop: Literal["before", "after"] | None = None
    count: int = 1
    share: float = 1.0


class _Plan(msgspec.Struct, forbid_unknown_fields=True):
    pool: str = ""
    count: int = 1
    share: float = 1.0
    error: _Error | None = None
    stuck: bool = False
    seconds: float | None = None
    nodes: int | None = None
    polls: int | None = None
    retry_after: int | None = None
    forgotten: bool = False


def answer(call: Call, faults: Faults, requests: Iterable[Recorded]) -> Reply:
    """Raises ArmError for what it does not understand."""
    match call.method, call.path.removeprefix(PREFIX):
        case "GET", "requests":
            return Reply(200, [_shown(asdict(request)) for request in requests])
        case "POST", "faults":
            fault = _read(call.body, _Fault)
            faults.add(
                Fault(
                    fault.method,
                    fault.pool,
                    fault.error.made() if fault.error else None,
                    fault.delay,
                    fault.drop,
                    fault.count,
                    fault.share,
                )
            )
            return Reply(204)
        case "POST", "plans":
            plan = _read(call.body, _Plan)
            error = plan.error.made() if plan.error else None
            made = Plan(error, plan.stuck, plan.seconds, plan.nodes, plan.polls, plan.retry_after, plan.forgotten)
            faults.plan(made, pool=plan.pool, count=plan.count, share=plan.share)
            return Reply(204)
        case "DELETE", "faults":
            faults.clear()
            return Reply(204)
    raise ArmError(
        404,
        "ResourceNotFound",
        f"The emulator has GET {PREFIX}requests, POST and DELETE {PREFIX}faults, and POST {PREFIX}plans, but no "
        f"{call.method} {call.path}.",
    )


def _read(body: Any, kind: type[msgspec.Struct]) -> Any:
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        raise ArmError(400, "InvalidRequestContent", f"The request content was invalid: {error}") from error


def _shown(request: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded request without its credentials."""
    headers = {key: value for key, value in request["headers"].items() if key.lower() != "authorization"}
    return {**request, "headers": headers}
