"""What the engine tells the server: pulled one at a time with `ImapEngine.next_event()`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from wd_trio.proto.imap.commands import Append, Command


class NeedData(Enum):
    """Nothing whole is buffered: read more from the peer."""

    NEED_DATA = "need data"


NEED_DATA = NeedData.NEED_DATA


@dataclass(frozen=True, slots=True)
class CommandEvent:
    """A command that parsed and is allowed in this state. The server answers it before pulling on."""

    tag: str
    name: str  # the command's word(s) in capitals, for metrics: "FETCH", "UID FETCH", …
    command: Command


@dataclass(frozen=True, slots=True)
class AppendEvent:
    """APPEND up to its literal. The server calls `engine.accept_message()` (then MessageData follows) or
    `engine.refuse_message()` (then the rest of the command is skipped exactly); both give the bytes to send
    ("+ …" for a synchronising literal, else nothing)."""

    tag: str
    command: Append


@dataclass(frozen=True, slots=True)
class MessageData:
    """A piece of the accepted message. `last` comes exactly once, with the piece (perhaps empty) after which
    the command's line has ended as it should; the server then answers `tag`."""

    data: bytes
    last: bool


@dataclass(frozen=True, slots=True)
class SaslResponse:
    """The client's line after a SASL challenge, base64 decoded; None when the client cancelled ("*")."""

    data: bytes | None


@dataclass(frozen=True, slots=True)
class IdleDone:
    """DONE arrived: the server answers the tag of the IDLE command."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Bytes the engine itself answers: a tagged BAD, a "+" for a literal. Send them, then pull on. Counted
    by `bad`: the server ends a connection that earns too many."""

    data: bytes
    bad: bool


@dataclass(frozen=True, slots=True)
class Fatal:
    """The stream cannot be followed any further: send `data` (an untagged BYE), then end the connection."""

    data: bytes


Event: TypeAlias = (
    NeedData | CommandEvent | AppendEvent | MessageData | SaslResponse | IdleDone | Reply | Fatal
)
