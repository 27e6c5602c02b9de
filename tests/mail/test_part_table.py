"""Sections to byte ranges, as RFC 3501 §6.4.5 numbers them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from mail_samples import BY_HAND, generated
from test_mime_scan import MIMEISH

from wd_trio.errors import Invalid
from wd_trio.mail.mime import Part, scan
from wd_trio.mail.parts import PartTable

# The example of RFC 3501 §6.4.5, in small.
TREE = """Subject: root
Content-Type: multipart/mixed; boundary=m

--m
Content-Type: text/plain; charset=UTF-8

one
--m
Content-Type: application/octet-stream
Content-Transfer-Encoding: BASE64

dHdv
--m
Content-Type: message/rfc822

Subject: three
Content-Type: multipart/mixed; boundary=n

--n

three one
--n
Content-Type: text/x-two

three two
--n--
--m
Content-Type: multipart/mixed; boundary=o

--o
Content-Type: image/gif

four one
--o
Content-Type: message/rfc822

Subject: four two

four two text
--o
Content-Type: multipart/alternative; boundary=p

--p

four three one
--p--
--o--
--m--
""".replace("\n", "\r\n").encode()


def section(data: bytes, part: str, text: str = "", prefix: bytes = b"") -> bytes | None:
    table = PartTable.decode(PartTable.of(scan(data), len(prefix)).encode())
    found = table.range(part, text)
    return None if found is None else (prefix + data)[slice(*found)]


@pytest.mark.parametrize("prefix", [b"", b"Return-Path: <a@b>\r\nReceived: x\r\n"])
@pytest.mark.parametrize(
    ("part", "text", "expected"),
    [
        ("1", "", b"one"),
        ("1", "MIME", b"Content-Type: text/plain; charset=UTF-8\r\n\r\n"),
        ("1", "HEADER", None),
        ("1", "TEXT", None),
        ("1.1", "", None),
        ("2", "", b"dHdv"),
        ("3", "HEADER", b"Subject: three\r\nContent-Type: multipart/mixed; boundary=n\r\n\r\n"),
        ("3", "MIME", b"Content-Type: message/rfc822\r\n\r\n"),
        ("3.1", "", b"three one"),
        ("3.1", "MIME", b"\r\n"),
        ("3.2", "", b"three two"),
        ("3.2", "MIME", b"Content-Type: text/x-two\r\n\r\n"),
        ("3.3", "", None),
        ("4", "MIME", b"Content-Type: multipart/mixed; boundary=o\r\n\r\n"),
        ("4", "HEADER", None),
        ("4.1", "", b"four one"),
        ("4.2", "", b"Subject: four two\r\n\r\nfour two text"),
        ("4.2", "HEADER", b"Subject: four two\r\n\r\n"),
        ("4.2", "TEXT", b"four two text"),
        ("4.2.1", "", b"four two text"),
        ("4.2.1", "MIME", b"Subject: four two\r\n\r\n"),
        ("4.2.1", "HEADER", None),
        ("4.2.2", "", None),
        ("4.2.1.1", "", None),
        ("4.3.1", "", b"four three one"),
        ("5", "", None),
        ("0", "", None),
        ("01", "", None),
        ("1.", "", None),
        (".1", "", None),
        ("-1", "", None),
        ("x", "", None),
        ("²", "", None),
        ("9" * 5000, "", None),
        ("1." * 5000 + "1", "", None),
        ("", "MIME", None),
    ],
)
def test_sections(part: str, text: str, expected: bytes | None, prefix: bytes) -> None:
    assert section(TREE, part, text, prefix) == expected


def test_the_whole_message_includes_the_prefix() -> None:
    prefix = b"Return-Path: <a@b>\r\n"
    header, _, text = TREE.partition(b"\r\n\r\n")
    assert section(TREE, "", "", prefix) == prefix + TREE
    assert section(TREE, "", "HEADER", prefix) == prefix + header + b"\r\n\r\n"
    assert section(TREE, "", "TEXT", prefix) == text
    table = PartTable.of(scan(TREE), len(prefix))
    assert table.size == len(prefix) + len(TREE)


def test_a_message_that_is_no_multipart_is_its_own_part_1() -> None:
    data = b"Subject: x\r\n\r\nbody"
    assert section(data, "1") == b"body"
    assert section(data, "1", "MIME") == b"Subject: x\r\n\r\n"
    assert section(data, "1", "HEADER") is None
    assert section(data, "2") is None
    assert section(data, "1.1") is None


def test_a_message_that_is_a_message() -> None:
    data = BY_HAND["message in message"]
    assert section(data, "1", "HEADER") == b"Subject: a\nContent-Type: message/rfc822\n\n"
    assert section(data, "1.1", "HEADER") == b"Subject: b\n\n"
    assert section(data, "1.1.1") == b"body\n"
    assert section(data, "1.1.1.1") is None


def test_leaves_tell_how_to_read_them() -> None:
    table = PartTable.decode(PartTable.of(scan(TREE)).encode())
    one = table.leaf("1")
    assert one is not None
    assert (TREE[one.start : one.stop], one.encoding, one.content_type, one.charset) == (
        b"one",
        "7bit",
        "text/plain",
        "utf-8",
    )
    two = table.leaf("2")
    assert two is not None
    assert two[2:] == ("base64", "application/octet-stream", "")
    assert table.leaf("4") is None
    assert table.leaf("9") is None


def test_what_is_no_table_is_refused() -> None:
    for wrong in (b"", b"\x00", b"\x93\x01\x02", b"\xff" * 40):
        with pytest.raises(Invalid):
            PartTable.decode(wrong)


def test_the_deepest_tree_is_encoded() -> None:
    data = b"Content-Type: message/rfc822\n\n" * 60
    table = PartTable.decode(PartTable.of(scan(data)).encode())
    assert table.range(".".join(["1"] * 51), "") is not None
    assert table.range(".".join(["1"] * 52), "") is None


def numbered(part: Part, name: str, message: bool) -> Iterator[tuple[str, Part]]:
    """Each part with its number, straight from the tree: a second opinion on the walk."""
    dot = f"{name}." if name else ""
    if part.children:
        for number, child in enumerate(part.children, 1):
            yield from named(child, f"{dot}{number}")
    elif message:
        yield from named(part, f"{dot}1", whole=True)


def named(part: Part, name: str, whole: bool = False) -> Iterator[tuple[str, Part]]:
    yield name, part
    if part.message is not None:
        yield from numbered(part.message, name, True)
    elif not whole:
        yield from numbered(part, name, False)


def check(data: bytes) -> None:
    root = scan(data)
    table = PartTable.decode(PartTable.of(root).encode())
    for name, part in numbered(root, "", True):
        assert table.range(name, "") == (part.body_start, part.body_end)
        assert table.range(name, "MIME") == (part.header_start, part.body_start)
        message = part.message
        expected = None if message is None else (message.header_start, message.body_start)
        assert table.range(name, "HEADER") == expected


@pytest.mark.parametrize("data", [TREE, *BY_HAND.values(), *generated(60)])
def test_every_part_of_the_samples_is_found(data: bytes) -> None:
    check(data)


@settings(max_examples=150, deadline=None)
@given(MIMEISH)
def test_every_part_of_any_bytes_is_found(data: bytes) -> None:
    check(data)
