"""Matching: decoded headers and bodies, three-valued logic, laziness, bounds."""

from __future__ import annotations

import base64
import datetime
import quopri
import tracemalloc
from email.message import EmailMessage

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mail_samples import BY_HAND, generated
from matching_support import Naive, Stored, plain

from wd_trio.errors import Invalid
from wd_trio.mail.matching import MAX_NEEDLES, Matcher
from wd_trio.mail.model import DELETED, FLAGGED, SEEN, Columns
from wd_trio.mail.numset import SequenceSet, UidSet
from wd_trio.mail.rope import CHUNK_BYTES
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
    Numbers,
    Or,
    SearchKey,
    SentDate,
    Size,
    Text,
    Uids,
)
from wd_trio.mail.searchtext import MAX_TEXT_BYTES, day_of

# -- headers

HEADERS = Stored(
    b"Received: one\r\nReceived: two\r\n"
    b"From: =?iso-8859-1?q?J=F6rg_M=FCller?= <joerg@Example.COM>\r\n"
    b'To: "Doe, Jane" <jane@x.org>, =?utf-8?b?w4Rubmk=?= <aenni@y.org>\r\n'
    b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe_?=\r\n =?utf-8?q?aus_K=C3=B6ln?= and\r\n\tfolded\r\n"
    b"X-Raw: gr\xc3\xbc\xc3\x9fe\r\nX-Latin: gr\xfc\xdfe\r\nX-Empty:\r\nX-Blank : spaced\r\n"
    b"Content-Type: text/plain; charset=utf-8; name*=utf-8''na%C3%AFve.txt\r\n\r\nbody here\r\n"
)


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("from", "jörg müller", True),
        ("FROM", "JÖRG", True),
        ("From", "joerg@example.com", True),
        ("From", "=?iso", False),
        ("From", "jane", False),
        ("To", "doe, jane", True),
        ("To", "ÄNNI", True),
        ("Subject", "grüsse", True),  # ß folds to ss
        ("Subject", "GRÜSSE AUS KÖLN AND\tFOLDED", True),
        ("Subject", "Gru\u0308ße", True),  # decomposed
        ("Subject", "grusse", False),  # an accent is part of its letter
        ("X-Raw", "grüße", True),
        ("X-Latin", "grüße", True),
        ("X-Latin", "ß", True),
        ("X-Empty", "", True),
        ("X-Empty", "x", False),
        ("X-Blank", "spaced", True),
        ("X-None", "", False),
        ("X-Emp", "", False),
        ("Received", "two", True),
        ("Received", "onetwo", False),
        ("content-type", "naïve.txt", True),
        ("body here", "", False),
        ("X-Raw: gr", "", False),
        ("", "", False),
        ("X-Empty\nX-Blank", "", False),
    ],
)
def test_header_keys_see_the_decoded_value(name: str, text: str, found: bool) -> None:
    assert HEADERS.matches(Header(name, text)) is found
    assert HEADERS.matches(Not(Header(name, text))) is not found
    assert HEADERS.reads == []


def test_a_header_key_does_not_look_at_other_fields_lines_or_the_body() -> None:
    stored = Stored(b"Subject: x\r\n From: folded in\r\nXFrom: a\r\n\r\nFrom: body\r\n")
    assert not stored.matches(Header("From", ""))
    assert stored.matches(Header("Subject", "from: folded"))


