"""The contract of outcomes: a write by a command notes what it came to, if it was made and changed anything."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import TypeAlias

import pytest
from contract_make import Clock, make_message

from wd_trio import errors
from wd_trio.mail.model import DELETED, SEEN, FlagChange, Mailbox, MailboxSpec
from wd_trio.mail.numset import EMPTY, UidSet
from wd_trio.mail.outcome import Origin, Outcome
from wd_trio.ports.mail import MailStore

_numbers = count(1)
ONE_TO_THREE = UidSet([(1, 3)])

Write: TypeAlias = Callable[[MailStore, str, Mailbox, Origin], object]


def make_session() -> str:
    return f"sess_{next(_numbers):032x}"


@pytest.fixture
def origin() -> Origin:
    return Origin(make_session(), 7)


@pytest.fixture
def filled(store: MailStore, user: str, inbox: Mailbox) -> Mailbox:
    """INBOX with three messages, the last of which is marked."""
    store.append(user, "INBOX", [make_message("a"), make_message("b"), make_message("c", flags=DELETED)])
    return inbox


def test_nobody_knows_of_what_was_not_noted(store: MailStore, user: str, inbox: Mailbox) -> None:
    store.append(user, "INBOX", [make_message()])
    assert store.outcome(Origin(make_session(), 1)) is None


def test_an_append_tells_its_uids(store: MailStore, user: str, filled: Mailbox, origin: Origin) -> None:
    appended = store.append(user, "INBOX", [make_message(), make_message()], origin=origin)
    assert appended.uids == (4, 5)
    assert store.outcome(origin) == Outcome(filled.uid_validity, EMPTY, UidSet([(4, 5)]))


@pytest.mark.parametrize("move", [False, True])
def test_a_copy_tells_both_ends(
    store: MailStore, user: str, filled: Mailbox, origin: Origin, *, move: bool
) -> None:
    store.append(user, "Sent Mail", [make_message()], create=True)
    copied = store.copy(filled.id, UidSet.of((1, 3)), "Sent Mail", move=move, origin=origin)
    expected = Outcome(copied.targets.uid_validity, UidSet.of((1, 3)), UidSet([(2, 3)]))
    assert store.outcome(origin) == expected


@pytest.mark.parametrize(
    "write",
    [
        lambda store, user, inbox, origin: store.store_flags(
            inbox.id, ONE_TO_THREE, FlagChange("add", SEEN), origin=origin
        ),
        lambda store, user, inbox, origin: store.store_flags(
            inbox.id, ONE_TO_THREE, FlagChange("set", 0, "word"), origin=origin
        ),
        lambda store, user, inbox, origin: store.expunge(inbox.id, origin=origin),
        lambda store, user, inbox, origin: store.create_mailbox(user, MailboxSpec("New"), origin=origin),
        lambda store, user, inbox, origin: store.delete_mailbox(user, "Trash", origin=origin),
        lambda store, user, inbox, origin: store.rename_mailbox(user, "Trash", "Bin", origin=origin),
        lambda store, user, inbox, origin: store.rename_mailbox(user, "INBOX", "Old", origin=origin),
        lambda store, user, inbox, origin: store.subscribe(user, "Trash", subscribed=False, origin=origin),
    ],
    ids=["flags", "keywords", "expunge", "create", "delete", "rename", "rename INBOX", "subscribe"],
)
def test_others_tell_that_they_were_done(
    store: MailStore, user: str, filled: Mailbox, origin: Origin, write: Write
) -> None:
    write(store, user, filled, origin)
    assert store.outcome(origin) == Outcome()
    assert store.outcome(Origin(origin.session, origin.serial + 1)) is None
    assert store.outcome(Origin(make_session(), origin.serial)) is None


@pytest.mark.parametrize(
    "write",
    [
        lambda store, user, inbox, origin: store.store_flags(
            inbox.id, UidSet.of((3,)), FlagChange("add", DELETED), origin=origin
        ),
        lambda store, user, inbox, origin: store.expunge(inbox.id, UidSet.of((1, 2)), origin=origin),
        lambda store, user, inbox, origin: store.copy(inbox.id, UidSet.of((9,)), "Trash", origin=origin),
    ],
    ids=["flags", "expunge", "copy"],
)
def test_what_changes_nothing_tells_nothing(
    store: MailStore, user: str, filled: Mailbox, origin: Origin, write: Write
) -> None:
    write(store, user, filled, origin)
    assert store.outcome(origin) is None


def test_what_fails_tells_nothing(store: MailStore, user: str, filled: Mailbox, origin: Origin) -> None:
    with pytest.raises(errors.OverQuota):
        store.append(user, "INBOX", [make_message(size=100)], quota_bytes=200, origin=origin)
    with pytest.raises(errors.NotFound):
        store.copy(filled.id, ONE_TO_THREE, "Nowhere", origin=origin)
    with pytest.raises(errors.Denied):
        store.delete_mailbox(user, "INBOX", origin=origin)
    assert store.outcome(origin) is None


def test_a_session_has_one_note(store: MailStore, user: str, filled: Mailbox) -> None:
    session = make_session()
    first, second = Origin(session, 1), Origin(session, 2)
    store.append(user, "INBOX", [make_message()], origin=first)
    store.expunge(filled.id, origin=second)
    assert (store.outcome(first), store.outcome(second)) == (None, Outcome())


def test_notes_are_kept_for_an_hour(store: MailStore, user: str, filled: Mailbox, clock: Clock) -> None:
    origin = Origin(make_session(), 1)
    store.append(user, "INBOX", [make_message()], origin=origin)
    clock.move(3599)
    for _ in range(3):
        store.append(user, "INBOX", [make_message()], origin=Origin(make_session(), 1))
    assert store.outcome(origin) is not None
