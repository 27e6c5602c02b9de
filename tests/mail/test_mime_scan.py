"""The scan against Python's email package, on what it must survive, and on what it promises of any bytes."""

from __future__ import annotations

import email
import mmap
import tracemalloc
from collections.abc import Iterator
from email.message import Message
from email.utils import collapse_rfc2231_value
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mail_samples import BY_HAND, generated

from wd_trio.mail import mime
from wd_trio.mail.mime import Part, ScanLimits, scan

GENERATED = generated(240)
# Where we mean to differ from the email package; each has a test of its own below.
DEPARTURES = {"empty boundary", "8-bit header"}


def walk(part: Part) -> Iterator[Part]:
    yield part
    for child in part.children:
        yield from walk(child)
    if part.message is not None:
        yield from walk(part.message)


def body(data: bytes, part: Part) -> bytes:
    return data[part.body_start : part.body_end]


def assert_same(part: Part, oracle: Message, data: bytes) -> None:
    """Structure, types, parameters, dispositions and bodies are those that the email package finds."""
    if oracle.get_content_maintype() == "multipart" and not oracle.is_multipart():
        # Known departure: a multipart without parts is text to us, so that it can be shown.
        assert part.content_type == "text/plain"
        assert not part.children
        return
    assert part.content_type == oracle.get_content_type()
    if oracle.get("content-type") is not None and part.params != mime._DEFAULT_PARAMS:
        expected = {
            name.lower(): collapse_rfc2231_value(value).strip()
            for name, value in (oracle.get_params() or [])[1:]
        }
        assert {name: (part.param(name) or "").strip() for name in expected} == expected
    assert (part.disposition.kind if part.disposition else None) == oracle.get_content_disposition()
    if part.disposition:
        assert part.filename() == oracle.get_filename()
    assert part.encoding == oracle.get("content-transfer-encoding", "7bit")
    if part.message is not None:
        assert_same(part.message, oracle.get_payload(0), data)
    elif part.children:
        payload = oracle.get_payload()
        assert len(part.children) == len(payload)
        for child, expected_child in zip(part.children, payload, strict=True):
            assert_same(child, expected_child, data)
    else:
        ours = body(data, part)
        # The raw text: get_payload() would decode 8-bit bodies.
        theirs = oracle._payload.encode("ascii", "surrogateescape")  # type: ignore[attr-defined]  # no public way
        if part.body_end == len(data) and ours != theirs:
            # The email package takes the last line end off a part that no delimiter ended.
            ours = ours.removesuffix(b"\n").removesuffix(b"\r")
        assert ours == theirs


@pytest.mark.parametrize("seed", range(len(GENERATED)))
def test_generated_messages_read_as_the_email_package_reads_them(seed: int) -> None:
    data = GENERATED[seed]
    assert_same(scan(data), email.message_from_bytes(data), data)


def test_the_generated_messages_are_worth_comparing() -> None:
    parts = [part for data in GENERATED for part in walk(scan(data))]
    types = {part.content_type for part in parts}
    assert len(parts) > 600
    assert {"multipart/alternative", "multipart/related", "multipart/signed", "multipart/digest"} <= types
    assert {"message/rfc822", "application/zip", "image/png"} <= types


@pytest.mark.parametrize("name", sorted(set(BY_HAND) - DEPARTURES))
def test_messages_made_by_hand_read_as_the_email_package_reads_them(name: str) -> None:
    data = BY_HAND[name]
    assert_same(scan(data), email.message_from_bytes(data), data)


@pytest.mark.parametrize("data", [*BY_HAND.values(), *GENERATED[:40]])
def test_every_kind_of_buffer_scans_alike(data: bytes, tmp_path: Path) -> None:
    def shape(root: Part) -> list[tuple[object, ...]]:
        return [
            (p.content_type, p.header_start, p.body_start, p.body_end, p.lines, p.params) for p in walk(root)
        ]

    expected = shape(scan(data))
    assert shape(scan(bytearray(data))) == expected
    assert shape(scan(memoryview(b"xx" + data + b"yy")[2 : 2 + len(data)])) == expected
    if data:
        path = tmp_path / "spool"
        path.write_bytes(data)
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            assert shape(scan(mapped)) == expected
            assert shape(scan(memoryview(mapped))) == expected


def read(text: str) -> Part:
    return scan(text.replace("\n", "\r\n").encode())


def test_a_multipart_with_an_empty_boundary_is_text() -> None:
    root = scan(BY_HAND["empty boundary"])
    assert (root.content_type, root.children) == ("text/plain", [])


def test_8_bit_parameters_keep_their_bytes_and_read_as_utf8() -> None:
    root = scan(BY_HAND["8-bit header"])
    assert root.params == ((b"charset", b"utf-8"), (b"name", "ü.txt".encode()))
    assert root.param("name") == "ü.txt"