@pytest.mark.parametrize(
    ("date", "day"),
    [
        ("Tue, 23 Nov 2021 23:59:59 -1200", (2021, 11, 23)),
        ("3 Mar 99 10:00 GMT", (1999, 3, 3)),
        ("Mon, 3 mar 05 10:00 GMT", (2005, 3, 3)),
        ("1 Jan 101 00:00:00 +0000", (2001, 1, 1)),
        ("Tue Nov 23 17:21:18 2021", (2021, 11, 23)),
        ("Tue Nov 23 17:21:18 CET 2021", (2021, 11, 23)),
        ("Saturday, 5-Jun-2010 10:00:00", (2010, 6, 5)),
        ("Wed,6 Oct 2010 10:00:00 +0000 (comment)", (2010, 10, 6)),
        ("31 Feb 2020 00:00:00 +0000", None),
        ("1 Foo 2020 00:00:00 +0000", None),
        ("yesterday", None),
        ("", None),
        ("1 Jan 20200", None),
    ],
)
def test_sent_dates_are_days_as_written(date: str, day: tuple[int, int, int] | None) -> None:
    ordinal = datetime.date(*day).toordinal() if day else None
    assert day_of(date.encode()) == ordinal
    stored = Stored(b"Date: " + date.encode() + b"\r\nDate: Tue, 1 Jan 1980 00:00:00 +0000\r\n\r\n")
    assert stored.matches(SentDate(None, None)) is (day is not None)
    if ordinal is not None:
        assert stored.matches(SentDate(ordinal, ordinal + 1))
        assert not stored.matches(SentDate(ordinal + 1, None))
        assert not stored.matches(SentDate(None, ordinal))


# -- bodies

WRITTEN = "Die STRASSE nach Köln\r\nist lang"


@pytest.mark.parametrize(
    ("charset", "encoding"),
    [
        ("utf-8", "8bit"),
        ("utf-8", "base64"),
        ("utf-8", "quoted-printable"),
        ("iso-8859-1", "quoted-printable"),
        ("windows-1252", "8bit"),
        ("utf-16", "base64"),
        ("utf-7", "7bit"),
        ("no-such-charset", "base64"),
    ],
)
def test_bodies_are_decoded(charset: str, encoding: str) -> None:
    data = WRITTEN.encode("utf-8" if charset.startswith("no-") else charset)
    if encoding == "base64":
        data = base64.encodebytes(data)
    elif encoding == "quoted-printable":
        data = quopri.encodestring(data)
    stored = Stored(plain(data, b"text/plain; charset=" + charset.encode(), encoding.encode()))
    for needle, found in (
        ("straße nach köln", True),
        ("KÖLN\r\nIST", True),
        ("koln", False),
        ("anna", False),
        ("lang", True),
    ):
        assert stored.matches(Body(needle)) is found
        assert stored.matches(Text(needle)) is (found or needle == "anna")
        assert stored.matches(Not(Text(needle))) is not (found or needle == "anna")


def test_soft_line_breaks_and_cut_words_are_joined() -> None:
    stored = Stored(plain(b"quo=\r\nted prin=74able", encoding=b"quoted-printable"))
    assert stored.matches(Body("quoted printable"))


def test_bytes_under_an_unknown_encoding_are_searched_as_they_are() -> None:
    assert Stored(plain(b"begin 644 x\r\nnaked", encoding=b"x-uuencode")).matches(Body("NAKED"))


HTML = (
    b"<html><head><style>p {color: red}</style></head><body title='hidden words'><p>Sen<b>ten</b>ce&nbsp;one "
    b"&amp;\r\n  two</p><!-- remark --><script>var secret</script><div>Tom &lt;tom@x&gt;</div>"
)


@pytest.mark.parametrize(
    ("needle", "found"),
    [
        ("sentence one & two", True),
        ("two Tom <tom@x>", True),
        ("sen<b>ten", True),  # as it stands
        ("&amp;", True),
        ("remark", True),
        ("secretTom", False),
        ("one two", False),
    ],
)
def test_html_is_searched_as_it_stands_and_as_it_reads(needle: str, found: bool) -> None:
    assert Stored(plain(HTML, b"text/html; charset=utf-8")).matches(Body(needle)) is found


MIXED = Stored(
    b"Subject: outer\r\nContent-Type: multipart/mixed; boundary=a\r\n\r\npreamble\r\n--a\r\n"
    b"Content-Type: multipart/alternative; boundary=b\r\n\r\n--b\r\n\r\nfirst words\r\n--b\r\n"
    b"Content-Type: text/html\r\n\r\n<p>second words</p>\r\n--b--\r\n--a\r\n"
    b"Content-Type: application/octet-stream\r\n"
    b"Content-Disposition: attachment;\r\n filename*=utf-8''%C3%9Cbersicht.bin\r\n"
    b"\r\nbinary words\r\n--a\r\nContent-Type: message/rfc822\r\n\r\n"
    b"Subject: =?utf-8?q?innere_Gr=C3=BC=C3=9Fe?=\r\nX-Mime: y\r\n\r\ninner body\r\n--a\r\n"
    b"Content-Type: message/delivery-status\r\n\r\nStatus: 5.1.1\r\n--a--\r\nepilogue\r\n"
)


