"""The table of commands: which word means what, and in which states it is allowed (RFC 3501 §3, §6).

A later command is a line here, a value in commands.py and a parser. Two-word commands ("UID FETCH") stand
under both words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Final, NamedTuple

from wd_trio.proto.imap import parse_commands as p
from wd_trio.proto.imap import parse_mailboxes as m
from wd_trio.proto.imap.commands import Command
from wd_trio.proto.imap.parse import Cursor
from wd_trio.proto.imap.parse_fetch import parse_fetch, parse_uid_fetch
from wd_trio.proto.imap.parse_search import parse_search, parse_uid_search


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
    "STARTTLS": Rule(p.parse_starttls, BEFORE),
    "LOGIN": Rule(p.parse_login, BEFORE),
    "AUTHENTICATE": Rule(p.parse_authenticate, BEFORE),
    "ENABLE": Rule(p.parse_enable, AFTER),
    "LIST": Rule(m.parse_list, AFTER),
    "LSUB": Rule(m.parse_lsub, AFTER),
    "NAMESPACE": Rule(m.parse_namespace, AFTER),
    "STATUS": Rule(m.parse_status, AFTER),
    "SELECT": Rule(m.parse_select, AFTER),
    "EXAMINE": Rule(m.parse_examine, AFTER),
    "CREATE": Rule(m.parse_create, AFTER),
    "DELETE": Rule(m.parse_delete, AFTER),
    "RENAME": Rule(m.parse_rename, AFTER),
    "SUBSCRIBE": Rule(m.parse_subscribe, AFTER),
    "UNSUBSCRIBE": Rule(m.parse_unsubscribe, AFTER),
    "GETQUOTA": Rule(m.parse_getquota, AFTER),
    "GETQUOTAROOT": Rule(m.parse_getquotaroot, AFTER),
    "SETQUOTA": Rule(m.parse_setquota, AFTER),
    "APPEND": Rule(p.parse_append, AFTER),
    "IDLE": Rule(p.parse_idle, AFTER),
    "CHECK": Rule(p.parse_check, SELECTED),
    "UNSELECT": Rule(p.parse_unselect, SELECTED),
    "CLOSE": Rule(p.parse_close, SELECTED),
    "EXPUNGE": Rule(p.parse_expunge, SELECTED),
    "SEARCH": Rule(parse_search, SELECTED),
    "FETCH": Rule(parse_fetch, SELECTED),
    "STORE": Rule(p.parse_store, SELECTED),
    "COPY": Rule(p.parse_copy, SELECTED),
    "MOVE": Rule(p.parse_move, SELECTED),
    "UID SEARCH": Rule(parse_uid_search, SELECTED),
    "UID FETCH": Rule(parse_uid_fetch, SELECTED),
    "UID STORE": Rule(p.parse_uid_store, SELECTED),
    "UID COPY": Rule(p.parse_uid_copy, SELECTED),
    "UID MOVE": Rule(p.parse_uid_move, SELECTED),
    "UID EXPUNGE": Rule(p.parse_uid_expunge, SELECTED),
}


def complaint(allowed: frozenset[State], state: State) -> str:
    """The fixed text for a command that `state` does not allow."""
    if state is State.NOT_AUTHENTICATED:
        return "Log in first"
    return "Already logged in" if allowed == BEFORE else "Select a mailbox first"
