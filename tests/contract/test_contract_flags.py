"""The flags of many messages at once, and what changed since, over long histories."""

from __future__ import annotations

import random

import pytest
from contract_make import make_message

from wd_trio import errors
from wd_trio.mail.model import ANSWERED, DELETED, FLAGGED, SEEN, Columns, FlagChange, FlagRow, Mailbox
from wd_trio.mail.numset import EMPTY, MAX_UID, UidSet
from wd_trio.ports.ids import new_id
from wd_trio.ports.mail import MailStore

ALL = UidSet([(1, MAX_UID)])


def fetched(store: MailStore, mailbox_id: str, uids: UidSet) -> list[FlagRow]:
    rows = store.fetch(mailbox_id, uids, Columns.NONE, limit=10_000)
    return [FlagRow(row.uid, row.modseq, row.flags, row.keywords) for row in rows]


def test_flags_are_those_of_the_living_among_the_uids(store: MailStore, user: str, inbox: Mailbox) -> None:
    store.append(
        user, "INBOX", [make_message(flags=n % 32, keywords="b A" if n % 7 == 0 else "") for n in range(100)]
    )
    store.append(user, "Trash", [make_message(flags=SEEN)])
    gone = store.expunge(inbox.id, UidSet([(1, 40)])).uids
    assert gone
    for uids in (
        ALL,
        UidSet([(1, 100)]),
        UidSet([(3, 3), (7, 19), (50, 120)]),
        UidSet.of(range(2, 100, 3)),
        UidSet([(77, 77)]),
    ):
        flags = store.flags(inbox.id, uids)
        assert list(flags) == fetched(store, inbox.id, uids)
        assert not flags.uids & gone
    for nothing in (EMPTY, gone, UidSet([(101, 200)])):
        assert store.flags(inbox.id, nothing) == []


def test_flags_of_a_mailbox_that_is_gone(store: MailStore, user: str, inbox: Mailbox) -> None:
    with pytest.raises(errors.NotFound):
        store.flags(new_id(), ALL)


def test_a_store_over_scattered_flags_says_what_a_fetch_says(
    store: MailStore, user: str, inbox: Mailbox
) -> None:
    rng = random.Random(5)
    messages = [
        make_message(flags=rng.randrange(32), keywords=rng.choice(("", "", "a", "b c"))) for _ in range(60)
    ]
    store.append(user, "INBOX", messages)
    store.expunge(inbox.id, UidSet.of([11, 12, 40]))
    for mode in ("add", "remove", "set"):
        for bits, words in ((0, ""), (SEEN | FLAGGED, ""), (DELETED, ""), (ANSWERED, "b"), (0, "A D")):
            uids = UidSet.of(sorted(rng.sample(range(1, 70), 30)))
            known = store.get_mailbox(inbox.id).highest_modseq
            stored = store.store_flags(inbox.id, uids, FlagChange(mode, bits, words))
            assert list(stored.rows) == fetched(store, inbox.id, uids)
            changes = store.changes_since(inbox.id, known)
            assert changes.modseq == stored.modseq
            assert list(changes.rows) == [row for row in stored.rows if row.modseq > known]
            box = store.get_mailbox(inbox.id)
            assert store.recount(user).messages == box.messages
            assert store.get_mailbox(inbox.id) == box
            unseen = store.page(user, inbox.id, Columns.NONE, unseen=True, limit=100).rows
            assert len(unseen) == box.unseen


def test_changes_are_told_however_long_ago_they_were(store: MailStore, user: str, inbox: Mailbox) -> None:
    """More changes than any journal of changes may hold, expunges between them."""
    start = store.append(user, "INBOX", [make_message() for _ in range(20)]).modseq
    seen: dict[int, int] = {}
    for n in range(400):
        uid = n * 7 % 20 + 1
        change = FlagChange("add" if n // 20 % 2 == 0 else "remove", FLAGGED)
        seen[uid] = store.store_flags(inbox.id, UidSet([(uid, uid)]), change).modseq
        if n % 2:
            store.append(user, "INBOX", [make_message(flags=DELETED)])
            store.expunge(inbox.id)
    highest = store.get_mailbox(inbox.id).highest_modseq
    for since in (start, start + 1, highest - 600, highest - 257, highest - 256, highest - 255, highest - 3):
        changes = store.changes_since(inbox.id, since, limit=10_000)
        assert [(row.uid, row.modseq) for row in changes.rows] == sorted(
            (uid, modseq) for uid, modseq in seen.items() if modseq > since
        )
        assert (changes.modseq, changes.more) == (highest, False)