@pytest.mark.parametrize(
    ("needle", "in_body", "in_text"),
    [
        ("outer", False, True),
        ("first words", True, True),
        ("second words", True, True),
        ("binary words", False, False),
        ("Übersicht.bin", False, True),
        ("attachment", False, True),
        ("innere grüsse", True, True),
        ("inner body", True, True),
        ("status: 5.1.1", True, True),
        ("preamble", False, False),
        ("epilogue", False, False),
        ("words\r\nsecond", False, False),
        ("", True, True),
    ],
)
def test_what_is_body_and_what_is_text(needle: str, in_body: bool, in_text: bool) -> None:
    assert MIXED.matches(Body(needle)) is in_body
    assert MIXED.matches(Text(needle)) is in_text
    assert MIXED.matches(And((Not(Body(needle)), Text(needle)))) is (in_text and not in_body)


def test_no_message_raises() -> None:
    key = Or((Text("no such text"), Body("nor this"), Header("subject", "\0")))
    for raw in [*BY_HAND.values(), *generated(60)]:
        assert Stored(raw).matches(Not(key))


# -- against Python's email package

LETTERS = st.characters(exclude_categories=("Cs", "Cc", "Cn", "Co", "Zl", "Zp"), exclude_characters="\u0345")
WORDS = st.text(
    st.sampled_from("aAbB sSßéÉøΣ\u03c3\u03c2\u01c5\u0130\u0131Ж漢か") | LETTERS, min_size=1, max_size=20
).filter(lambda text: text.isprintable())
ENCODINGS = st.sampled_from([("utf-8", "base64"), ("utf-8", "quoted-printable"), ("utf-8", "8bit")])


def part_of(draw: st.DrawFn, text: str) -> str:
    start = draw(st.integers(0, len(text)))
    needle = text[start : draw(st.integers(start, len(text)))]
    return draw(
        st.sampled_from([needle, needle.upper(), needle.lower(), needle.swapcase(), needle.casefold()])
    )


@st.composite
def searched(draw: st.DrawFn) -> tuple[EmailMessage, list[str]]:
    message = EmailMessage()
    subject = draw(WORDS).strip() or "x"
    message["From"] = "Anna <anna@example.com>"
    message["Subject"] = subject
    bodies = draw(st.lists(st.lists(WORDS, max_size=4).map("\n".join), min_size=1, max_size=3))
    charset, encoding = draw(ENCODINGS)
    message.set_content(bodies[0], charset=charset, cte=encoding)
    for body in bodies[1:]:
        message.add_attachment(body, charset=charset, cte=draw(ENCODINGS)[1], filename="über.txt")
    needles = [part_of(draw, draw(st.sampled_from([subject, *bodies]))) for _ in range(3)]
    return message, [needle for needle in [*needles, draw(WORDS), "über"] if needle.strip()]


@given(searched())
@settings(max_examples=200, deadline=None)
def test_text_keys_agree_with_pythons_email(case: tuple[EmailMessage, list[str]]) -> None:
    message, needles = case
    raw = message.as_bytes()
    stored, naive = Stored(raw), Naive(raw)
    for needle in needles:
        assert stored.matches(Body(needle)) is naive.body_has(needle)
        assert stored.matches(Text(needle)) is naive.text_has(needle)
        assert stored.matches(Header("Subject", needle)) is naive.header_has("Subject", needle)
        assert stored.matches(Or((Not(Text(needle)), Body(needle)))) is (
            not naive.text_has(needle) or naive.body_has(needle)
        )


# -- logic

