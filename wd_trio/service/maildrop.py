"""The maildrop: INBOX as one POP3 session sees it, locked, numbered and frozen from log-in to QUIT (RFC 1939 §4).

- One session of a user at a time: the lock is a claim in the volatile engine that this worker holds, so it ends with
  the session or with the worker, never by a clock.
- Numbers are places in a snapshot of uids and sizes. What arrives later is not seen, what is expunged elsewhere keeps
  its number and has no bytes any more. Uids are never given twice, so a snapshot cannot come to mean other mail.
- `told` and `state` are what another worker needs to go on, with the same numbers (`Maildrops.reopen`): the view's
  four integers (mail/view.py) and the marks, as uid ranges: a uid between two neighbours is no living message's, so
  a run of numbers is one range. The session writes the state to its record, once for many marks, before it tells of
  them; what could not be written is taken back.
- What was expunged elsewhere keeps its size, too, which only this object knows: `parting_state`, for a move that was
  planned, has it, and which messages were retrieved. A process that is killed takes both with it: nobody misses the
  \\Seen, but a maildrop that lost messages since it was opened cannot be had again as it was. The session then ends,
  rather than show other sizes.
- `apply` is QUIT: exactly the marked messages are removed, whatever their flags, some at a time; then those that were
  retrieved get \\Seen in one write. Retrieving alone writes nothing, and a session without QUIT changes nothing.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, replace
from typing import Any, Final

import structlog
import trio

from wd_trio.errors import Conflict, Outdated, Unavailable, WdError
from wd_trio.mail.model import SEEN, Columns, FlagChange, Mailbox, MessageRow
from wd_trio.mail.names import INBOX
from wd_trio.mail.numset import EMPTY, UidSet
from wd_trio.mail.rope import Rope
from wd_trio.mail.view import Told
from wd_trio.ports.documents import Json
from wd_trio.ports.gateway import Gateway
from wd_trio.ports.limits import Limits
from wd_trio.service.mailboxes import Mailboxes
from wd_trio.service.messages import Messages, Place
from wd_trio.service.steps import Steps

log = structlog.get_logger()


RELEASE_S: Final = 6.0
UPDATE_ROWS: Final = 1000


class Maildrop:
    """A locked snapshot. Numbers count from 1, as in the protocol."""

    def __init__(
        self,
        mailbox: Mailbox,
        uids: UidSet,
        sizes: array[int],
        messages: Messages,
        *,
        never: UidSet = EMPTY,
        state: Json | None = None,
    ) -> None:
        """`sizes` are those of `uids`, in octets and in order. `never` are uids of the mailbox, as it stands in
        `mailbox`, that have no number. `state` is that of a maildrop which goes on."""
        self._place = Place(mailbox.user_id, mailbox.id)
        self._mailbox = mailbox
        self._uids = uids
        self._sizes = sizes
        self._messages = messages
        self._never = never
        state = state or {}
        self._marks = self._saved = self._numbers(UidSet(_ranges(state.get("marks", "")))) or EMPTY
        self._fresh: set[int] = set()  # numbers marked since `_marks` was last made
        self._retrieved = set(UidSet(_ranges(state.get("seen", ""))))  # uids that lack \Seen
        self._octets = sum(sizes)
        self.stat = (0, 0)
        self._count()

    def __len__(self) -> int:
        """How many numbers there are, marked ones included."""
        return len(self._sizes)

    def _count(self) -> None:
        marked = [self._sizes[number - 1] for number in (*self._marks, *self._fresh)]
        self.stat = (len(self) - len(marked), self._octets - sum(marked))

    # What there is

    @property
    def mailbox_id(self) -> str:
        return self._mailbox.id

    def is_number(self, number: int) -> bool:
        """Whether the snapshot has a message of that number."""
        return 1 <= number <= len(self)

    def is_marked(self, number: int) -> bool:
        return number in self._fresh or number in self._marks

    def unmarked(self) -> Iterator[int]:
        """The numbers of the messages that are not marked, in order."""
        return (number for number in range(1, len(self) + 1) if not self.is_marked(number))

    def size(self, number: int) -> int:
        """Octets as stored, whether the message is still there or not."""
        return self._sizes[number - 1]

    def unique_id(self, number: int) -> str:
        """UIDL's: `<uidvalidity>.<uid>`, the same for this message in every session (RFC 1939 §7)."""
        return f"{self._mailbox.uid_validity}.{self._uids.at(number - 1)}"

    # The messages

    async def fetch(self, number: int, columns: Columns) -> MessageRow | None:
        """The row of a message; None when it was expunged elsewhere."""
        uid = self._uids.at(number - 1)
        rows = await anext(self._messages.pages(self._place.mailbox_id, UidSet.of((uid,)), columns), None)
        return rows[0] if rows else None

    def stream(self, row: MessageRow, start: int, stop: int) -> Steps[bytes]:
        """The bytes start … stop - 1 of a message fetched with Columns.ROPE, in pieces, in constant memory."""
        return self._messages.stream(row, Rope.decode(row.rope or b""), start, stop)

    def retrieved(self, row: MessageRow) -> None:
        """The client has the whole message: `apply` will set \\Seen."""
        if not row.flags & SEEN:
            self._retrieved.add(row.uid)

    # The marks

    @property
    def unsaved(self) -> bool:
        """Whether marks were made or cleared since `saved` was last called."""
        return bool(self._fresh) or self._marks is not self._saved

    @property
    def told(self) -> Told:
        """The four integers of the view that the numbers are."""
        mailbox = self._mailbox
        return Told(mailbox.uid_validity, mailbox.uid_next, mailbox.highest_modseq, mailbox.highest_modseq)

    @property
    def state(self) -> dict[str, Any]:
        """What the session's record in the store is to hold."""
        self._fold()
        state: dict[str, Any] = {"view": list(astuple(self.told)), "marks": _text(self._marked_spans())}
        if self._never:
            state["never"] = _text(self._never.ranges())
        return state

    async def parting_state(self) -> dict[str, Any]:
        """The same for a move that was planned. One crossing or a few. Outdated when the journal no longer tells
        what is gone; NotFound; Unavailable."""
        gone = await _gone_since(self._messages, self._mailbox)
        sizes = {str(uid): self._sizes[self._uids.index(uid)] for uid in gone & self._uids}
        seen = UidSet.of(sorted(self._retrieved))
        return self.state | {"sizes": sizes or None, "seen": _text(seen.ranges()) or None}

    def saved(self) -> None:
        """The record holds `state`."""
        self._saved = self._marks

    def mark(self, number: int) -> None:
        """Mark a message that is not marked yet to be deleted."""
        self._fresh.add(number)
        count, octets = self.stat
        self.stat = (count - 1, octets - self.size(number))

    def clear_marks(self) -> None:
        self._fresh.clear()
        self._marks = EMPTY
        self._count()

    def take_back(self) -> None:
        """Forget what was marked or cleared since `saved` was last called."""
        self._fresh.clear()
        self._marks = self._saved
        self._count()

    def _numbers(self, uids: UidSet) -> UidSet:
        """The numbers of these uids, as far as there are such."""
        known = uids & self._uids
        return UidSet((self._uids.index(a) + 1, self._uids.index(b) + 1) for a, b in known.ranges())

    def _fold(self) -> None:
        if self._fresh:
            self._marks |= UidSet.of(sorted(self._fresh))
            self._fresh.clear()

    def _marked_spans(self) -> Iterator[tuple[int, int]]:
        """The uids of each run of marked numbers, first and last."""
        return ((self._uids.at(first - 1), self._uids.at(last - 1)) for first, last in self._marks.ranges())

    # The end

    async def apply(self) -> None:
        """Remove the marked messages, durably when it returns; then set \\Seen on those that were retrieved, which
        is tried once. After WdError some may be removed and others not; no mark is left either way."""
        self._fold()
        doomed = self._uids & UidSet(self._marked_spans())
        seen = UidSet.of(sorted(self._retrieved)) - doomed
        self._retrieved.clear()
        self._marks = self._saved = EMPTY
        self._count()
        for some in doomed.pages(UPDATE_ROWS):
            async for _ in self._messages.expunge(self._place, some, marked_only=False):
                pass
        try:
            async for _ in self._messages.store_flags(self._place, seen, FlagChange("add", SEEN)):
                pass
        except WdError as error:  # QUIT promised the removal, and that is done
            log.warning("retrieved messages not marked as seen", count=len(seen), error=str(error))


