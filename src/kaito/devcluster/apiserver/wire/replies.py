"""What goes back to a client, before it is HTTP."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kaito.devcluster.apiserver.wire.negotiation import JSON

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Reply:
    body: bytes
    status: int = 200
    content_type: str = JSON
    warnings: Sequence[str] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer of unknown length. Whoever sends ``chunks`` must close it."""

    chunks: AsyncGenerator[bytes, None]
    content_type: str = JSON
    warnings: Sequence[str] = ()