ROW_KEYS: list[tuple[SearchKey, bool]] = [
    (All(), True),
    (Uids(UidSet([(3, 9)])), True),
    (Uids(UidSet([(8, 9)])), False),
    (Flag(SEEN), True),
    (Flag(DELETED), False),
    (Keyword("$work"), True),
    (Keyword("wor"), False),
    (Keyword("$Work b"), False),
    (InternalDate(1000, 1001), True),
    (InternalDate(None, 1000), False),
    (InternalDate(1001, None), False),
    (Size(10, None), True),
    (Size(None, 5), False),
    (Age(None, 500), True),
    (Age(None, 499), False),
    (Age(500, None), True),
    (Age(501, None), False),
    (ModSeq(7), True),
    (ModSeq(8), False),
    (And(()), True),
    (Or(()), False),
]
ROWED = Stored(plain(b"words"), uid=7, flags=SEEN | FLAGGED, keywords="$Work b", date=1000, modseq=7)


@pytest.mark.parametrize(("key", "expected"), ROW_KEYS)
def test_row_keys_need_no_text(key: SearchKey, expected: bool) -> None:
    matcher = Matcher(key, now=1500)
    assert matcher.columns == Columns.NONE
    assert matcher.row(ROWED.row) is expected
    assert matcher.matches(ROWED.row, ROWED.read) is expected


def test_a_key_says_which_columns_it_needs() -> None:
    body = Columns.PARTS | Columns.ROPE
    assert Matcher(Header("a", ""), now=0).columns == Columns.HEADER
    assert Matcher(Not(SentDate(1, None)), now=0).columns == Columns.HEADER
    assert Matcher(Or((Body("x"), Flag(1))), now=0).columns == body
    assert Matcher(And((Text("x"), Flag(1))), now=0).columns == body | Columns.HEADER
    assert Matcher(Text(""), now=0).columns == Columns.NONE


def test_numbers_are_no_keys_for_a_matcher() -> None:
    with pytest.raises(ValueError, match="uids"):
        Matcher(Not(Numbers(SequenceSet(((1, 2),)), uid=False)), now=0)


def test_there_is_a_limit_to_different_texts() -> None:
    texts = tuple(Text(f"t{n}") for n in range(MAX_NEEDLES))
    assert Matcher(Or((*texts, *texts)), now=0).keys == 2 * MAX_NEEDLES + 1
    with pytest.raises(Invalid) as caught:
        Matcher(Or((*texts, Not(Body("another")))), now=0)
    assert caught.value.what == "search"


TEXT_KEYS: list[tuple[SearchKey, bool]] = [
    (Body("words"), True),
    (Body("wörds"), False),
    (Text("anna"), True),
    (Text("no"), True),
    (Text("nowhere"), False),
    (Header("subject", "account"), True),
    (Header("subject", "words"), False),
    (SentDate(None, None), False),
]


def trees() -> st.SearchStrategy[tuple[SearchKey, bool, bool]]:
    """A key, its answer, and whether text has a say in it."""
    leaf = st.sampled_from([(key, answer, False) for key, answer in ROW_KEYS]) | st.sampled_from(
        [(key, answer, True) for key, answer in TEXT_KEYS]
    )
    return st.recursive(
        leaf,
        lambda inner: (
            inner.map(lambda tree: (Not(tree[0]), not tree[1], tree[2]))
            | st.lists(inner, max_size=4).map(
                lambda some: (
                    And(tuple(t[0] for t in some)),
                    all(t[1] for t in some),
                    any(t[2] for t in some),
                )
            )
            | st.lists(inner, max_size=4).map(
                lambda some: (Or(tuple(t[0] for t in some)), any(t[1] for t in some), any(t[2] for t in some))
            )
        ),
        max_leaves=12,
    )


@given(trees())
@example((And((Body("wörds"), Flag(DELETED))), False, True))
@example((Or((Not(Text("nowhere")), Header("a", ""))), True, True))
@settings(max_examples=300, deadline=None)
def test_trees_of_keys(tree: tuple[SearchKey, bool, bool]) -> None:
    key, expected, of_text = tree
    assert ROWED.matches(key, now=1500) is expected
    if not of_text:
        assert Matcher(key, now=1500).row(ROWED.row) is expected


