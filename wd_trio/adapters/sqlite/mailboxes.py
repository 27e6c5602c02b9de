"""Mailboxes: making, finding, listing, opening, subscribing. All functions run in a transaction of the caller's.

UIDVALIDITY is the time in seconds, but always above every one given before by this store, so that a mailbox
deleted and made again under the same path, within a second or after a clock was set back, never repeats one
(RFC 3501 §2.3.1.1). Modseqs start at 1, which an empty mailbox stands at (RFC 7162 §3.1.2.1: never 0).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from wd_trio import errors
from wd_trio.mail.model import DEFAULT_MAILBOXES, Mailbox, MailboxSpec, Opened
from wd_trio.mail.names import INBOX, stored_path
from wd_trio.mail.numset import EMPTY, UidSet
from wd_trio.ports.ids import new_id

_FIELDS: Final = (
    "id, user_id, path, uid_validity, uid_next, modseq, special_use, EXISTS (SELECT 1 FROM subscriptions s"
    " WHERE s.user_id = mailboxes.user_id AND s.path = mailboxes.path), messages, unseen, deleted, size_bytes"
)

_FIRST_UNSEEN: Final = (
    "(SELECT coalesce(min(m.uid), 0) FROM messages m INDEXED BY messages_unseen"
    " WHERE m.mailbox = mailboxes.mailbox AND m.unseen = 1)"
)


class MailboxState(NamedTuple):
    """What a change of a mailbox starts from; `number` is its internal one."""

    number: int
    id: str
    user_id: str
    uid_validity: int
    uid_next: int
    modseq: int
    keywords: str


_STATE: Final = "SELECT mailbox, id, user_id, uid_validity, uid_next, modseq, keywords FROM mailboxes"


def list_of(connection: sqlite3.Connection, user_id: str) -> list[Mailbox]:
    rows = connection.execute(
        f"SELECT {_FIELDS} FROM mailboxes WHERE user_id = ? ORDER BY path <> 'INBOX', path", (user_id,)
    )
    return [_mailbox(row) for row in rows]


def get(connection: sqlite3.Connection, mailbox_id: str) -> Mailbox:
    row = connection.execute(f"SELECT {_FIELDS} FROM mailboxes WHERE id = ?", (mailbox_id,)).fetchone()
    if row is None:
        raise errors.NotFound(f"no mailbox {mailbox_id}", what="mailbox")
    return _mailbox(row)


def highest_modseqs(connection: sqlite3.Connection, mailbox_ids: Sequence[str]) -> dict[str, int]:
    rows = connection.execute(
        "SELECT id, modseq FROM mailboxes WHERE id IN (SELECT value FROM json_each(?))",
        (json.dumps(list(mailbox_ids)),),
    )
    return dict(rows.fetchall())


def get_of_user(connection: sqlite3.Connection, user_id: str, mailbox_id: str) -> tuple[Mailbox, int]:
    """A user's mailbox and its internal number; another user's is as good as none."""
    row = connection.execute(
        f"SELECT mailbox, {_FIELDS} FROM mailboxes WHERE id = ? AND user_id = ?", (mailbox_id, user_id)
    ).fetchone()
    if row is None:
        raise errors.NotFound(f"user {user_id} has no mailbox {mailbox_id}", what="mailbox")
    return _mailbox(row[1:]), row[0]


def find(connection: sqlite3.Connection, user_id: str, path: str) -> Mailbox:
    row = connection.execute(
        f"SELECT {_FIELDS} FROM mailboxes WHERE user_id = ? AND path = ?", (user_id, stored_path(path))
    ).fetchone()
    if row is None:
        raise errors.NotFound(f"user {user_id} has no such mailbox", what="mailbox")
    return _mailbox(row)


def state_by_id(connection: sqlite3.Connection, mailbox_id: str) -> MailboxState:
    row = connection.execute(f"{_STATE} WHERE id = ?", (mailbox_id,)).fetchone()
    if row is None:
        raise errors.NotFound(f"no mailbox {mailbox_id}", what="mailbox")
    return MailboxState(*row)


def state_by_path(connection: sqlite3.Connection, user_id: str, path: str) -> MailboxState:
    row = connection.execute(
        f"{_STATE} WHERE user_id = ? AND path = ?", (user_id, stored_path(path))
    ).fetchone()
    if row is None:
        raise errors.NotFound(f"user {user_id} has no such mailbox", what="mailbox")
    return MailboxState(*row)


def ensure(connection: sqlite3.Connection, user_id: str, specs: Sequence[MailboxSpec], now: int) -> None:
    """Make those of `specs` that are missing, and INBOX if the user has none."""
    here = paths_of(connection, user_id)
    for spec in (*specs, MailboxSpec(INBOX)):
        path = stored_path(spec.path)
        if path not in here:
            here.add(path)
            _make(connection, user_id, path, spec, now)


def ensure_path(connection: sqlite3.Connection, user_id: str, path: str, now: int) -> None:
    """Make the mailbox a delivery goes to, together with the default ones, if it is missing."""
    path = stored_path(path)
    if not _exists(connection, user_id, "path", path):
        ensure(connection, user_id, (*DEFAULT_MAILBOXES, MailboxSpec(path)), now)


def create(connection: sqlite3.Connection, user_id: str, spec: MailboxSpec, now: int) -> Mailbox:
    """Make one mailbox, and INBOX if the user has none. Conflict when there is one of that path or special use."""
    path = stored_path(spec.path)
    if _exists(connection, user_id, "path", path):
        raise errors.Conflict(f"user {user_id} has such a mailbox", what="mailbox")
    if spec.special_use and _exists(connection, user_id, "special_use", spec.special_use):
        raise errors.Conflict(f"user {user_id} has a mailbox for {spec.special_use}", what="special use")
    ensure(connection, user_id, (spec,), now)
    return find(connection, user_id, path)


def paths_of(connection: sqlite3.Connection, user_id: str) -> set[str]:
    rows = connection.execute("SELECT path FROM mailboxes WHERE user_id = ?", (user_id,))
    return {path for (path,) in rows}


def _exists(connection: sqlite3.Connection, user_id: str, field: str, value: str) -> bool:
    found = connection.execute(
        f"SELECT 1 FROM mailboxes WHERE user_id = ? AND {field} = ? LIMIT 1", (user_id, value)
    )
    return found.fetchone() is not None


def _make(connection: sqlite3.Connection, user_id: str, path: str, spec: MailboxSpec, now: int) -> None:
    connection.execute(
        "INSERT INTO mailboxes (id, user_id, path, uid_validity, special_use) VALUES (?, ?, ?, ?, ?)",
        (new_id(), user_id, path, next_uid_validity(connection, now), spec.special_use),
    )
    if spec.subscribed:
        subscribe(connection, user_id, path, subscribed=True)


def subscribe(connection: sqlite3.Connection, user_id: str, path: str, *, subscribed: bool) -> None:
    if subscribed:
        statement = "INSERT OR IGNORE INTO subscriptions (user_id, path) VALUES (?, ?)"
    else:
        statement = "DELETE FROM subscriptions WHERE user_id = ? AND path = ?"
    connection.execute(statement, (user_id, stored_path(path)))


def subscriptions(connection: sqlite3.Connection, user_id: str) -> list[str]:
    """The names in the order of `list_of`."""
    rows = connection.execute(
        "SELECT path FROM subscriptions WHERE user_id = ? ORDER BY path <> 'INBOX', path", (user_id,)
    )
    return [path for (path,) in rows]


def next_uid_validity(connection: sqlite3.Connection, now: int) -> int:
    """A UIDVALIDITY above all given before."""
    connection.execute("UPDATE counters SET value = max(value + 1, ?) WHERE name = 'uid_validity'", (now,))
    value: int = connection.execute("SELECT value FROM counters WHERE name = 'uid_validity'").fetchone()[0]
    return value


def open_(connection: sqlite3.Connection, user_id: str, path: str, known_modseq: int) -> Opened:
    """What SELECT tells. `known_modseq` spares the walk over the uids of a mailbox that has not changed."""
    row = connection.execute(
        f"SELECT mailbox, keywords, {_FIRST_UNSEEN}, {_FIELDS} FROM mailboxes WHERE user_id = ? AND path = ?",
        (user_id, stored_path(path)),
    ).fetchone()
    if row is None:
        raise errors.NotFound(f"user {user_id} has no such mailbox", what="mailbox")
    number, keywords, unseen = row[:3]
    mailbox = _mailbox(row[3:])
    uids = None if known_modseq == mailbox.highest_modseq else _uids(connection, number, mailbox)
    return Opened(mailbox, uids, unseen, keywords)


def _uids(connection: sqlite3.Connection, number: int, mailbox: Mailbox) -> UidSet:
    if not mailbox.messages:
        return EMPTY
    first, last = connection.execute(
        "SELECT (SELECT min(uid) FROM messages WHERE mailbox = :m),"
        " (SELECT max(uid) FROM messages WHERE mailbox = :m)",
        {"m": number},
    ).fetchone()
    if last - first + 1 == mailbox.messages:
        return UidSet([(first, last)])  # nobody deleted in between: no need to walk
    rows = connection.execute("SELECT uid FROM messages WHERE mailbox = ? ORDER BY uid", (number,))
    return UidSet.of(uid for (uid,) in rows)


def _mailbox(row: tuple[Any, ...]) -> Mailbox:
    return Mailbox(*(*row[:7], bool(row[7]), *row[8:]))
