"""What can happen to a request: an interceptor sees each call and may answer it, delay it, fail it or lose its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kaito.runtime.errors import OutcomeUnknown, TransportError
from kaito.runtime.objects.resource import Key, Resource


@dataclass(frozen=True)
class Call:
    """One request."""

    verb: str
    """get, list, watch, create, update, patch, delete or deletecollection."""
    resource: Resource[Any]
    key: Key
    """``name`` is empty for what concerns a collection."""
    subresource: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    """As plain values; None without one."""

    @property
    def write(self) -> bool:
        return self.verb not in ("get", "list", "watch")


Proceed = Callable[[], Awaitable[Any]]
Interceptor = Callable[[Call, Proceed], Awaitable[Any]]
"""Called with a call and what carries it out; what it returns is answered, what it raises is raised by the client."""


def fail(
    error: Exception, *, verb: str = "*", resource: Resource[Any] | None = None, name: str = "", times: int = 1
) -> Interceptor:
    """The next ``times`` matching calls raise ``error`` and change nothing; with -1 all of them do."""
    matches = _matcher(verb, resource, name, times)

    async def intercept(call: Call, proceed: Proceed) -> Any:
        if matches(call):
            raise error.with_traceback(None)
        return await proceed()

    return intercept


def delay(
    seconds: float, *, verb: str = "*", resource: Resource[Any] | None = None, name: str = "", times: int = -1
) -> Interceptor:
    """Matching calls arrive ``seconds`` later."""
    matches = _matcher(verb, resource, name, times)

    async def intercept(call: Call, proceed: Proceed) -> Any:
        if matches(call):
            await asyncio.sleep(seconds)
        return await proceed()

    return intercept


def lose_answer(
    *, verb: str = "*", resource: Resource[Any] | None = None, name: str = "", times: int = 1
) -> Interceptor:
    """Matching calls are carried out, and their connection breaks before the answer: OutcomeUnknown for a write."""
    matches = _matcher(verb, resource, name, times)

    async def intercept(call: Call, proceed: Proceed) -> Any:
        answer = await proceed()
        if matches(call):
            kind = OutcomeUnknown if call.write else TransportError
            raise kind(f"{call.verb} {call.resource.group_resource} {call.key}: the connection broke")
        return answer

    return intercept


def _matcher(verb: str, resource: Resource[Any] | None, name: str, times: int) -> Callable[[Call], bool]:
    left = times

    def matches(call: Call) -> bool:
        nonlocal left
        wanted = (
            left != 0
            and verb in ("*", call.verb)
            and (resource is None or resource.names_same(call.resource))
            and name in ("", call.key.name)
        )
        if wanted and left > 0:
            left -= 1
        return wanted

    return matches
