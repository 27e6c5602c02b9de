"""POP3's states and what each command does to them (RFC 1939 §3 to §6), as one table.

`TRANSITIONS[command][state]` is the state after the command succeeded; a pair that is absent is refused, as told
by `refusal`. NAMED is AUTHORIZATION with a name given: PASS means the USER before it, and a log-in that failed uses
the name up (RFC 1939 §7). UPDATE is entered by QUIT from TRANSACTION only; a lost connection never gets there.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

from wd_trio.proto.pop3.commands import (
    Auth,
    Capa,
    Command,
    Dele,
    List,
    Noop,
    Pass,
    Quit,
    Retr,
    Rset,
    Stat,
    Stls,
    Top,
    Uidl,
    User,
)


class State(Enum):
    AUTHORIZATION = "authorization"
    NAMED = "named"
    TRANSACTION = "transaction"
    UPDATE = "update"  # QUIT has applied the marks: nothing more is read
    CLOSED = "closed"


_A, _N, _T, _U, _X = State

TRANSITIONS: Final[Mapping[type[Command], Mapping[State, State]]] = {
    User: {_A: _N, _N: _N},
    Pass: {_N: _T},
    Auth: {_A: _T, _N: _T},
    Capa: {_A: _A, _N: _N, _T: _T},
    Stls: {_A: _A, _N: _A},
    Stat: {_T: _T},
    List: {_T: _T},
    Uidl: {_T: _T},
    Retr: {_T: _T},
    Top: {_T: _T},
    Dele: {_T: _T},
    Rset: {_T: _T},
    Noop: {_T: _T},
    Quit: {_A: _X, _N: _X, _T: _U},
}

_LOG_IN: Final = "Log in first"
_LOGGED_IN: Final = "Logged in already"


def refusal(command: type[Command], state: State) -> str:
    """Why a command that the table does not have in a state is refused."""
    if command is Pass and state is _A:
        return "USER comes first"
    return _LOGGED_IN if state is _T else _LOG_IN
