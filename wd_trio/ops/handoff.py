"""The control channel between the supervisor and a worker: messages, and descriptors beside them.

A Unix SOCK_SEQPACKET pair keeps message boundaries and carries descriptors (SCM_RIGHTS, see unix(7)). Rules:
- At most 64 descriptors go with one message (the kernel's own bound is 253), and each such batch is acknowledged.
- A receiver that cannot take them all (its descriptor table is full) sees MSG_CTRUNC: it closes those that came
  and says so; a half-received batch is never served.
- Received descriptors are close-on-exec from their first moment.
- A peer that is gone is an end of the stream, whatever errno said it. A kernel that has no room is not: it says so
  of too many descriptors on their way (ETOOMANYREFS, of all processes of this user), and of no memory.
- A message that was taken from the socket is its receiver's in the same step of the loop: a supervisor that replaces
  its program between two steps loses none.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from wd_trio.ops.messages import MESSAGE_BYTES, Message, decode, encode

log = structlog.get_logger()

BATCH_DESCRIPTORS: Final = 64
CROWDED_PAUSE_S: Final = 0.05
CROWDED: Final = frozenset({errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM})
"""What a kernel without room says; it may have some soon."""
_BUFFER_BYTES: Final = 1 << 20
_FD_BYTES: Final = array.array("i").itemsize


class ChannelOver(Exception):
    """The other end is gone."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message with its descriptors, which are the receiver's to close. `truncated`: some were lost on the
    way, and the others are closed already."""

    message: Message
    descriptors: tuple[int, ...] = ()
    truncated: bool = False


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected, non-blocking SEQPACKET ends with room for a few long messages."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in pair:
        end.setblocking(False)
        with contextlib.suppress(OSError):  # the kernel's default holds one message as well
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
    return pair


class Channel:
    """One end of the control channel. Any task may send; one task receives."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._sending = trio.Lock()

    def fileno(self) -> int:
        return self._sock.fileno()

    async def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send one message whole, with duplicates of `descriptors`. ChannelOver when nobody is there."""
        data = encode(message)
        if len(descriptors) > BATCH_DESCRIPTORS:
            raise ValueError(f"{len(descriptors)} descriptors are too many for one message")
        beside: list[tuple[int, int, bytes]] = []
        if descriptors:
            rights = array.array("i", descriptors).tobytes()
            beside.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, rights))
        while True:
            if await self._send(data, beside):
                return
            await trio.sleep(CROWDED_PAUSE_S)  # others may send meanwhile: what is short may go by

    async def _send(self, data: bytes, beside: Sequence[tuple[int, int, bytes]]) -> bool:
        """Whether there was room for it in the kernel."""
        async with self._sending:
            try:
                while True:
                    try:
                        self._sock.sendmsg([data], beside, socket.MSG_NOSIGNAL)
                        return True
                    except BlockingIOError:
                        await trio.lowlevel.wait_writable(self._sock)
            except (OSError, trio.ClosedResourceError) as error:
                if isinstance(error, OSError) and error.errno in CROWDED:
                    log.warning("control channel crowded", error=error.strerror)
                    return False
                raise ChannelOver from error

    async def receive(self) -> Received:
        """The next message. ChannelOver at the end of the stream."""
        await trio.lowlevel.checkpoint()
        try:
            while True:
                try:
                    data, beside, flags, _ = self._receive_nowait()
                    break
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(self._sock)
        except (OSError, trio.ClosedResourceError) as error:
            raise ChannelOver from error
        descriptors = _descriptors(beside)
        if not data:
            close_all(descriptors)
            raise ChannelOver
        if flags & socket.MSG_TRUNC:
            close_all(descriptors)
            raise ValueError("a control message longer than any of ours")
        if flags & socket.MSG_CTRUNC:
            close_all(descriptors)
            return Received(decode(data), truncated=True)
        return Received(decode(data), descriptors)

    def _receive_nowait(self) -> tuple[bytes, list[tuple[int, int, bytes]], int, object]:
        room = socket.CMSG_SPACE(BATCH_DESCRIPTORS * _FD_BYTES)
        try:
            return self._sock.recvmsg(MESSAGE_BYTES, room, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            # Told once, before what is still queued, of a peer that ended with messages unread: its last words
            # (why it cannot start, its final counts) come after the error.
            return self._sock.recvmsg(MESSAGE_BYTES, room, socket.MSG_CMSG_CLOEXEC)

    def close(self) -> None:
        """Close this end; a pending receive or send raises ChannelOver. Idempotent."""
        if self._sock.fileno() != -1:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()


def _descriptors(beside: Sequence[tuple[int, int, bytes]]) -> tuple[int, ...]:
    found = array.array("i")
    for level, kind, data in beside:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % _FD_BYTES])
    return tuple(found)


def close_all(descriptors: Sequence[int]) -> None:
    """Close descriptors that were received and will not be served."""
    for descriptor in descriptors:
        os.close(descriptor)
