"""Mailboxes that were deleted, and the removal of what was in them.

Messages are found through their mailbox only. To delete a mailbox is to remove its document and to leave a grave, in
one transaction, however much is in it. What it held is removed afterwards, a slice at a time and outside of
transactions: nobody can see it any more. The grave goes last, so what was cut short is found again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from wd_trio.adapters.mongo_redis.layout import (
    BY_EXPUNGE,
    BY_UID,
    GRAVES,
    MESSAGES,
    VANISHED,
    Document,
    Keys,
)
from wd_trio.adapters.mongo_redis.mongo import MongoDatabase
from wd_trio.adapters.mongo_redis.shared import Shared
from wd_trio.adapters.mongo_redis.work import Unit

_HELD: Final[tuple[tuple[str, str, Keys], ...]] = (
    (MESSAGES, "uid", BY_UID),
    (VANISHED, "modseq", BY_EXPUNGE),
)


def dig(unit: Unit, mailbox_ids: Iterable[str]) -> None:
    """Leave graves of the user's mailboxes, which the unit removes; at least one."""
    unit.writes += 1
    unit.collection(GRAVES).insert_many(
        [{"_id": mailbox_id, "user": unit.user_id} for mailbox_id in mailbox_ids], session=unit.session
    )


def sweep(shared: Shared, limit: int) -> int:
    """Remove up to `limit` messages, entries of journals and graves; how many, 0 when there is nothing left."""
    left = limit
    with shared.mongo.reading() as database:
        while left > 0:
            grave = database[GRAVES].find_one()
            if grave is None:
                break
            left -= _remove(shared, database, grave, left)
            if left:
                database[GRAVES].delete_one({"_id": grave["_id"]})
                left -= 1
    return limit - left


def _remove(shared: Shared, database: MongoDatabase, grave: Document, limit: int) -> int:
    """Remove up to `limit` of what a grave holds; how many. Fewer than `limit`: that was all."""
    of_mailbox = {"user": grave["user"], "mailbox": grave["_id"]}
    left = limit
    for name, key, index in _HELD:
        if not left:
            break
        found = list(
            database[name].find(of_mailbox, {key: 1, "blobs": 1}, hint=list(index)).sort(key, 1).limit(left)
        )
        if found:
            shared.blobs.mark(digest for document in found for digest in document.get("blobs", ()))
            # By number, not by name: of a mailbox that is gone, none comes between.
            database[name].delete_many(of_mailbox | {key: {"$lte": found[-1][key]}}, hint=list(index))
        left -= len(found)
    return limit - left
