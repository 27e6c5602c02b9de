"""Messages of a mailbox: fetching by page, streaming bodies, flags, expunge, append, changes.

Every loop here is bounded per step: one crossing brings one page, and memory holds one page. Writes hint after
their commit; a hint carries its change while that is small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from wd_trio.errors import Outdated
from wd_trio.mail.flagrows import FlagRows
from wd_trio.mail.model import (
    Appended,
    Changes,
    Columns,
    Copied,
    Expunged,
    FlagChange,
    FlagRow,
    FlagsStored,
    Found,
    MessageRow,
    NewMessage,
    Vanished,
)
from wd_trio.mail.names import canonical
from wd_trio.mail.numset import UidSet
from wd_trio.mail.outcome import Origin, Outcome
from wd_trio.mail.rope import BlobPiece, Rope
from wd_trio.mail.search import SearchKey
from wd_trio.mail.transfer import decoder
from wd_trio.ports.bus import Hint
from wd_trio.ports.gateway import Gateway
from wd_trio.ports.mail import MailStore
from wd_trio.service.changes import ChangeHub, Subscription
from wd_trio.service.intake import Intake
from wd_trio.service.spool import Spool
from wd_trio.service.steps import Steps

HINT_ROWS: Final = 64
READ_BYTES: Final = 256 << 10
_WIDE: Final = Columns.HEADER | Columns.ROPE | Columns.PARTS


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageOptions:
    """How many messages a crossing is about: `page_rows` where rows bring headers or texts, `narrow_rows` where they
    bring what was rendered of them, which the loop sends in a few milliseconds."""

    page_rows: int = 256
    narrow_rows: int = 512
    flag_rows: int = 5000
    write_rows: int = 1000
    expunge_rows: int = 20_000


@dataclass(frozen=True, slots=True)
class Since:
    """What became of messages after a modseq: which are gone, None where that cannot be told (any more) from those
    that went before; and the flags of those that changed, a page at a time."""

    gone: UidSet | None
    changed: Steps[FlagRows]


@dataclass(frozen=True, slots=True)
class Place:
    """The mailbox that a session looks at, and its subscription, which is not told of its own changes."""

    user_id: str
    mailbox_id: str
    subscription: Subscription | None = None


class Messages:
    """Use cases on messages. Uids are those of the caller's view; the store skips those that are gone."""

    def __init__(
        self,
        *,
        gateway: Gateway,
        store: MailStore,
        hub: ChangeHub,
        intake: Intake,
        options: MessageOptions | None = None,
    ) -> None:
        self._gateway = gateway
        self._store = store
        self._hub = hub
        self._intake = intake
        self._options = options or MessageOptions()

    def pages(self, mailbox_id: str, uids: UidSet, columns: Columns) -> Steps[list[MessageRow]]:
        """The living messages among `uids` in order, a page a time; one crossing for each page."""
        size = self._options.page_rows if columns & _WIDE else self._options.narrow_rows
        at = 0

        async def next_page() -> list[MessageRow] | None:
            nonlocal at
            while at < len(uids):
                page = uids.slice(at, at + size)
                rows = await self._gateway.run(self._store.fetch, mailbox_id, page, columns, limit=size)
                # A page that brings columns has a budget of bytes, which may have ended it early.
                cut_short = rows and columns and rows[-1].uid != page.last
                at = uids.index(rows[-1].uid) + 1 if cut_short else at + size
                if rows:
                    return rows
            return None

        return Steps(next_page)

    def flags(self, mailbox_id: str, uids: UidSet) -> Steps[FlagRows]:
        """The flags of the living messages among `uids`, a large page and one crossing at a time."""
        pages = uids.pages(self._options.flag_rows)

        async def next_page() -> FlagRows | None:
            page = next(pages, None)
            if page is None:
                return None
            return await self._gateway.run(self._store.flags, mailbox_id, page)

        return Steps(next_page)

    async def since(self, mailbox_id: str, uids: UidSet, modseq: int) -> Since:
        """What became of a mailbox, and of the living `uids` in it, after `modseq`. One crossing, where the journal
        reaches back so far and holds no more than a large page; else flags are walked, a large page at a time."""
        try:
            changes = await self._gateway.run(
                self._store.changes_since, mailbox_id, modseq, limit=self._options.flag_rows
            )
        except Outdated:
            return Since(None, self._walk(mailbox_id, uids, modseq))
        if changes.more:
            return Since(None, self._walk(mailbox_id, uids, modseq))
        found = FlagRows.of(changes.rows)
        pages = iter([found.where([uid in uids for uid in found.uids])])

        async def only_page() -> FlagRows | None:
            return next(pages, None)

        gone = UidSet(chain.from_iterable(vanished.uids.ranges() for vanished in changes.vanished))
        return Since(gone, Steps(only_page))

    def _walk(self, mailbox_id: str, uids: UidSet, modseq: int) -> Steps[FlagRows]:
        """The flags of those among `uids` that changed after `modseq`, looking at each."""
        pages = self.flags(mailbox_id, uids)

        async def next_page() -> FlagRows | None:
            async for rows in pages:
                return rows.where([then > modseq for then in rows.modseqs])
            return None

        return Steps(next_page)

    def stream(self, row: MessageRow, rope: Rope, start: int, stop: int) -> Steps[bytes]:
        """The bytes start … stop - 1 of a message in pieces of at most 256 KiB, in constant memory."""
        pieces = iter(rope.pieces(start, stop))
        rest: list[BlobPiece] = []

        async def next_piece() -> bytes | None:
            piece = rest.pop() if rest else next(pieces, None)
            if not isinstance(piece, BlobPiece):
                return None if piece is None else bytes(piece.data)
            loaded = row.blobs.get(piece.digest) if row.blobs else None
            if loaded is not None:
                return loaded[piece.start : piece.stop]
            middle = min(piece.start + READ_BYTES, piece.stop)
            if middle < piece.stop:
                rest.append(BlobPiece(piece.digest, middle, piece.stop))
            return await self._gateway.run(self._store.read_blob, piece.digest, piece.start, middle)

        return Steps(next_piece)

    async def decode(
        self, row: MessageRow, rope: Rope, span: tuple[int, int], encoding: str, into: Spool
    ) -> None:
        """Undo a part's transfer encoding: its bytes `span`, decoded, written into a spool. Invalid
        (what="encoding") for one that is not known."""
        feed = decoder(encoding)
        async for piece in self.stream(row, rope, *span):
            data = feed(piece, False)
            if data:
                await into.write(data)
        await into.write(feed(b"", True))

    def store_flags(
        self,
        place: Place,
        uids: UidSet,
        change: FlagChange,
        *,
        unchanged_since: int | None = None,
        origin: Origin | None = None,
    ) -> Steps[FlagsStored]:
        """Change flags, a page and a transaction at a time; each outcome is durable when it is given. The last one
        is noted for `origin`, which is not to be told what failed."""
        pages = uids.pages(self._options.write_rows)

        async def next_page() -> FlagsStored | None:
            page = next(pages, None)
            if page is None:
                return None
            stored = await self._gateway.run(
                self._store.store_flags,
                place.mailbox_id,
                page,
                change,
                unchanged_since=unchanged_since,
                origin=origin if page.last == uids.last else None,
            )
            if stored.modseq != stored.previous_modseq:
                self._hint_flags(place, stored)
            return stored

        return Steps(next_page)

    def expunge(
        self, place: Place, uids: UidSet, *, marked_only: bool = True, origin: Origin | None = None
    ) -> Steps[Expunged]:
        """Remove what is marked \\Deleted among `uids`, or all of them, a bounded slice and a transaction at a
        time; the last one is noted for `origin`."""
        pages = uids.pages(self._options.expunge_rows)

        async def next_page() -> Expunged | None:
            page = next(pages, None)
            if page is None:
                return None
            gone = await self._gateway.run(
                self._store.expunge,
                place.mailbox_id,
                page,
                marked_only=marked_only,
                origin=origin if page.last == uids.last else None,
            )
            self._hint_gone(place, gone)
            return gone

        return Steps(next_page)

    async def copy(
        self,
        place: Place,
        uids: UidSet,
        path: str,
        *,
        quota_bytes: int | None,
        move: bool,
        origin: Origin | None = None,
    ) -> Copied:
        """Copy or move messages to another mailbox of the same user, all or none. NotFound (what="target")
        without such a mailbox, OverQuota for a copy without room."""
        copied = await self._gateway.run(
            self._store.copy,
            place.mailbox_id,
            uids,
            canonical(path),
            quota_bytes=quota_bytes,
            move=move,
            origin=origin,
        )
        if copied.sources:
            self._hint_new(copied.targets)
            if copied.gone is not None:
                self._hint_gone(place, copied.gone)
        return copied

    def search(self, place: Place, uids: UidSet, key: SearchKey, *, now: int) -> Steps[Found]:
        """The living messages among `uids` that match `key`, page by page; a page may be empty."""
        after: int | None = 0

        async def next_page() -> Found | None:
            nonlocal after
            if after is None or not uids:
                return None
            found = await self._gateway.run(
                self._store.search, place.mailbox_id, uids, key, now=now, after=after
            )
            after = found.after or None
            return found

        return Steps(next_page)

    def spool(self, *, most_bytes: int) -> Spool:
        """Where the bytes of a message to append are gathered."""
        return Spool(self._gateway, most_bytes=most_bytes)

    async def append(
        self,
        user_id: str,
        path: str,
        spool: Spool,
        *,
        flags: int,
        keywords: str,
        internal_date: int,
        quota_bytes: int | None,
        origin: Origin | None = None,
    ) -> Appended:
        """Add one message as it came. NotFound without such a mailbox, OverQuota without room."""
        taken = await self._intake.prepare(spool, (b"",))
        appended = await self._gateway.run(
            self._store.append,
            user_id,
            canonical(path),
            [NewMessage(taken.contents[0], internal_date, flags, keywords)],
            blobs=taken.blobs,
            quota_bytes=quota_bytes,
            origin=origin,
        )
        self._hint_new(appended)
        return appended

    async def outcome(self, origin: Origin) -> Outcome | None:
        """What the write of a command came to whose worker was killed; None when nobody knows. Unavailable."""
        return await self._gateway.run(self._store.outcome, origin)

    def changes_since(self, mailbox_id: str, modseq: int) -> Steps[Changes]:
        """What happened since, in spans that join on to each other. Outdated when the journal has passed it."""
        more = True

        async def next_span() -> Changes | None:
            nonlocal modseq, more
            if not more:
                return None
            changes = await self._gateway.run(self._store.changes_since, mailbox_id, modseq)
            modseq, more = changes.modseq, changes.more
            return changes

        return Steps(next_span)

    def _hint_new(self, appended: Appended) -> None:
        """Tell of new messages; everybody, since the session that made them looks at another mailbox, or wants
        to be told as well."""
        self._hint(
            Place(appended.user_id, appended.mailbox_id),
            appended.previous_modseq,
            appended.modseq,
            rows=appended.rows,
            uid_next=appended.uids[-1] + 1,
        )

    def _hint_flags(self, place: Place, stored: FlagsStored) -> None:
        rows = FlagRows.of(stored.rows)
        changed: Sequence[FlagRow] = rows  # too many to be carried, unless few of them have changed
        if sum(modseq == stored.modseq for modseq in rows.modseqs) <= HINT_ROWS:
            changed = [row for row in rows if row.modseq == stored.modseq]
        self._hint(place, stored.previous_modseq, stored.modseq, rows=changed)

    def _hint_gone(self, place: Place, gone: Expunged) -> None:
        if gone.uids:
            self._hint(place, gone.previous_modseq, gone.modseq, vanished=[Vanished(gone.modseq, gone.uids)])

    def _hint(
        self,
        place: Place,
        previous_modseq: int,
        modseq: int,
        *,
        rows: Sequence[FlagRow] = (),
        vanished: Sequence[Vanished] = (),
        uid_next: int = 0,
    ) -> None:
        small = len(rows) <= HINT_ROWS and sum(v.uids.range_count for v in vanished) <= HINT_ROWS
        changes = Changes(previous_modseq, modseq, uid_next, tuple(rows), tuple(vanished)) if small else None
        hint = Hint("mailbox", place.user_id, place.mailbox_id, previous_modseq, modseq, changes)
        self._hub.publish(hint, but=place.subscription)
