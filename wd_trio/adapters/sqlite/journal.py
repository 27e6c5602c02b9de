"""Expunges, and what happened since. All functions run inside a transaction of the caller's.

Every expunge leaves its uids, as ranges, in the journal at its modseq. Trimming the journal raises the mailbox's
floor to the highest modseq trimmed: who knows less than that can no longer be told all, and gets Outdated.

Every other change notes which uids it touched, as a few ranges that may hold others too: a message's own modseq
decides. Of these notes the last `NOTED_MODSEQS` are kept; for who knows less, the whole mailbox is walked.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import groupby
from typing import Final

from wd_trio import errors
from wd_trio.adapters.sqlite import contents, usage
from wd_trio.adapters.sqlite.mailboxes import MailboxState
from wd_trio.adapters.sqlite.rows import Picked, pick, pick_deleted
from wd_trio.mail.model import DELETED, SEEN, Changes, Expunged, FlagRow, Vanished
from wd_trio.mail.numset import EMPTY, MAX_UID, UidSet

NOTED_MODSEQS: Final = 256
_FORGET_EVERY: Final = 64  # modseqs
_MOST_RANGES: Final = 16
_EVERY_UID: Final = UidSet([(1, MAX_UID)])


def note(connection: sqlite3.Connection, number: int, modseq: int, ranges: Sequence[tuple[int, int]]) -> None:
    """Note which uids (first, last), in order and at least one, the change at `modseq` has touched."""
    if len(ranges) > _MOST_RANGES:
        ranges = [(ranges[0][0], ranges[-1][1])]
    connection.executemany(
        "INSERT INTO changed VALUES (?, ?, ?, ?)", [(number, modseq, first, last) for first, last in ranges]
    )
    _forget_notes(connection, number, modseq)


def _forget_notes(connection: sqlite3.Connection, number: int, modseq: int) -> None:
    """For every change of a mailbox, noted or not: drop the notes that have become too old, now and then."""
    if modseq % _FORGET_EVERY == 0:
        connection.execute(
            "DELETE FROM changed WHERE mailbox = ? AND modseq <= ?", (number, modseq - NOTED_MODSEQS)
        )


def expunge(
    connection: sqlite3.Connection, mailbox: MailboxState, uids: UidSet | None, *, marked_only: bool, now: int
) -> Expunged:
    """Remove what is marked \\Deleted, or all there is, among `uids` where given."""
    walk = pick_deleted if marked_only else pick
    picked = walk(mailbox.number, _EVERY_UID if uids is None else uids)
    found = connection.execute(
        f"SELECT m.uid, m.flags, m.size, m.content FROM {picked.source} WHERE {picked.condition}",
        picked.parameters,
    ).fetchall()
    if not found:
        return Expunged(mailbox.modseq, mailbox.modseq, EMPTY)
    gone = remove(connection, mailbox, [row[:3] for row in found], now)
    contents.drop_unused(connection, (row[3] for row in found), now)
    return gone


def remove(
    connection: sqlite3.Connection, mailbox: MailboxState, found: Sequence[tuple[int, int, int]], now: int
) -> Expunged:
    """Take messages, each a (uid, flags, size), out of a mailbox at its next modseq; their contents stay."""
    gone = UidSet.of(uid for uid, _, _ in found)
    modseq, size = mailbox.modseq + 1, sum(size for _, _, size in found)
    connection.executemany(
        "DELETE FROM messages WHERE mailbox = ? AND uid = ?", ((mailbox.number, uid) for uid, _, _ in found)
    )
    connection.executemany(
        "INSERT INTO vanished VALUES (?, ?, ?, ?, ?)",
        ((mailbox.number, modseq, first, last, now) for first, last in gone.ranges()),
    )
    connection.execute(
        "UPDATE mailboxes SET modseq = ?, messages = messages - ?, unseen = unseen - ?, deleted = deleted - ?,"
        " size_bytes = size_bytes - ? WHERE mailbox = ?",
        (
            modseq,
            len(gone),
            sum(not flags & SEEN for _, flags, _ in found),
            sum(bool(flags & DELETED) for _, flags, _ in found),
            size,
            mailbox.number,
        ),
    )
    _forget_notes(connection, mailbox.number, modseq)
    usage.add(connection, mailbox.user_id, -size, -len(gone))
    return Expunged(mailbox.modseq, modseq, gone)


def changes_since(connection: sqlite3.Connection, mailbox: MailboxState, since: int, limit: int) -> Changes:
    """What happened after `since`, cut between two modseqs where there is more than `limit`.

    In a page that was cut, `uid_next` is 1: messages that came in its span and changed after it are on a later
    page, so no new message may be told before the last page has been absorbed.
    """
    _require_reach(connection, mailbox, since)
    if since == mailbox.modseq:
        return Changes(since, since, mailbox.uid_next)
    touched = _touched(connection, mailbox, since)
    upto = _cut(connection, mailbox, touched, since, limit)
    span = (mailbox.number, since, upto)
    rows = connection.execute(
        f"SELECT m.uid, m.modseq, m.flags, m.keywords FROM {touched.source}"
        f" WHERE {touched.condition} AND m.modseq > :since AND m.modseq <= :upto",
        touched.parameters | {"since": since, "upto": upto},
    )
    changed = tuple(FlagRow(*row) for row in rows)
    ranges = connection.execute(
        "SELECT modseq, first, last FROM vanished WHERE mailbox = ? AND modseq > ? AND modseq <= ?"
        " ORDER BY modseq, first",
        span,
    )
    vanished = tuple(
        Vanished(modseq, UidSet((first, last) for _, first, last in group))
        for modseq, group in groupby(ranges, key=lambda row: row[0])
    )
    more = upto < mailbox.modseq
    return Changes(since, upto, 1 if more else mailbox.uid_next, changed, vanished, more)


def _require_reach(connection: sqlite3.Connection, mailbox: MailboxState, since: int) -> None:
    (floor,) = connection.execute(
        "SELECT journal_floor FROM mailboxes WHERE mailbox = ?", (mailbox.number,)
    ).fetchone()
    if since < floor:
        raise errors.Outdated(f"the journal begins after modseq {floor}", what="mailbox")
    if since > mailbox.modseq:
        raise errors.Outdated(f"modseq {since} is of another history", what="mailbox")


def _touched(connection: sqlite3.Connection, mailbox: MailboxState, since: int) -> Picked:
    """Messages among which are all that changed after `since`."""
    if since < mailbox.modseq - NOTED_MODSEQS:
        return pick(mailbox.number, _EVERY_UID)
    notes = connection.execute(
        "SELECT first, last FROM changed WHERE mailbox = ? AND modseq > ?", (mailbox.number, since)
    )
    return pick(mailbox.number, UidSet(notes))


def _cut(
    connection: sqlite3.Connection, mailbox: MailboxState, touched: Picked, since: int, limit: int
) -> int:
    """The modseq through which a page reaches: whole transactions, at least one, `limit` entries if possible."""
    after = touched.parameters | {"mailbox": mailbox.number, "since": since, "limit": max(limit, 1)}
    entries = (
        f"SELECT m.modseq FROM {touched.source} WHERE {touched.condition} AND m.modseq > :since "
        "UNION ALL SELECT modseq FROM vanished WHERE mailbox = :mailbox AND modseq > :since"
    )
    beyond = connection.execute(f"{entries} ORDER BY 1 LIMIT 1 OFFSET :limit", after).fetchone()
    if beyond is None:
        return mailbox.modseq
    (whole,) = connection.execute(
        f"SELECT max(modseq) FROM ({entries}) WHERE modseq < :beyond", after | {"beyond": beyond[0]}
    ).fetchone()
    cut: int = beyond[0] if whole is None else whole
    return cut


def trim(connection: sqlite3.Connection, before: int, limit: int) -> int:
    """Forget expunges of a time before `before`, in at most `limit` mailboxes; how many mailboxes were trimmed."""
    old = connection.execute(
        "SELECT mailbox, max(modseq) FROM vanished INDEXED BY vanished_age"
        " WHERE vanished_at < ? GROUP BY mailbox LIMIT ?",
        (before, limit),
    ).fetchall()
    connection.executemany("DELETE FROM vanished WHERE mailbox = ? AND modseq <= ?", old)
    connection.executemany(
        "UPDATE mailboxes SET journal_floor = max(journal_floor, ?2) WHERE mailbox = ?1", old
    )
    return len(old)
