"""Messages: append and fetch. All functions run inside a transaction of the caller's."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import cache
from operator import itemgetter
from typing import Any, Final, NamedTuple

from wd_trio import errors
from wd_trio.adapters.caches import BoundedCache
from wd_trio.adapters.sqlite import blobs as blobs_
from wd_trio.adapters.sqlite import contents, journal, usage
from wd_trio.adapters.sqlite.mailboxes import MailboxState
from wd_trio.adapters.sqlite.rows import pick
from wd_trio.mail.model import (
    DELETED,
    SEEN,
    Appended,
    Columns,
    FlagRow,
    MessageRow,
    NewMessage,
    join_keywords,
    with_keywords,
)
from wd_trio.mail.numset import MAX_UID, UidSet

# -- append


def append(
    connection: sqlite3.Connection,
    mailbox: MailboxState,
    messages: Sequence[NewMessage],
    quota_bytes: int | None,
    now: int,
) -> Appended:
    """Add messages at one new modseq; their blobs are in the store already."""
    size = sum(message.content.size for message in messages)
    usage.require_room(connection, mailbox.user_id, size, quota_bytes)
    return add(
        connection,
        mailbox,
        [
            NewRow(
                message.flags,
                join_keywords(message.keywords.split()) if message.keywords else "",
                message.internal_date,
                message.content.size,
                contents.add(connection, message.content),
            )
            for message in messages
        ],
        now,
    )


class NewRow(NamedTuple):
    """A message to come into a mailbox; `keywords` in canonical form, `content` by its internal number."""

    flags: int
    keywords: str
    internal_date: int
    size: int
    content: int


def add(connection: sqlite3.Connection, mailbox: MailboxState, new: Sequence[NewRow], now: int) -> Appended:
    """Give messages their uids, in order, at the mailbox's next modseq. OverQuota when it has given its last."""
    if mailbox.uid_next + len(new) - 1 > MAX_UID:
        raise errors.OverQuota("the mailbox has given its last uid", what="uid")
    modseq = mailbox.modseq + 1 if new else mailbox.modseq
    rows: list[FlagRow] = []
    records: list[tuple[int | str, ...]] = []
    for uid, (flags, keywords, internal_date, size, content) in enumerate(new, mailbox.uid_next):
        rows.append(FlagRow(uid, modseq, flags, keywords))
        marks = not flags & SEEN, bool(flags & DELETED)
        records.append(
            (mailbox.number, uid, modseq, flags, keywords, internal_date, now, size, content, *marks)
        )
    connection.executemany("INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", records)
    if new:
        journal.note(connection, mailbox.number, modseq, [(mailbox.uid_next, rows[-1].uid)])
    _count_in(connection, mailbox, modseq, rows, sum(row.size for row in new))
    return Appended(
        mailbox_id=mailbox.id,
        user_id=mailbox.user_id,
        uid_validity=mailbox.uid_validity,
        uids=tuple(row.uid for row in rows),
        previous_modseq=mailbox.modseq,
        modseq=modseq,
        rows=tuple(rows),
    )


def _count_in(
    connection: sqlite3.Connection, mailbox: MailboxState, modseq: int, rows: Sequence[FlagRow], size: int
) -> None:
    connection.execute(
        "UPDATE mailboxes SET uid_next = uid_next + :count, modseq = :modseq, messages = messages + :count,"
        " unseen = unseen + :unseen, deleted = deleted + :deleted, size_bytes = size_bytes + :size,"
        " keywords = :keywords WHERE mailbox = :mailbox",
        {
            "mailbox": mailbox.number,
            "count": len(rows),
            "modseq": modseq,
            "unseen": sum(not row.flags & SEEN for row in rows),
            "deleted": sum(bool(row.flags & DELETED) for row in rows),
            "size": size,
            "keywords": with_keywords(mailbox.keywords, {row.keywords for row in rows}),
        },
    )
    usage.add(connection, mailbox.user_id, size, len(rows))


# -- fetch

# MessageRow's fields in its order, up to `blobs`. A record has the first ones, those asked for and the content's
# number: each column costs a tenth of a microsecond a row, asked for or not.
_BASE: Final = "m.uid, m.modseq, m.flags, m.keywords, m.internal_date, m.size"
_FIELDS: Final = (
    ("c.envelope", Columns.ENVELOPE),
    ("c.envelope_utf8", Columns.ENVELOPE),
    ("c.bodystructure", Columns.STRUCTURE),
    ("c.bodystructure_utf8", Columns.STRUCTURE),
    ("c.body", Columns.BODY),
    ("t.header", Columns.HEADER),
    ("c.parts", Columns.PARTS),
    ("t.rope", Columns.ROPE),
    ("c.id", Columns.IDS),
    ("c.thread_id", Columns.IDS),
    ("m.saved_date", Columns.IDS),
    ("c.preview", Columns.PREVIEW),
)
_FIRST: Final = _BASE.count(",") + 1
_OF_CONTENTS: Final = (
    Columns.ENVELOPE | Columns.STRUCTURE | Columns.BODY | Columns.PARTS | Columns.IDS | Columns.PREVIEW
)
_OF_TEXTS: Final = Columns.HEADER | Columns.ROPE
_SIZED: Final = (
    Columns.ENVELOPE
    | Columns.STRUCTURE
    | Columns.BODY
    | Columns.HEADER
    | Columns.PARTS
    | Columns.ROPE
    | Columns.PREVIEW
)


