"""The contract of messages: append and fetch."""

from __future__ import annotations

import pytest
from contract_make import Clock, make_blob, make_message

from wd_trio import errors
from wd_trio.mail.model import (
    DEFAULT_MAILBOXES,
    DELETED,
    SEEN,
    Columns,
    FlagRow,
    Mailbox,
    MailboxSpec,
    MessageRow,
    Usage,
)
from wd_trio.mail.numset import MAX_UID, UidSet
from wd_trio.ports.ids import new_id
from wd_trio.ports.mail import MailStore

ALL = UidSet([(1, MAX_UID)])


def test_messages_of_one_append_share_a_modseq_and_come_in_order(
    store: MailStore, user: str, inbox: Mailbox
) -> None:
    first = store.append(user, "INBOX", [make_message(flags=SEEN), make_message(keywords="b A")])
    assert (first.mailbox_id, first.user_id, first.uid_validity) == (inbox.id, user, inbox.uid_validity)
    assert first.uids == (1, 2)
    assert first.previous_modseq == inbox.highest_modseq
    assert first.modseq > first.previous_modseq
    assert first.rows == (FlagRow(1, first.modseq, SEEN, ""), FlagRow(2, first.modseq, 0, "A b"))
    second = store.append(user, "INBOX", [make_message()])
    assert (second.uids, second.previous_modseq) == ((3,), first.modseq)
    now = store.get_mailbox(inbox.id)
    assert (now.uid_next, now.highest_modseq) == (4, second.modseq)


def test_counters_and_usage_move_with_the_messages(store: MailStore, user: str, inbox: Mailbox) -> None:
    store.append(user, "INBOX", [make_message(size=10), make_message(size=20, flags=SEEN | DELETED)])
    store.append(user, "Trash", [make_message(size=5)])
    box = store.get_mailbox(inbox.id)
    assert (box.messages, box.unseen, box.deleted, box.size_bytes) == (2, 1, 1, 30)
    assert store.usage(user) == Usage(35, 3)


def test_nothing_appended_changes_nothing(store: MailStore, user: str, inbox: Mailbox) -> None:
    outcome = store.append(user, "INBOX", [])
    assert (outcome.uids, outcome.rows, outcome.modseq) == ((), (), inbox.highest_modseq)
    assert store.get_mailbox(inbox.id) == inbox


def test_a_delivery_makes_the_missing_mailboxes(store: MailStore, user: str) -> None:
    store.append(user, "Lists/trio", [make_message()], create=True)
    paths = {box.path for box in store.list_mailboxes(user)}
    assert paths == {"Lists/trio", *(spec.path for spec in DEFAULT_MAILBOXES)}
    before = store.list_mailboxes(user)
    store.append(user, "inbox", [make_message()], create=True)
    assert [box.id for box in store.list_mailboxes(user)] == [box.id for box in before]


def test_over_quota_changes_nothing(store: MailStore, user: str, inbox: Mailbox) -> None:
    store.append(user, "INBOX", [make_message(size=60)], quota_bytes=100)
    with pytest.raises(errors.OverQuota):
        store.append(user, "Trash", [make_message(size=41)], quota_bytes=100)
    with pytest.raises(errors.OverQuota):
        store.append(new_id(), "INBOX", [make_message(size=41)], quota_bytes=40, create=True)
    assert store.usage(user) == Usage(60, 1)
    store.append(user, "Trash", [make_message(size=40)], quota_bytes=100)
    assert store.usage(user) == Usage(100, 2)
    store.append(user, "Trash", [make_message(size=1000)], quota_bytes=None)


def test_a_refused_delivery_makes_no_mailboxes(store: MailStore, user: str) -> None:
    with pytest.raises(errors.OverQuota):
        store.append(user, "INBOX", [make_message(size=2)], quota_bytes=1, create=True)
    assert store.list_mailboxes(user) == []


def test_a_missing_blob_is_a_conflict_and_changes_nothing(
    store: MailStore, user: str, inbox: Mailbox
) -> None:
    here, absent = make_blob(b"here"), make_blob(b"absent")
    with pytest.raises(errors.Conflict) as caught:
        store.append(
            user,
            "INBOX",
            [make_message(), make_message(blobs=(here.digest, absent.digest))],
            blobs=[here],
        )
    assert caught.value.what == "blob"
    assert store.get_mailbox(inbox.id) == inbox
    assert store.usage(user) == Usage(0, 0)
    assert store.has_blobs([here.digest]) == set()


def test_fetch_without_columns_brings_flags_and_dates(store: MailStore, user: str, inbox: Mailbox) -> None:
    modseq = store.append(
        user, "INBOX", [make_message(flags=SEEN, keywords="x", size=11, internal_date=-5)]
    ).modseq
    assert store.fetch(inbox.id, ALL, Columns.NONE) == [MessageRow(1, modseq, SEEN, "x", -5, 11)]