class Maildrops:
    """Opens maildrops and gives their locks back."""

    def __init__(
        self, *, gateway: Gateway, limits: Limits, mailboxes: Mailboxes, messages: Messages, owner: str
    ) -> None:
        """`owner`, "<server>/<worker>", names this process, for whoever ends its claims after its death."""
        self._gateway = gateway
        self._limits = limits
        self._mailboxes = mailboxes
        self._messages = messages
        self._owner = owner
        self._server = owner.rpartition("/")[0]
        self._kept: dict[
            str, set[str]
        ] = {}  # locks whose session is over and that are not given back yet, by user

    async def open(self, user_id: str, holder: str) -> Maildrop:
        """Lock a user's INBOX for `holder`, a connection, and take the snapshot. Give it back with `close`.
        Conflict (what="maildrop") while another session has it."""
        await self._give_back(user_id)
        try:
            await self._lock(user_id, holder)
            opened, uids = await self._mailboxes.open(user_id, INBOX)
            found, sizes = await self._sizes(opened.mailbox, uids)
        except BaseException:
            await self.close(user_id, holder)
            raise
        # Those expunged meanwhile have no number: nobody has been told of them.
        return Maildrop(opened.mailbox, found, sizes, self._messages, never=uids - found)

    async def hold_on(self, user_id: str, holder: str) -> None:
        """Have the lock that another process of this server took for `holder`: before that one's locks end with it,
        or somebody else may get in between. Conflict when it was lost to another session; Unavailable. Whatever
        comes of it, give it back."""
        await self._lock(user_id, holder)

    async def reopen(self, user_id: str, told: Told, state: Json) -> Maildrop:
        """The maildrop that another process of this server opened, from its `told` and the `state` that the
        session's record has, for who holds on to the lock. Outdated when it cannot be had as it was; NotFound;
        Unavailable: then it may be asked for again."""
        opened, uids = await self._mailboxes.open(user_id, INBOX)
        mailbox = opened.mailbox
        if mailbox.uid_validity != told.uid_validity:
            raise Outdated("another mailbox has the name", what="maildrop")
        changed = mailbox.highest_modseq != told.expunges_told
        mailbox = replace(mailbox, uid_next=told.uid_next, highest_modseq=told.expunges_told)
        if changed:
            uids |= await _gone_since(self._messages, mailbox)
        never = UidSet(_ranges(state.get("never", "")))
        uids = uids.between(1, told.uid_next - 1) - never
        found, sizes = await self._sizes(mailbox, uids)
        if missing := uids - found:
            sizes = _joined(found, sizes, missing, state.get("sizes") or {})
        return Maildrop(mailbox, uids, sizes, self._messages, never=never, state=state)

    async def _lock(self, user_id: str, holder: str) -> None:
        key, place = _key(user_id), self._place(holder)
        if not await self._gateway.run(self._limits.claim, key, place, owner=self._owner, most=1):
            raise Conflict("another session has the maildrop", what="maildrop")

    def _place(self, holder: str) -> str:
        """The holder as all servers know it: each counts its connections from 1."""
        return f"{self._server}/{holder}"

    async def _sizes(self, mailbox: Mailbox, uids: UidSet) -> tuple[UidSet, array[int]]:
        """Those of `uids` that are still there, and their sizes."""
        sizes, found = array("Q"), array("Q")
        async for rows in self._messages.pages(mailbox.id, uids, Columns.NONE):
            sizes.extend(row.size for row in rows)
            found.extend(row.uid for row in rows)
        return (uids if len(found) == len(uids) else UidSet.of(found)), sizes

    async def close(self, user_id: str, holder: str) -> None:
        """Give the lock back, also on the way out of a cancelled connection (bounded). Where an engine is down it
        is given back before this worker next asks for the maildrop, or ends with this worker. Closing twice is no
        fault."""
        self._kept.setdefault(user_id, set()).add(holder)
        with trio.move_on_after(RELEASE_S, shield=True):
            try:
                await self._give_back(user_id)
            except Unavailable as error:
                log.warning("maildrop not given back yet", connection=holder, error=str(error))

    async def _give_back(self, user_id: str) -> None:
        """Release every lock of ours on a maildrop whose session is over. Unavailable."""
        kept = self._kept.get(user_id)
        if kept is None:
            return
        for holder in list(kept):
            await self._gateway.run(self._limits.release, _key(user_id), self._place(holder))
            kept.discard(holder)
        if not kept and self._kept.get(user_id) is kept:
            del self._kept[user_id]


