"""Changing messages as the API does: flags, moves and deletions of some messages, and whole mailboxes emptied.

The caller names a user, a mailbox by id, and uids as it knows them; those that are not there are passed over. Every
step is a bounded slice and a transaction of its own, so a mailbox of any size can be emptied without holding anybody
up; who stops half-way has changed a part. Deleting removes exactly these, marked \\Deleted or not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from wd_trio.errors import NotFound
from wd_trio.mail.model import Appended, FlagChange, Mailbox
from wd_trio.mail.numset import MAX_UID, SequenceSet, UidSet
from wd_trio.service.mailboxes import Mailboxes
from wd_trio.service.messages import Messages, Place
from wd_trio.service.reading import Reading
from wd_trio.service.spool import Spool
from wd_trio.service.users import Users

SLICE_ROWS: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to become of some messages: flags to replace all others, to remove and to add, in this order, and the
    id of the mailbox to move them to."""

    replace: FlagChange | None = None
    add: FlagChange | None = None
    remove: FlagChange | None = None
    move_to: str | None = None


@dataclass(slots=True)
class Outcome:
    """How many living messages there were, and for a move (uid before, uid after) of each."""

    updated: int = 0
    moved: list[tuple[int, int]] = field(default_factory=list)


class Changing:
    """Use cases that change messages. All raise NotFound (what="mailbox") and Unavailable."""

    def __init__(self, *, reading: Reading, mailboxes: Mailboxes, messages: Messages, users: Users) -> None:
        self._reading = reading
        self._mailboxes = mailboxes
        self._messages = messages
        self._users = users

    async def change(self, user_id: str, mailbox_id: str, chosen: SequenceSet, wanted: Wanted) -> Outcome:
        """Do what is wanted with the chosen messages, flags first; "*" is the newest."""
        target: Mailbox | None = None
        if wanted.move_to is not None:
            target = await self._reading.mailbox(user_id, wanted.move_to)
        uids = await self._uids(user_id, mailbox_id, chosen)
        place = Place(user_id, mailbox_id)
        outcome = Outcome()
        for change in (wanted.replace, wanted.remove, wanted.add):
            if change is not None:
                outcome.updated = 0
                async for stored in self._messages.store_flags(place, uids, change):
                    outcome.updated += len(stored.rows)
        if target is not None:
            outcome.updated = await self._move(place, uids, target, outcome)
        return outcome

    async def _uids(self, user_id: str, mailbox_id: str, chosen: SequenceSet) -> UidSet:
        """Uids among which the chosen messages are: no more than a slice, or only those that are there."""
        if not any(0 in pair for pair in chosen.items):
            named = chosen.resolve(MAX_UID)
            if len(named) <= SLICE_ROWS:
                await self._reading.mailbox(user_id, mailbox_id)
                return named
        _, uids = await self._open(user_id, mailbox_id)
        return chosen.resolve(uids.last) & uids

    async def _move(self, place: Place, uids: UidSet, target: Mailbox, outcome: Outcome) -> int:
        for some in uids.pages(SLICE_ROWS):
            copied = await self._messages.copy(place, some, target.path, quota_bytes=None, move=True)
            outcome.moved.extend(zip(copied.sources, copied.targets.uids, strict=True))
        return len(outcome.moved)

    async def delete(self, user_id: str, mailbox_id: str, uids: UidSet) -> int:
        """Remove the messages among `uids` for good; how many there were."""
        await self._reading.mailbox(user_id, mailbox_id)
        return await self._delete(Place(user_id, mailbox_id), uids)

    async def empty(self, user_id: str, mailbox_id: str) -> int:
        """Remove all messages that are in a mailbox now; how many there were."""
        _, uids = await self._open(user_id, mailbox_id)
        return await self._delete(Place(user_id, mailbox_id), uids)

    async def _delete(self, place: Place, uids: UidSet) -> int:
        count = 0
        for some in uids.pages(SLICE_ROWS):
            async for gone in self._messages.expunge(place, some, marked_only=False):
                count += len(gone.uids)
        return count

    async def add(
        self, user_id: str, mailbox_id: str, spool: Spool, *, flags: int, keywords: str, internal_date: int
    ) -> Appended:
        """Add one message as it came. OverQuota without room."""
        quota_bytes = self._users.quota_of(await self._users.get(user_id))
        mailbox = await self._reading.mailbox(user_id, mailbox_id)
        return await self._messages.append(
            user_id,
            mailbox.path,
            spool,
            flags=flags,
            keywords=keywords,
            internal_date=internal_date,
            quota_bytes=quota_bytes,
        )

    def spool(self, *, most_bytes: int) -> Spool:
        """Where the bytes of a message to add are gathered."""
        return self._messages.spool(most_bytes=most_bytes)

    async def _open(self, user_id: str, mailbox_id: str) -> tuple[Mailbox, UidSet]:
        """A mailbox by id, and its uids."""
        mailbox = await self._reading.mailbox(user_id, mailbox_id)
        opened, uids = await self._mailboxes.open(user_id, mailbox.path)
        if opened.mailbox.id != mailbox_id:  # renamed, and another made under its name, in this moment
            raise NotFound(f"no mailbox {mailbox_id}", what="mailbox")
        return opened.mailbox, uids
