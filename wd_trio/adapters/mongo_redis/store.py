"""MongoStore: the mail store and the blobs over one MongoDB.

What the methods do is in mailboxes.py, folders.py, messages.py, flags.py, graves.py, journal.py, search.py, usage.py,
blobs.py.
Changes of a user's mail pass through the user's queue (queues.py), and each go of it is one transaction (work.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from wd_trio.adapters.mongo_redis import flags as flags_
from wd_trio.adapters.mongo_redis import folders, graves, journal, mailboxes, usage
from wd_trio.adapters.mongo_redis import messages as messages_
from wd_trio.adapters.mongo_redis import search as search_
from wd_trio.adapters.mongo_redis.layout import MAILBOXES, OUTCOMES
from wd_trio.adapters.mongo_redis.mongo import Mongo
from wd_trio.adapters.mongo_redis.shared import Shared
from wd_trio.adapters.mongo_redis.work import Unit
from wd_trio.adapters.mongo_redis.writer import Change
from wd_trio.mail.flagrows import FlagRows
from wd_trio.mail.model import (
    Appended,
    BlobData,
    Changes,
    Columns,
    Copied,
    Expunged,
    FlagChange,
    FlagsStored,
    Found,
    Mailbox,
    MailboxSpec,
    MessagePage,
    MessageRow,
    NewMessage,
    Opened,
    Usage,
)
from wd_trio.mail.numset import UidSet
from wd_trio.mail.outcome import Origin, Outcome
from wd_trio.mail.search import SearchKey
from wd_trio.ports.gateway import reads, writes

BLOB_CACHE_BYTES: Final = 8 << 20


class MongoStore:
    """ports.mail.MailStore and ports.blobs.Blobs; see there for what each method promises."""

    def __init__(self, mongo: Mongo, *, blob_cache_bytes: int = BLOB_CACHE_BYTES) -> None:
        self._mongo = mongo
        self._shared = Shared(mongo, blob_cache_bytes=blob_cache_bytes)

    # -- mailboxes

    @writes("store")
    def ensure_mailboxes(self, user_id: str, specs: Sequence[MailboxSpec]) -> list[Mailbox]:
        return mailboxes.ensure(self._shared, user_id, specs)

    @reads("store")
    def list_mailboxes(self, user_id: str) -> list[Mailbox]:
        return mailboxes.list_of(self._shared, user_id)

    @reads("store")
    def get_mailbox(self, mailbox_id: str) -> Mailbox:
        return mailboxes.get(self._shared, mailbox_id)

    @reads("store")
    def highest_modseqs(self, mailbox_ids: Sequence[str]) -> dict[str, int]:
        return mailboxes.highest_modseqs(self._shared, mailbox_ids)

    @reads("store")
    def find_mailbox(self, user_id: str, path: str) -> Mailbox:
        return mailboxes.find(self._shared, user_id, path)

    @reads("store")
    def open_mailbox(self, user_id: str, path: str, *, known_modseq: int = -1) -> Opened:
        return mailboxes.open_(self._shared, user_id, path, known_modseq)

    @writes("store")
    def create_mailbox(self, user_id: str, spec: MailboxSpec, *, origin: Origin | None = None) -> Mailbox:
        def run(unit: Unit) -> Mailbox:
            unit.lock_structure()
            return mailboxes.create(unit, spec)

        return self._shared.writer.do(user_id, Change(run=run, origin=origin, alone=True))

    @writes("store")
    def delete_mailbox(self, user_id: str, path: str, *, origin: Origin | None = None) -> str:
        return folders.delete(self._shared, user_id, path, origin)

    @writes("store")
    def rename_mailbox(
        self, user_id: str, source: str, target: str, *, origin: Origin | None = None
    ) -> list[str]:
        return folders.rename(self._shared, user_id, source, target, origin)

    @writes("store")
    def subscribe(self, user_id: str, path: str, *, subscribed: bool, origin: Origin | None = None) -> None:
        def run(unit: Unit) -> None:
            mailboxes.subscribe(unit, path, subscribed=subscribed)

        self._shared.writer.do(user_id, Change(run=run, origin=origin, alone=True))

    @reads("store")
    def subscriptions(self, user_id: str) -> list[str]:
        return mailboxes.subscriptions(self._shared, user_id)

    # -- messages

    @writes("store")
    def append(
        self,
        user_id: str,
        path: str,
        messages: Sequence[NewMessage],
        *,
        blobs: Sequence[BlobData] = (),
        quota_bytes: int | None = None,
        create: bool = False,
        origin: Origin | None = None,
    ) -> Appended:
        return messages_.append(
            self._shared,
            user_id,
            path,
            messages,
            blobs=blobs,
            quota_bytes=quota_bytes,
            create=create,
            origin=origin,
        )

    @reads("store")
    def fetch(
        self,
        mailbox_id: str,
        uids: UidSet,
        columns: Columns,
        *,
        limit: int = 256,
        budget_bytes: int = 1 << 20,
    ) -> list[MessageRow]:
        return messages_.fetch(
            self._shared, mailbox_id, uids, columns, limit=limit, budget_bytes=budget_bytes
        )

    @reads("store")
    def flags(self, mailbox_id: str, uids: UidSet) -> FlagRows:
        return flags_.read(self._shared, mailbox_id, uids)

    @reads("store")
    def page(
        self,
        user_id: str,
        mailbox_id: str,
        columns: Columns,
        *,
        newest_first: bool = True,
        beyond: int = 0,
        unseen: bool = False,
        limit: int = 20,
    ) -> MessagePage:
        return messages_.page(
            self._shared,
            user_id,
            mailbox_id,
            columns,
            newest_first=newest_first,
            beyond=beyond,
            unseen=unseen,
            limit=limit,
        )

    @writes("store")
    def store_flags(
        self,
        mailbox_id: str,
        uids: UidSet,
        change: FlagChange,
        *,
        unchanged_since: int | None = None,
        origin: Origin | None = None,
    ) -> FlagsStored:
        return flags_.store(
            self._shared, mailbox_id, uids, change, unchanged_since=unchanged_since, origin=origin
        )

    @writes("store")
    def expunge(
        self,
        mailbox_id: str,
        uids: UidSet | None = None,
        *,
        marked_only: bool = True,
        origin: Origin | None = None,
    ) -> Expunged:
        return journal.expunge(self._shared, mailbox_id, uids, marked_only=marked_only, origin=origin)

    @writes("store")
    def copy(
        self,
        mailbox_id: str,
        uids: UidSet,
        path: str,
        *,
        quota_bytes: int | None = None,
        move: bool = False,
        origin: Origin | None = None,
    ) -> Copied:
        return folders.copy(
            self._shared, mailbox_id, uids, path, quota_bytes=quota_bytes, move=move, origin=origin
        )

    @reads("store")
    def search(
        self, mailbox_id: str, uids: UidSet, key: SearchKey, *, now: int, after: int = 0, limit: int = 1000
    ) -> Found:
        return search_.page(self._shared, mailbox_id, uids, key, now=now, after=after, limit=limit)

    @reads("store")
    def changes_since(self, mailbox_id: str, modseq: int, *, limit: int = 1000) -> Changes:
        return journal.changes_since(self._shared, mailbox_id, modseq, limit)

    @reads("store")
    def outcome(self, origin: Origin) -> Outcome | None:
        with self._mongo.reading() as database:
            found = database[OUTCOMES].find_one({"_id": origin.session, "serial": origin.serial})
        return Outcome.stored(found["uidValidity"], found["sources"], found["targets"]) if found else None

    @writes("store")
    def trim_journal(self, *, older_than_s: int, limit: int = 1000) -> int:
        return journal.trim(self._shared, self._mongo.now() - older_than_s, limit)

    @writes("store")
    def sweep_deleted(self, *, limit: int = 1000) -> int:
        return graves.sweep(self._shared, limit)

    # -- users

    @reads("store")
    def usage(self, user_id: str) -> Usage:
        return usage.get(self._shared, user_id)

    @writes("store")
    def recount(self, user_id: str) -> Usage:
        return usage.recount(self._shared, user_id)

    @writes("store")
    def delete_user_mail(self, user_id: str) -> int:
        return folders.delete_all(self._shared, user_id)

    @reads("store")
    def ping(self) -> None:
        with self._mongo.reading() as database:
            database[MAILBOXES].find_one({"_id": ""}, {"_id": 1})

    # -- blobs

    @writes("store")
    def put_blobs(self, blobs: Sequence[BlobData]) -> None:
        self._shared.blobs.put(blobs)

    @writes("store")
    def put_blob_chunks(
        self, digest: bytes, size: int, first_chunk: int, chunks: Sequence[tuple[bool, bytes]]
    ) -> None:
        self._shared.blobs.put_chunks(digest, size, first_chunk, chunks)

    @writes("store")
    def has_blobs(self, digests: Sequence[bytes]) -> set[bytes]:
        return self._shared.blobs.has(digests)

    @reads("store")
    def read_blob(self, digest: bytes, start: int, stop: int) -> bytes:
        return self._shared.blobs.read(digest, start, stop)

    @writes("store")
    def collect_blobs(self, *, unused_for_s: int, limit: int) -> int:
        return self._shared.blobs.collect(unused_for_s=unused_for_s, limit=limit)
