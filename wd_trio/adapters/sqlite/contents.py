"""Contents: what is known of messages' bytes. Made with a message, shared by its copies, removed with the last
of them. All functions run inside a transaction of the caller's."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from wd_trio.adapters.sqlite import blobs
from wd_trio.adapters.sqlite.rows import json_list
from wd_trio.mail.matching import has_plain_header
from wd_trio.mail.model import Content
from wd_trio.ports.ids import new_id


def add(connection: sqlite3.Connection, content: Content) -> int:
    """Keep a content and refer to its blobs; its internal number."""
    email_id = new_id()
    number = connection.execute(
        "INSERT INTO contents (id, thread_id, preview, envelope, envelope_utf8, bodystructure, bodystructure_utf8,"
        " body, parts, plain_header) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            email_id,
            email_id,
            content.preview,
            content.envelope,
            content.envelope_utf8,
            content.bodystructure,
            content.bodystructure_utf8,
            content.body,
            content.parts,
            has_plain_header(content.header),
        ),
    ).lastrowid
    assert number is not None
    connection.execute("INSERT INTO texts VALUES (?, ?, ?)", (number, content.header, content.rope))
    blobs.refer(connection, number, content.blobs)
    return number


def drop_unused(connection: sqlite3.Connection, numbers: Iterable[int], now: int) -> None:
    """Remove those contents that no message shares any longer."""
    unused = connection.execute(
        "SELECT value FROM json_each(?) WHERE NOT EXISTS (SELECT 1 FROM messages m WHERE m.content = value)",
        (json_list(numbers),),
    ).fetchall()
    if not unused:
        return
    connection.executemany("DELETE FROM contents WHERE content = ?", unused)
    connection.executemany("DELETE FROM texts WHERE content = ?", unused)
    blobs.unrefer(connection, json_list(number for (number,) in unused), now)
