"""What this client has been told: sequence numbers, what is still to tell, and "may I tell it now".

A view is four integers: uidvalidity, the uid that will come next as the client knows it (`uid_next`), expunges
told through which modseq, flags told through which modseq. Everything else here is a cache that
`changes_since(view.since)` rebuilds:

    uids        what the client's sequence numbers stand for
                = living uids below uid_next, and those below it that vanished after expunges_told
    pending     changes absorbed and not yet told

Rules kept:
- Expunges are told as a prefix in order of modseq, and only when the caller says they may be (RFC 3501 §7.4.1:
  never while FETCH, STORE or SEARCH is answered, never without a command in progress but in IDLE).
- A new message is told once nothing that vanished stands before it untold, so `uid_next` alone says what was told.
- Flags that this session itself set and was answered are not told back: each transaction has its own modseq.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias

from wd_trio.errors import Invalid
from wd_trio.mail.model import Changes, FlagRow, Vanished
from wd_trio.mail.numset import EMPTY, SequenceSet, UidSet


@dataclass(frozen=True, slots=True)
class Told:
    """The four integers: all that must survive for another worker to go on."""

    uid_validity: int
    uid_next: int
    expunges_told: int
    flags_told: int


@dataclass(frozen=True, slots=True)
class ExpungeUpdate:
    """Message number `seq` is gone; later numbers have moved down by the time the next update is read."""

    seq: int


@dataclass(frozen=True, slots=True)
class VanishedUpdate:
    """Messages that the client knows are gone, all at once; its numbers close up."""

    uids: UidSet


@dataclass(frozen=True, slots=True)
class ExistsUpdate:
    count: int


@dataclass(frozen=True, slots=True)
class FlagsUpdate:
    seq: int
    row: FlagRow


Update: TypeAlias = ExpungeUpdate | VanishedUpdate | ExistsUpdate | FlagsUpdate


class View:
    """One session's view of its selected mailbox. `known` is the modseq through which changes were absorbed."""

    __slots__ = (
        "_next",
        "_own",
        "_rows",
        "_vanished",
        "expunges_told",
        "flags_told",
        "known",
        "uid_next",
        "uid_validity",
        "uids",
    )

    def __init__(self, told: Told, uids: UidSet) -> None:
        """A view whose client knows `uids`; for a mailbox just opened, all of it at its highest modseq."""
        self.uid_validity = told.uid_validity
        self.uid_next = told.uid_next
        self.expunges_told = told.expunges_told
        self.flags_told = told.flags_told
        self.uids = uids
        self.known = min(told.expunges_told, told.flags_told)
        self._next = told.uid_next
        self._rows: dict[int, FlagRow] = {}
        self._vanished: list[Vanished] = []
        self._own: set[int] = set()

    @classmethod
    def rebuild(cls, told: Told, living: UidSet, changes: Changes) -> View:
        """The view of a session that stood at `told`, from the mailbox's `living` uids now and the changes since
        `min(told.expunges_told, told.flags_told)` up to the same moment; nothing is lost, nothing told twice."""
        view = cls(told, living.between(1, told.uid_next - 1))
        for vanished in changes.vanished:
            if vanished.modseq > told.expunges_told:
                view.uids |= vanished.uids.between(1, told.uid_next - 1)
        view.absorb(changes)
        return view

    @property
    def told(self) -> Told:
        self._settle()
        return Told(self.uid_validity, self.uid_next, self.expunges_told, self.flags_told)

    def standing(self) -> tuple[int, int, int, int, int]:
        """What is `told`, with the number of messages that the client knows of in the middle, as plain integers: this
        is asked for after every command."""
        self._settle()
        return self.uid_validity, self.uid_next, len(self.uids), self.expunges_told, self.flags_told

    def __len__(self) -> int:
        return len(self.uids)

    def seq(self, uid: int) -> int:
        """The client's number of a message, 0 when it does not know it."""
        return self.uids.index(uid) + 1

    def seqs(self, uids: UidSet) -> UidSet:
        """The client's numbers of those of `uids` that it knows, as a set."""
        known = uids & self.uids
        if len(known) == len(self.uids):
            return UidSet([(1, len(known))]) if known else EMPTY
        return UidSet(
            (self.uids.index(first) + 1, self.uids.index(last) + 1) for first, last in known.ranges()
        )

    def select(self, numbers: SequenceSet, *, uid: bool) -> UidSet:
        """The uids a client means. Unknown uids are left out; a sequence number beyond the last raises Invalid
        (RFC 3501 §9: message numbers must exist). A range to `*` means what there is of it: clients ask for 1:*
        without knowing whether the mailbox is empty."""
        if uid:
            return numbers.resolve(self.uids.last) & self.uids
        count = len(self.uids)
        if any(min(pair) and max(pair) > count for pair in numbers.items):
            raise Invalid("no such message number", what="sequence set")
        positions = numbers.resolve(count).between(1, count)
        if len(positions) == count:
            return self.uids
        pieces: list[tuple[int, int]] = []
        for first, last in positions.ranges():
            pieces.extend(self.uids.slice(first - 1, last).ranges())
        return UidSet(pieces)

    def absorb_own(self, previous_modseq: int, modseq: int, rows: Sequence[FlagRow], *, told: bool) -> bool:
        """This session changed flags in one transaction; `told`: its replies said what `rows` now hold.

        False when others' changes lie between: the caller then asks the store for the changes since `known`.
        An untold change of others in a row stays to be told, unless the replies have said it already.
        """
        self._settle()
        if previous_modseq == self.known:
            for row in rows if self._rows else ():
                if row.uid in self._rows and told:
                    del self._rows[row.uid]
                elif row.uid in self._rows:
                    self._rows[row.uid] = row
            self.known = modseq
            return True
        if (
            told and previous_modseq < modseq > self.known
        ):  # unless nothing changed: then `modseq` is another's
            self._own.add(modseq)
        return modseq <= self.known

    def absorb(self, changes: Changes) -> bool:
        """Take in what happened; False (and nothing taken) when it does not join on to what is known, in which
        case the caller asks the store for the changes since `known`."""
        if changes.since > self.known:
            return False
        if changes.modseq <= self.known:
            return True
        self._settle()
        for row in changes.rows:
            if row.modseq > self.known and (row.modseq > self.flags_told or row.uid >= self.uid_next):
                self._rows[row.uid] = row
        for vanished in changes.vanished:
            if vanished.modseq > self.known and vanished.modseq > self.expunges_told:
                self._vanished.append(vanished)
        self.known = changes.modseq
        self._next = max(self._next, changes.uid_next)
        return True

    @property
    def news(self) -> bool:
        """Whether something absorbed is still untold."""
        return bool(self._rows or self._vanished) or self._next > self.uid_next

    @property
    def settled(self) -> int:
        """The modseq through which the client has been told everything: where it may go on from when it returns."""
        return min(self.expunges_told, self.flags_told) if self.news else self.known

    def _settle(self) -> None:
        """Before more becomes known: where nothing is untold, all that is known counts as told."""
        if not self.news:
            self.expunges_told = max(self.expunges_told, self.known)
            self.flags_told = max(self.flags_told, self.known)

    def tell(self, *, may_expunge: bool, by_uid: bool = False) -> Iterator[Update]:
        """What to send now, in the order to send it, what is gone `by_uid` where the client asked for that. The view
        moves as the iterator does: run it to its end."""
        if may_expunge and by_uid:
            yield from self._tell_vanished()
        elif may_expunge:
            yield from self._tell_expunges()
        yield from self._tell_new()
        yield from self._tell_flags()

    def _tell_vanished(self) -> Iterator[Update]:
        gone = UidSet(chain.from_iterable(vanished.uids.ranges() for vanished in self._vanished))
        if known := gone & self.uids:
            yield VanishedUpdate(known)
            self.uids -= known
        for uid in [uid for uid in self._rows if uid in gone]:
            del self._rows[uid]
        self._vanished.clear()
        self.expunges_told = max(self.expunges_told, self.known)

    def _tell_expunges(self) -> Iterator[Update]:
        for vanished in self._vanished:
            known = vanished.uids & self.uids
            for first, last in reversed(known.ranges()):
                seq = self.uids.index(last) + 1
                for number in range(seq, seq - (last - first) - 1, -1):
                    yield ExpungeUpdate(number)
            self.uids -= known
            for uid in self._stale(vanished):
                del self._rows[uid]
            self.expunges_told = vanished.modseq
        self._vanished.clear()
        self.expunges_told = max(self.expunges_told, self.known)

    def _stale(self, vanished: Vanished) -> list[int]:
        return [uid for uid in self._rows if uid in vanished.uids] if self._rows else []

    def _tell_new(self) -> Iterator[Update]:
        limit = self._next
        for vanished in self._vanished:
            held = vanished.uids.between(self.uid_next, limit - 1)
            if held:
                limit = held.first
        if limit <= self.uid_next:
            return
        new = UidSet.of(sorted(uid for uid in self._rows if self.uid_next <= uid < limit))
        for uid in new:
            del self._rows[uid]
        self.uid_next = limit
        if new:
            self.uids |= new
            yield ExistsUpdate(len(self.uids))

    def _tell_flags(self) -> Iterator[Update]:
        gone = EMPTY
        for vanished in self._vanished:
            gone |= vanished.uids
        held: dict[int, FlagRow] = {}
        for uid in sorted(self._rows):
            row = self._rows[uid]
            if uid >= self.uid_next:
                held[uid] = row
            elif row.modseq not in self._own and uid not in gone:
                seq = self.seq(uid)
                if seq:
                    yield FlagsUpdate(seq, row)
        self._rows = held
        self._own = {modseq for modseq in self._own if modseq > self.known}
        self.flags_told = max(self.flags_told, self.known)
