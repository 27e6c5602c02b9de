"""Flags of many messages: reading them, and STORE. Runs inside a transaction of the caller's.

Both work column by column (mail/flagrows.py): SQLite hands over a column as one text, which is several times cheaper
than a row for each message, and one statement changes the flags of a range.
"""

from __future__ import annotations

import sqlite3
from array import array
from typing import Final

from wd_trio.adapters.sqlite import journal
from wd_trio.adapters.sqlite.mailboxes import MailboxState
from wd_trio.adapters.sqlite.rows import pick
from wd_trio.mail import flagchange
from wd_trio.mail.flagrows import FlagRows
from wd_trio.mail.model import DELETED, SEEN, SYSTEM_FLAGS, FlagChange, FlagsStored, with_keywords
from wd_trio.mail.numset import EMPTY, UidSet

_EVERY_FLAG: Final = sum(SYSTEM_FLAGS.values())
_SHIFT: Final = 64  # flags come as printable characters: a text with NULs in it would not come whole
_UNSHIFT: Final = bytes(max(value - _SHIFT, 0) for value in range(256))


def read(connection: sqlite3.Connection, number: int, uids: UidSet) -> FlagRows:
    """The flags of the living messages among `uids` of the mailbox with that internal number."""
    source, condition, parameters = pick(number, uids)
    # Columns are put together in the order of the walk, which is that of the uids.
    count, flags, modseqs, words = connection.execute(
        f"SELECT count(*), group_concat(char({_SHIFT} + m.flags), ''), group_concat(m.modseq), max(m.keywords)"
        f" FROM {source} WHERE {condition}",
        parameters,
    ).fetchone()
    if not count:
        return FlagRows(EMPTY, b"", {}, [])
    if count != len(uids):
        (living,) = connection.execute(
            f"SELECT group_concat(m.uid) FROM {source} WHERE {condition}", parameters
        ).fetchone()
        uids = UidSet.of(map(int, living.split(",")))
    keywords: dict[int, str] = {}
    if words:
        keywords = dict(
            connection.execute(
                f"SELECT m.uid, m.keywords FROM {source} WHERE {condition} AND m.keywords <> ''", parameters
            )
        )
    return FlagRows(
        uids, flags.encode("ascii").translate(_UNSHIFT), keywords, array("Q", map(int, modseqs.split(",")))
    )


def store(
    connection: sqlite3.Connection,
    mailbox: MailboxState,
    uids: UidSet,
    change: FlagChange,
    unchanged_since: int | None,
) -> FlagsStored:
    """Apply `change` to the living messages among `uids`. Held-back messages are in `failed` alone, not in `rows`."""
    found = read(connection, mailbox.number, uids)
    found, failed, missing = flagchange.chosen(found, uids, unchanged_since)
    after = flagchange.after(found, change, mailbox.modseq + 1)
    if not any(after.changed):
        return FlagsStored(mailbox.modseq, mailbox.modseq, found, failed, missing)
    changed = after.rows.where(after.changed)
    modseq = mailbox.modseq + 1
    if after.rows.keywords == found.keywords:
        _update(connection, mailbox.number, changed.uids, change, modseq)
    else:
        _write(connection, mailbox.number, changed, modseq)
    journal.note(connection, mailbox.number, modseq, changed.uids.ranges())
    connection.execute(
        "UPDATE mailboxes SET modseq = ?, unseen = unseen + ?, deleted = deleted + ?, keywords = ?"
        " WHERE mailbox = ?",
        (
            modseq,
            flagchange.having(found.flags, SEEN) - flagchange.having(after.rows.flags, SEEN),
            flagchange.having(after.rows.flags, DELETED) - flagchange.having(found.flags, DELETED),
            with_keywords(mailbox.keywords, set(changed.keywords.values())),
            mailbox.number,
        ),
    )
    return FlagsStored(mailbox.modseq, modseq, after.rows, failed, missing)


def _update(
    connection: sqlite3.Connection, number: int, uids: UidSet, change: FlagChange, modseq: int
) -> None:
    """Change the flags of messages, as the change says, and nothing else: a statement for each range."""
    bits, touched = change.flags, _EVERY_FLAG if change.mode == "set" else change.flags
    flags = {"add": f"flags | {bits:d}", "remove": f"flags & ~{bits:d}"}.get(change.mode, f"{bits:d}")
    become = bits if change.mode != "remove" else 0
    marks = f", unseen = {not become & SEEN:d}" if touched & SEEN else ""
    if touched & DELETED:
        marks += f", deleted = {bool(become & DELETED):d}"
    connection.executemany(
        f"UPDATE messages SET flags = {flags}, modseq = ?{marks} WHERE mailbox = ? AND uid BETWEEN ? AND ?",
        [(modseq, number, first, last) for first, last in uids.ranges()],
    )


def _write(connection: sqlite3.Connection, number: int, rows: FlagRows, modseq: int) -> None:
    """Write flags and keywords; neighbours that end up alike together."""
    alike: dict[tuple[int, str], list[int]] = {}
    for row in rows:
        alike.setdefault((row.flags, row.keywords), []).append(row.uid)
    connection.executemany(
        "UPDATE messages SET flags = ?, keywords = ?, unseen = ?, deleted = ?, modseq = ?"
        " WHERE mailbox = ? AND uid BETWEEN ? AND ?",
        [
            (flags, keywords, not flags & SEEN, bool(flags & DELETED), modseq, number, first, last)
            for (flags, keywords), uids in alike.items()
            for first, last in UidSet.of(uids).ranges()
        ],
    )
