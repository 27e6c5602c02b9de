"""Deleting mailboxes and users, however large: gone at once, swept up in slices."""

from __future__ import annotations

import pytest
from contract_make import Clock, make_blob, make_message, sweep

from wd_trio import errors
from wd_trio.mail.model import DELETED, Columns, Mailbox, MailboxSpec, Usage
from wd_trio.mail.numset import MAX_UID, UidSet
from wd_trio.ports.ids import new_id
from wd_trio.ports.mail import MailStore

ALL = UidSet([(1, MAX_UID)])


def test_nothing_is_swept_that_was_not_deleted(store: MailStore, user: str, inbox: Mailbox) -> None:
    store.append(user, "INBOX", [make_message(flags=DELETED), make_message()])
    store.expunge(inbox.id)
    assert store.sweep_deleted(limit=100) == 0
    assert store.get_mailbox(inbox.id).messages == 1


def test_a_deleted_mailbox_is_gone_before_it_is_swept(
    store: MailStore, user: str, inbox: Mailbox, clock: Clock
) -> None:
    blob = make_blob(b"attachment")
    message = make_message(blobs=(blob.digest,), size=10)
    made = store.create_mailbox(user, MailboxSpec("Work"))
    store.append(user, "Work", [message] * 10, blobs=[blob])
    store.append(user, "INBOX", [make_message(size=7)])
    assert store.delete_mailbox(user, "Work") == made.id
    assert store.usage(user) == store.recount(user) == Usage(7, 1)
    for call in (
        lambda: store.fetch(made.id, ALL, Columns.NONE),
        lambda: store.flags(made.id, ALL),
        lambda: store.page(user, made.id, Columns.NONE),
        lambda: store.copy(made.id, ALL, "INBOX"),
        lambda: store.changes_since(made.id, 1),
        lambda: store.open_mailbox(user, "Work"),
    ):
        with pytest.raises(errors.NotFound):
            call()
    clock.move(1000)
    assert store.collect_blobs(unused_for_s=10, limit=10) == 0
    assert sweep(store, limit=3) >= 4
    assert store.collect_blobs(unused_for_s=10, limit=10) == 0  # its readers have the grace period to finish
    clock.move(10)
    assert store.collect_blobs(unused_for_s=10, limit=10) == 1
    assert store.get_mailbox(inbox.id).messages == 1


def test_a_mailbox_made_anew_has_nothing_of_the_one_before(
    store: MailStore, user: str, inbox: Mailbox
) -> None:
    before = store.create_mailbox(user, MailboxSpec("Work"))
    store.append(user, "Work", [make_message(flags=DELETED)] * 5)
    store.expunge(before.id, UidSet.of([1]))
    store.delete_mailbox(user, "Work")
    after = store.create_mailbox(user, MailboxSpec("Work"))
    assert after.uid_validity > before.uid_validity
    assert (after.messages, after.uid_next, after.highest_modseq) == (0, 1, 1)
    assert store.open_mailbox(user, "Work").uids == UidSet()
    assert store.fetch(after.id, ALL, Columns.NONE) == []
    assert store.append(user, "Work", [make_message("new")] * 2).uids == (1, 2)
    assert store.sweep_deleted(limit=2) == 2
    sweep(store)
    assert [row.header for row in store.fetch(after.id, ALL, Columns.HEADER)] == [b"Subject: new\r\n\r\n"] * 2
    assert store.changes_since(after.id, 1).vanished == ()
    assert store.usage(user) == store.recount(user) == Usage(200, 2)


def test_copies_of_what_is_swept_stay(store: MailStore, user: str, inbox: Mailbox, clock: Clock) -> None:
    blob = make_blob(b"shared")
    store.append(user, "Trash", [make_message("kept", blobs=(blob.digest,))], blobs=[blob])
    trash = store.find_mailbox(user, "Trash")
    store.copy(trash.id, ALL, "INBOX")
    store.delete_mailbox(user, "Trash")
    sweep(store)
    clock.move(1000)
    assert store.collect_blobs(unused_for_s=10, limit=10) == 0
    (row,) = store.fetch(inbox.id, ALL, Columns.ROPE | Columns.HEADER)
    assert row.header == b"Subject: kept\r\n\r\n"
    assert store.read_blob(blob.digest, 0, blob.size) == b"shared"


def test_a_users_mail_is_gone_before_it_is_swept(store: MailStore, user: str, inbox: Mailbox) -> None:
    other = new_id()
    store.append(other, "INBOX", [make_message(size=7)], create=True)
    store.append(user, "INBOX", [make_message()] * 8)
    store.append(user, "Trash", [make_message()] * 3)
    assert store.delete_user_mail(user) == 11
    assert store.list_mailboxes(user) == []
    assert store.usage(user) == store.recount(user) == Usage(0, 0)
    assert store.append(user, "INBOX", [make_message("again")], create=True).uids == (1,)
    assert sweep(store, limit=4) >= 3
    assert store.usage(user) == store.recount(user) == Usage(100, 1)
    assert store.find_mailbox(other, "INBOX").messages == 1
    assert store.delete_user_mail(user) == 1
    assert store.delete_user_mail(user) == 0


def test_many_small_mailboxes_are_swept_some_at_a_time(store: MailStore, user: str, inbox: Mailbox) -> None:
    for number in range(12):
        store.create_mailbox(user, MailboxSpec(f"Box {number}"))
        store.delete_mailbox(user, f"Box {number}")
    assert sweep(store, limit=5) == 3
