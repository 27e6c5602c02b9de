"""The contract of listings: pages of a mailbox by uid, from either end."""

from __future__ import annotations

import pytest
from contract_make import make_message
from hypothesis import given, settings
from hypothesis import strategies as st

from wd_trio import errors
from wd_trio.mail.model import (
    DEFAULT_MAILBOXES,
    DELETED,
    SEEN,
    Columns,
    FlagChange,
    Mailbox,
    MessagePage,
)
from wd_trio.mail.numset import UidSet
from wd_trio.ports.ids import new_id
from wd_trio.ports.mail import MailStore


def uids(page: MessagePage) -> list[int]:
    return [row.uid for row in page.rows]


def fill(store: MailStore, user: str, count: int) -> None:
    store.append(user, "INBOX", [make_message(f"m{number}") for number in range(1, count + 1)])


def test_the_newest_come_first(store: MailStore, user: str, inbox: Mailbox) -> None:
    fill(store, user, 5)
    page = store.page(user, inbox.id, Columns.NONE, limit=2)
    assert (uids(page), page.more) == ([5, 4], True)
    page = store.page(user, inbox.id, Columns.NONE, beyond=4, limit=2)
    assert (uids(page), page.more) == ([3, 2], True)
    page = store.page(user, inbox.id, Columns.NONE, beyond=2, limit=2)
    assert (uids(page), page.more) == ([1], False)
    page = store.page(user, inbox.id, Columns.NONE, beyond=1, limit=2)
    assert (uids(page), page.more) == ([], False)


def test_the_oldest_come_first_when_asked(store: MailStore, user: str, inbox: Mailbox) -> None:
    fill(store, user, 3)
    page = store.page(user, inbox.id, Columns.NONE, newest_first=False, limit=2)
    assert (uids(page), page.more) == ([1, 2], True)
    page = store.page(user, inbox.id, Columns.NONE, newest_first=False, beyond=2, limit=2)
    assert (uids(page), page.more) == ([3], False)


def test_the_counters_belong_to_the_page(store: MailStore, user: str, inbox: Mailbox) -> None:
    fill(store, user, 3)
    store.store_flags(inbox.id, UidSet.of([2]), FlagChange("add", SEEN))
    page = store.page(user, inbox.id, Columns.NONE)
    assert page.mailbox == store.get_mailbox(inbox.id)
    assert (page.mailbox.messages, page.mailbox.unseen) == (3, 2)


def test_only_the_unseen(store: MailStore, user: str, inbox: Mailbox) -> None:
    fill(store, user, 6)
    store.store_flags(inbox.id, UidSet.of([2, 3, 6]), FlagChange("add", SEEN))
    page = store.page(user, inbox.id, Columns.NONE, unseen=True, limit=2)
    assert (uids(page), page.more) == ([5, 4], True)
    page = store.page(user, inbox.id, Columns.NONE, unseen=True, beyond=4, limit=2)
    assert (uids(page), page.more) == ([1], False)
    page = store.page(user, inbox.id, Columns.NONE, unseen=True, newest_first=False, beyond=1, limit=9)
    assert uids(page) == [4, 5]


def test_the_columns_asked_for_are_there(store: MailStore, user: str, inbox: Mailbox) -> None:
    fill(store, user, 2)
    columns = Columns.ENVELOPE | Columns.PREVIEW | Columns.PARTS | Columns.IDS | Columns.STRUCTURE
    row = store.page(user, inbox.id, columns).rows[0]
    assert (row.envelope, row.preview, row.parts) == (b'("m2")', "preview of m2", b"parts of m2")
    assert row.thread_id
    assert (row.header, row.rope) == (None, None)


def test_a_mailbox_of_another_user_is_none(store: MailStore, user: str, inbox: Mailbox) -> None:
    other = new_id()
    store.ensure_mailboxes(other, DEFAULT_MAILBOXES)
    for who, where in ((other, inbox.id), (user, new_id())):
        with pytest.raises(errors.NotFound) as caught:
            store.page(who, where, Columns.NONE)
        assert caught.value.what == "mailbox"


def test_walking_either_way_shows_every_living_message_once(store: MailStore) -> None:
    @settings(deadline=None)
    @given(
        st.lists(st.tuples(st.booleans(), st.booleans()), max_size=12),
        st.integers(1, 5),
        st.booleans(),
        st.booleans(),
    )
    def walk(messages: list[tuple[bool, bool]], limit: int, newest_first: bool, unseen: bool) -> None:
        owner = new_id()
        inbox = store.ensure_mailboxes(owner, DEFAULT_MAILBOXES)[0]
        store.append(
            owner,
            "INBOX",
            [make_message(flags=SEEN * seen | DELETED * gone) for seen, gone in messages],
        )
        store.expunge(inbox.id)
        wanted = [uid for uid, (seen, gone) in enumerate(messages, 1) if not gone and not (unseen and seen)]
        walked: list[int] = []
        more = True
        while more:
            page = store.page(
                owner,
                inbox.id,
                Columns.NONE,
                newest_first=newest_first,
                beyond=walked[-1] if walked else 0,
                unseen=unseen,
                limit=limit,
            )
            walked += uids(page)
            more = page.more
            assert len(page.rows) == limit or not more
        assert walked == (wanted[::-1] if newest_first else wanted)

    walk()
