"""Header searches find what the exact matcher finds, whatever an engine leaves out beforehand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from contract_make import make_message

from wd_trio.mail.matching import Matcher
from wd_trio.mail.model import Columns, Mailbox, NewMessage
from wd_trio.mail.numset import MAX_UID, UidSet
from wd_trio.mail.search import And, Header, Not, Or, SearchKey
from wd_trio.ports.mail import MailStore

ALL = UidSet([(1, MAX_UID)])
HEADERS = (
    b"Subject: hello World\r\nFrom: Ann <ann@example.org>\r\n\r\n",
    b"Subject: hello\r\n World\r\nFrom: BOB <bob@example.org>\r\n\r\n",
    b"Subject: hello\r\n\tWorld\r\n\r\n",
    b"Subject: =?utf-8?q?hello?= =?utf-8?q?_world?=\r\n\r\n",
    b"Subject: =?utf-8?b?aGVsbG8gd29ybGQ=?=\r\n\r\n",
    b"Subject: Stra\xc3\x9fe\r\n\r\n",
    b"Subject: Stra\xdfe\r\n\r\n",
    b"Subject: \xe2\x84\xaaelvin\r\n\r\n",
    b"Subject: before\0hello world\r\n\r\n",
    b"X-Long: hello world\r\nSubject: none\r\n\r\n",
    b"Subject: 100% sure_thing \\o/\r\n\r\n",
    b"Content-Type: text/plain; name*=utf-8''hello%20world\r\n\r\n",
    b"Subject:\r\n\r\n",
    b"\r\n",
)
WORDS = (
    "hello world",
    "HELLO",
    "world",
    "strasse",
    "Stra\xdfe",
    "kelvin",
    "100%",
    "sure_thing",
    "sureXthing",
    "%",
    "_",
    "\\o/",
    "bob",
    " ",
    "",
    "x" * 300,
)


def message(header: bytes) -> NewMessage:
    made = make_message()
    return replace(made, content=replace(made.content, header=header))


@pytest.fixture
def headers(store: MailStore, user: str, inbox: Mailbox) -> Mailbox:
    store.append(user, "INBOX", [message(header) for header in HEADERS])
    return inbox


def keys() -> list[SearchKey]:
    single: list[SearchKey] = [
        Header(name, word) for word in WORDS for name in ("subject", "From", "content-type")
    ]
    hello, bob, strasse = (
        Header("subject", "hello world"),
        Header("from", "bob"),
        Header("subject", "STRASSE"),
    )
    return [
        *single,
        *(Not(key) for key in single),
        Or((hello, bob)),
        Or((hello, Not(bob))),
        And((hello, bob)),
        And((hello, Not(bob))),
        Not(Or((hello, strasse))),
        Or((And((hello, Not(bob))), And((strasse, Not(hello))))),
    ]


def unread(digest: bytes, start: int, stop: int) -> bytes:
    raise AssertionError("a header key reads no blob")


def test_headers_are_found_whatever_they_are_written_in(store: MailStore, headers: Mailbox) -> None:
    rows = store.fetch(headers.id, ALL, Columns.HEADER)
    found_any = 0
    for key in keys():
        matcher = Matcher(key, now=0)
        exact = UidSet.of(row.uid for row in rows if matcher.matches(row, unread))
        found = store.search(headers.id, ALL, key, now=0)
        assert (found.uids, found.after) == (exact, 0), key
        for row in rows:
            assert matcher.may_match(row.header or b"") or row.uid not in exact, key
        found_any += bool(exact)
    assert found_any > len(WORDS)
    assert store.search(headers.id, ALL, Header("subject", "hello world"), now=0).uids == UidSet.of(
        [1, 2, 4, 5, 9]
    )
    assert store.search(headers.id, ALL, Header("subject", "strasse"), now=0).uids == UidSet.of([6, 7])
