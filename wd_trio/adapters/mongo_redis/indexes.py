"""The indexes of the collections that the adapters know by name, in one place. Those of *documents* are declared
with their collections and made by documents.py.

Queries of mail name the user, who is the shard key, so that a delivery's transaction stays on one shard: `{user: 1}`
for messages, mailboxes, subscriptions, vanished and outcomes, `{_id: 1}` for accounts. (Not more of a key: a message
that is moved changes its mailbox and uid, a mailbox that is renamed its path.) What belongs to no user is spread by
hash: `{_id: "hashed"}` for blobs and blobChunks. The rest is small and need not be sharded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pymongo import IndexModel
from pymongo.database import Database

from wd_trio.adapters.mongo_redis.layout import (
    ACCOUNTS,
    BY_AGE,
    BY_BLOB,
    BY_DELETED,
    BY_EXPUNGE,
    BY_FROM,
    BY_NOTED,
    BY_PATH,
    BY_UID,
    BY_UNSEEN,
    COUNTERS,
    GRAVES,
    MAILBOXES,
    MESSAGES,
    OUTCOMES,
    SUBSCRIPTIONS,
    UNKNOWN_FROM,
    VANISHED,
    Document,
    Keys,
)

BLOBS: Final = "blobs"
BLOB_CHUNKS: Final = "blobChunks"
BLOB_GARBAGE: Final = "blobGarbage"
OUTCOME_KEPT_S: Final = 3600


def _index(keys: Keys, **options: Any) -> IndexModel:
    return IndexModel(list(keys), **options)


INDEXES: Final[Mapping[str, Sequence[IndexModel]]] = {
    MAILBOXES: (_index(BY_PATH, unique=True),),
    SUBSCRIPTIONS: (_index(BY_PATH, unique=True),),
    MESSAGES: (
        _index(BY_UID, unique=True),
        _index(BY_NOTED),
        _index(BY_FROM),
        _index(BY_UNSEEN, partialFilterExpression={"unseen": True}),
        _index(BY_DELETED, partialFilterExpression={"deleted": True}),
        _index(BY_BLOB, sparse=True),
    ),
    VANISHED: (_index(BY_EXPUNGE), _index(BY_AGE)),
    ACCOUNTS: (),
    GRAVES: (_index((("user", 1),)),),
    OUTCOMES: (_index((("at", 1),), expireAfterSeconds=OUTCOME_KEPT_S),),
    COUNTERS: (),
    BLOBS: (_index((("lastUsed", 1),)),),
    BLOB_GARBAGE: (_index((("at", 1),)),),
}


def complete(database: Database[Document]) -> None:
    """Before BY_FROM is made, messages of a version that kept no `from` get one that says nothing."""
    messages = database[MESSAGES]
    made = [tuple(index["key"]) for index in messages.index_information().values()]
    if made and BY_FROM not in made:
        messages.update_many({"from": {"$exists": False}}, {"$set": {"from": UNKNOWN_FROM}})
