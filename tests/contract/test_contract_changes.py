"""The contract of changes: STORE, EXPUNGE, the journal, counters."""

from __future__ import annotations

import pytest
from contract_make import Clock, make_message

from wd_trio import errors
from wd_trio.mail.model import (
    DELETED,
    FLAGGED,
    SEEN,
    Changes,
    Columns,
    FlagChange,
    FlagRow,
    Mailbox,
    Usage,
    Vanished,
)
from wd_trio.mail.numset import MAX_UID, UidSet
from wd_trio.ports.mail import MailStore

ALL = UidSet([(1, MAX_UID)])


def uids(*numbers: int) -> UidSet:
    return UidSet.of(numbers)


def counters(store: MailStore, mailbox_id: str) -> tuple[int, int, int, int]:
    box = store.get_mailbox(mailbox_id)
    return box.messages, box.unseen, box.deleted, box.size_bytes


# -- STORE


def test_store_in_its_three_ways(store: MailStore, user: str, inbox: Mailbox) -> None:
    store.append(user, "INBOX", [make_message(flags=SEEN, keywords="a B")])
    for change, flags, keywords in (
        (FlagChange("add", FLAGGED, "c"), SEEN | FLAGGED, "a B c"),
        (FlagChange("remove", SEEN, "b"), FLAGGED, "a c"),
        (FlagChange("set", DELETED, "d"), DELETED, "d"),
        (FlagChange("set", 0), 0, ""),
    ):
        before = store.get_mailbox(inbox.id).highest_modseq
        outcome = store.store_flags(inbox.id, uids(1), change)
        assert (outcome.previous_modseq, outcome.modseq) == (before, before + 1)
        assert outcome.rows == (FlagRow(1, before + 1, flags, keywords),)
        [row] = store.fetch(inbox.id, ALL, Columns.NONE)
        assert (row.modseq, row.flags, row.keywords) == (before + 1, flags, keywords)
        assert store.get_mailbox(inbox.id).highest_modseq == before + 1


def test_a_message_whose_flags_stay_the_same_keeps_its_modseq(
    store: MailStore, user: str, inbox: Mailbox
) -> None:
    first = store.append(user, "INBOX", [make_message(flags=SEEN, keywords="Work"), make_message()]).modseq
    outcome = store.store_flags(inbox.id, uids(1, 2), FlagChange("add", SEEN))
    assert outcome.rows == (FlagRow(1, first, SEEN, "Work"), FlagRow(2, first + 1, SEEN, ""))
    for change in (FlagChange("add", SEEN, "work"), FlagChange("set", SEEN, "WORK")):
        same = store.store_flags(inbox.id, uids(1), change)
        assert same.previous_modseq == same.modseq == first + 1
        assert same.rows == (FlagRow(1, first, SEEN, "Work"),)
    assert store.get_mailbox(inbox.id).highest_modseq == first + 1


def test_unchanged_since_holds_back_what_changed(store: MailStore, user: str, inbox: Mailbox) -> None:
    known = store.append(user, "INBOX", [make_message() for _ in range(4)]).modseq
    store.store_flags(inbox.id, uids(2, 3), FlagChange("add", FLAGGED))
    outcome = store.store_flags(inbox.id, ALL, FlagChange("add", SEEN), unchanged_since=known)
    assert outcome.failed == uids(2, 3)
    assert [row.uid for row in outcome.rows] == [1, 4]
    flags = [row.flags for row in store.fetch(inbox.id, ALL, Columns.NONE)]
    assert flags == [SEEN, FLAGGED, FLAGGED, SEEN]
    none = store.store_flags(inbox.id, ALL, FlagChange("add", SEEN), unchanged_since=0)
    assert (none.failed, none.rows, none.modseq) == (UidSet([(1, 4)]), (), outcome.modseq)


def test_store_names_the_messages_that_are_gone(store: MailStore, user: str, inbox: Mailbox) -> None:
    store.append(user, "INBOX", [make_message(flags=DELETED if n == 1 else 0) for n in range(3)])
    store.expunge(inbox.id)
    outcome = store.store_flags(inbox.id, uids(1, 2, 3, 9), FlagChange("add", SEEN))
    assert outcome.missing == uids(2, 9)
    assert [row.uid for row in outcome.rows] == [1, 3]
    nothing = store.store_flags(inbox.id, uids(9), FlagChange("add", SEEN))
    assert (nothing.missing, nothing.rows, nothing.modseq) == (uids(9), (), outcome.modseq)


