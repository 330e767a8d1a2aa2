"""What can go wrong in the model server.

::

    ServerError
    ├── ConfigError             a flag, variable or file that cannot work; ends the process with 2
    ├── ModelError              the model or an adapter cannot be loaded; ends the process with 1
    └── RequestError            a request that gets no answer: status, OpenAI's type and code, the parameter
        ├── BadRequest          400
        │   └── ContextExceeded the prompt leaves no room for an answer
        ├── UnknownModel        404
        ├── Overloaded          429, with the seconds after which to try again
        ├── EngineFault         500
        └── Unavailable         503, while loading and while stopping
"""

from __future__ import annotations

from typing import ClassVar


class ServerError(Exception):
    """Base of every error that the model server raises on purpose."""


class ConfigError(ServerError):
    """Says which setting, and what to give instead."""


class ModelError(ServerError):
    """Says which file, and what is wrong with it."""


class RequestError(ServerError):
    """``param`` is the field of the request that is at fault; ``retry_after`` is in seconds, 0 for never."""

    status: ClassVar[int]
    type: ClassVar[str] = "invalid_request_error"
    code: ClassVar[str | None] = None

    def __init__(self, message: str, *, param: str | None = None, retry_after: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after


class BadRequest(RequestError):
    status = 400


class ContextExceeded(BadRequest):
    code = "context_length_exceeded"


class UnknownModel(RequestError):
    status = 404
    code = "model_not_found"


class Overloaded(RequestError):
    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class EngineFault(RequestError):
    status = 500
    type = "server_error"


class Unavailable(RequestError):
    status = 503
    type = "server_error"
    code = "unavailable"


def stopping() -> Unavailable:
    """For requests that come, or are not finished, when the server ends."""
    return Unavailable("The server is stopping.", retry_after=1)
