"""Messages as clients show them: values read back, dates, people, structures, texts."""

from __future__ import annotations

import email.utils
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mail_samples import Maker

from wd_trio.errors import Invalid
from wd_trio.mail.content import prepare
from wd_trio.mail.parts import PartTable
from wd_trio.mail.render import (
    _PLAIN_ENVELOPE,
    _PLAIN_TEXT,
    Envelope,
    Person,
    Structure,
    _envelope,
    _quick_value,
    _structure,
    iso_time,
    link_attachments,
    parse_date,
    parse_value,
    read_envelope,
    read_structure,
    text_to_html,
)
from wd_trio.mail.strings import nstring

VALUES = st.recursive(
    st.none() | st.integers(0, 1 << 32) | st.binary(max_size=20).filter(lambda text: b"\0" not in text),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=20,
)


def rendered(value: object) -> bytes:
    if isinstance(value, list):
        return b"(%b)" % b" ".join(rendered(item) for item in value)
    if isinstance(value, int):
        return b"%d" % value
    assert value is None or isinstance(value, bytes)
    return nstring(value, False)


def as_stored(value: object) -> object:
    """Line ends within strings are stored as spaces."""
    if isinstance(value, list):
        return [as_stored(item) for item in value]
    return value.translate(bytes.maketrans(b"\r\n", b"  ")) if isinstance(value, bytes) else value


@given(VALUES)
def test_values_read_back_as_they_were_rendered(value: object) -> None:
    assert parse_value(rendered(value)) == as_stored(value)


@pytest.mark.parametrize(
    "data",
    [b"", b"(", b")", b"())", b"NIL NIL", b'"open', b"atom", b"{5}\r\nabc", b'(NIL "x)', b"-1", b"nil"],
)
def test_what_is_no_value(data: bytes) -> None:
    with pytest.raises(Invalid):
        parse_value(data)


def in_octets(value: object) -> object:
    if isinstance(value, list):
        return [in_octets(item) for item in value]
    return value.encode() if isinstance(value, str) else value


@given(
    VALUES.map(rendered)
    | st.text(alphabet='()"NIL 01{}\\\0\r\nx', max_size=30).map(str.encode)
    | st.recursive(
        st.none() | st.integers(0, 1 << 70) | st.text(alphabet="ab =?\t~", max_size=5).map(str.encode),
        lambda inner: st.lists(inner, min_size=1, max_size=5),
    ).map(rendered)
)
def test_the_quick_way_reads_the_same(data: bytes) -> None:
    try:
        value = parse_value(data)
    except Invalid:
        with pytest.raises(Invalid):
            _quick_value(data)
    else:
        assert in_octets(_quick_value(data)) == value


def test_the_quick_way_is_taken() -> None:
    assert _quick_value(b'("a b" NIL ("c" 7)("d" 8))') == ["a b", None, ["c", 7], ["d", 8]]


PLAIN_STRINGS = st.none() | st.text(alphabet='ab =?"\\\t\0@()\x7f\x80', max_size=6).map(str.encode)
PEOPLE = st.none() | st.lists(st.lists(PLAIN_STRINGS, min_size=4, max_size=4), min_size=1, max_size=3)
ENVELOPES = st.tuples(
    st.sampled_from([None, b"Mon, 23 Nov 2026 18:00:00 +0100", b"yesterday", b""]),
    PLAIN_STRINGS,
    *(PEOPLE,) * 6,
    PLAIN_STRINGS,
    PLAIN_STRINGS,
)
PARAMS = st.none() | st.lists(PLAIN_STRINGS, min_size=1, max_size=5)
TEXTS = st.tuples(
    st.just(b"text"),
    st.sampled_from([b"plain", b"html", b"x-\xff", b""]),
    PARAMS,
    st.none() | st.just(b"<id>"),
    PLAIN_STRINGS,
    st.sampled_from([b"7bit", b"base64", None]),
    st.integers(0, 1 << 70),
    st.integers(0, 9),
    PLAIN_STRINGS,
    st.none() | st.just([b"attachment", [b"filename", b"a"]]),
    st.none() | st.just([b"en", b"de"]),
    PLAIN_STRINGS,
)


@given(ENVELOPES.map(list).map(rendered))
def test_plain_envelopes_read_the_same(data: bytes) -> None:
    assert outcome(read_envelope, data) == outcome(lambda data: _envelope(_quick_value(data)), data)


@given(TEXTS.map(list).map(rendered))
def test_plain_texts_read_the_same(data: bytes) -> None:
    assert outcome(read_structure, data) == outcome(lambda data: _structure(_quick_value(data)), data)


def outcome(read: Callable[[bytes], Envelope | Structure], data: bytes) -> Envelope | Structure | None:
    try:
        return read(data)
    except Invalid:
        return None


