"""Old notes of outcomes go as new ones come."""

from __future__ import annotations

from pathlib import Path

from sqlite_support import message

from wd_trio.adapters.sqlite.connection import SqliteOptions
from wd_trio.adapters.sqlite.database import SqliteDatabase
from wd_trio.adapters.sqlite.outcomes import KEPT_S
from wd_trio.adapters.sqlite.store import SqliteStore
from wd_trio.mail.outcome import Origin


def test_a_note_makes_two_old_ones_go(tmp_path: Path) -> None:
    now = 1_700_000_000.0
    database = SqliteDatabase(tmp_path / "mail.db", SqliteOptions(clock=lambda: now))
    store = SqliteStore(database)

    def note(session: int) -> None:
        store.append("u", "INBOX", [message()], create=True, origin=Origin(f"s{session}", 1))

    def notes() -> int:
        with database.reading() as connection:
            (found,) = connection.execute("SELECT count(*) FROM outcomes").fetchone()
        return int(found)

    for session in range(5):
        note(session)
    now += KEPT_S
    note(5)
    assert notes() == 6, "an hour is kept"
    now += 1
    counts = []
    for session in range(6, 9):
        note(session)
        counts.append(notes())
    assert counts == [5, 4, 4]
    database.close()
