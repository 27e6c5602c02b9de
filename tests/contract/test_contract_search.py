"""The contract of SEARCH: every key, against what the messages were made of; pages; text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

import pytest
from contract_make import make_message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wd_trio import errors
from wd_trio.mail.content import prepare
from wd_trio.mail.model import (
    ANSWERED,
    DELETED,
    FLAGGED,
    SEEN,
    BlobData,
    Found,
    Mailbox,
    NewMessage,
)
from wd_trio.mail.numset import MAX_UID, UidSet
from wd_trio.mail.search import (
    Age,
    All,
    And,
    Body,
    Flag,
    Header,
    InternalDate,
    Keyword,
    ModSeq,
    Not,
    Or,
    SearchKey,
    SentDate,
    Size,
    Text,
    Uids,
)
from wd_trio.ports.ids import new_id
from wd_trio.ports.mail import MailStore

ALL = UidSet([(1, MAX_UID)])
NOW = 1_000_000
COUNT = 24


def search(
    store: MailStore, mailbox: Mailbox, key: SearchKey, uids: UidSet = ALL, limit: int = 1000
) -> list[int]:
    """All pages of a search; they join on to each other."""
    found, after = UidSet(), 0
    for _ in range(10_000):
        page = store.search(mailbox.id, uids, key, now=NOW, after=after, limit=limit)
        assert not page.uids or after < page.uids.first <= page.uids.last
        assert not page.after or after < page.after
        assert not page.after or page.uids.last <= page.after
        found |= page.uids
        after = page.after
        if not after:
            return list(found)
    raise AssertionError("pages without end")


@dataclass(frozen=True, slots=True)
class Fact:
    """What one message was made of."""

    uid: int
    flags: int
    keywords: tuple[str, ...]
    internal_date: int
    size: int
    modseq: int
    subject: str
    sent: int | None


def body_of(number: int) -> str:
    """The text of a message; every sixth is long enough for a blob."""
    return f"Zahl {number * 7}\r\n" + "füll " * (4000 if number % 6 == 0 else 1)


def facts_of(number: int) -> tuple[NewMessage, list[BlobData], Fact]:
    """The message of a number, its blobs and what it is made of."""
    flags = (
        (SEEN if number % 2 else 0)
        | (FLAGGED if number % 3 == 0 else 0)
        | (DELETED if number % 11 == 0 else 0)
    )
    keywords = ("$Work",) * (number % 4 == 0) + ("workshop",) * (number % 5 == 0)
    subject = f"Grüße Nr. {number}"
    day = date(2020, 1, 1 + number)
    sent = None if number % 7 == 0 else day.toordinal()
    header = f"Subject: {subject}\r\n" + (f"Date: {day:%a, %d %b %Y} 23:00:00 -0700\r\n" if sent else "")
    raw = f"{header}Content-Type: text/plain; charset=utf-8\r\n\r\n{body_of(number)}\r\n".encode()
    prepared = prepare(raw)
    internal_date = NOW - 100 * number
    message = NewMessage(prepared.content(), internal_date, flags, " ".join(keywords))
    blobs = [prepared.blob(source) for source in prepared.blob_sources]
    return message, blobs, Fact(number, flags, keywords, internal_date, len(raw), 0, subject, sent)


@pytest.fixture
def facts(store: MailStore, user: str, inbox: Mailbox) -> list[Fact]:
    """The messages 1 … COUNT of INBOX but for some that are gone."""
    made = []
    for number in range(1, COUNT + 1):
        message, blobs, fact = facts_of(number)
        modseq = store.append(user, "INBOX", [message], blobs=blobs).modseq
        made.append((fact, modseq))
    gone = store.expunge(inbox.id, UidSet([(11, 11)])).uids
    assert gone == UidSet([(11, 11)])
    return [
        Fact(**{name: getattr(fact, name) for name in Fact.__slots__} | {"modseq": modseq})
        for fact, modseq in made
        if fact.uid not in gone
    ]


def holds(key: SearchKey, fact: Fact) -> bool:
    """What a key means, word for word."""
    match key:
        case All():
            return True
        case And(keys=keys):
            return all(holds(inner, fact) for inner in keys)
        case Or(keys=keys):
            return any(holds(inner, fact) for inner in keys)
        case Not(key=inner):
            return not holds(inner, fact)
        case Uids(uids=uids):
            return fact.uid in uids
        case Flag(bit=bit):
            return bool(fact.flags & bit)
        case Keyword(word=word):
            return word.lower() in [own.lower() for own in fact.keywords]
        case InternalDate(first=first, last=last):
            return inside(fact.internal_date, first, last)
        case SentDate(first=first, last=last):
            return fact.sent is not None and inside(fact.sent, first, last)
        case Size(larger=larger, smaller=smaller):
            return inside(fact.size, None if larger is None else larger + 1, smaller)
        case Age(older=older, younger=younger):
            age = NOW - fact.internal_date
            return (older is None or age >= older) and (younger is None or age <= younger)
        case ModSeq(least=least):
            return fact.modseq >= least
        case Header(name=name, text=text):
            return name.lower() == "subject" and text.lower() in fact.subject.lower()
        case Body(text=text):
            return text.lower() in body_of(fact.uid).lower()
        case Text(text=text):
            return holds(Or((Body(text), Header("subject", text))), fact)
    raise AssertionError(key)


def inside(number: int, first: int | None, last: int | None) -> bool:
    return (first is None or first <= number) and (last is None or number < last)


def bounded(
    strategy: st.SearchStrategy[int], make: Callable[[int | None, int | None], SearchKey]
) -> st.SearchStrategy[SearchKey]:
    return st.tuples(st.none() | strategy, st.none() | strategy).map(lambda pair: make(*pair))


DAY = date(2020, 1, 1).toordinal()
NUMBERS = st.integers(0, COUNT + 2)
WORDS = st.sampled_from(["GRÜSSE", "grüße", "nr. 1", "ZAHL", "7\r\n", "füll", "zahl 2", "nothing", ""])
LEAVES: st.SearchStrategy[SearchKey] = st.one_of(
    st.just(All()),
    st.sampled_from([SEEN, FLAGGED, DELETED, ANSWERED]).map(Flag),
    st.sampled_from(["$work", "WORKSHOP", "work", "shop", "$Work workshop", "ünknown"]).map(Keyword),
    st.lists(st.tuples(NUMBERS, NUMBERS), max_size=12).map(lambda ranges: Uids(UidSet(ranges))),
    bounded(NUMBERS.map(lambda n: NOW - 100 * n), InternalDate),
    bounded(NUMBERS.map(lambda n: DAY + n), SentDate),
    bounded(st.integers(100, 200) | st.sampled_from([0, 20_000, 1 << 64]), Size),
    bounded(NUMBERS.map(lambda n: 100 * n) | st.just(1 << 70), Age),
    (NUMBERS | st.just(1 << 80)).map(ModSeq),
    WORDS.map(lambda text: Header("Subject", text)),
    WORDS.map(Body),
    WORDS.map(Text),
)
KEYS = st.recursive(
    LEAVES,
    lambda inner: (
        inner.map(Not)
        | st.lists(inner, max_size=4).map(lambda keys: And(tuple(keys)))
        | st.lists(inner, max_size=4).map(lambda keys: Or(tuple(keys)))
    ),
    max_leaves=10,
)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=KEYS,
    walk=st.tuples(st.sampled_from([1, 3, 1000]), st.sampled_from([ALL, UidSet([(2, 5), (9, 9), (12, 90)])])),
)
def test_every_key_finds_what_it_means(
    store: MailStore, inbox: Mailbox, facts: list[Fact], key: SearchKey, walk: tuple[int, UidSet]
) -> None:
    limit, span = walk
    # "ß" and "ss" are the same text to a search; the model has them so by hand.
    expected = [fact.uid for fact in facts if fact.uid in span and holds_folded(key, fact)]
    assert search(store, inbox, key, span, limit) == expected


def holds_folded(key: SearchKey, fact: Fact) -> bool:
    folded = Fact(
        **{name: getattr(fact, name) for name in Fact.__slots__}
        | {"subject": fact.subject.replace("ß", "ss")}
    )
    return holds(unsharp(key), folded)


def unsharp(key: SearchKey) -> SearchKey:
    match key:
        case And(keys=keys):
            return And(tuple(map(unsharp, keys)))
        case Or(keys=keys):
            return Or(tuple(map(unsharp, keys)))
        case Not(key=inner):
            return Not(unsharp(inner))
        case Header(name=name, text=text):
            return Header(name, text.replace("ß", "ss"))
        case Text(text=text):
            return Text(text.replace("ß", "ss"))
    return key


def test_a_page_tells_the_highest_modseq_of_its_matches(
    store: MailStore, inbox: Mailbox, facts: list[Fact]
) -> None:
    by_uid = {fact.uid: fact.modseq for fact in facts}
    for key in (Flag(FLAGGED), Header("subject", "nr. 1"), Uids(UidSet([(4, 4)]))):
        page = store.search(inbox.id, ALL, key, now=NOW)
        assert page.modseq == max(by_uid[uid] for uid in page.uids)
        assert page.after == 0
    assert store.search(inbox.id, ALL, Keyword("none"), now=NOW) == Found(UidSet(), 0, 0)
    assert store.search(inbox.id, UidSet(), All(), now=NOW) == Found(UidSet(), 0, 0)


def test_a_page_looks_at_so_many_messages(store: MailStore, inbox: Mailbox, facts: list[Fact]) -> None:
    first = store.search(inbox.id, ALL, All(), now=NOW, limit=10)
    assert (first.uids, first.after) == (UidSet([(1, 10)]), 10)
    second = store.search(inbox.id, ALL, Header("Subject", ""), now=NOW, after=10, limit=10)
    assert (second.uids, second.after) == (UidSet([(12, 21)]), 21)
    last = store.search(inbox.id, ALL, All(), now=NOW, after=21, limit=10)
    assert (last.uids, last.after) == (UidSet([(22, 24)]), 0)


def test_the_uids_asked_for_bound_the_walk(store: MailStore, inbox: Mailbox, facts: list[Fact]) -> None:
    few = And((Uids(UidSet([(3, 3), (11, 11), (20, 20)])), Text("zahl")))
    assert store.search(inbox.id, ALL, few, now=NOW, limit=3) == Found(
        UidSet.of([3, 20]), facts[18].modseq, 0
    )
    assert search(store, inbox, All(), UidSet((n, n) for n in range(1, 60, 2)), limit=2) == [
        n for n in range(1, COUNT, 2) if n != 11
    ]


def test_deep_and_wide_keys(store: MailStore, inbox: Mailbox, facts: list[Fact]) -> None:
    key: SearchKey = Flag(SEEN)
    for _ in range(41):
        key = Not(key)
    seen = [fact.uid for fact in facts if fact.flags & SEEN]
    assert search(store, inbox, key) == [fact.uid for fact in facts if fact.uid not in seen]
    wide = Or((*(Keyword(f"k{n}") for n in range(3000)), Flag(SEEN)))
    assert search(store, inbox, wide) == seen
    assert search(store, inbox, And((wide,) * 3 + (Not(wide),))) == []
    many = Or((Uids(UidSet((n, n) for n in range(1, 9000, 2))), Flag(FLAGGED)))
    assert search(store, inbox, many) == [f.uid for f in facts if f.uid % 2 or f.flags & FLAGGED]


def test_much_text_is_searched_in_several_pages(store: MailStore, user: str, inbox: Mailbox) -> None:
    for number in range(8):
        raw = b"Subject: large\r\n\r\n" + (b"line %d of a large text\r\n" % number) * 60_000 + b"the end"
        prepared = prepare(raw)
        blobs = [prepared.blob(source) for source in prepared.blob_sources]
        store.append(user, "INBOX", [NewMessage(prepared.content(), NOW)], blobs=blobs)
    page = store.search(inbox.id, ALL, Body("nowhere"), now=NOW)
    assert 0 < page.after < 8
    assert search(store, inbox, Body("the end")) == list(range(1, 9))
    assert search(store, inbox, Not(Body("line 3 of"))) == [1, 2, 3, 5, 6, 7, 8]
    assert store.search(inbox.id, ALL, Header("subject", "LARGE"), now=NOW).after == 0


def test_unseen_and_deleted_are_found_among_many(store: MailStore, user: str, inbox: Mailbox) -> None:
    flags = {100: 0, 350: DELETED, 351: SEEN | DELETED, 500: 0}
    store.append(user, "INBOX", [make_message(flags=flags.get(n, SEEN)) for n in range(1, 601)])
    unseen, deleted = Not(Flag(SEEN)), Flag(DELETED)
    for limit in (1, 2, 100):
        assert search(store, inbox, unseen, limit=limit) == [100, 350, 500]
        assert search(store, inbox, deleted, limit=limit) == [350, 351]
        assert search(store, inbox, And((unseen, deleted)), limit=limit) == [350]
        assert search(store, inbox, And((unseen, Header("subject", "hello"))), limit=limit) == [100, 350, 500]
        assert search(store, inbox, And((unseen, Uids(UidSet([(101, 400), (500, 500)])))), limit=limit) == [
            350,
            500,
        ]


def test_a_search_needs_a_mailbox(store: MailStore) -> None:
    with pytest.raises(errors.NotFound):
        store.search(new_id(), ALL, All(), now=NOW)