class Selection(NamedTuple):
    """How to bring columns: what to select and to join, and what a record of these means.

    `sized` are the places in it of what counts as bytes; its last field is the internal number of the content.
    """

    fields: str
    joins: str
    sized: tuple[int, ...]
    spread: Callable[[tuple[Any, ...]], tuple[Any, ...]]

    def row(self, record: tuple[Any, ...]) -> MessageRow:
        return MessageRow(*self.spread((*record, None)))

    def size(self, record: tuple[Any, ...]) -> int:
        """How many bytes the columns of a record hold."""
        size = 0
        for place in self.sized:
            value = record[place]
            if value is not None:
                size += len(value)
        return size


@cache
def selection(columns: Columns) -> Selection:
    asked = [(text, bit) for text, bit in _FIELDS if columns & bit]
    place_of = {text: place for place, (text, _) in enumerate(asked, _FIRST)}
    joins = " JOIN contents c ON c.content = m.content" if columns & _OF_CONTENTS else ""
    joins += " JOIN texts t ON t.content = m.content" if columns & _OF_TEXTS else ""
    return Selection(
        ", ".join([_BASE, *place_of, "m.content"]),
        joins,
        tuple(place_of[text] for text, bit in asked if bit & _SIZED),
        itemgetter(*range(_FIRST), *(place_of.get(text, -1) for text, _ in _FIELDS)),  # -1: the None behind
    )


def fetch(
    connection: sqlite3.Connection,
    number: int,
    uids: UidSet,
    columns: Columns,
    *,
    limit: int,
    budget_bytes: int,
    cache: BoundedCache[bytes, bytes],
) -> list[MessageRow]:
    """A page of the mailbox with that internal number: at most `limit` rows, and beyond the first no row that
    would bring the bytes of all asked-for columns and preloaded blobs above `budget_bytes`."""
    picked = pick(number, uids)
    bounded = picked.parameters | {"limit": limit}
    if not columns:
        narrow = f"SELECT {_BASE} FROM {picked.source} WHERE {picked.condition} LIMIT :limit"
        return [MessageRow(*record) for record in connection.execute(narrow, bounded)]
    chosen = selection(columns)
    cursor = connection.execute(
        f"SELECT {chosen.fields} FROM {picked.source}{chosen.joins} WHERE {picked.condition} LIMIT :limit",
        bounded,
    )
    page: list[MessageRow] = []
    left = budget_bytes
    for record in cursor:
        size = chosen.size(record)
        if page and size > left:
            break
        left -= size
        row = chosen.row(record)
        if columns & Columns.ROPE:
            left -= _preload(connection, row, record[-1], left, cache)
        page.append(row)
    cursor.close()
    return page


def page(
    connection: sqlite3.Connection,
    number: int,
    columns: Columns,
    *,
    newest_first: bool,
    beyond: int,
    unseen: bool,
    limit: int,
) -> list[MessageRow]:
    """Messages of the mailbox with that internal number in order of uid, past `beyond` where it is not 0."""
    chosen = selection(columns)
    index, only = (" INDEXED BY messages_unseen", " AND m.unseen = 1") if unseen else ("", "")
    past, order = ("m.uid < :beyond", "DESC") if newest_first else ("m.uid > :beyond", "ASC")
    cursor = connection.execute(
        f"SELECT {chosen.fields} FROM messages m{index}{chosen.joins}"
        f" WHERE m.mailbox = :mailbox AND {past}{only} ORDER BY m.uid {order} LIMIT :limit",
        {
            "mailbox": number,
            "beyond": beyond or (MAX_UID + 1 if newest_first else 0),
            "limit": limit,
        },
    )
    return [chosen.row(record) for record in cursor]


def _preload(
    connection: sqlite3.Connection,
    row: MessageRow,
    content: int,
    room: int,
    cache: BoundedCache[bytes, bytes],
) -> int:
    """Add whole blobs that fit `room` bytes to the row; how many bytes they are."""
    used = 0
    loaded: dict[bytes, bytes] = {}
    for digest, size, blob in blobs_.of_content(connection, content):
        if used + size <= room:
            whole = cache.get(digest)
            if whole is None:
                whole = blobs_.read_span(connection, blob, 0, size)
                cache.put(digest, whole, len(whole))
            loaded[digest] = whole
            used += size
    row.blobs = loaded or None
    return used