def test_delimiters_in_a_row_open_empty_parts() -> None:
    root = scan(b"Content-Type: multipart/mixed; boundary=a\n\n" + b"--a\n" * 20)
    assert len(root.children) == 20
    assert all(not child.size and child.body_start == child.header_start for child in root.children[:-1])


def test_of_two_open_multiparts_with_one_boundary_the_outer_owns_it() -> None:
    root = scan(BY_HAND["same boundary twice"])
    assert [child.content_type for child in root.children] == ["text/plain", "text/plain"]


def test_a_boundary_that_ends_in_dashes_is_taken_whole_first() -> None:
    root = scan(BY_HAND["boundary ends in dashes"])
    assert [child.size for child in root.children] == [1]


def test_a_header_ends_at_its_first_empty_line_only() -> None:
    data = b"garbage\r\nSubject: x\r\nmore garbage\r\n\r\nbody"
    root = scan(data)
    assert root.fields == {b"subject": b"x"}
    assert body(data, root) == b"body"


@pytest.mark.parametrize("data", [b"Subject: a\rTo: b\r\rbody", b"\r\rx", b"a: b\n\r\r\nbody"])
def test_a_lone_cr_ends_no_line(data: bytes) -> None:
    root = scan(data)
    assert root.body_start == len(data)


def test_a_delimiter_takes_the_line_end_before_it() -> None:
    data = b"Content-Type: multipart/mixed; boundary=a\n\n--a\n\none\r\n\r\n--a\n\ntwo\r\r\n--a\n\nx\n\n--a--"
    assert [body(data, child) for child in scan(data).children] == [b"one\r\n", b"two\r", b"x\n"]


def test_header_fields_of_a_part() -> None:
    part = read(
        "Content-Type: text/plain\nContent-ID: <a@b>\nContent-Description: what\n it is\n"
        "Content-Language: en, de ,\nContent-Location: http://x/\nContent-MD5: Q2hlY2s=\n"
        "Content-Transfer-Encoding: Quoted-Printable (really)\n\nx\n"
    )
    assert part.id == b"<a@b>"
    assert part.description == b"what it is"
    assert part.language == (b"en", b"de")
    assert part.location == b"http://x/"
    assert part.md5 == b"Q2hlY2s="
    assert part.encoding == "quoted-printable"


def test_lines_are_the_line_ends_of_the_body() -> None:
    assert read("Subject: x\n\na\nb\n").lines == 2
    assert read("Subject: x\n\na\nb").lines == 1
    assert read("Subject: x\n\n").lines == 0


