"""What the steps of a claim have in common."""

from __future__ import annotations

from typing import ClassVar, Protocol

from kaito.controllers.machine.context import ClaimContext
from kaito.controllers.pipeline import Step, Stop

MESSAGE_LIMIT = 800
"""Characters of a message that repeats what the cloud said."""


class ClaimStep(Step[ClaimContext], Protocol):
    missing: ClassVar[tuple[str, str]]
    """Reason and message of the later steps' conditions while this one's does not hold."""


def held_up(stopped: ClaimStep, later: ClaimStep, cause: Stop) -> tuple[str, str]:
    return stopped.missing


def cut(text: str) -> str:
    return text if len(text) <= MESSAGE_LIMIT else text[: MESSAGE_LIMIT - 3] + "..."