def test_fetch_brings_the_columns_asked_for_and_no_others(
    store: MailStore, user: str, inbox: Mailbox, clock: Clock
) -> None:
    store.append(user, "INBOX", [make_message("one"), make_message("two")])
    fields = {
        Columns.ENVELOPE: {"envelope": b'("two")'},
        Columns.STRUCTURE: {
            "bodystructure": b'("TEXT" "PLAIN" "two")',
            "bodystructure_utf8": b'("TEXT" "PLAIN" "utf8 two")',
        },
        Columns.BODY: {"body": b'("TEXT" "two")'},
        Columns.HEADER: {"header": b"Subject: two\r\n\r\n"},
        Columns.PARTS: {"parts": b"parts of two"},
        Columns.ROPE: {"rope": b"rope of two"},
        Columns.PREVIEW: {"preview": "preview of two"},
    }
    everything: dict[str, object] = {}
    for columns, expected in fields.items():
        [_, row] = store.fetch(inbox.id, ALL, columns)
        named = {name: getattr(row, name) for names in fields.values() for name in names}
        assert {name: value for name, value in named.items() if value is not None} == expected
        everything |= expected
    [one, two] = store.fetch(inbox.id, ALL, Columns(255))
    assert {name: getattr(two, name) for name in everything} == everything
    assert two.envelope_utf8 is None
    assert two.saved_date == int(clock.now)
    assert two.email_id
    assert two.thread_id
    assert one.email_id != two.email_id


def test_fetch_gives_living_messages_in_order_of_uid(store: MailStore, user: str, inbox: Mailbox) -> None:
    store.append(user, "INBOX", [make_message(flags=DELETED if n in {3, 4} else 0) for n in range(1, 11)])
    store.expunge(inbox.id)
    asked = UidSet([(9, 200), (1, 1), (3, 6)])
    assert [row.uid for row in store.fetch(inbox.id, asked, Columns.NONE)] == [1, 5, 6, 9, 10]
    assert [row.uid for row in store.fetch(inbox.id, asked, Columns.ENVELOPE, limit=3)] == [1, 5, 6]
    assert store.fetch(inbox.id, UidSet(), Columns.NONE) == []
    assert store.fetch(inbox.id, UidSet([(3, 4)]), Columns.NONE) == []


def test_fetch_sees_only_its_own_mailbox(store: MailStore, user: str, inbox: Mailbox) -> None:
    store.append(user, "INBOX", [make_message("mine")])
    store.append(user, "Trash", [make_message("other")])
    assert [row.envelope for row in store.fetch(inbox.id, ALL, Columns.ENVELOPE)] == [b'("mine")']


def test_fetch_ends_a_page_at_its_budget_but_brings_one_row(
    store: MailStore, user: str, inbox: Mailbox
) -> None:
    store.append(user, "INBOX", [make_message() for _ in range(5)])
    rope_bytes = len(b"rope of hello")
    page = store.fetch(inbox.id, ALL, Columns.ROPE, budget_bytes=3 * rope_bytes)
    assert [row.uid for row in page] == [1, 2, 3]
    assert len(store.fetch(inbox.id, ALL, Columns.ROPE, budget_bytes=1)) == 1


def test_fetch_preloads_the_blobs_that_fit(store: MailStore, user: str, inbox: Mailbox) -> None:
    small, large = make_blob(b"s" * 1000), make_blob(b"l" * 9000)
    message = make_message(blobs=(small.digest, large.digest))
    store.append(user, "INBOX", [message, message], blobs=[small, large])
    [one, two] = store.fetch(inbox.id, ALL, Columns.ROPE)
    assert one.blobs == two.blobs == {small.digest: b"s" * 1000, large.digest: b"l" * 9000}
    [only] = store.fetch(inbox.id, UidSet([(1, 1)]), Columns.ROPE, budget_bytes=5000)
    assert only.blobs == {small.digest: b"s" * 1000}
    assert store.fetch(inbox.id, ALL, Columns.HEADER)[0].blobs is None


def test_keywords_in_use_are_known_to_the_mailbox(store: MailStore, user: str, inbox: Mailbox) -> None:
    store.append(user, "INBOX", [make_message(keywords="$Work"), make_message(keywords="$later")])
    store.append(user, "INBOX", [make_message(keywords="$WORK")])
    assert store.open_mailbox(user, "INBOX").keywords == "$later $Work"


def test_values_that_no_engine_holds_are_invalid(store: MailStore, user: str) -> None:
    with pytest.raises(errors.Invalid):
        store.ensure_mailboxes(user, [MailboxSpec("bad \udcff")])