# Hostile input.


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the parts that are made: the work of a scan beyond its passes over the bytes."""
    made = [0]
    original = Part.__init__

    def init(self: Part, header_start: int) -> None:
        made[0] += 1
        original(self, header_start)

    monkeypatch.setattr(Part, "__init__", init)
    return made


def test_100_000_parts_are_a_thousand_and_a_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    made = counted(monkeypatch)
    data = b"Content-Type: multipart/mixed; boundary=a\r\n\r\n" + b"--a\r\n\r\nx\r\n" * 100_000 + b"--a--\r\n"
    root = scan(data)
    assert made[0] == 1000
    assert len(root.children) == 999
    assert root.children[-1].body_end == root.body_end == len(data)
    assert body(data, root.children[-2]) == b"x"


def test_the_last_part_allowed_is_opaque_where_it_would_have_parts() -> None:
    data = (
        b"Content-Type: multipart/mixed; boundary=a\n\n--a\n\none\n--a\n"
        b"Content-Type: multipart/mixed; boundary=b\n\n--b\n\ntwo\n--b--\n--a--\n"
    )
    root = scan(data, limits=ScanLimits(parts=3))
    assert [child.content_type for child in root.children] == ["text/plain", "application/octet-stream"]
    assert root.children[1].body_end == len(data)


def test_10_000_nested_multiparts_end_at_the_depth_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    made = counted(monkeypatch)
    data = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(10_000))
    parts = list(walk(scan(data)))
    assert made[0] == len(parts) == 51
    assert parts[-1].content_type == "application/octet-stream"
    assert parts[-1].body_end == len(data)


def test_10_000_nested_messages_end_at_the_depth_limit() -> None:
    data = b"Content-Type: message/rfc822\r\n\r\n" * 10_000
    parts = list(walk(scan(data)))
    assert len(parts) == 51
    assert parts[-1].content_type == "application/octet-stream"
    assert sum(part.message is not None for part in parts) == 50


def test_a_million_header_lines_are_read_up_to_the_cap() -> None:
    data = b"a: b\r\n" * 1_000_000 + b"Content-Type: text/html\r\n\r\nbody"
    root = scan(data)
    assert root.body_start == ScanLimits().header_bytes
    assert root.content_type == "text/plain"


def test_header_lines_that_look_like_delimiters_end_no_header() -> None:
    data = b"--a\n" * 200_000 + b"\nbody"
    assert scan(data).body_start == len(data) - 4


def test_a_body_of_nothing_but_near_delimiters_is_one_part() -> None:
    data = b"Content-Type: multipart/mixed; boundary=a\n\n--a\n\n" + b"--b\n" * 200_000
    root = scan(data)
    assert [child.size for child in root.children] == [800_000]


def test_after_so_many_near_delimiters_no_more_are_looked_up() -> None:
    data = b"Content-Type: multipart/mixed; boundary=a\n\n--a\n\n" + b"--b\n" * 100 + b"--a\n\nx\n--a--\n"
    assert len(scan(data, limits=ScanLimits(misses=101)).children) == 2
    (child,) = scan(data, limits=ScanLimits(misses=100)).children
    assert child.body_end == len(data)


def test_headers_are_read_up_to_a_limit_for_all() -> None:
    part = b"--a\nContent-Type: text/html\n\nx\n"
    data = b"Content-Type: multipart/mixed; boundary=a\n\n" + part * 10 + b"--a--\n"
    children = scan(data, limits=ScanLimits(headers_bytes=200)).children
    assert [child.subtype for child in children] == ["html"] * 6 + ["plain"] * 4


def test_envelope_fields_of_embedded_messages_are_kept_up_to_a_limit() -> None:
    part = b"--a\nContent-Type: message/rfc822\n\nSubject: " + b"x" * 50 + b"\n\n"
    data = (
        b"Subject: " + b"y" * 500 + b"\nContent-Type: multipart/mixed; boundary=a\n\n" + part * 5 + b"--a--\n"
    )
    root = scan(data, limits=ScanLimits(envelope_bytes=120))
    assert root.fields
    kept = [child.message.fields for child in root.children if child.message is not None]
    assert kept == [{b"subject": b"x" * 50}] * 2 + [{}] * 3


def test_an_endless_line_is_no_delimiter() -> None:
    data = b"Content-Type: multipart/mixed; boundary=a\n\n--a\n\n--" + b"a" * 5_000_000 + b"\n--a--\n"
    assert [child.size for child in scan(data).children] == [5_000_002]


def test_a_long_message_is_not_copied_to_be_scanned(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    with path.open("wb") as file:
        file.write(b"Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\n\r\n")
        file.write((b"x" * 76 + b"\r\n") * 200_000)
        file.write(b"\r\n--a--\r\n")
    tracemalloc.start()
    try:
        with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            root = scan(mapped)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert root.children[0].lines == 200_000
    assert peak_bytes < 2_000_000


# Any bytes.

TOKENS = [
    b"\n",
    b"\r\n",
    b"\n\n",
    b"\r",
    b"--",
    b"--a",
    b"--a--",
    b"--b",
    b"--b--",
    b" ",
    b"\0\xff",
    b"Content-Type: multipart/mixed; boundary=a\n\n",
    b"Content-Type: multipart/digest; boundary=b\r\n\r\n",
    b"Content-Type: message/rfc822\n",
    b"Content-Type: message/rfc822\r\n\r\n",
    b"Content-Type: text/plain; charset*=utf-8''%FF; x*0*=; x*1",
    b"From: a@b, c: <@d:e@f>;\n",
    b'To: "x',
    b"Content-Disposition: attachment; filename=",
]
MIMEISH = st.lists(st.sampled_from(TOKENS) | st.binary(max_size=6), max_size=40).map(b"".join)


@settings(max_examples=400, deadline=None)
@given(
    st.binary(max_size=300) | MIMEISH,
    st.sampled_from(
        [ScanLimits(), ScanLimits(depth=2, parts=4), ScanLimits(header_bytes=9, misses=3), mime.FLAT]
    ),
)
def test_ranges_of_any_bytes_nest_and_lines_add_up(data: bytes, limits: ScanLimits) -> None:
    root = scan(data, limits=limits)
    assert (root.header_start, root.body_end) == (0, len(data))
    parts = list(walk(root))
    assert len(parts) <= limits.parts
    for part in parts:
        assert 0 <= part.header_start <= part.body_start <= part.body_end <= len(data)
        assert part.lines == body(data, part).count(b"\n")
        assert (part.type == "multipart") == bool(part.children)
        at = part.body_start
        for child in part.children:
            assert at <= child.header_start
            assert child.body_end <= part.body_end
            at = child.body_end
        if part.message is not None:
            assert (part.message.header_start, part.message.body_end) == (part.body_start, part.body_end)
