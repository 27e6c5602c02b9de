"""Replies byte by byte, and values that come back from the parser as they went out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wd_trio.mail import model as m
from wd_trio.proto.imap import commands as c
from wd_trio.proto.imap import encode
from wd_trio.proto.imap.grammar import parse_date_time
from wd_trio.proto.imap.parse import Cursor


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encode.tagged("A1", "OK", "NOOP completed"), b"A1 OK NOOP completed\r\n"),
        (encode.tagged("A1", "NO", "No such mailbox", "TRYCREATE"), b"A1 NO [TRYCREATE] No such mailbox\r\n"),
        (encode.tagged("A1", "BAD", "a\r\nB1 OK\0\xe9b\x7f"), b"A1 BAD a  B1 OK ?b \r\n"),
        (encode.tagged("A1", "OK", "", "X\r\nY"), b"A1 OK [X  Y] -\r\n"),
        (encode.ok("ready"), b"* OK ready\r\n"),
        (encode.ok("Next uid", "UIDNEXT 5"), b"* OK [UIDNEXT 5] Next uid\r\n"),
        (encode.bye("Logging out"), b"* BYE Logging out\r\n"),
        (encode.bye("Going down", "UNAVAILABLE"), b"* BYE [UNAVAILABLE] Going down\r\n"),
        (encode.continuation("idling"), b"+ idling\r\n"),
        (encode.capability(["IMAP4rev1", "IDLE"]), b"* CAPABILITY IMAP4rev1 IDLE\r\n"),
        (encode.flags(["\\Seen", "kw"]), b"* FLAGS (\\Seen kw)\r\n"),
        (encode.exists(0), b"* 0 EXISTS\r\n"),
        (encode.recent(0), b"* 0 RECENT\r\n"),
        (encode.expunge(17), b"* 17 EXPUNGE\r\n"),
        (encode.search([]), b"* SEARCH\r\n"),
        (encode.search([2, 84]), b"* SEARCH 2 84\r\n"),
        (encode.list_line("INBOX", ["\\HasNoChildren"]), b'* LIST (\\HasNoChildren) "/" INBOX\r\n'),
        (encode.list_line("", ["\\Noselect"], "/"), b'* LIST (\\Noselect) "/" ""\r\n'),
        (encode.list_line("nil", separator=""), b'* LIST () NIL "nil"\r\n'),
        (encode.list_line("Sent Mail", word="LSUB"), b'* LSUB () "/" "Sent Mail"\r\n'),
        (encode.list_line("Käse & \\"), b'* LIST () "/" "K&AOQ-se &- \\\\"\r\n'),
        (encode.list_line("Käse & Co", utf8=True), '* LIST () "/" "Käse & Co"\r\n'.encode()),
        (encode.list_line("Käse", utf8=True), '* LIST () "/" "Käse"\r\n'.encode()),
        (encode.status("Ä", [("MESSAGES", 2), ("UIDNEXT", 3)]), b"* STATUS &AMQ- (MESSAGES 2 UIDNEXT 3)\r\n"),
        (encode.status("x", []), b"* STATUS x ()\r\n"),
        (encode.namespace(), b'* NAMESPACE (("" "/")) NIL NIL\r\n'),
        (encode.id_line([]), b"* ID NIL\r\n"),
        (encode.id_line([("name", 'a"b'), ("v", None)]), b'* ID ("name" "a\\"b" "v" NIL)\r\n'),
        (encode.fetch_line(12, b"UID 5"), b"* 12 FETCH (UID 5)\r\n"),
        (encode.flags_list(0, ""), b"()"),
        (encode.flags_list(m.SEEN | m.DELETED, "$Fwd b"), b"(\\Deleted \\Seen $Fwd b)"),
        (encode.literal_head(5), b"{5}\r\n"),
        (encode.literal(b"\r\n\0"), b"{3}\r\n\r\n\0"),
        (encode.string(b""), b'""'),
        (encode.string(b"\xc3\xa9"), b"{2}\r\n\xc3\xa9"),
        (encode.string(b"\xc3\xa9", utf8=True), b'"\xc3\xa9"'),
        (encode.string(b"\xff", utf8=True), b"{1}\r\n\xff"),
        (encode.string(b"x" * 1025), b"{1025}\r\n" + b"x" * 1025),
        (encode.nstring(None), b"NIL"),
        (encode.nstring(b"NIL"), b'"NIL"'),
        (encode.astring(b"a]"), b"a]"),
        (encode.astring(b"a b"), b'"a b"'),
        (encode.internal_date(0), b'" 1-Jan-1970 00:00:00 +0000"'),
        (encode.internal_date(837596665), b'"17-Jul-1996 09:44:25 +0000"'),
        (encode.internal_date(-1), b'"31-Dec-1969 23:59:59 +0000"'),
        (encode.internal_date(-(10**15)), b'" 1-Jan-0001 00:00:00 +0000"'),
        (encode.internal_date(10**15), b'"31-Dec-9999 23:59:59 +0000"'),
    ],
)
def test_golden(data: bytes, expected: bytes) -> None:
    assert data == expected


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (c.FetchBody("BODY[]", c.Section(), False), b"BODY[]"),
        (c.FetchBody("BODY[]", c.Section(), False, (0, 7)), b"BODY[]<0>"),
        (
            c.FetchBody('BODY[HEADER.FIELDS (FROM "X Y")]', c.Section(), True, (2048, 7)),
            b'BODY[HEADER.FIELDS (FROM "X Y")]<2048>',
        ),
        (c.FetchBody("RFC822.TEXT", c.Section(text="TEXT"), False), b"RFC822.TEXT"),
    ],
)
def test_body_names(body: c.FetchBody, name: bytes) -> None:
    assert encode.body_name(body) == name


@given(st.integers(-62135596800, 253402300799))
def test_dates_there_and_back(epoch_s: int) -> None:
    assert parse_date_time(encode.internal_date(epoch_s).strip(b'"')) == epoch_s


@given(st.binary(max_size=40).filter(lambda octets: b"\0" not in octets), st.booleans())
def test_strings_there_and_back(octets: bytes, utf8: bool) -> None:
    assert Cursor(encode.string(octets, utf8=utf8)).string() == octets
    assert Cursor(encode.astring(octets, utf8=utf8)).astring() == octets
    assert Cursor(encode.nstring(octets, utf8=utf8)).nstring() == octets


NAMES = st.text(
    st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\u2028\u2029"), max_size=30
).filter(lambda name: name.split("/")[0].upper() != "INBOX")


@given(NAMES, st.booleans())
def test_mailbox_names_there_and_back(name: str, utf8: bool) -> None:
    shown = encode.mailbox_name(name, utf8=utf8)
    assert utf8 or shown.isascii()
    assert Cursor(shown, utf8=utf8).mailbox() == name


@given(st.text(max_size=60), st.text(max_size=20))
def test_texts_stay_on_their_line(text: str, code: str) -> None:
    line = encode.tagged("A1", "NO", text, code)
    assert line.endswith(b"\r\n")
    assert line[:-2].isascii()
    assert line[:-2].decode().isprintable()
