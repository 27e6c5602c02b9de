"""What users take up. All functions run inside a transaction of the caller's."""

from __future__ import annotations

import sqlite3
from typing import Final

from wd_trio import errors
from wd_trio.adapters.sqlite import graves
from wd_trio.mail.model import DELETED, SEEN, Usage, join_keywords

_MAILBOXES_OF: Final = "SELECT mailbox FROM mailboxes WHERE user_id = ?"


def get(connection: sqlite3.Connection, user_id: str) -> Usage:
    row = connection.execute(
        "SELECT size_bytes, messages FROM accounts WHERE user_id = ?", (user_id,)
    ).fetchone()
    return Usage(*row) if row else Usage(0, 0)


def require_room(connection: sqlite3.Connection, user_id: str, size: int, quota_bytes: int | None) -> None:
    """OverQuota when `size` more bytes would pass the quota; None means no limit."""
    if quota_bytes is None:
        return
    used = get(connection, user_id).size_bytes
    if used + size > quota_bytes:
        raise errors.OverQuota(f"{used} + {size} of {quota_bytes} bytes", what="quota")


def add(connection: sqlite3.Connection, user_id: str, size: int, messages: int) -> None:
    """Count bytes and messages in (or out, where negative)."""
    connection.execute(
        "INSERT INTO accounts (user_id, size_bytes, messages) VALUES (?, ?, ?) ON CONFLICT (user_id) DO UPDATE "
        "SET size_bytes = size_bytes + excluded.size_bytes, messages = messages + excluded.messages",
        (user_id, size, messages),
    )


def recount(connection: sqlite3.Connection, user_id: str) -> Usage:
    """Make the counters of a user and its mailboxes what the messages say."""
    connection.execute(
        "UPDATE mailboxes SET (messages, unseen, deleted, size_bytes) = ("
        f" SELECT count(*), coalesce(sum((flags & {SEEN}) = 0), 0), coalesce(sum((flags & {DELETED}) <> 0), 0),"
        " coalesce(sum(size), 0) FROM messages m WHERE m.mailbox = mailboxes.mailbox) WHERE user_id = ?",
        (user_id,),
    )
    for (mailbox,) in connection.execute(_MAILBOXES_OF, (user_id,)).fetchall():
        texts = connection.execute("SELECT DISTINCT keywords FROM messages WHERE mailbox = ?", (mailbox,))
        words = join_keywords(word for (text,) in texts for word in text.split())
        connection.execute("UPDATE mailboxes SET keywords = ? WHERE mailbox = ?", (words, mailbox))
    connection.execute("DELETE FROM accounts WHERE user_id = ?", (user_id,))
    connection.execute(
        "INSERT INTO accounts SELECT ?1, coalesce(sum(size_bytes), 0), coalesce(sum(messages), 0) "
        "FROM mailboxes WHERE user_id = ?1",
        (user_id,),
    )
    return get(connection, user_id)


def delete_mail(connection: sqlite3.Connection, user_id: str) -> int:
    """Take away a user's mailboxes with all that is in them, and the subscriptions; how many messages there were."""
    count = get(connection, user_id).messages
    graves.bury(connection, [number for (number,) in connection.execute(_MAILBOXES_OF, (user_id,))])
    connection.execute("DELETE FROM subscriptions WHERE user_id = ?", (user_id,))
    connection.execute("DELETE FROM accounts WHERE user_id = ?", (user_id,))
    return count
