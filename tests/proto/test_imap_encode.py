"""Replies byte by byte, and values that come back from the parser as they went out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wd_trio.mail import model as m
from wd_trio.mail.flagrows import FlagRows
from wd_trio.mail.numset import UidSet
from wd_trio.proto.imap import commands as c
from wd_trio.proto.imap import encode
from wd_trio.proto.imap.grammar import parse_date_time
from wd_trio.proto.imap.parse import Cursor

LIST_WITH_CHILDINFO = b'* LIST (\\Subscribed) "/" a ("CHILDINFO" ("SUBSCRIBED"))\r\n'


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
        (b"".join(encode.vanished(UidSet([(3, 5), (9, 9)]))), b"* VANISHED 3:5,9\r\n"),
        (b"".join(encode.vanished(UidSet([(7, 7)]), earlier=True)), b"* VANISHED (EARLIER) 7\r\n"),
        (b"".join(encode.vanished(UidSet())), b""),
        (encode.search([]), b"* SEARCH\r\n"),
        (encode.search([2, 84]), b"* SEARCH 2 84\r\n"),
        (encode.search([2, 84], 917), b"* SEARCH 2 84 (MODSEQ 917)\r\n"),
        (encode.search(UidSet([(2, 3)]), 0), b"* SEARCH 2 3 (MODSEQ 0)\r\n"),
        (encode.search([], 917), b"* SEARCH\r\n"),
        (encode.esearch("A1", [], uid=False), b'* ESEARCH (TAG "A1")\r\n'),
        (
            encode.esearch("a.1", [("COUNT", 4), ("ALL", UidSet([(1, 3), (7, 7)])), ("MODSEQ", 9)], uid=True),
            b'* ESEARCH (TAG "a.1") UID COUNT 4 ALL 1:3,7 MODSEQ 9\r\n',
        ),
        (
            encode.esearch("A1", [("MIN", None), ("MAX", None), ("ALL", UidSet()), ("COUNT", 0)], uid=False),
            b'* ESEARCH (TAG "A1") COUNT 0\r\n',
        ),
        (encode.copyuid(7, (304, 319, 320), (3956, 3957, 3958)).encode(), b"COPYUID 7 304,319:320 3956:3958"),
        (encode.copyuid(1, UidSet([(1, 3), (5, 5)]), (9, 4, 5, 6)).encode(), b"COPYUID 1 1:3,5 9,4:6"),
        (encode.tagged("A1", "OK", "Done", encode.copyuid(1, [2], [3])), b"A1 OK [COPYUID 1 2 3] Done\r\n"),
        (encode.list_line("a", ["\\Subscribed"], childinfo=["SUBSCRIBED"]), LIST_WITH_CHILDINFO),
        (
            encode.list_line("a b", childinfo=["SUBSCRIBED", "SPECIAL-USE"]),
            b'* LIST () "/" "a b" ("CHILDINFO" ("SUBSCRIBED" "SPECIAL-USE"))\r\n',
        ),
        (encode.quota("", [("STORAGE", 10, 512)]), b'* QUOTA "" (STORAGE 10 512)\r\n'),
        (
            encode.quota("a b", [("STORAGE", 10, 512), ("MESSAGE", 0, 1)]),
            b'* QUOTA "a b" (STORAGE 10 512 MESSAGE 0 1)\r\n',
        ),
        (encode.quota("x", []), b"* QUOTA x ()\r\n"),
        (encode.quotaroot("INBOX", [""]), b'* QUOTAROOT INBOX ""\r\n'),
        (encode.quotaroot("Ä", ["a", "b c"]), b'* QUOTAROOT &AMQ- a "b c"\r\n'),
        (encode.quotaroot("Ä", [], utf8=True), '* QUOTAROOT "Ä"\r\n'.encode()),
        (encode.enabled(["CONDSTORE", "UTF8=ACCEPT"]), b"* ENABLED CONDSTORE UTF8=ACCEPT\r\n"),
        (encode.enabled([]), b"* ENABLED\r\n"),
        (
            encode.status("x", [("APPENDLIMIT", None), ("SIZE", 0)]),
            b"* STATUS x (APPENDLIMIT NIL SIZE 0)\r\n",
        ),
        (encode.modseq(12), b"MODSEQ (12)"),
        (encode.binary_size("1.2", 9), b"BINARY.SIZE[1.2] 9"),
        (encode.binary_size("", 0), b"BINARY.SIZE[] 0"),
        (encode.literal8_head(3), b"~{3}\r\n"),
        (encode.literal8(b"\0\r\n"), b"~{3}\r\n\0\r\n"),
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
        (c.FetchBody("BINARY[1.2]", c.Section("1.2"), True, None, True), b"BINARY[1.2]"),
        (c.FetchBody("BINARY[1]", c.Section("1"), False, (5, 7), True), b"BINARY[1]<5>"),
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


@given(st.lists(st.integers(1, 60), unique=True, min_size=1))
def test_copied_uids_keep_their_pairs(sources: list[int]) -> None:
    """Read as clients do: both sets expanded in their order, then paired."""
    targets = [3 * source for source in sources]
    _, validity, *sets = encode.copyuid(5, sources, targets).split(" ")
    assert validity == "5"
    expanded = [
        [n for item in text.split(",") for n in range(int(item.split(":")[0]), int(item.split(":")[-1]) + 1)]
        for text in sets
    ]
    assert expanded == [sources, targets]


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


@given(
    st.lists(
        st.tuples(st.integers(1, 1 << 32), st.integers(0, 31), st.sampled_from(["", "a", "b c"])),
        unique_by=lambda row: row[0],
        max_size=30,
    ),
    st.booleans(),
    st.booleans(),
)
def test_flags_of_many_read_as_line_by_line(
    rows: list[tuple[int, int, str]], uid: bool, modseq: bool
) -> None:
    made = [m.FlagRow(number, number + 7, flags, keywords) for number, flags, keywords in sorted(rows)]
    lines = b""
    for seq, row in enumerate(made, 3):
        items = [b"UID %d" % row.uid] if uid else []
        items.append(b"FLAGS " + encode.flags_list(row.flags, row.keywords))
        if modseq:
            items.append(encode.modseq(row.modseq))
        lines += encode.fetch_line(seq, b" ".join(items))
    seqs = range(3, 3 + len(made))
    assert encode.fetch_flags(seqs, FlagRows.of(made), uid=uid, flags=True, modseq=modseq) == lines


def test_modseqs_alone() -> None:
    rows = FlagRows.of([m.FlagRow(5, 9, 1, "a")])
    line = b"* 2 FETCH (UID 5 MODSEQ (9))\r\n"
    assert encode.fetch_flags([2], rows, uid=True, flags=False, modseq=True) == line


def test_a_long_vanished_is_several_responses_with_short_lines() -> None:
    top = (1 << 32) - 1
    uids = UidSet((first, first + 1) for first in range(top - 3 * 1000, top, 3))
    lines = list(encode.vanished(uids, earlier=True))
    assert len(lines) == 3
    assert all(len(line) < 8192 and line.endswith(b"\r\n") for line in lines)
    told = ",".join(line.decode().removeprefix("* VANISHED (EARLIER) ").strip() for line in lines)
    assert told == str(uids)
