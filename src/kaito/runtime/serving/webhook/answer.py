"""What an endpoint makes of one request."""

from __future__ import annotations

from typing import Any, NamedTuple


class Answer(NamedTuple):
    """The review to send back, always with HTTP 200: any other code would be a failure of the webhook to the API server,
    whose words it drops and which it may be configured to ignore."""

    review: dict[str, Any]
    bug: Exception | None = None
    """What was raised that no correct program raises; already told in the review."""
