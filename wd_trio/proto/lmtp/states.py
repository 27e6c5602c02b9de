"""LMTP's states and what each command does to them (RFC 2033 §4, RFC 5321 §4.1.4), as one table.

`TRANSITIONS[command][state]` is the state after the command succeeded; a pair that is absent is refused
with the text in `REFUSALS`. DATA needs a recipient that was accepted: with none, RFC 2033 §4.2 wants 503.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

from wd_trio.proto.lmtp.commands import (
    Command,
    Data,
    Help,
    Lhlo,
    Mail,
    Noop,
    Quit,
    Rcpt,
    Rset,
    StartTls,
    Vrfy,
)


class State(Enum):
    CONNECTED = "connected"  # before LHLO
    READY = "ready"  # no transaction
    MAIL = "mail"  # a sender, no recipient accepted yet
    RCPT = "rcpt"  # at least one recipient accepted
    DATA = "data"  # message bytes are on their way
    CLOSED = "closed"


_C, _I, _M, _R, _D, _X = State

TRANSITIONS: Final[Mapping[type[Command], Mapping[State, State]]] = {
    Lhlo: {_C: _I, _I: _I, _M: _I, _R: _I},
    Mail: {_I: _M},
    Rcpt: {_M: _R, _R: _R},
    Data: {_R: _D},
    Rset: {_C: _C, _I: _I, _M: _I, _R: _I},
    Noop: {_C: _C, _I: _I, _M: _M, _R: _R},
    Vrfy: {_C: _C, _I: _I, _M: _M, _R: _R},
    Help: {_C: _C, _I: _I, _M: _M, _R: _R},
    StartTls: {_I: _C},  # LHLO is to be said again (RFC 3207 §4.2)
    Quit: {_C: _X, _I: _X, _M: _X, _R: _X},
}

_GREET: Final = "Say LHLO first"
_NO_MAIL: Final = "MAIL comes first"

REFUSALS: Final[Mapping[tuple[type[Command], State], str]] = {
    (Mail, _C): _GREET,
    (Mail, _M): "A transaction is open already",
    (Mail, _R): "A transaction is open already",
    (Rcpt, _C): _GREET,
    (Rcpt, _I): _NO_MAIL,
    (Data, _C): _GREET,
    (Data, _I): _NO_MAIL,
    (Data, _M): "No valid recipients",
    (StartTls, _C): _GREET,
    (StartTls, _M): "A transaction is open already",
    (StartTls, _R): "A transaction is open already",
}
