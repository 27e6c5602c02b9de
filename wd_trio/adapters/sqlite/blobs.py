"""Blobs: bytes by content hash, in chunks. All functions run inside a transaction of the caller's.

A blob is `complete` once all its chunks are there; until then nobody but its writers sees it. `referenced` is set
by the first content that refers to it and unset, with `last_used` set to that moment, when the last one goes: a
reader in the middle of a message that is being expunged has the collector's grace period to finish.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final

from wd_trio import errors
from wd_trio.adapters.sqlite.rows import json_list
from wd_trio.adapters.sqlite.schema import CHUNK_SHIFT
from wd_trio.mail.model import BlobData
from wd_trio.mail.rope import CHUNK_BYTES, chunk_bytes

_VARIABLES: Final = 500  # in one IN (…) list


def put(connection: sqlite3.Connection, blobs: Sequence[BlobData], now: int) -> None:
    for blob in blobs:
        put_chunks(connection, blob.digest, blob.size, blob.chunks, first_chunk=0, now=now)


def put_chunks(
    connection: sqlite3.Connection,
    digest: bytes,
    size: int,
    chunks: Sequence[tuple[bool, bytes]],
    *,
    first_chunk: int,
    now: int,
) -> None:
    """Keep chunks `first_chunk` and following. Of two writers of the same blob the first one's chunks stand.
    Invalid for chunks beyond the blob's size or a size beyond what chunk numbers reach (256 GiB)."""
    expected = -(-size // CHUNK_BYTES)
    if not 0 <= first_chunk <= first_chunk + len(chunks) <= expected < 1 << CHUNK_SHIFT:
        raise errors.Invalid(f"chunks {first_chunk}… of a blob that has {expected}", what="blob")
    connection.execute(
        "INSERT INTO blobs (digest, size, complete, last_used) VALUES (?, ?, 0, ?) "
        "ON CONFLICT (digest) DO UPDATE SET last_used = excluded.last_used WHERE last_used < excluded.last_used",
        (digest, size, now),
    )
    blob, complete = connection.execute(
        "SELECT blob, complete FROM blobs WHERE digest = ?", (digest,)
    ).fetchone()
    if complete:
        return
    base = blob << CHUNK_SHIFT
    connection.executemany(
        "INSERT OR IGNORE INTO blob_chunks (chunk, compressed, data) VALUES (?, ?, ?)",
        ((base | number, compressed, data) for number, (compressed, data) in enumerate(chunks, first_chunk)),
    )
    connection.execute(
        "UPDATE blobs SET complete = 1 WHERE blob = ? "
        "AND (SELECT count(*) FROM blob_chunks WHERE chunk BETWEEN ? AND ?) >= ?",
        (blob, *_chunk_span(blob), expected),
    )


def _chunk_span(blob: int) -> tuple[int, int]:
    return blob << CHUNK_SHIFT, ((blob + 1) << CHUNK_SHIFT) - 1


def has(connection: sqlite3.Connection, digests: Sequence[bytes], now: int) -> set[bytes]:
    found: set[bytes] = set()
    for start in range(0, len(digests), _VARIABLES):
        some = digests[start : start + _VARIABLES]
        among = f"digest IN ({','.join('?' * len(some))}) AND complete = 1"
        connection.execute(
            f"UPDATE blobs SET last_used = ? WHERE {among} AND last_used < ?", (now, *some, now)
        )
        found.update(
            digest for (digest,) in connection.execute(f"SELECT digest FROM blobs WHERE {among}", some)
        )
    return found


def read(connection: sqlite3.Connection, digest: bytes, start: int, stop: int) -> bytes:
    """The bytes start … stop - 1, cut to the blob's size."""
    row = connection.execute(
        "SELECT blob, size FROM blobs WHERE digest = ? AND complete = 1", (digest,)
    ).fetchone()
    if row is None:
        raise errors.NotFound(f"no blob {digest.hex()}", what="blob")
    blob, size = row
    return read_span(connection, blob, max(start, 0), min(stop, size))


def read_span(connection: sqlite3.Connection, blob: int, start: int, stop: int) -> bytes:
    """Bytes of a blob by its internal number; the span lies inside it."""
    if start >= stop:
        return b""
    base, first, last = blob << CHUNK_SHIFT, start // CHUNK_BYTES, (stop - 1) // CHUNK_BYTES
    rows = connection.execute(
        "SELECT compressed, data FROM blob_chunks WHERE chunk BETWEEN ? AND ? ORDER BY chunk",
        (base | first, base | last),
    )
    joined = b"".join(chunk_bytes(bool(compressed), data) for compressed, data in rows)
    return joined[start - first * CHUNK_BYTES : stop - first * CHUNK_BYTES]


def of_content(connection: sqlite3.Connection, content: int) -> list[tuple[bytes, int, int]]:
    """The blobs a content refers to: (digest, size in bytes, internal number)."""
    return connection.execute(
        "SELECT b.digest, b.size, b.blob FROM blob_refs r JOIN blobs b ON b.blob = r.blob WHERE r.content = ?",
        (content,),
    ).fetchall()


def refer(connection: sqlite3.Connection, content: int, digests: Iterable[bytes]) -> None:
    """Record what a new content refers to. Conflict (what = "blob") when a blob is not whole in the store."""
    for digest in dict.fromkeys(digests):
        row = connection.execute(
            "SELECT blob, referenced FROM blobs WHERE digest = ? AND complete = 1", (digest,)
        ).fetchone()
        if row is None:
            raise errors.Conflict(f"blob {digest.hex()} is not in the store", what="blob")
        blob, referenced = row
        connection.execute("INSERT INTO blob_refs (content, blob) VALUES (?, ?)", (content, blob))
        if not referenced:
            connection.execute("UPDATE blobs SET referenced = 1 WHERE blob = ?", (blob,))


def unrefer(connection: sqlite3.Connection, contents: str, now: int) -> None:
    """Forget the references of removed contents (a JSON list of numbers)."""
    among = "content IN (SELECT value FROM json_each(?))"
    rows = connection.execute(f"SELECT DISTINCT blob FROM blob_refs WHERE {among}", (contents,)).fetchall()
    if not rows:
        return
    connection.execute(f"DELETE FROM blob_refs WHERE {among}", (contents,))
    connection.execute(
        "UPDATE blobs SET referenced = 0, last_used = ? WHERE blob IN (SELECT value FROM json_each(?)) "
        "AND NOT EXISTS (SELECT 1 FROM blob_refs r WHERE r.blob = blobs.blob)",
        (now, json_list(blob for (blob,) in rows)),
    )


def collect(connection: sqlite3.Connection, unused_for_s: int, limit: int, now: int) -> int:
    blobs = connection.execute(
        "SELECT blob FROM blobs WHERE referenced = 0 AND last_used <= ? ORDER BY last_used LIMIT ?",
        (now - unused_for_s, limit),
    ).fetchall()
    connection.executemany(
        "DELETE FROM blob_chunks WHERE chunk BETWEEN ? AND ?", (_chunk_span(b) for (b,) in blobs)
    )
    connection.executemany("DELETE FROM blobs WHERE blob = ?", blobs)
    return len(blobs)
