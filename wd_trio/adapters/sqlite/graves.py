"""Mailboxes that were deleted, and the removal of what was in them. All functions run inside a transaction of the
caller's.

Messages are found through their mailbox's row only. To delete a mailbox is to remove that row and to leave a grave:
one small transaction, however much is in it. What it held is removed afterwards, a slice at a time. Numbers of
mailboxes are never given twice (AUTOINCREMENT), so nothing in a grave can come to be in a mailbox made later.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from wd_trio.adapters.sqlite import contents


def bury(connection: sqlite3.Connection, numbers: Iterable[int]) -> None:
    """Take mailboxes (their internal numbers) away from everybody."""
    mailboxes = [(number,) for number in numbers]
    connection.executemany("DELETE FROM mailboxes WHERE mailbox = ?", mailboxes)
    connection.executemany("INSERT INTO graves VALUES (?)", mailboxes)


def sweep(connection: sqlite3.Connection, limit: int, now: int) -> int:
    """Remove up to `limit` messages, entries of journals and graves; how many, 0 when there is nothing left."""
    left = limit
    while left > 0:
        grave = connection.execute("SELECT mailbox FROM graves LIMIT 1").fetchone()
        if grave is None:
            break
        left -= _remove_messages(connection, grave[0], left, now)
        left -= _remove_journal(connection, grave[0], left)
        if left:
            connection.execute("DELETE FROM changed WHERE mailbox = ?", grave)  # a few thousand at most
            connection.execute("DELETE FROM graves WHERE mailbox = ?", grave)
            left -= 1
    return limit - left


def _remove_messages(connection: sqlite3.Connection, number: int, limit: int, now: int) -> int:
    found = connection.execute(
        "SELECT uid, content FROM messages WHERE mailbox = ? ORDER BY uid LIMIT ?", (number, limit)
    ).fetchall()
    if found:
        connection.execute("DELETE FROM messages WHERE mailbox = ? AND uid <= ?", (number, found[-1][0]))
        contents.drop_unused(connection, (content for _, content in found), now)
    return len(found)


def _remove_journal(connection: sqlite3.Connection, number: int, limit: int) -> int:
    return connection.execute(
        "DELETE FROM vanished WHERE mailbox = ?1 AND (modseq, first) IN"
        " (SELECT modseq, first FROM vanished WHERE mailbox = ?1 ORDER BY modseq, first LIMIT ?2)",
        (number, limit),
    ).rowcount
