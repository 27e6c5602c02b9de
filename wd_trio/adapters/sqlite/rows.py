"""SQL that several modules share: which messages a set of uids means."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final, NamedTuple

from wd_trio.mail.numset import UidSet

_ONE_RANGE: Final = ("messages m", "m.mailbox = :mailbox AND m.uid BETWEEN :first AND :last")
_DELETED: Final = " INDEXED BY messages_deleted"  # left to itself, the planner walks the whole table
# CROSS JOIN keeps SQLite from turning the loops round: ranges outside, their messages inside, so rows come in
# order of uid without a sort, and a LIMIT ends the walk early.
_MANY_RANGES: Final = (
    "json_each(:ranges) r CROSS JOIN messages m",
    "m.mailbox = :mailbox AND m.uid BETWEEN json_extract(r.value, '$[0]') AND json_extract(r.value, '$[1]')",
)


class Picked(NamedTuple):
    """FROM and WHERE that walk the living messages `m` among some uids in order of uid, and their parameters."""

    source: str
    condition: str
    parameters: dict[str, object]


def pick(mailbox: int, uids: UidSet) -> Picked:
    """The messages of a mailbox (its internal number) among `uids`."""
    ranges = uids.ranges()
    if len(ranges) > 1:
        return Picked(*_MANY_RANGES, {"mailbox": mailbox, "ranges": json.dumps(ranges)})
    first, last = ranges[0] if ranges else (1, 0)
    return Picked(*_ONE_RANGE, {"mailbox": mailbox, "first": first, "last": last})


def pick_deleted(mailbox: int, uids: UidSet) -> Picked:
    """Those among `uids` that are marked \\Deleted."""
    source, condition, parameters = pick(mailbox, uids)
    return Picked(source + _DELETED, f"{condition} AND m.deleted = 1", parameters)


def json_list(numbers: Iterable[int]) -> str:
    """Integers as one parameter, for `IN (SELECT value FROM json_each(?))`."""
    return json.dumps(list(numbers))
