"""TLS for the API's listeners: it ends in each worker, which accepts for itself; connections of the API never move.

A `TlsStream` is what http1.py uses of a stream. The handshake is made by the first read, within HANDSHAKE_S, so
that one that drips holds up nobody else. There is no half of an end here: our side ends when all is closed, and
without close_notify, as most of HTTPS does: answers tell their own length. Who half-closes TCP gets its answer.
"""

from __future__ import annotations

import ssl
from typing import Any, Final

import trio

HANDSHAKE_S: Final = 10.0


class TlsStream:
    """One connection over TLS, not shaken hands on yet."""

    def __init__(self, transport: trio.SocketStream, context: ssl.SSLContext) -> None:
        self.socket = _Ends(transport.socket)
        self._stream = trio.SSLStream(transport, context, server_side=True, https_compatible=True)
        self._shaken = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """As of a trio stream."""
        if not self._shaken:
            with trio.move_on_after(HANDSHAKE_S) as scope:
                await self._stream.do_handshake()
            if scope.cancelled_caught:
                raise trio.BrokenResourceError("no handshake in time")
            self._shaken = True
        return await self._stream.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As of a trio stream."""
        await self._stream.send_all(data)

    async def aclose(self) -> None:
        """As of a trio stream."""
        if self._shaken:
            await self._stream.aclose()
        else:
            await self._stream.transport_stream.aclose()


class _Ends:
    """A connected socket's two addresses."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self.family = sock.family
        self.getpeername = sock.getpeername
        self.getsockname = sock.getsockname

    def shutdown(self, how: int) -> None:
        """Left to `aclose`: half an end that TLS does not tell of is an attack."""


class TlsListener(trio.abc.Listener[Any]):
    """Accepts connections that begin with TLS."""

    def __init__(self, listener: trio.SocketListener, context: ssl.SSLContext) -> None:
        self._listener = listener
        self._context = context

    async def accept(self) -> TlsStream:
        return TlsStream(await self._listener.accept(), self._context)

    async def aclose(self) -> None:
        await self._listener.aclose()