def test_rows_that_decide_keep_the_text_unread() -> None:
    bare = Stored(plain(b"x" * 20_000), uid=2)
    bare.row.header = bare.row.parts = bare.row.rope = None
    for key, answer in (
        (And((Text("a"), Flag(SEEN))), False),
        (Or((Not(Body("a")), All())), True),
        (Not(And((Header("a", "b"), Uids(UidSet([(9, 9)]))))), True),
    ):
        assert Matcher(key, now=0).row(bare.row) is answer
    assert Matcher(Or((Text("a"), Flag(SEEN))), now=0).row(bare.row) is None


def test_a_header_that_decides_keeps_the_body_unread_and_a_body_is_read_once() -> None:
    stored = Stored(plain(b"x" * 20_000))
    assert not stored.matches(And((Body("y"), Header("subject", "other"))))
    assert stored.matches(Text("account"))
    assert stored.reads == []
    assert not stored.matches(Or((Body("y"), Body("z"), And((Text("w"), Not(Body("v")))))))
    assert stored.reads == [(0, 20_000)]


# -- large bodies


@pytest.mark.parametrize("encoding", ["8bit", "base64", "quoted-printable"])
@pytest.mark.parametrize("charset", ["utf-8", "utf-16", "shift_jis", "iso-2022-jp"])
def test_a_needle_across_pieces_is_found(encoding: str, charset: str) -> None:
    filler = "日本語のテキスト " * 60_000
    text = "".join(f"{filler[at : at + 70]}\r\n" for at in range(0, len(filler), 70))
    words = f"{text[: len(text) // 2]}針Needle糸{text[len(text) // 2 :]}"
    data = words.encode(charset)
    if encoding == "base64":
        data = base64.encodebytes(data)
    elif encoding == "quoted-printable":
        data = quopri.encodestring(data)
    elif charset == "utf-16":
        return  # has line ends that are none, so never travels as 8bit
    assert len(data) > 2 * CHUNK_BYTES
    stored = Stored(plain(data, b"text/plain; charset=" + charset.encode(), encoding.encode()))
    assert stored.matches(Body("針needle糸"))
    assert stored.matches(Body(words[30_000:330_000]))
    assert not stored.matches(Body("針needle針"))
    assert all(stop - start <= CHUNK_BYTES for start, stop in stored.reads)


@pytest.mark.parametrize("at", range(CHUNK_BYTES - 8, CHUNK_BYTES + 2))
def test_every_cut_of_a_needle_is_found(at: int) -> None:
    body = b"-" * at + "e\u0301tudeß&amp;".encode() + b"-" * CHUNK_BYTES
    stored = Stored(plain(body, b"text/html; charset=utf-8"))
    assert stored.matches(Body("ÉTUDESS&-"))
    assert not stored.matches(Body("-etude"))
    assert not stored.matches(Body("-e\u0301tudés"))


def test_text_after_broken_bytes_is_still_found() -> None:
    body = "grün ".encode() * 100_000 + b"\xff\xfe gr\xfcn geh\xf6rt"
    stored = Stored(plain(body))
    assert stored.matches(Body("grün grün"))
    assert stored.matches(Body("gehört"))


def test_large_bodies_take_little_memory_and_have_a_cap() -> None:
    line = b"seventy-two characters of some text that is nothing but a filler, here.\r\n"
    body = line * (MAX_TEXT_BYTES // len(line)) + b"just before" + b" " * len(line) + b"beyond"
    stored = Stored(plain(body, b"text/html"))
    tracemalloc.start()
    try:
        assert stored.matches(Not(Body("no such text")))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * CHUNK_BYTES
    assert sum(stop - start for start, stop in stored.reads) == MAX_TEXT_BYTES
    assert not stored.matches(Body("beyond"))
    stored.reads.clear()
    assert stored.matches(Body("seventy-two"))
    assert len(stored.reads) == 1
