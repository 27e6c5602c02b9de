"""What the mail store's parts share: the engine, the blobs, the queues, and what this process knows."""

from __future__ import annotations

from typing import Final

from wd_trio import errors
from wd_trio.adapters.caches import BLOB_SHARE, BoundedCache
from wd_trio.adapters.mongo_redis.blobs import MongoBlobs
from wd_trio.adapters.mongo_redis.known import KnownMailboxes
from wd_trio.adapters.mongo_redis.layout import MAILBOXES, Document
from wd_trio.adapters.mongo_redis.mongo import Mongo
from wd_trio.adapters.mongo_redis.reader import Moment, Reader
from wd_trio.adapters.mongo_redis.writer import Writer

_OWNERS_BYTES: Final = 8 << 20
_OWNER_BYTES: Final = 300
_UNSEEN_BYTES: Final = 4 << 20


class Shared:
    """One for each store of a process. Thread-safe.

    `first_unseen` has, by mailbox id, the first unseen uid and the modseq it was that at.
    """

    def __init__(self, mongo: Mongo, *, blob_cache_bytes: int) -> None:
        self.mongo = mongo
        self.reader = Reader(mongo)
        self.blobs = MongoBlobs(mongo)
        self.blob_cache: BoundedCache[bytes, bytes] = BoundedCache(blob_cache_bytes, share=BLOB_SHARE)
        self.known = KnownMailboxes()
        self.writer = Writer(mongo, self.known)
        self.first_unseen: BoundedCache[str, tuple[int, int]] = BoundedCache(_UNSEEN_BYTES)
        self._owners: BoundedCache[str, str] = BoundedCache(_OWNERS_BYTES)

    def owner(self, mailbox_id: str) -> str:
        """The user of a mailbox, which never changes. NotFound; one that is gone may still be known."""
        user_id = self._owners.get(mailbox_id)
        if user_id is None:
            found = self.reader.find_one(MAILBOXES, {"_id": mailbox_id}, {"user": 1})
            if found is None:
                raise missing(mailbox_id)
            user_id = str(found["user"])
            self.own(mailbox_id, user_id)
        return user_id

    def own(self, mailbox_id: str, user_id: str) -> None:
        self._owners.put(mailbox_id, user_id, _OWNER_BYTES)

    def disown(self, mailbox_id: str) -> None:
        """The mailbox is gone."""
        self._owners.drop(mailbox_id)
        self.first_unseen.drop(mailbox_id)
        self.known.forget(mailbox_id)

    def require(self, user_id: str, mailbox_id: str) -> None:
        """NotFound unless the mailbox lives."""
        if self.reader.find_one(MAILBOXES, {"_id": mailbox_id, "user": user_id}, {"_id": 1}) is None:
            raise missing(mailbox_id)

    def document(self, moment: Moment, user_id: str, mailbox_id: str) -> Document:
        """The mailbox's document. NotFound."""
        found = moment.find_one(MAILBOXES, {"_id": mailbox_id, "user": user_id})
        if found is None:
            raise missing(mailbox_id)
        return found


def missing(mailbox_id: str) -> errors.NotFound:
    return errors.NotFound(f"no mailbox {mailbox_id}", what="mailbox")
