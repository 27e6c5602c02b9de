"""What the tests of the SQLite adapter share, and the program that some of them run in processes of its own:

python sqlite_support.py append DATABASE USER
    append groups of messages for ever, printing each uid and text once they are durable
python sqlite_support.py count DATABASE NAME UNTIL
    write rows called NAME, one commit each, until those of all writers are UNTIL
"""

from __future__ import annotations

import itertools
import sys
from functools import partial
from pathlib import Path

from wd_trio.adapters.sqlite.database import SqliteDatabase
from wd_trio.adapters.sqlite.schema import Schema
from wd_trio.adapters.sqlite.store import SqliteStore
from wd_trio.mail.model import Content, NewMessage
from wd_trio.telemetry import commits_total

COUNT_SCHEMA: Schema = (("CREATE TABLE written (number INTEGER PRIMARY KEY, name TEXT NOT NULL)",),)


def message(text: str = "hello", *, flags: int = 0, blobs: tuple[bytes, ...] = ()) -> NewMessage:
    """A message whose preview and envelope tell `text`."""
    raw = text.encode()
    content = Content(
        size=len(raw),
        header=b"",
        envelope=raw,
        envelope_utf8=None,
        bodystructure=b"()",
        bodystructure_utf8=None,
        body=b"()",
        parts=b"",
        preview=text,
        rope=raw,
        blobs=blobs,
    )
    return NewMessage(content, 1_600_000_000, flags)


def commits() -> float:
    """How many transactions this process has committed."""
    samples = [sample for metric in commits_total.collect() for sample in metric.samples]
    return sum(
        sample.value
        for sample in samples
        if sample.name.endswith("_total") and sample.labels == {"engine": "sqlite"}
    )


def append_for_ever(path: Path, user: str) -> None:
    database = SqliteDatabase(path)
    store = SqliteStore(database)
    for number in itertools.count():
        texts = [f"{number}.{n}" for n in range(5)]
        calls = [partial(store.append, user, "INBOX", [message(text)], create=True) for text in texts]
        for text, (appended, error) in zip(texts, database.group(calls), strict=False):
            assert error is None, error
            print(appended.uids[0], text, flush=True)


def count_until(path: Path, name: str, until: int) -> None:
    database = SqliteDatabase(path, tables=COUNT_SCHEMA)
    print("ready", flush=True)
    sys.stdin.readline()
    written = 0
    while written < until:
        with database.writing() as connection:
            (written,) = connection.execute("SELECT count(*) FROM written").fetchone()
            connection.execute("INSERT INTO written (name) VALUES (?)", (name,))
    database.close()


if __name__ == "__main__":
    if sys.argv[1] == "append":
        append_for_ever(Path(sys.argv[2]), sys.argv[3])
    else:
        count_until(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
