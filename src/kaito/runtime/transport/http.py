"""aiohttp, which reads the system's certificate authorities when it is imported: 20 ms and 2 MB of every process.

Nobody needs them who brings a context of his own, as the runtime does. Loaded from here they are read at the first handshake
that asks for them.
"""

from __future__ import annotations

import ssl
from typing import Any, final

__all__ = ["aiohttp"]


@final
class _Unread(ssl.SSLContext):
    """A context that becomes an ordinary one, with the system's authorities, when it is used."""

    def _read(self) -> ssl.SSLContext:
        self.__class__ = ssl.SSLContext  # type: ignore[assignment]  # same layout: this class adds two methods
        self.load_default_certs()
        return self

    def wrap_socket(self, *arguments: Any, **options: Any) -> Any:
        return self._read().wrap_socket(*arguments, **options)

    def wrap_bio(self, *arguments: Any, **options: Any) -> Any:
        return self._read().wrap_bio(*arguments, **options)


def _later(context: ssl.SSLContext, _purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH) -> None:
    context.__class__ = _Unread


_at_once = ssl.SSLContext.load_default_certs
ssl.SSLContext.load_default_certs = _later  # type: ignore[assignment, method-assign]
try:
    import aiohttp
finally:
    ssl.SSLContext.load_default_certs = _at_once  # type: ignore[method-assign]
