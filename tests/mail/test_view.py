"""The view: tables for each rule, then random histories against a simple client."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from wd_trio.errors import Invalid
from wd_trio.mail.model import FLAGGED, SEEN, Changes, FlagRow, Vanished
from wd_trio.mail.numset import SequenceSet, UidSet
from wd_trio.mail.view import ExistsUpdate, ExpungeUpdate, FlagsUpdate, Told, VanishedUpdate, View


def opened(last_uid: int = 5, modseq: int = 10) -> View:
    return View(Told(1, last_uid + 1, modseq, modseq), UidSet([(1, last_uid)]))


def vanished(modseq: int, *uids: int) -> Vanished:
    return Vanished(modseq, UidSet.of(uids))


def test_expunges_of_one_transaction_are_told_from_the_highest() -> None:
    view = opened()
    assert view.absorb(Changes(10, 11, 0, (), (vanished(11, 2, 3, 5),)))
    assert list(view.tell(may_expunge=True)) == [ExpungeUpdate(5), ExpungeUpdate(3), ExpungeUpdate(2)]
    assert list(view.uids) == [1, 4]
    assert view.told == Told(1, 6, 11, 11)


def test_expunges_wait_until_they_may_be_told() -> None:
    view = opened()
    view.absorb(Changes(10, 11, 0, (), (vanished(11, 1),)))
    assert list(view.tell(may_expunge=False)) == []
    assert view.seq(2) == 2
    assert view.told.expunges_told == 10
    assert list(view.tell(may_expunge=True)) == [ExpungeUpdate(1)]
    assert view.seq(2) == 1


def test_what_is_gone_is_told_by_uid_at_once() -> None:
    view = opened()
    row = FlagRow(3, 13, SEEN, "")
    view.absorb(Changes(10, 14, 8, (row,), (vanished(11, 1, 2), vanished(12, 5), vanished(14, 6))))
    assert list(view.tell(may_expunge=True, by_uid=True)) == [
        VanishedUpdate(UidSet.of([1, 2, 5])),
        FlagsUpdate(1, row),
    ]
    assert list(view.uids) == [3, 4]
    assert view.told == Told(1, 8, 14, 14)
    view.absorb(Changes(14, 15, 9, (), (vanished(15, 7, 8),)))
    assert list(view.tell(may_expunge=True, by_uid=True)) == [], "a client is not told of what it never knew"


def test_what_is_settled_ends_before_an_untold_expunge() -> None:
    view = opened()
    assert view.settled == 10
    view.absorb_own(10, 11, (FlagRow(2, 11, SEEN, ""),), told=True)
    assert view.settled == 11
    view.absorb(Changes(11, 13, 0, (FlagRow(3, 13, SEEN, ""),), (vanished(12, 1),)))
    assert list(view.tell(may_expunge=False)) == [FlagsUpdate(3, FlagRow(3, 13, SEEN, ""))]
    assert view.settled == 11, "a client that began at 12 would keep uid 1 for ever"
    assert list(view.tell(may_expunge=True)) == [ExpungeUpdate(1)]
    assert view.settled == 13


def test_new_messages_are_told_while_expunges_wait() -> None:
    view = opened()
    view.absorb(Changes(10, 12, 7, (FlagRow(6, 12, 0, ""),), (vanished(11, 1),)))
    assert list(view.tell(may_expunge=False)) == [ExistsUpdate(6)]
    assert list(view.tell(may_expunge=True)) == [ExpungeUpdate(1)]


def test_a_message_that_came_and_went_untold_is_never_mentioned() -> None:
    view = opened()
    view.absorb(Changes(10, 12, 7, (), (vanished(12, 6),)))
    assert list(view.tell(may_expunge=True)) == []
    assert view.told == Told(1, 7, 12, 12)


def test_what_stands_behind_an_untold_vanished_one_waits_with_it() -> None:
    view = opened()
    view.absorb(Changes(10, 13, 8, (FlagRow(7, 12, 0, ""),), (vanished(13, 6),)))
    assert list(view.tell(may_expunge=False)) == []
    assert view.told.uid_next == 6
    assert list(view.tell(may_expunge=True)) == [ExistsUpdate(6)]
    assert list(view.uids) == [1, 2, 3, 4, 5, 7]


def test_own_flags_are_not_echoed_but_others_are() -> None:
    view = opened()
    assert view.absorb_own(10, 11, (FlagRow(2, 11, SEEN, ""),), told=False)
    assert list(view.tell(may_expunge=True)) == []
    view.absorb(Changes(11, 12, 0, (FlagRow(2, 12, SEEN | FLAGGED, ""),)))
    assert list(view.tell(may_expunge=False)) == [FlagsUpdate(2, FlagRow(2, 12, SEEN | FLAGGED, ""))]


def test_a_silent_store_does_not_hide_what_others_set_in_between() -> None:
    view = opened()
    both = FlagRow(2, 12, SEEN | FLAGGED, "")
    assert not view.absorb_own(11, 12, (both,), told=False), "someone else's 11 is not known yet"
    view.absorb(Changes(10, 12, 0, (both,)))
    assert list(view.tell(may_expunge=False)) == [FlagsUpdate(2, both)]


def test_a_silent_store_keeps_an_absorbed_change_of_others_to_be_told() -> None:
    view = opened()
    view.absorb(Changes(10, 11, 0, (FlagRow(2, 11, FLAGGED, ""),)))
    both = FlagRow(2, 12, SEEN | FLAGGED, "")
    assert view.absorb_own(11, 12, (both,), told=False)
    assert list(view.tell(may_expunge=False)) == [FlagsUpdate(2, both)]


def test_a_view_rebuilt_with_flags_behind_keeps_expunges_told() -> None:
    changes = Changes(10, 12, 0, (FlagRow(1, 11, SEEN, ""),), (vanished(12, 2),))
    view = View.rebuild(Told(1, 6, 12, 10), UidSet.of([1, 3, 4, 5]), changes)
    assert list(view.uids) == [1, 3, 4, 5]
    assert list(view.tell(may_expunge=True)) == [FlagsUpdate(1, FlagRow(1, 11, SEEN, ""))]


def test_an_answered_store_is_not_told_twice_when_others_came_between() -> None:
    view = opened()
    mine, theirs = FlagRow(2, 12, SEEN, ""), FlagRow(3, 11, FLAGGED, "")
    assert not view.absorb_own(11, 12, (mine,), told=True)
    view.absorb(Changes(10, 12, 0, (mine, theirs)))
    assert list(view.tell(may_expunge=False)) == [FlagsUpdate(3, theirs)]


def test_a_store_that_changed_nothing_hides_no_change_of_others() -> None:
    view = opened()
    theirs = FlagRow(2, 11, FLAGGED, "")
    assert not view.absorb_own(11, 11, (FlagRow(3, 8, SEEN, ""),), told=True)
    view.absorb(Changes(10, 11, 0, (theirs,)))
    assert list(view.tell(may_expunge=False)) == [FlagsUpdate(2, theirs)]


def test_changes_that_do_not_join_on_are_refused() -> None:
    view = opened()
    assert not view.absorb(Changes(11, 12, 0, (FlagRow(1, 12, SEEN, ""),)))
    assert not view.news


def test_numbers_clients_mean() -> None:
    view = View(Told(1, 10, 5, 5), UidSet.of([2, 4, 9]))
    assert list(view.select(SequenceSet(((1, 2),)), uid=False)) == [2, 4]
    assert list(view.select(SequenceSet(((0, 0),)), uid=False)) == [9]
    assert list(view.select(SequenceSet(((3, 100),)), uid=True)) == [4, 9]
    assert list(view.select(SequenceSet(((100, 0),)), uid=True)) == [9]
    with pytest.raises(Invalid):
        view.select(SequenceSet(((1, 4),)), uid=False)
    empty = View(Told(1, 1, 1, 1), UidSet())
    assert not empty.select(SequenceSet(((1, 1),)), uid=True)
    assert not empty.select(SequenceSet(((0, 0),)), uid=False)
    assert not empty.select(SequenceSet(((1, 0),)), uid=False)
    assert list(view.select(SequenceSet(((5, 0),)), uid=False)) == [9]
    with pytest.raises(Invalid):
        empty.select(SequenceSet(((1, 1),)), uid=False)


class OneMailbox(RuleBasedStateMachine):
    """A mailbox with its journal, one view, and a client that believes only what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.modseq = 1
        self.uid_next = 1
        self.living: dict[int, FlagRow] = {}
        self.journal: list[Vanished] = []
        self.view = View(Told(1, 1, 1, 1), UidSet())
        self.client: list[int] = []
        self.client_flags: dict[int, int] = {}

    def changes(self, since: int) -> Changes:
        rows = sorted((row for row in self.living.values() if row.modseq > since), key=lambda row: row.uid)
        gone = tuple(entry for entry in self.journal if entry.modseq > since)
        return Changes(since, self.modseq, self.uid_next, tuple(rows), gone)

    @rule(count=st.integers(1, 3))
    def deliver(self, count: int) -> None:
        self.modseq += 1
        for _ in range(count):
            self.living[self.uid_next] = FlagRow(self.uid_next, self.modseq, 0, "")
            self.uid_next += 1

    @precondition(lambda self: self.living)
    @rule(data=st.data(), flags=st.integers(0, 31))
    def flag_elsewhere(self, data: st.DataObject, flags: int) -> None:
        uid = data.draw(st.sampled_from(sorted(self.living)))
        self.modseq += 1
        self.living[uid] = FlagRow(uid, self.modseq, flags, "")

    @precondition(lambda self: self.living)
    @rule(data=st.data())
    def expunge(self, data: st.DataObject) -> None:
        uids = data.draw(st.sets(st.sampled_from(sorted(self.living)), min_size=1))
        self.modseq += 1
        for uid in uids:
            del self.living[uid]
        self.journal.append(Vanished(self.modseq, UidSet.of(sorted(uids))))

    @precondition(lambda self: self.client)
    @rule(data=st.data(), flags=st.integers(0, 31), silent=st.booleans())
    def store(self, data: st.DataObject, flags: int, silent: bool) -> None:
        """The session's own STORE of one message, and the news that may follow it."""
        uid = data.draw(st.sampled_from(self.client))
        if uid not in self.living:
            return
        previous = self.modseq
        self.modseq += 1
        row = self.living[uid] = FlagRow(uid, self.modseq, flags, "")
        if not self.view.absorb_own(previous, self.modseq, (row,), told=not silent):
            assert self.view.absorb(self.changes(self.view.known))
        self.client_flags[uid] = flags
        self.hear(may_expunge=False)

    @rule()
    def learn(self) -> None:
        """News are absorbed but nothing may be told yet."""
        self.view.absorb(self.changes(self.view.known))

    @rule(may_expunge=st.booleans(), by_uid=st.booleans())
    def hear(self, may_expunge: bool, by_uid: bool = False) -> None:
        self.view.absorb(self.changes(self.view.known))
        for update in self.view.tell(may_expunge=may_expunge, by_uid=by_uid):
            match update:
                case VanishedUpdate(uids=uids):
                    assert may_expunge
                    assert uids
                    assert not set(uids) & self.living.keys()
                    assert set(uids) <= set(self.client)
                    self.client = [uid for uid in self.client if uid not in uids]
                case ExpungeUpdate(seq=seq):
                    assert may_expunge
                    gone = self.client.pop(seq - 1)
                    assert gone not in self.living
                case ExistsUpdate(count=count):
                    assert count > len(self.client)
                    for index in range(len(self.client), count):
                        uid = self.view.uids.at(index)
                        self.client.append(uid)
                        self.client_flags[uid] = self.living[uid].flags  # a client fetches what is new
                case FlagsUpdate(seq=seq, row=row):
                    assert self.client[seq - 1] == row.uid
                    self.client_flags[row.uid] = row.flags
        if may_expunge:
            assert self.client == sorted(self.living), "all told: the client knows what is there"
            assert not self.view.news
        for uid in self.client:
            if uid in self.living:
                assert self.client_flags[uid] == self.living[uid].flags

    @rule()
    def worker_dies(self) -> None:
        """Another worker goes on from the four integers alone."""
        told = self.view.told
        changes = self.changes(min(told.expunges_told, told.flags_told))
        self.view = View.rebuild(told, UidSet.of(sorted(self.living)), changes)

    @invariant()
    def nothing_is_missed_by_who_begins_at_what_is_settled(self) -> None:
        settled = self.view.settled
        for entry in self.journal:
            assert entry.modseq > settled or not set(entry.uids) & set(self.client)
        for uid in self.client:
            row = self.living.get(uid)
            assert row is None or row.modseq > settled or self.client_flags[uid] == row.flags

    @invariant()
    def numbers_mean_the_same_to_both(self) -> None:
        assert list(self.view.uids) == self.client


TestOneMailbox = OneMailbox.TestCase
TestOneMailbox.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)
