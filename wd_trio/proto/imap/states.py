"""The table of commands: which word means what, and in which states it is allowed (RFC 3501 §3, §6).

A later command is a line here, a value in commands.py and a parser. Two-word commands ("UID FETCH") stand
under both words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Final, NamedTuple

from wd_trio.proto.imap import parse_commands as p
from wd_trio.proto.imap.commands import Command
from wd_trio.proto.imap.parse import Cursor
from wd_trio.proto.imap.parse_fetch import parse_fetch, parse_uid_fetch


class State(Enum):
    """RFC 3501 §3."""

    NOT_AUTHENTICATED = auto()
    AUTHENTICATED = auto()
    SELECTED = auto()
    LOGOUT = auto()


class Rule(NamedTuple):
    """How a command is parsed, and the states that allow it."""

    parse: Callable[[Cursor], Command]
    states: frozenset[State]


ANY: Final = frozenset({State.NOT_AUTHENTICATED, State.AUTHENTICATED, State.SELECTED})
BEFORE: Final = frozenset({State.NOT_AUTHENTICATED})
AFTER: Final = frozenset({State.AUTHENTICATED, State.SELECTED})
SELECTED: Final = frozenset({State.SELECTED})

COMMANDS: Final[Mapping[str, Rule]] = {
    "CAPABILITY": Rule(p.parse_capability, ANY),
    "NOOP": Rule(p.parse_noop, ANY),
    "LOGOUT": Rule(p.parse_logout, ANY),
    "ID": Rule(p.parse_id, ANY),
    "LOGIN": Rule(p.parse_login, BEFORE),
    "AUTHENTICATE": Rule(p.parse_authenticate, BEFORE),
    "LIST": Rule(p.parse_list, AFTER),
    "NAMESPACE": Rule(p.parse_namespace, AFTER),
    "STATUS": Rule(p.parse_status, AFTER),
    "SELECT": Rule(p.parse_select, AFTER),
    "EXAMINE": Rule(p.parse_examine, AFTER),
    "APPEND": Rule(p.parse_append, AFTER),
    "IDLE": Rule(p.parse_idle, AFTER),
    "UNSELECT": Rule(p.parse_unselect, SELECTED),
    "CLOSE": Rule(p.parse_close, SELECTED),
    "EXPUNGE": Rule(p.parse_expunge, SELECTED),
    "FETCH": Rule(parse_fetch, SELECTED),
    "STORE": Rule(p.parse_store, SELECTED),
    "UID FETCH": Rule(parse_uid_fetch, SELECTED),
    "UID STORE": Rule(p.parse_uid_store, SELECTED),
    "UID EXPUNGE": Rule(p.parse_uid_expunge, SELECTED),
}


def complaint(allowed: frozenset[State], state: State) -> str:
    """The fixed text for a command that `state` does not allow."""
    if state is State.NOT_AUTHENTICATED:
        return "Log in first"
    return "Already logged in" if allowed == BEFORE else "Select a mailbox first"
