"""SqliteStore: the mail store and the blobs over one database, each method one transaction.

What the methods do is in mailboxes.py, folders.py, messages.py, flags.py, graves.py, journal.py, search.py, usage.py,
blobs.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from wd_trio.adapters.caches import BLOB_SHARE, BoundedCache
from wd_trio.adapters.sqlite import blobs as blobs_
from wd_trio.adapters.sqlite import flags as flags_
from wd_trio.adapters.sqlite import folders, graves, journal, mailboxes, usage
from wd_trio.adapters.sqlite import messages as messages_
from wd_trio.adapters.sqlite import search as search_
from wd_trio.adapters.sqlite.database import SqliteDatabase
from wd_trio.adapters.sqlite.outcomes import find, noted
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
FEW_ROWS: Final = 8


class SqliteStore:
    """ports.mail.MailStore and ports.blobs.Blobs; see there for what each method promises."""

    def __init__(self, database: SqliteDatabase, *, blob_cache_bytes: int = BLOB_CACHE_BYTES) -> None:
        self._database = database
        self._cache: BoundedCache[bytes, bytes] = BoundedCache(blob_cache_bytes, share=BLOB_SHARE)

    # -- mailboxes

    @writes("store")
    def ensure_mailboxes(self, user_id: str, specs: Sequence[MailboxSpec]) -> list[Mailbox]:
        with self._database.writing() as connection:
            mailboxes.ensure(connection, user_id, specs, self._database.now())
            return mailboxes.list_of(connection, user_id)

    @reads("store")
    def list_mailboxes(self, user_id: str) -> list[Mailbox]:
        with self._database.reading(one_statement=True) as connection:
            return mailboxes.list_of(connection, user_id)

    @reads("store")
    def get_mailbox(self, mailbox_id: str) -> Mailbox:
        with self._database.reading(one_statement=True) as connection:
            return mailboxes.get(connection, mailbox_id)

    @reads("store")
    def highest_modseqs(self, mailbox_ids: Sequence[str]) -> dict[str, int]:
        with self._database.reading(one_statement=True) as connection:
            return mailboxes.highest_modseqs(connection, mailbox_ids)

    @reads("store")
    def find_mailbox(self, user_id: str, path: str) -> Mailbox:
        with self._database.reading(one_statement=True) as connection:
            return mailboxes.find(connection, user_id, path)

    @reads("store")
    def open_mailbox(self, user_id: str, path: str, *, known_modseq: int = -1) -> Opened:
        with self._database.reading() as connection:
            return mailboxes.open_(connection, user_id, path, known_modseq)

    @writes("store")
    def create_mailbox(self, user_id: str, spec: MailboxSpec, *, origin: Origin | None = None) -> Mailbox:
        now = self._database.now()
        with self._database.writing() as connection:
            return noted(connection, origin, mailboxes.create(connection, user_id, spec, now), now)

    @writes("store")
    def delete_mailbox(self, user_id: str, path: str, *, origin: Origin | None = None) -> str:
        """Denied for INBOX."""
        with self._database.writing() as connection:
            return noted(connection, origin, folders.delete(connection, user_id, path), self._database.now())

    @writes("store")
    def rename_mailbox(
        self, user_id: str, source: str, target: str, *, origin: Origin | None = None
    ) -> list[str]:
        """For INBOX, the ids of INBOX and of the new mailbox. Invalid for a target within the source."""
        now = self._database.now()
        with self._database.writing() as connection:
            return noted(connection, origin, folders.rename(connection, user_id, source, target, now), now)

    @writes("store")
    def subscribe(self, user_id: str, path: str, *, subscribed: bool, origin: Origin | None = None) -> None:
        with self._database.writing() as connection:
            mailboxes.subscribe(connection, user_id, path, subscribed=subscribed)
            noted(connection, origin, None, self._database.now())

    @reads("store")
    def subscriptions(self, user_id: str) -> list[str]:
        with self._database.reading(one_statement=True) as connection:
            return mailboxes.subscriptions(connection, user_id)

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
        now = self._database.now()
        with self._database.writing() as connection:
            if create:
                mailboxes.ensure_path(connection, user_id, path, now)
            mailbox = mailboxes.state_by_path(connection, user_id, path)
            blobs_.put(connection, blobs, now)
            return noted(
                connection, origin, messages_.append(connection, mailbox, messages, quota_bytes, now), now
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
        with self._database.reading(many_rows=len(uids) > FEW_ROWS) as connection:
            mailbox = mailboxes.state_by_id(connection, mailbox_id)
            return messages_.fetch(
                connection,
                mailbox.number,
                uids,
                columns,
                limit=limit,
                budget_bytes=budget_bytes,
                cache=self._cache,
            )

    @reads("store")
    def flags(self, mailbox_id: str, uids: UidSet) -> FlagRows:
        with self._database.reading() as connection:
            mailbox = mailboxes.state_by_id(connection, mailbox_id)
            return flags_.read(connection, mailbox.number, uids)

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
        with self._database.reading(many_rows=True) as connection:
            mailbox, number = mailboxes.get_of_user(connection, user_id, mailbox_id)
            rows = messages_.page(
                connection,
                number,
                columns,
                newest_first=newest_first,
                beyond=beyond,
                unseen=unseen,
                limit=limit + 1,
            )
            return MessagePage(mailbox, rows[:limit], len(rows) > limit)

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
        with self._database.writing() as connection:
            mailbox = mailboxes.state_by_id(connection, mailbox_id)
            stored = flags_.store(connection, mailbox, uids, change, unchanged_since)
            return noted(connection, origin, stored, self._database.now())

    @writes("store")
    def expunge(
        self,
        mailbox_id: str,
        uids: UidSet | None = None,
        *,
        marked_only: bool = True,
        origin: Origin | None = None,
    ) -> Expunged:
        now = self._database.now()
        with self._database.writing() as connection:
            mailbox = mailboxes.state_by_id(connection, mailbox_id)
            gone = journal.expunge(connection, mailbox, uids, marked_only=marked_only, now=now)
            return noted(connection, origin, gone, now)

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
        with self._database.writing() as connection:
            mailbox = mailboxes.state_by_id(connection, mailbox_id)
            now = self._database.now()
            copied = folders.copy(
                connection, mailbox, uids, path, quota_bytes=quota_bytes, move=move, now=now
            )
            return noted(connection, origin, copied, now)

    @reads("store")
    def search(
        self, mailbox_id: str, uids: UidSet, key: SearchKey, *, now: int, after: int = 0, limit: int = 1000
    ) -> Found:
        with self._database.reading(many_rows=True) as connection:
            mailbox = mailboxes.state_by_id(connection, mailbox_id)
            return search_.page(connection, mailbox, uids, key, now=now, after=after, limit=limit)

    @reads("store")
    def changes_since(self, mailbox_id: str, modseq: int, *, limit: int = 1000) -> Changes:
        with self._database.reading(many_rows=True) as connection:
            mailbox = mailboxes.state_by_id(connection, mailbox_id)
            return journal.changes_since(connection, mailbox, modseq, limit)

    @reads("store")
    def outcome(self, origin: Origin) -> Outcome | None:
        with self._database.reading(one_statement=True) as connection:
            return find(connection, origin)

    @writes("store")
    def trim_journal(self, *, older_than_s: int, limit: int = 1000) -> int:
        """Forget expunges older than that, in at most `limit` mailboxes a call; how many mailboxes were trimmed.
        Sessions that know less than what was forgotten get Outdated from then on."""
        with self._database.writing() as connection:
            return journal.trim(connection, self._database.now() - older_than_s, limit)

    @writes("store")
    def sweep_deleted(self, *, limit: int = 1000) -> int:
        with self._database.writing() as connection:
            return graves.sweep(connection, limit, self._database.now())

    # -- users

    @reads("store")
    def usage(self, user_id: str) -> Usage:
        with self._database.reading(one_statement=True) as connection:
            return usage.get(connection, user_id)

    @writes("store")
    def recount(self, user_id: str) -> Usage:
        with self._database.writing() as connection:
            return usage.recount(connection, user_id)

    @writes("store")
    def delete_user_mail(self, user_id: str) -> int:
        with self._database.writing() as connection:
            return usage.delete_mail(connection, user_id)

    @reads("store")
    def ping(self) -> None:
        with self._database.reading(one_statement=True) as connection:
            connection.execute("SELECT value FROM counters").fetchone()

    # -- blobs

    @writes("store")
    def put_blobs(self, blobs: Sequence[BlobData]) -> None:
        with self._database.writing() as connection:
            blobs_.put(connection, blobs, self._database.now())

    @writes("store")
    def put_blob_chunks(
        self, digest: bytes, size: int, first_chunk: int, chunks: Sequence[tuple[bool, bytes]]
    ) -> None:
        with self._database.writing() as connection:
            blobs_.put_chunks(
                connection, digest, size, chunks, first_chunk=first_chunk, now=self._database.now()
            )

    @writes("store")
    def has_blobs(self, digests: Sequence[bytes]) -> set[bytes]:
        with self._database.writing() as connection:
            return blobs_.has(connection, digests, self._database.now())

    @reads("store")
    def read_blob(self, digest: bytes, start: int, stop: int) -> bytes:
        with self._database.reading() as connection:
            return blobs_.read(connection, digest, start, stop)

    @writes("store")
    def collect_blobs(self, *, unused_for_s: int, limit: int) -> int:
        with self._database.writing() as connection:
            return blobs_.collect(connection, unused_for_s, limit, self._database.now())
