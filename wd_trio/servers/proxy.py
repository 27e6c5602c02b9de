"""Reading a PROXY header off a fresh connection, and not one byte more.

What follows the header is the session's, which another process will read: so the bytes are looked at in the kernel's
buffer first (MSG_PEEK), and only those that belong to the header are taken. A header that comes in pieces is taken
piece by piece, all of which are header until it ends; the wait for more then waits for something new.
"""

from __future__ import annotations

import socket

import trio

from wd_trio.errors import Invalid
from wd_trio.proto.proxy import MAX_V2_BYTES, Origin, measure, parse


async def read_header(sock: socket.socket) -> Origin | None:
    """Take the header off a non-blocking socket; None when the peer ended without having said anything.

    The socket comes back unknown to the event loop: it may be closed or handed over at once. No deadline here.
    Invalid when what comes is no header; OSError when the connection breaks.
    """
    taken = b""
    try:
        while True:
            seen = await _peek(sock, MAX_V2_BYTES - len(taken))
            if not seen:
                if taken:
                    raise Invalid("the header ends early", what="proxy header")
                return None
            length = measure(taken + seen)
            mine = len(seen) if length is None else length - len(taken)
            taken += sock.recv(mine)
            if length is not None:
                return parse(taken)
    finally:
        trio.lowlevel.notify_closing(sock)


async def _peek(sock: socket.socket, most_bytes: int) -> bytes:
    while True:
        try:
            data = sock.recv(most_bytes, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            await trio.lowlevel.wait_readable(sock)
        else:
            await trio.lowlevel.checkpoint()
            return data
