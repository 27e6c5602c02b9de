"""A unit of work: the changes of one user's mail that become one transaction.

Whatever it changes, the mailbox's document comes first, so that a transaction that loses to another one loses at
once and has cost nothing. Calls say beforehand what they will do to it (`Guess`): taking the document then writes
that at the same time, and most calls need no second write. What the calls really did is kept here, `flush` writes
the difference. New messages wait until the end too, and go out together.

A unit that changed nothing ends without a commit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, TypeAlias

from pymongo import ReturnDocument, UpdateOne
from pymongo.client_session import ClientSession
from pymongo.collection import Collection

from wd_trio import errors
from wd_trio.adapters.mongo_redis.known import Known, KnownMailboxes, forwarded, walked
from wd_trio.adapters.mongo_redis.layout import (
    ACCOUNTS,
    BY_UID,
    MAILBOXES,
    MESSAGES,
    OUTCOMES,
    VANISHED,
    Document,
    Keys,
    among,
    packed,
)
from wd_trio.adapters.mongo_redis.mongo import BsonMapping, Mongo
from wd_trio.mail.model import FlagRow
from wd_trio.mail.numset import EMPTY, UidSet
from wd_trio.mail.outcome import Origin, outcome_of

_NOTED_RANGES: Final = 16
_READ_BATCH: Final = 1000  # documents; a batch ends at 16 MB before

Place: TypeAlias = tuple[str, str]  # ("_id", a mailbox's id) or ("path", its path)


@dataclass(frozen=True, slots=True)
class Guess:
    """What a call expects to add to a mailbox's counters, and to its user's account."""

    place: Place
    mailbox: Mapping[str, int] = field(default_factory=dict)
    account: Mapping[str, int] = field(default_factory=dict)


class Box:
    """A mailbox in a unit of work: what it was before, and what it is becoming."""

    __slots__ = ("_written", "before", "now")

    def __init__(self, before: Document, written: Document) -> None:
        self.before = before
        self.now = dict(before)
        self._written = written

    @property
    def id(self) -> str:
        found: str = self.now["_id"]
        return found

    @property
    def place(self) -> tuple[str, str]:
        """As messages name their mailbox: user and id."""
        return self.now["user"], self.now["_id"]

    @property
    def modseq(self) -> int:
        found: int = self.now["modseq"]
        return found

    @property
    def changed(self) -> bool:
        return self.now != self.before

    def add(self, counters: Mapping[str, int]) -> None:
        for name, amount in counters.items():
            self.now[name] += amount

    def unwritten(self) -> Document:
        """The fields whose document in this transaction is not yet what they are; taken for written from now on."""
        fields = {name: value for name, value in self.now.items() if self._written[name] != value}
        self._written |= fields
        return fields


class Unit:
    """One attempt at a unit of work, inside a transaction. `writes` grows with whatever is changed."""

    union: ClassVar = False

    def __init__(
        self,
        mongo: Mongo,
        session: ClientSession,
        user_id: str,
        known: KnownMailboxes,
        guesses: Iterable[Guess] = (),
    ) -> None:
        self.session = session
        self.user_id = user_id
        self.now = mongo.now()
        self.database = mongo.database
        self.writes = 0
        self._known = known
        self._learnt: dict[str, Known] = {}
        self._boxes: dict[str, Box] = {}
        self._at_path: dict[str, Box] = {}
        self._new: list[Document] = []
        self._outcomes: list[UpdateOne] = []
        self._guessed: dict[Place, Counter[str]] = {}
        self._account_guess: Counter[str] = Counter()
        self._account: Counter[str] = Counter()  # what the calls add
        self._account_written: Counter[str] = Counter()
        self._used_bytes: int | None = None
        for guess in guesses:
            self._guessed.setdefault(guess.place, Counter()).update(guess.mailbox)
            self._account_guess.update(guess.account)

    def collection(self, name: str) -> Collection[Document]:
        return self.database[name]

    # -- mailboxes

    def box(self, mailbox_id: str) -> Box:
        """The user's mailbox, no longer anybody else's to change. NotFound."""
        box = self._boxes.get(mailbox_id) or self._take(("_id", mailbox_id))
        if box is None:
            raise errors.NotFound(f"no mailbox {mailbox_id}", what="mailbox")
        return box

    def find_box(self, path: str) -> Box | None:
        """As `box`, by its canonical path; None when there is none."""
        return self._at_path.get(path) or self._take(("path", path))

    def box_at(self, path: str) -> Box:
        """As `find_box`. NotFound."""
        box = self.find_box(path)
        if box is None:
            raise errors.NotFound(f"user {self.user_id} has no such mailbox", what="mailbox")
        return box

    def _take(self, place: Place) -> Box | None:
        guess = self._guessed.pop(place, None) or {"modseq": 1}
        before = self.collection(MAILBOXES).find_one_and_update(
            {"user": self.user_id, place[0]: place[1]},
            {"$inc": guess},
            return_document=ReturnDocument.BEFORE,
            session=self.session,
        )
        if before is None:
            return None
        written = before | {name: before[name] + amount for name, amount in guess.items()}
        box = self._boxes.get(before["_id"])
        if box is None:
            return self.enter(Box(before, written))
        # Taken before by its other name: what it was is known already, and this attempt has written to it again.
        box._written = written
        self._at_path[box.now["path"]] = box
        return box

    def enter(self, box: Box) -> Box:
        """Let a mailbox be found here: one taken, or one just made."""
        self._boxes[box.id] = self._at_path[box.now["path"]] = box
        return box

    # -- the account

    def used_bytes(self) -> int:
        """What the user takes up, with what this unit has added so far."""
        if self._used_bytes is None:
            before = self.collection(ACCOUNTS).find_one_and_update(
                {"_id": self.user_id},
                {"$inc": {"bytes": 0, "messages": 0} | self._account_guess},
                upsert=True,
                return_document=ReturnDocument.BEFORE,
                session=self.session,
            )
            self._account_written = self._account_guess
            self._used_bytes = before.get("bytes", 0) if before else 0
        return self._used_bytes + self._account["bytes"]

    def require_room(self, size: int, quota_bytes: int | None) -> None:
        """OverQuota when `size` more bytes would pass the quota; None means no limit."""
        if quota_bytes is not None and (used := self.used_bytes()) + size > quota_bytes:
            raise errors.OverQuota(f"{used} + {size} of {quota_bytes} bytes", what="quota")

    def account(self, size: int, messages: int) -> None:
        """Count bytes and messages in (or out, where negative)."""
        self.writes += 1
        self._account.update({"bytes": size, "messages": messages})

    # -- the set of mailboxes

    def lock_structure(self) -> None:
        """Come first, before others who make, remove, rename or subscribe mailboxes of this user."""
        self.collection(ACCOUNTS).update_one(
            {"_id": self.user_id}, {"$inc": {"structure": 1}}, upsert=True, session=self.session
        )

    def leave(self, box: Box) -> None:
        """Leave a mailbox that was removed as it is."""
        self.writes += 1
        del self._boxes[box.id]
        del self._at_path[box.now["path"]]
        self._learnt.pop(box.id, None)

    def forget_account(self) -> None:
        self.writes += 1
        self.collection(ACCOUNTS).delete_one({"_id": self.user_id}, session=self.session)

    # -- messages

    def insert(self, messages: Sequence[Document]) -> None:
        """Add new messages; they are written when something looks for messages, or at the end."""
        self.writes += 1
        self._new += messages

    def ask(self, command: BsonMapping) -> list[Document]:
        """All that a command finds, as known.Reads has it."""
        with self.database.cursor_command({**command}, session=self.session) as cursor:
            return cursor.to_list()

    def find(self, place: tuple[str, str], uids: UidSet, fields: Document | None) -> Iterator[Document]:
        """The living messages among `uids` of a mailbox (user and id), in order of uid."""
        for which in among(*place, uids):
            yield from self.find_by(which, fields, BY_UID)

    def find_by(self, which: Document, fields: Document | None, index: Keys) -> Iterator[Document]:
        """Messages in order of uid, along an index that has it last."""
        self.settle()
        yield from self.collection(MESSAGES).find(
            which,
            fields,
            sort=[("uid", 1)],
            hint=list(index),
            batch_size=_READ_BATCH,
            session=self.session,
        )

    def update(self, box: Box, uids: UidSet, change: Document) -> None:
        """Change the messages with these uids alike."""
        self.writes += 1
        for which in among(*box.place, uids):
            self.collection(MESSAGES).update_many(which, change, hint=list(BY_UID), session=self.session)

    def remove(self, box: Box, uids: UidSet) -> None:
        self.writes += 1
        self.settle()
        for which in among(*box.place, uids):
            self.collection(MESSAGES).delete_many(which, hint=list(BY_UID), session=self.session)

    def vanish(self, box: Box, uids: UidSet) -> None:
        """Note in the journal that `uids` went at the mailbox's modseq."""
        self._journal(box, "ranges", uids)

    def note(self, box: Box, uids: UidSet) -> None:
        """Note in the journal that many of `uids` were changed at the mailbox's modseq."""
        if uids.range_count > _NOTED_RANGES:
            uids = UidSet([(uids.first, uids.last)])
        self._journal(box, "changed", uids)

    def _journal(self, box: Box, field: str, uids: UidSet) -> None:
        self.writes += 1
        user_id, mailbox_id = box.place
        entry = {
            "user": user_id,
            "mailbox": mailbox_id,
            "modseq": box.modseq,
            field: packed(uids),
            "at": self.now,
        }
        self.collection(VANISHED).insert_one(entry, session=self.session)

    # -- what is known

    def known(self, box: Box, *, walk: bool) -> Known | None:
        """The flags of all the mailbox's messages as they stand now in this unit. None where only a walk could tell
        and `walk` says not to."""
        self.settle()
        known = self._learnt.get(box.id) or self._known.before(box.id, box.before)
        if known is None:
            if not walk:
                return None
            known = walked(self, box.now)
        elif known.modseq != box.modseq:
            known = forwarded(known, self, box.now)
        self._learnt[box.id] = known
        return known

    def learn(self, box: Box, modseq: int, rows: Sequence[FlagRow], gone: UidSet = EMPTY) -> None:
        """Bring what is known of a mailbox forward by a change that was just made, where it is known as it stood
        before, at `modseq`."""
        known = self._learnt.get(box.id) or self._known.at(box.id, modseq)
        if known is not None and known.modseq == modseq:
            self._learnt[box.id] = known.changed(box.modseq, rows, gone)

    def keep_learnt(self) -> None:
        """After the commit: let the process know."""
        for mailbox_id, known in self._learnt.items():
            if known.modseq == self._boxes[mailbox_id].modseq:
                self._known.keep(mailbox_id, known)

    # -- the end

    def come_to(self, origin: Origin, result: object) -> None:
        """Note what a call came to, for whoever answers its command should this process be killed."""
        outcome = outcome_of(result)
        if outcome is None:
            return
        sources, targets = outcome.as_texts()
        fields = {
            "serial": origin.serial,
            "uidValidity": outcome.uid_validity,
            "sources": sources,
            "targets": targets,
        }
        self._outcomes.append(
            UpdateOne(
                {"_id": origin.session, "user": self.user_id},
                {"$set": fields, "$currentDate": {"at": True}},
                upsert=True,
            )
        )

    def settle(self) -> None:
        """Write the new messages now, before something looks for them or they become too many to hold."""
        if self._new:
            new, self._new = self._new, []
            self.collection(MESSAGES).insert_many(new, ordered=False, session=self.session)

    @property
    def changed(self) -> bool:
        return bool(self.writes) or any(box.changed for box in self._boxes.values())

    def flush(self) -> None:
        """Write what is still to be written."""
        self.settle()
        updates: list[UpdateOne] = []
        for box in self._boxes.values():
            fields = box.unwritten()
            if fields:
                user_id, mailbox_id = box.place
                updates.append(UpdateOne({"_id": mailbox_id, "user": user_id}, {"$set": fields}))
        if self._outcomes and self.changed:
            self.collection(OUTCOMES).bulk_write(self._outcomes, session=self.session)
        if updates and self.changed:
            self.collection(MAILBOXES).bulk_write(updates, session=self.session)
        account: dict[str, Any] = {
            name: amount
            for name in ("bytes", "messages")
            if (amount := self._account[name] - self._account_written[name])
        }
        if account and self.changed:
            self.collection(ACCOUNTS).update_one(
                {"_id": self.user_id}, {"$inc": account}, upsert=True, session=self.session
            )
