"""Probes of containers, as they are asked for: HTTP, TCP, commands."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

Run = Callable[[Sequence[str]], Awaitable[int]]
"""Runs a command as the container would; the exit code."""


class Failure(Exception):
    """A probe that did not succeed; says why."""


@dataclass(frozen=True, slots=True)
class Pace:
    """When a probe asks. Seconds."""

    initial_delay: float
    period: float
    timeout: float
    failures: int
    successes: int

    @staticmethod
    def of(probe: Mapping[str, Any], *, second: float = 1.0, quick: bool = False) -> Pace:
        """``second``: how long a second is where the cluster is faster; the timeout is the world's. ``quick``: without
        initial delay and each second, but failing after the same time."""
        period, failures = float(probe.get("periodSeconds") or 10), int(probe.get("failureThreshold") or 3)
        often = min(period, 1.0) if quick else period
        return Pace(
            0.0 if quick else (probe.get("initialDelaySeconds") or 0) * second,
            often * second,
            float(probe.get("timeoutSeconds") or 1),
            round(failures * period / often),
            int(probe.get("successThreshold") or 1),
        )


@dataclass(frozen=True, slots=True)
class Target:
    """The container that is asked."""

    address: str
    ports: Mapping[str, int]
    """By name."""
    session: aiohttp.ClientSession
    run: Run | None = None
    """None where commands do not run: they count as successful."""


def target_port(value: Any, ports: Mapping[str, int]) -> int:
    """Raises Failure for a name that no port has."""
    if isinstance(value, int):
        return value
    if str(value).isdigit():
        return int(value)
    if value not in ports:
        raise Failure(f"the container has no port {value!r}")
    return ports[value]


async def ask(probe: Mapping[str, Any], target: Target, timeout: float | None) -> None:
    """Raises Failure. ``timeout`` None waits as long as it takes."""
    try:
        async with asyncio.timeout(timeout):
            await _ask(probe, target)
    except TimeoutError:
        raise Failure(f"no answer within {timeout} s") from None
    except (OSError, aiohttp.ClientError, ValueError) as error:
        raise Failure(str(error) or type(error).__name__) from None


async def _ask(probe: Mapping[str, Any], target: Target) -> None:
    if http := probe.get("httpGet"):
        port = target_port(http["port"], target.ports)
        headers = {item["name"]: item["value"] for item in http.get("httpHeaders") or ()}
        path = http.get("path") or "/"
        url = (
            f"{(http.get('scheme') or 'HTTP').lower()}://{http.get('host') or target.address}:{port}/{path.lstrip('/')}"
        )
        request = target.session.get(url, headers=headers, allow_redirects=False, ssl=False)
        async with request as answer:
            if not 200 <= answer.status < 400:
                raise Failure(f"HTTP probe failed with statuscode: {answer.status}")
    elif socket := probe.get("tcpSocket") or probe.get("grpc"):
        number = target_port(socket["port"], target.ports)
        _, writer = await asyncio.open_connection(socket.get("host") or target.address, number)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    elif (command := probe.get("exec")) and target.run is not None:
        code = await target.run(command.get("command") or ())
        if code:
            raise Failure(f"command exited with {code}")