def test_store_keeps_the_counters(store: MailStore, user: str, inbox: Mailbox) -> None:
    store.append(user, "INBOX", [make_message(flags=SEEN if n % 2 else 0) for n in range(10)])
    assert counters(store, inbox.id) == (10, 5, 0, 1000)
    store.store_flags(inbox.id, ALL, FlagChange("add", SEEN | DELETED, "k"))
    assert counters(store, inbox.id) == (10, 0, 10, 1000)
    store.store_flags(inbox.id, UidSet([(1, 3)]), FlagChange("set", 0))
    assert counters(store, inbox.id) == (10, 3, 7, 1000)
    assert store.open_mailbox(user, "INBOX").keywords == "k"


# -- EXPUNGE


def test_expunge_removes_what_is_marked_and_only_that(store: MailStore, user: str, inbox: Mailbox) -> None:
    store.append(user, "INBOX", [make_message(flags=DELETED if n in {2, 3, 5} else 0) for n in range(1, 7)])
    store.append(user, "Trash", [make_message(flags=DELETED)])
    before = store.get_mailbox(inbox.id).highest_modseq
    outcome = store.expunge(inbox.id)
    assert (outcome.previous_modseq, outcome.modseq, outcome.uids) == (before, before + 1, uids(2, 3, 5))
    assert [row.uid for row in store.fetch(inbox.id, ALL, Columns.NONE)] == [1, 4, 6]
    assert counters(store, inbox.id) == (3, 3, 0, 300)
    assert store.usage(user) == Usage(400, 4)
    again = store.expunge(inbox.id)
    assert (again.previous_modseq, again.modseq, again.uids) == (before + 1, before + 1, UidSet())


def test_uid_expunge_keeps_to_its_uids(store: MailStore, user: str, inbox: Mailbox) -> None:
    store.append(user, "INBOX", [make_message(flags=DELETED) for _ in range(5)])
    assert store.expunge(inbox.id, UidSet([(1, 1), (4, 9)])).uids == uids(1, 4, 5)
    assert store.expunge(inbox.id, uids(1)).uids == UidSet()
    assert store.expunge(inbox.id, UidSet()).uids == UidSet()
    assert store.expunge(inbox.id).uids == uids(2, 3)


def test_messages_go_unmarked_too_where_that_is_asked_for(
    store: MailStore, user: str, inbox: Mailbox
) -> None:
    store.append(user, "INBOX", [make_message(flags=DELETED if n in {2, 3} else n % 2) for n in range(1, 8)])
    before = store.get_mailbox(inbox.id).highest_modseq
    outcome = store.expunge(inbox.id, uids(1, 2, 4, 9), marked_only=False)
    assert (outcome.previous_modseq, outcome.modseq, outcome.uids) == (before, before + 1, uids(1, 2, 4))
    assert counters(store, inbox.id) == (4, 2, 1, 400)
    assert store.usage(user) == store.recount(user) == Usage(400, 4)
    assert store.changes_since(inbox.id, before).vanished == (Vanished(before + 1, uids(1, 2, 4)),)
    again = store.expunge(inbox.id, uids(1, 2, 4), marked_only=False)
    assert (again.previous_modseq, again.modseq, again.uids) == (before + 1, before + 1, UidSet())
    assert store.expunge(inbox.id, marked_only=False).uids == uids(3, 5, 6, 7)
    assert store.usage(user) == Usage(0, 0)
    assert store.expunge(inbox.id, marked_only=False).uids == UidSet()


def test_a_uid_is_never_given_twice(store: MailStore, user: str, inbox: Mailbox) -> None:
    store.append(user, "INBOX", [make_message(flags=DELETED)] * 3)
    store.expunge(inbox.id)
    assert store.append(user, "INBOX", [make_message()]).uids == (4,)
    assert store.get_mailbox(inbox.id).uid_validity == inbox.uid_validity


# -- what happened since


def test_changes_since_tells_all_of_a_span(store: MailStore, user: str, inbox: Mailbox) -> None:
    start = store.append(
        user, "INBOX", [make_message(flags=DELETED if n < 3 else 0) for n in range(6)]
    ).modseq
    assert store.changes_since(inbox.id, start) == Changes(start, start, 7)
    store.store_flags(inbox.id, uids(5), FlagChange("add", SEEN))
    store.expunge(inbox.id, uids(1, 3))
    store.append(user, "INBOX", [make_message(flags=DELETED)])
    store.expunge(inbox.id, uids(2, 7))
    last = store.append(user, "INBOX", [make_message(keywords="k")]).modseq
    changes = store.changes_since(inbox.id, start)
    assert changes == Changes(
        since=start,
        modseq=last,
        uid_next=9,
        rows=(FlagRow(5, start + 1, SEEN, ""), FlagRow(8, last, 0, "k")),
        vanished=(Vanished(start + 2, uids(1, 3)), Vanished(start + 4, uids(2, 7))),
    )
    assert store.changes_since(inbox.id, start + 2).vanished == (Vanished(start + 4, uids(2, 7)),)


