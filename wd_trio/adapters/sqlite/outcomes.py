"""Notes of what writes came to, in their own transactions: one row for each session that wrote of late.

They are for whoever answers a command whose worker was killed, seconds later. Old ones go as new ones come, a few for
each, so that there are never many and no command pays for a heap of them.
"""

from __future__ import annotations

import sqlite3
from typing import Final, TypeVar

from wd_trio.mail.outcome import Origin, Outcome, outcome_of

T = TypeVar("T")

KEPT_S: Final = 3600
_FORGOTTEN_A_NOTE: Final = 2


def noted(connection: sqlite3.Connection, origin: Origin | None, result: T, now: int) -> T:
    """`result` of a change by `origin`, once it is noted, if it changed anything."""
    outcome = outcome_of(result) if origin is not None else None
    if origin is not None and outcome is not None:
        connection.execute(
            "INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (session) DO UPDATE SET"
            " serial = excluded.serial, uid_validity = excluded.uid_validity, sources = excluded.sources,"
            " targets = excluded.targets, noted_at = excluded.noted_at",
            (origin.session, origin.serial, outcome.uid_validity, *outcome.as_texts(), now),
        )
        connection.execute(
            "DELETE FROM outcomes WHERE session IN"
            " (SELECT session FROM outcomes WHERE noted_at < ? ORDER BY noted_at LIMIT ?)",
            (now - KEPT_S, _FORGOTTEN_A_NOTE),
        )
    return result


def find(connection: sqlite3.Connection, origin: Origin) -> Outcome | None:
    row = connection.execute(
        "SELECT uid_validity, sources, targets FROM outcomes WHERE session = ? AND serial = ?",
        (origin.session, origin.serial),
    ).fetchone()
    return Outcome.stored(*row) if row is not None else None
