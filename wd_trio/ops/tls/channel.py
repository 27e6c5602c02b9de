"""What the supervisor and the holder of TLS connections say to each other, and how it travels.

Like the workers' channel (ops/handoff.py): one typed message for each datagram of a SOCK_SEQPACKET pair, descriptors
beside it, 64 at most. But the holder runs no trio, and both ends must know at once whether a message has left (the
supervisor may replace itself by a newer one between any two steps): so these are plain calls that never wait.

A holder outlives upgrades, so a newer supervisor speaks to it: fields are only added, with defaults, and a message
that a holder does not know is passed over, so nothing may hang on it. VERSION is for what `Begin` means.

Descriptors of clients go to the holder in batches that it acknowledges, since its table may be full. The workers'
ends of finished handshakes come back without: one that is lost on the way is closed by that, and the holder sees
the end of it.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec

VERSION: Final = 1
BATCH: Final = 64
MESSAGE_BYTES: Final = 64 << 10
_FD_BYTES: Final = array.array("i").itemsize
_ROOM: Final = socket.CMSG_SPACE(BATCH * _FD_BYTES)


class ChannelClosed(Exception):
    """The other end is gone."""


class HolderOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How long and how much, in seconds and connections."""

    handshake_s: float = 10.0
    handshakes: int = 1000
    """Unfinished ones at once; one more, and that which has waited longest for its client is given up."""
    flush_s: float = 75.0
    """A client that takes nothing for so long is given up; more than the workers' own `flush_s`, which say
    goodbye."""
    linger_s: float = 5.0
    """What a client gets, once the worker has ended, to take the rest and end its own side."""
    drain_s: float = 8.0
    """What connections get when the supervisor is gone for good."""


class _Message(msgspec.Struct, frozen=True, tag=True, tag_field="type"):
    """The base of every message: tagged with its class's name."""


class Begin(_Message, frozen=True):
    """Supervisor → holder, first of all. `certificate` and `key` are paths of PEM files."""

    version: int
    certificate: str
    key: str
    options: HolderOptions


class Come(_Message, frozen=True):
    """Supervisor → holder, with a client's descriptor for each id: make the handshake."""

    batch: int
    ids: list[int]


class Load(_Message, frozen=True):
    """Supervisor → holder: from now on this certificate, if it is any good."""

    request: int
    certificate: str
    key: str


class Ask(_Message, frozen=True):
    """Supervisor → holder: the heartbeat, answered by Counts."""

    request: int


class Leave(_Message, frozen=True):
    """Supervisor → holder: take no more, and end with the last connection, at most so much later."""

    deadline_s: float


class Ready(_Message, frozen=True):
    """Holder → supervisor: clients may come; or (`fault`) why not."""

    fault: str = ""


class Taken(_Message, frozen=True):
    """Holder → supervisor: the batch is the holder's; or (`refused`) its descriptors did not all arrive, and those
    that did are closed."""

    batch: int
    refused: bool = False


class Secured(msgspec.Struct, frozen=True, array_like=True):
    """A handshake that is done: `name` is what the client asked for (SNI), "" if for none."""

    id: int
    version: str
    cipher: str
    name: str


class Done(_Message, frozen=True):
    """Holder → supervisor, with the worker's end of each."""

    secured: list[Secured]


class Gone(_Message, frozen=True):
    """Holder → supervisor: handshakes that came to nothing, with the reason in a fixed word."""

    failed: list[tuple[int, str]]


class Loaded(_Message, frozen=True):
    """Holder → supervisor: what is wrong with the certificate it was to load; "" when it is in use."""

    request: int
    fault: str


class Counts(_Message, frozen=True):
    """Holder → supervisor: handshakes that are not finished, and connections that are open."""

    request: int
    unfinished: int
    open: int


class Trouble(_Message, frozen=True):
    """Holder → supervisor, for the log: a defect that cost one connection."""

    text: str


ToHolder: TypeAlias = Begin | Come | Load | Ask | Leave
FromHolder: TypeAlias = Ready | Taken | Done | Gone | Loaded | Counts | Trouble
Message: TypeAlias = ToHolder | FromHolder

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Message)


@dataclass(frozen=True, slots=True)
class Received:
    """A message with its descriptors, which are the receiver's to close. `truncated`: some were lost on the way,
    and the others are closed already."""

    message: Message
    descriptors: tuple[int, ...] = ()
    truncated: bool = False


def send_nowait(sock: socket.socket, message: Message, descriptors: Sequence[int] = ()) -> None:
    """Send a message whole, with duplicates of the descriptors. BlockingIOError when there is no room now, OSError
    likewise when too many descriptors are under way; ChannelClosed when nobody is there."""
    beside: list[tuple[int, int, bytes]] = []
    if descriptors:
        beside.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors).tobytes()))
    try:
        sock.sendmsg([_encoder.encode(message)], beside, socket.MSG_NOSIGNAL)
    except (BrokenPipeError, ConnectionError) as error:
        raise ChannelClosed from error


def receive_nowait(sock: socket.socket) -> Received:
    """The next message. BlockingIOError when there is none, ChannelClosed at the end, ValueError for nonsense."""
    try:
        data, beside, flags, _ = sock.recvmsg(MESSAGE_BYTES, _ROOM, socket.MSG_CMSG_CLOEXEC)
    except ConnectionError as error:
        raise ChannelClosed from error
    found = array.array("i")
    for level, kind, rights in beside:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(rights[: len(rights) - len(rights) % _FD_BYTES])
    descriptors = tuple(found)
    if not data:
        close_all(descriptors)
        raise ChannelClosed
    try:
        message: Message = _decoder.decode(data)
    except ValueError:
        close_all(descriptors)
        raise
    if flags & socket.MSG_CTRUNC:
        close_all(descriptors)
        return Received(message, truncated=True)
    return Received(message, descriptors)


def close_all(descriptors: Sequence[int]) -> None:
    """Close descriptors that were received and will not be used."""
    for descriptor in descriptors:
        os.close(descriptor)