def test_a_long_span_is_cut_between_modseqs_and_its_pages_join(
    store: MailStore, user: str, inbox: Mailbox
) -> None:
    since = inbox.highest_modseq
    for n in range(20):
        store.append(user, "INBOX", [make_message(flags=DELETED if n % 2 else 0)] * 3)
    store.store_flags(inbox.id, UidSet([(1, 6)]), FlagChange("add", FLAGGED))
    store.expunge(inbox.id, UidSet([(1, 30)]))
    rows: dict[int, FlagRow] = {}
    gone = UidSet()
    pages = 0
    while True:
        page = store.changes_since(inbox.id, since, limit=7)
        pages += 1
        assert page.since == since
        assert page.modseq > since
        assert all(since < row.modseq <= page.modseq for row in page.rows)
        assert all(since < entry.modseq <= page.modseq for entry in page.vanished)
        rows |= {row.uid: row for row in page.rows}
        for entry in page.vanished:
            gone |= entry.uids
        since = page.modseq
        if not page.more:
            break
        assert page.uid_next <= min((row.uid for row in page.rows), default=1)
    whole = store.changes_since(inbox.id, inbox.highest_modseq)
    assert pages > 3
    assert (page.modseq, page.uid_next) == (whole.modseq, whole.uid_next) == (since, 61)
    assert sorted(rows) == [row.uid for row in whole.rows]
    assert {row.uid: row for row in whole.rows} == rows
    assert gone == whole.vanished[0].uids


def test_one_transaction_is_never_cut(store: MailStore, user: str, inbox: Mailbox) -> None:
    store.append(user, "INBOX", [make_message()] * 20)
    store.append(user, "INBOX", [make_message()])
    page = store.changes_since(inbox.id, inbox.highest_modseq, limit=5)
    assert (len(page.rows), page.more, page.modseq) == (20, True, inbox.highest_modseq + 1)
    rest = store.changes_since(inbox.id, page.modseq, limit=5)
    assert (len(rest.rows), rest.more) == (1, False)


def test_who_knows_less_than_the_journal_is_outdated(
    store: MailStore, user: str, inbox: Mailbox, clock: Clock
) -> None:
    store.append(user, "INBOX", [make_message(flags=DELETED)] * 4)
    early = store.expunge(inbox.id, uids(1)).modseq
    clock.move(1000)
    late = store.expunge(inbox.id, uids(2)).modseq
    assert store.trim_journal(older_than_s=500) == 1
    assert store.trim_journal(older_than_s=500) == 0
    with pytest.raises(errors.Outdated):
        store.changes_since(inbox.id, early - 1)
    assert store.changes_since(inbox.id, early).vanished == (Vanished(late, uids(2)),)
    clock.move(1000)
    store.trim_journal(older_than_s=500)
    with pytest.raises(errors.Outdated):
        store.changes_since(inbox.id, early)
    assert store.changes_since(inbox.id, late).vanished == ()


def test_who_knows_the_future_is_outdated(store: MailStore, inbox: Mailbox) -> None:
    with pytest.raises(errors.Outdated):
        store.changes_since(inbox.id, inbox.highest_modseq + 1)


def test_recount_agrees_with_the_maintained_counters(store: MailStore, user: str, inbox: Mailbox) -> None:
    store.append(user, "INBOX", [make_message(flags=n % 32, keywords="k" * (n % 3)) for n in range(50)])
    store.append(user, "Trash", [make_message(size=9)])
    store.store_flags(inbox.id, UidSet([(5, 20)]), FlagChange("set", SEEN | DELETED, "z"))
    store.expunge(inbox.id, UidSet([(1, 10)]))
    before, usage = store.list_mailboxes(user), store.usage(user)
    assert store.recount(user) == usage
    assert store.list_mailboxes(user) == before
    assert usage.messages == sum(box.messages for box in before)
    assert store.open_mailbox(user, "INBOX").keywords == "k kk z"


@pytest.mark.parametrize("modseq", [-1, 10**6, (1 << 63) - 1])
def test_a_modseq_that_no_history_had_is_outdated(
    store: MailStore, user: str, inbox: Mailbox, modseq: int
) -> None:
    store.append(user, "INBOX", [make_message()])
    with pytest.raises(errors.Outdated):
        store.changes_since(inbox.id, modseq)


def test_unchanged_since_the_highest_modseq_there_can_be(store: MailStore, user: str, inbox: Mailbox) -> None:
    store.append(user, "INBOX", [make_message(), make_message()])
    most = (1 << 63) - 1
    stored = store.store_flags(inbox.id, ALL, FlagChange("add", SEEN), unchanged_since=most)
    assert [row.uid for row in stored.rows] == [1, 2]
    assert not stored.failed