def test_the_plain_way_is_taken() -> None:
    raw = b"From: A <a@example.org>\r\nSubject: =?utf-8?q?=C3=A4?=\r\n\r\nx\r\n"
    content = prepare(raw).content()
    assert _PLAIN_ENVELOPE.fullmatch(content.envelope)
    assert _PLAIN_TEXT.fullmatch(content.bodystructure)
    assert read_envelope(content.envelope).subject == "ä"


@given(
    st.binary(max_size=200) | VALUES.map(rendered) | st.lists(VALUES, min_size=10, max_size=10).map(rendered)
)
def test_nothing_else_is_raised(data: bytes) -> None:
    for read in (parse_value, read_envelope, read_structure):
        with suppress(Invalid):
            read(data)


@pytest.mark.parametrize("seed", range(60))
def test_structures_agree_with_part_tables(seed: int) -> None:
    content = prepare(Maker(seed).message()).content()
    structure = read_structure(content.bodystructure)
    table = PartTable.decode(content.parts)
    assert structure.bodies
    starts = []
    for body in structure.bodies:
        leaf = table.leaf(body.part)
        assert leaf is not None
        assert (leaf.stop - leaf.start, leaf.content_type) == (body.size, body.content_type)
        assert leaf.encoding == body.encoding
        starts.append(leaf.start)
    assert starts == sorted(starts)
    assert len(structure.texts) + len(structure.attachments) == len(structure.bodies)
    read_envelope(content.envelope)


def test_people() -> None:
    raw = (
        b"From: =?utf-8?q?J=C3=BCrgen?= <j@example.org>\r\n"
        b'To: Team: "B, C" <b@example.org>;, nobody, \xc3\xa4@example.org\r\n\r\n'
    )
    envelope = read_envelope(prepare(raw).content().envelope)
    assert envelope.from_ == envelope.sender == envelope.reply_to == (Person("Jürgen", "j@example.org"),)
    assert envelope.to == (Person("B, C", "b@example.org"), Person("", ""), Person("", "ä@example.org"))
    assert (envelope.cc, envelope.subject, envelope.date) == ((), "", None)


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        (b"Mon, 23 Nov 2026 18:00:00 +0100", "2026-11-23T17:00:00.000Z"),
        (b"1 Jan 2024 00:00 -0330 (NST)", "2024-01-01T03:30:00.000Z"),
        (b"Tue, 01 Jul 97 10:00:00 GMT", "1997-07-01T10:00:00.000Z"),
        (b"Sat, 31 Dec 2016 23:59:60 +0000", "2017-01-01T00:00:00.000Z"),
        (b"Thu, 1 Jan 1601 00:00:00 +0000", "1601-01-01T00:00:00.000Z"),
    ],
)
def test_dates(text: bytes, iso: str) -> None:
    moment = parse_date(text)
    assert moment is not None
    assert iso_time(moment) == iso


@pytest.mark.parametrize(
    "text",
    [b"", b"nonsense", b"32 Jan 2024 00:00:00 +0000", b"1 Foo 2024 00:00 +0000", b"1 Jan 0000 00:00 +0000"],
)
def test_no_dates(text: bytes) -> None:
    assert parse_date(text) is None


@given(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)), st.integers(-1439, 1439))
def test_dates_round_trip(moment: datetime, offset: int) -> None:
    seconds = int(moment.replace(tzinfo=UTC, microsecond=0).timestamp())
    local = seconds + offset * 60
    try:
        text = email.utils.format_datetime(datetime.fromtimestamp(local, UTC)).removesuffix("+0000")
    except (ValueError, OverflowError):
        return
    sign, minutes = ("-", -offset) if offset < 0 else ("+", offset)
    written = f"{text}{sign}{minutes // 60:02}{minutes % 60:02}"
    assert parse_date(written.encode()) == seconds


def test_text_as_html() -> None:
    assert text_to_html("a <b>\r\nc\r\n\r\nd & e\r\n") == "<p>a &lt;b&gt;<br/>c</p><p>d &amp; e</p>"


def test_links_to_attachments() -> None:
    raw = (
        b"Content-Type: multipart/related; boundary=b\r\n\r\n--b\r\nContent-Type: text/html\r\n\r\nx\r\n"
        b"--b\r\nContent-Type: image/png\r\nContent-ID: <a@b>\r\n\r\nx\r\n--b--\r\n"
    )
    structure = read_structure(prepare(raw).content().bodystructure)
    assert not structure.has_files
    html = '<img src="cid:a@b"><img src=CID:a@b><img src="cid:c@d">'
    assert link_attachments(html, structure.attachments) == (
        '<img src="attachment:ATT00001"><img src=attachment:ATT00001><img src="cid:c@d">'
    )
