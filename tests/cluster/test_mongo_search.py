"""SEARCH in MongoDB beyond the contract: what its pages cost, and that both ways of deciding flags agree."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from cluster_house import fresh_mongo
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mongo_store_support import a_message, round_trips

from wd_trio.adapters.mongo_redis.layout import BY_FROM
from wd_trio.adapters.mongo_redis.mongo import Mongo
from wd_trio.adapters.mongo_redis.store import MongoStore
from wd_trio.mail.model import DEFAULT_MAILBOXES, DELETED, FLAGGED, SEEN, Columns, Mailbox
from wd_trio.mail.numset import MAX_UID, UidSet
from wd_trio.mail.search import (
    All,
    And,
    Flag,
    Header,
    InternalDate,
    Keyword,
    Not,
    Or,
    SearchKey,
    Size,
    Uids,
)
from wd_trio.ports.ids import new_id

ALL = UidSet([(1, MAX_UID)])
ANY_SIZE = Size(0, None)  # true of every message, and no key of flags


@pytest.fixture
def mongo() -> Mongo:
    return fresh_mongo(time.time)


@pytest.fixture
def store(mongo: Mongo) -> MongoStore:
    return MongoStore(mongo)


@pytest.fixture
def inbox(store: MongoStore) -> Mailbox:
    """60 messages, the odd ones seen, every fifth flagged, every seventh tagged; 11 to 20 and 33 are gone."""
    user = new_id()
    store.ensure_mailboxes(user, DEFAULT_MAILBOXES)
    gone = {*range(11, 21), 33}
    messages = [
        replace(
            a_message(
                (SEEN if n % 2 else 0) | (FLAGGED if n % 5 == 0 else 0) | (DELETED if n in gone else 0),
                "$tag" if n % 7 == 0 else "",
            ),
            internal_date=n,
        )
        for n in range(1, 61)
    ]
    inbox = store.find_mailbox(user, "INBOX")
    store.append(user, "INBOX", messages)
    store.expunge(inbox.id)
    store.open_mailbox(user, "INBOX")
    return inbox


@pytest.mark.parametrize(
    ("key", "limit", "uids"),
    [
        (All(), 1000, 49),
        (Not(Flag(SEEN)), 1000, 25),
        (And((Keyword("$TAG"), Uids(UidSet([(1, 40)])))), 1000, 4),
        (InternalDate(10, 30), 1000, 10),
        (InternalDate(10, 30), 10, 1),
        (Header("subject", "x"), 20, 20),
        (Header("subject", "y"), 1000, 0),
    ],
)
def test_a_page_is_one_round_trip(
    store: MongoStore, inbox: Mailbox, key: SearchKey, limit: int, uids: int
) -> None:
    store.search(inbox.id, ALL, All(), now=0)
    with round_trips() as made:
        found = store.search(inbox.id, ALL, key, now=0, limit=limit)
    assert len(found.uids) == uids
    assert made == {"mongodb": 1 if uids else 2}  # nothing found: is there such a mailbox at all?


HEADERS = (
    b"Subject: a NEEDLE in hay\r\n\r\n",
    b"Subject: a Needle\r\n in hay\r\n\r\n",
    b"Subject: =?utf-8?b?YSBuZWVkbGUgaW4gaGF5?=\r\n\r\n",
    b"Subject: \xc3\xa9, a needle in hay\r\n\r\n",
    b"Subject: hay\r\nX-Nul: \0\r\nSubject: a needle in hay\r\n\r\n",
    b"Subject: hay\r\n\r\n",
    b"From: a needle in hay\r\n\r\n",
    b"From: hay\r\nFROM :\r\n an\r\n Odd Needle <a@example.org>\r\n\r\n",
    b"From: =?utf-8?b?YSBuZWVkbGUgaW4gaGF5?=\r\n\r\n",
    b"From: " + b"hay, " * 100 + b"needle in hay\r\n\r\n",
)


@pytest.mark.parametrize("as_before", [False, True])
@pytest.mark.parametrize(
    ("key", "found"),
    [
        (Header("subject", "Needle In"), {1, 2, 3, 4, 5}),
        (Not(Header("subject", "needle")), {6, 7, 8, 9, 10}),
        (Or((Header("from", "needle"), Header("subject", "\xe9"))), {4, 7, 8, 9, 10}),
        (Header("From", "NEEDLE"), {7, 8, 9, 10}),
        (Header("from", "needle in"), {7, 9, 10}),
        (Header("from", "hay\nan"), set()),
        (Header("from", "odd\tneedle"), set()),
        (Not(Header("from", "needle")), {1, 2, 3, 4, 5, 6}),
        (And((Header("from", "hay"), Header("from", "example"), ANY_SIZE)), {8}),
        (Header("from", ""), {7, 8, 9, 10}),
        (And((Header("subject", "needle"), Not(Header("subject", "\xe9")))), {1, 2, 3, 5}),
        (Header("subject", "n.*dle"), set()),
        (Header("subject", ""), {1, 2, 3, 4, 5, 6}),
    ],
)
def test_headers_are_looked_at_in_mongodb_and_no_match_is_left_out(
    mongo: Mongo, store: MongoStore, key: SearchKey, found: set[int], as_before: bool
) -> None:
    user = new_id()
    store.ensure_mailboxes(user, DEFAULT_MAILBOXES)
    messages = [a_message() for _ in HEADERS]
    messages = [
        replace(message, content=replace(message.content, header=header))
        for message, header in zip(messages, HEADERS, strict=True)
    ]
    store.append(user, "INBOX", messages)
    inbox = store.find_mailbox(user, "INBOX")
    stored = mongo.database["messages"].find({"user": user}).sort("uid", 1).to_list()
    assert [isinstance(document["header"], str) for document in stored] == [1, 1, 0, 0, 0, 1, 1, 1, 0, 1]
    if (
        as_before
    ):  # documents of the first versions have bytes, whatever the header, and no field of their own for From
        for document, header in zip(stored, HEADERS, strict=True):
            change = {"$set": {"header": header}, "$unset": {"from": True}}
            mongo.database["messages"].update_one({"_id": document["_id"]}, change)
        mongo.database["messages"].drop_index(list(BY_FROM))
        mongo.ensure()
    assert set(searched(store, inbox, key, ALL, 1000)) == found
    assert set(searched(store, inbox, key, ALL, 2)) == found
    rows = store.fetch(inbox.id, ALL, Columns.HEADER)
    assert tuple(row.header for row in rows) == HEADERS


def test_from_is_looked_up_in_an_index(mongo: Mongo, store: MongoStore, inbox: Mailbox) -> None:
    """Ten pages of messages are one, and none is read that does not match."""

    def examined() -> int:
        return int(mongo.client.admin.command("serverStatus")["metrics"]["queryExecutor"]["scannedObjects"])

    header = b"From: Needle <needle@example.org>\r\n\r\n"
    message = replace(a_message(), content=replace(a_message().content, header=header))
    store.append(inbox.user_id, "INBOX", [message])
    uids = UidSet([(1, 61)])
    before = examined()
    with round_trips() as made:
        found = store.search(inbox.id, uids, Header("from", "needle"), now=0, limit=10)
    assert (found.uids, found.after, made) == (UidSet([(61, 61)]), 0, {"mongodb": 1})
    assert examined() - before <= 2
    assert store.search(inbox.id, uids, Header("from", "needle"), now=0, limit=5).after == 50


keys = st.recursive(
    st.sampled_from([All(), Flag(SEEN), Flag(FLAGGED), Flag(DELETED), Keyword("$tag"), Keyword("tag")]),
    lambda inner: (
        inner.map(Not)
        | st.lists(inner, max_size=3).map(lambda some: And(tuple(some)))
        | st.lists(inner, max_size=3).map(lambda some: Or(tuple(some)))
    ),
    max_leaves=6,
)


def searched(store: MongoStore, inbox: Mailbox, key: SearchKey, uids: UidSet, limit: int) -> UidSet:
    """All pages of a search."""
    found, after = UidSet(), 0
    while True:
        page = store.search(inbox.id, uids, key, now=0, after=after, limit=limit)
        found |= page.uids
        if not page.after:
            return found
        assert page.after > after
        after = page.after


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=keys,
    ranges=st.lists(st.tuples(st.integers(1, 70), st.integers(1, 70)), max_size=4),
    limit=st.integers(10, 60),
)
def test_a_table_of_flags_and_a_query_agree(
    store: MongoStore, inbox: Mailbox, key: SearchKey, ranges: list[tuple[int, int]], limit: int
) -> None:
    uids = UidSet(ranges) if ranges else ALL
    by_query = searched(store, inbox, And((key, ANY_SIZE)), uids, limit)
    assert searched(store, inbox, key, uids, limit) == by_query


def test_a_text_page_that_ends_early_leaves_no_cursor(
    mongo: Mongo, store: MongoStore, inbox: Mailbox
) -> None:
    def open_cursors() -> int:
        cursors = mongo.client.admin.command("serverStatus")["metrics"]["cursor"]["open"]
        return int(cursors["total"])

    before = open_cursors()
    large = replace(
        a_message(), content=replace(a_message().content, header=b"X: " + b"y" * 900_000 + b"\r\n\r\n")
    )
    for _ in range(4):
        store.append(inbox.user_id, "INBOX", [large])
    found = store.search(inbox.id, UidSet([(61, MAX_UID)]), Header("subject", "y"), now=0)
    assert (len(found.uids), found.after) == (0, 62)
    assert store.search(inbox.id, ALL, Or((Header("subject", "nowhere"), Flag(SEEN))), now=0, limit=5).after
    assert open_cursors() == before
