"""What the engine tells the server: pulled one at a time with `Pop3Engine.next_event()`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from wd_trio.proto.pop3.commands import Command


class NeedData(Enum):
    """Nothing whole is buffered: send what is pending, then read more from the peer."""

    NEED_DATA = "need data"


NEED_DATA = NeedData.NEED_DATA


@dataclass(frozen=True, slots=True)
class CommandEvent:
    """A command that parsed and is allowed in this state. The server answers it, says `engine.accepted()`
    first where the answer is positive, and pulls on. A log-in comes as `LogIn`, whichever way it was made."""

    name: str  # in capitals, one of commands.PARSERS: for metrics
    command: Command


@dataclass(frozen=True, slots=True)
class Reply:
    """What the engine itself answers: one whole reply. Send it, then pull on."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Fatal:
    """The connection is not worth following: send `data`, then end it. Nothing more comes."""

    data: bytes


Event: TypeAlias = NeedData | CommandEvent | Reply | Fatal
