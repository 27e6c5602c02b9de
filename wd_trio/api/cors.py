"""Cross-origin requests (the Fetch standard's CORS protocol): off, until the configuration lists origins.

Browsers ask before they send a token to another origin, and let a page read only answers that name its origin. Tokens
come in headers that a page sets itself, so credentials of the browser's are never allowed. `*` in the list means any
origin.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from wd_trio.api.asgi import Header, Reply, Send

ANYONE: Final = "*"
MAX_AGE_S: Final = 600
_ORIGIN: Final = b"origin"
_ALLOWED: Final = b"access-control-allow-origin"
_VARY: Final[Header] = (b"vary", b"Origin")
_HEADERS: Final = b"Authorization, Content-Type, Last-Event-ID, X-Access-Token"
_EXPOSED: Final[Header] = (b"access-control-expose-headers", b"Content-Disposition, Retry-After")


class Cors:
    """The rules of one app."""

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(origins)

    def allowed(self, headers: Iterable[Header]) -> bytes:
        """The Origin of these headers if it is listed, else b""."""
        origin = next((value for name, value in headers if name == _ORIGIN), b"")
        known = ANYONE in self._origins or origin.decode("latin-1") in self._origins
        return origin if known else b""

    def preflight(self, origin: bytes, headers: Iterable[Header], methods: Sequence[str]) -> Reply | None:
        """The answer to a browser's question whether it may; None for what is no such question."""
        if not origin or not any(name == b"access-control-request-method" for name, _ in headers):
            return None
        return Reply(
            b"",
            media="text/plain",
            headers=(
                (b"access-control-allow-methods", ", ".join(methods).encode()),
                (b"access-control-allow-headers", _HEADERS),
                (b"access-control-max-age", b"%d" % MAX_AGE_S),
            ),
        )

    def marking(self, origin: bytes, send: Send) -> Send:
        """`send`, whose answers say that this origin may read them."""
        marks = [_VARY, (_ALLOWED, origin), _EXPOSED] if origin else [_VARY]

        async def marked(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *marks]}
            await send(message)

        return marked