def _key(user_id: str) -> str:
    return f"maildrop:{user_id}"


async def _gone_since(messages: Messages, mailbox: Mailbox) -> UidSet:
    """What was expunged since the mailbox stood as told here. Outdated when the journal no longer tells."""
    gone = EMPTY
    async for changes in messages.changes_since(mailbox.id, mailbox.highest_modseq):
        for vanished in changes.vanished:
            gone |= vanished.uids
    return gone


def _joined(found: UidSet, sizes: array[int], gone: UidSet, known: Mapping[str, int]) -> array[int]:
    """The sizes of `found`, and of what is gone as they are known, in order of uid. Outdated where one is not."""
    if any(str(uid) not in known for uid in gone):
        raise Outdated("what is gone has no size any more", what="maildrop")
    rows = [*zip(found, sizes, strict=True), *((uid, known[str(uid)]) for uid in gone)]
    return array("Q", (size for _, size in sorted(rows)))


def _text(ranges: Iterable[tuple[int, int]]) -> str:
    return ",".join(f"{first}:{last}" for first, last in ranges)


def _ranges(text: str) -> Iterator[tuple[int, int]]:
    """What `_text` told."""
    for pair in text.split(",") if text else ():
        first, _, last = pair.partition(":")
        yield int(first), int(last)
