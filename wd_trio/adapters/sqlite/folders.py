"""Whole mailboxes and whole messages on the move: DELETE, RENAME, COPY, MOVE. All functions run inside a
transaction of the caller's.

Nothing of a message's bytes is copied: copies share the content, and with it email id and thread id (RFC 8474).
"""

from __future__ import annotations

import sqlite3

from wd_trio import errors
from wd_trio.adapters.sqlite import graves, journal, mailboxes, messages, usage
from wd_trio.adapters.sqlite.mailboxes import MailboxState
from wd_trio.adapters.sqlite.messages import NewRow
from wd_trio.adapters.sqlite.rows import pick
from wd_trio.mail.model import SEPARATOR, Copied, Expunged, MailboxSpec
from wd_trio.mail.names import INBOX, stored_path
from wd_trio.mail.numset import EMPTY, MAX_UID, UidSet

_EVERY_UID = UidSet([(1, MAX_UID)])


def delete(connection: sqlite3.Connection, user_id: str, path: str) -> str:
    """Take a mailbox away, with what is in it; its id. Denied for INBOX."""
    mailbox = mailboxes.state_by_path(connection, user_id, path)
    if stored_path(path) == INBOX:
        raise errors.Denied("INBOX stays", what="mailbox")
    size, count = connection.execute(
        "SELECT size_bytes, messages FROM mailboxes WHERE mailbox = ?", (mailbox.number,)
    ).fetchone()
    graves.bury(connection, [mailbox.number])
    usage.add(connection, user_id, -size, -count)
    return mailbox.id


def rename(connection: sqlite3.Connection, user_id: str, source: str, target: str, now: int) -> list[str]:
    """Give a mailbox and its children new paths; the ids of all of them in order of path. For INBOX, its own id
    and that of the mailbox that was made for its messages. Invalid for a target within the source."""
    source, target = stored_path(source), stored_path(target)
    mailbox = mailboxes.state_by_path(connection, user_id, source)
    if source == INBOX:
        made = mailboxes.create(connection, user_id, MailboxSpec(target, subscribed=False), now)
        copy(connection, mailbox, _EVERY_UID, target, quota_bytes=None, move=True, now=now)
        return [mailbox.id, made.id]
    if target.startswith(source + SEPARATOR):
        raise errors.Invalid("a mailbox cannot move into itself", what="mailbox")
    # Shorter paths first: where a child takes a path of the family's own, its holder has left it before.
    family = connection.execute(
        "SELECT id, path FROM mailboxes WHERE user_id = ?1 AND (path = ?2 OR substr(path, 1, length(?3)) = ?3)"
        " ORDER BY length(path), path",
        (user_id, source, source + SEPARATOR),
    ).fetchall()
    moved = [(target + path[len(source) :], mailbox_id) for mailbox_id, path in family]
    others = mailboxes.paths_of(connection, user_id) - {path for _, path in family}
    if source == target or not others.isdisjoint(path for path, _ in moved):
        raise errors.Conflict("a mailbox of that path exists", what="mailbox")
    connection.executemany("UPDATE mailboxes SET path = ? WHERE id = ?", moved)
    return [mailbox_id for _, mailbox_id in sorted(moved)]


def copy(
    connection: sqlite3.Connection,
    source: MailboxState,
    uids: UidSet,
    path: str,
    *,
    quota_bytes: int | None,
    move: bool,
    now: int,
) -> Copied:
    """Copy, or move, the living messages among `uids` in order. Onto the source itself, a move takes two modseqs:
    the new messages the first, the expunge of the old ones the second."""
    target = _target(connection, source.user_id, path)
    picked = pick(source.number, uids)
    found = connection.execute(
        "SELECT m.uid, m.flags, m.keywords, m.internal_date, m.size, m.content"
        f" FROM {picked.source} WHERE {picked.condition}",
        picked.parameters,
    ).fetchall()
    if not move:
        usage.require_room(connection, source.user_id, sum(row[4] for row in found), quota_bytes)
    targets = messages.add(connection, target, [NewRow(*row[1:]) for row in found], now)
    gone = None
    if move:
        gone = Expunged(source.modseq, source.modseq, EMPTY)
        if found:
            left = source._replace(modseq=targets.modseq) if source.number == target.number else source
            gone = journal.remove(connection, left, [(row[0], row[1], row[4]) for row in found], now)
    return Copied(tuple(row[0] for row in found), targets, gone)


def _target(connection: sqlite3.Connection, user_id: str, path: str) -> MailboxState:
    try:
        return mailboxes.state_by_path(connection, user_id, path)
    except errors.NotFound as error:
        raise errors.NotFound(str(error), what="target") from error
