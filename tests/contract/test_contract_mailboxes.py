"""The contract of mailboxes: making, finding, listing, opening, removing."""

from __future__ import annotations

import re

import pytest
from contract_make import Clock, make_message

from wd_trio import errors
from wd_trio.mail.model import DEFAULT_MAILBOXES, DELETED, SEEN, FlagChange, Mailbox, MailboxSpec, Usage
from wd_trio.mail.numset import UidSet
from wd_trio.ports.ids import new_id
from wd_trio.ports.mail import MailStore


def test_ensure_makes_what_is_missing_and_lists_all_inbox_first(store: MailStore, user: str) -> None:
    made = store.ensure_mailboxes(user, [MailboxSpec("Archive"), MailboxSpec("Ä/ö", subscribed=False)])
    assert [box.path for box in made] == ["INBOX", "Archive", "Ä/ö"]
    again = store.ensure_mailboxes(user, DEFAULT_MAILBOXES)
    assert [box.path for box in again] == ["INBOX", "Archive", "Drafts", "Junk", "Sent Mail", "Trash", "Ä/ö"]
    assert {box.path: box.id for box in made}.items() <= {box.path: box.id for box in again}.items()
    assert again == store.list_mailboxes(user)
    by_path = {box.path: box for box in again}
    assert by_path["Sent Mail"].special_use == "\\Sent"
    assert by_path["Ä/ö"].subscribed is False
    assert by_path["Archive"].subscribed is True


def test_a_new_mailbox_is_empty_and_stands_at_a_positive_modseq(inbox: Mailbox, user: str) -> None:
    assert re.fullmatch("[0-9a-f]{24}", inbox.id)
    assert inbox.user_id == user
    assert inbox.uid_next == 1
    assert inbox.highest_modseq >= 1
    assert (inbox.messages, inbox.unseen, inbox.deleted, inbox.size_bytes) == (0, 0, 0, 0)
    assert 0 < inbox.uid_validity < 1 << 32


def test_inbox_is_found_in_any_case_and_other_names_as_they_are(
    store: MailStore, user: str, inbox: Mailbox
) -> None:
    assert store.find_mailbox(user, "iNbOx") == inbox
    assert store.ensure_mailboxes(user, [MailboxSpec("inbox")])[0].id == inbox.id
    assert store.append(user, "inbox", [make_message()]).mailbox_id == inbox.id
    with pytest.raises(errors.NotFound):
        store.find_mailbox(user, "trash")
    with pytest.raises(errors.NotFound):
        store.find_mailbox(user, "\u0131nbox")  # a dotless i is no i


def test_highest_modseqs_tell_where_mailboxes_stand(store: MailStore, user: str, inbox: Mailbox) -> None:
    mailboxes = store.list_mailboxes(user)
    before = {mailbox.id: mailbox.highest_modseq for mailbox in mailboxes}
    asked = [*before, "0" * 24, *(f"{number:024x}" for number in range(1000))]
    assert store.highest_modseqs(asked) == before
    modseq = store.append(user, inbox.path, [make_message()]).modseq
    assert store.highest_modseqs(asked) == before | {inbox.id: modseq}
    assert store.highest_modseqs([]) == {}


def test_what_is_not_there_is_not_found(store: MailStore, user: str, inbox: Mailbox) -> None:
    for call in (
        lambda: store.get_mailbox(new_id()),
        lambda: store.find_mailbox(new_id(), "INBOX"),
        lambda: store.open_mailbox(user, "Nowhere"),
        lambda: store.append(user, "Nowhere", [make_message()]),
        lambda: store.changes_since(new_id(), 1),
        lambda: store.expunge(new_id()),
        lambda: store.store_flags(new_id(), UidSet([(1, 1)]), FlagChange("add", SEEN)),
    ):
        with pytest.raises(errors.NotFound) as caught:
            call()
        assert caught.value.what == "mailbox"
    assert store.list_mailboxes(new_id()) == []
    assert store.usage(new_id()) == Usage(0, 0)


def test_uid_validity_never_repeats_within_a_second_or_after_the_clock_went_back(
    store: MailStore, user: str, clock: Clock
) -> None:
    given: list[int] = []
    for move in (0, 0, -5000, 0, 100_000):
        clock.move(move)
        given += [box.uid_validity for box in store.ensure_mailboxes(user, DEFAULT_MAILBOXES)]
        store.delete_user_mail(user)
    assert len(set(given)) == len(given)
    assert given[-5:] == sorted(given[-5:], key=given.index)
    assert min(given[-5:]) > max(given[:-5])
    assert min(given[-5:]) >= clock.now


def test_open_tells_everything_at_one_moment(store: MailStore, user: str, inbox: Mailbox) -> None:
    empty = store.open_mailbox(user, "INBOX")
    assert (empty.uids, empty.first_unseen_uid, empty.keywords) == (UidSet(), 0, "")
    store.append(user, "INBOX", [make_message(flags=SEEN, keywords="$Work") for _ in range(3)])
    store.append(user, "INBOX", [make_message(), make_message(flags=DELETED)])
    opened = store.open_mailbox(user, "inbox")
    assert opened.mailbox == store.get_mailbox(inbox.id)
    assert opened.uids == UidSet([(1, 5)])
    assert opened.first_unseen_uid == 4
    assert opened.keywords == "$Work"
    assert (opened.mailbox.messages, opened.mailbox.unseen, opened.mailbox.deleted) == (5, 2, 1)


def test_open_leaves_the_uids_out_when_the_caller_knows_them(
    store: MailStore, user: str, inbox: Mailbox
) -> None:
    modseq = store.append(user, "INBOX", [make_message()] * 3).modseq
    known = store.open_mailbox(user, "INBOX", known_modseq=modseq)
    assert known.uids is None
    assert known.mailbox.messages == 3
    assert store.open_mailbox(user, "INBOX", known_modseq=modseq - 1).uids == UidSet([(1, 3)])


def test_open_gives_the_uids_of_a_mailbox_with_holes(store: MailStore, user: str, inbox: Mailbox) -> None:
    store.append(user, "INBOX", [make_message(flags=DELETED if n % 3 else SEEN) for n in range(10)])
    store.expunge(inbox.id)
    opened = store.open_mailbox(user, "INBOX")
    assert opened.uids == UidSet([(1, 1), (4, 4), (7, 7), (10, 10)])
    assert opened.first_unseen_uid == 0
    assert opened.mailbox.uid_next == 11


def test_removing_a_user_removes_all_of_its_mail_and_nothing_else(
    store: MailStore, user: str, inbox: Mailbox
) -> None:
    other = new_id()
    store.append(other, "INBOX", [make_message(size=7)], create=True)
    store.append(user, "INBOX", [make_message()] * 3)
    store.append(user, "Trash", [make_message()] * 2)
    assert store.delete_user_mail(user) == 5
    assert store.delete_user_mail(user) == 0
    assert store.list_mailboxes(user) == []
    assert store.usage(user) == Usage(0, 0)
    with pytest.raises(errors.NotFound):
        store.get_mailbox(inbox.id)
    assert store.usage(other) == Usage(7, 1)
    assert store.find_mailbox(other, "INBOX").messages == 1


def test_ping_answers(store: MailStore) -> None:
    store.ping()
