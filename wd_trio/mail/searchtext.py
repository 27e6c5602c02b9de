"""What text searches look at in one stored message: its header's fields, its body's texts.

The header block is unfolded once for all keys; fields are found in it as bytes, and only the values of fields
asked for are decoded (RFC 2047 words, RFC 2231 parameters, 8-bit bytes). The body is walked once for all needles,
and only when a key needs it. Searched in it are
- the text of every text/* and message/* part, transfer encoding and charset undone; HTML both as it stands, tags
  and all, and as a reader sees it;
- the headers of embedded messages, decoded as the message's own;
- for TEXT alone the parts' own MIME headers (RFC 9051 §6.4.4), so that it finds attachments by name.
No needle matches across two of these. Text parts are read in pieces of `CHUNK_BYTES`, `MAX_TEXT_BYTES` of a
message at most, so memory stays the same however large it is; the walk ends when all needles are found.
"""

from __future__ import annotations

import codecs
import datetime
import re
from collections.abc import Callable, Iterator, Set
from itertools import count
from typing import Final, NamedTuple, TypeAlias

from wd_trio.mail import charset, headers, params, transfer
from wd_trio.mail.htmltext import HtmlText
from wd_trio.mail.model import MessageRow
from wd_trio.mail.parts import Leaf, PartTable
from wd_trio.mail.rope import CHUNK_BYTES, InlinePiece, Rope
from wd_trio.mail.textfind import Finder, fold

MAX_TEXT_BYTES: Final = 16 << 20

ReadBlob: TypeAlias = Callable[[bytes, int, int], bytes]
"""Gives the bytes start … stop - 1 of a blob by its digest; asked for at most `CHUNK_BYTES` at a time."""

WITH_PARAMETERS: Final = (b"content-type", b"content-disposition")
_MAX_DATE_BYTES: Final = 200
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAY_FIRST: Final = re.compile(
    r"(?:[a-z]{2,9}+\.?+,?+\s*+)?+(\d{1,2}+)[\s-]++([a-z]{3})[a-z]*+\.?+[\s-]++(\d{2,4}+)(?!\d)"
)
_ASCTIME: Final = re.compile(
    r"(?:[a-z]{3,9}+,?+\s++)?+([a-z]{3})[a-z]*+\s++(\d{1,2}+)\s++[\d:]{5,8}+\s++(?:[a-z]++\s++)?+(\d{4})(?!\d)"
)


class RowText:
    """The texts of one message. `in_header` and `sent_day` need Columns.HEADER, the others PARTS and ROPE too.

    `needles` are all those, folded and not empty, that will be asked for by `in_body` and `in_text`.
    """

    __slots__ = ("_body", "_header", "_lines", "_lower", "_mime", "_needles", "_read", "_row")

    def __init__(self, row: MessageRow, read: ReadBlob, needles: Set[str]) -> None:
        self._row = row
        self._read = read
        self._needles = needles
        self._lines = b""
        self._lower = b""
        self._header: str | None = None
        self._body: set[str] | None = None
        self._mime: set[str] = set()

    # -- the header

    def in_header(self, name: bytes, needle: str) -> bool:
        """Whether a field `name` (lower case) has the folded `needle` in its value; "" asks for the field."""
        return any(
            not needle or self._value_has(name, start, stop, needle) for start, stop in self._values(name)
        )

    def _value_has(self, name: bytes, start: int, stop: int, needle: str) -> bool:
        plain = self._lower[start:stop].strip(b" \t\r")
        if is_plain(plain) and not (name in WITH_PARAMETERS and b"*" in plain):
            return needle.isascii() and needle.encode("ascii") in plain
        return needle in fold(_value_text(name, self._lines[start:stop].strip(b" \t\r")))

    def _values(self, name: bytes) -> Iterator[tuple[int, int]]:
        """Where the values of the fields `name` stand in the unfolded block."""
        if not self._lines:
            self._lines = b"\n" + _unfolded(self._row.header or b"")
            self._lower = self._lines.lower()
        return _values(self._lower, name)

    def sent_day(self) -> int | None:
        """The day of the Date header as an ordinal, as written, without regard to its zone."""
        for start, stop in self._values(b"date"):
            return day_of(self._lines[start : min(stop, start + _MAX_DATE_BYTES)])
        return None

    # -- the body

    def in_text(self, needle: str) -> bool:
        """Whether the header, a part's header or the body has the folded `needle`."""
        if self._header is None:
            self._header = fold(block_text(self._row.header or b""))
        return needle in self._header or self.in_body(needle) or needle in self._mime

    def in_body(self, needle: str) -> bool:
        """Whether a text of the body has the folded `needle`."""
        if self._body is None:
            self._body = self._walk()
        return needle in self._body

    def _walk(self) -> set[str]:
        missing, missing_mime = set(self._needles), set(self._needles)
        table = PartTable.decode(self._row.parts or b"")
        rope = Rope.decode(self._row.rope or b"")
        left = MAX_TEXT_BYTES
        for span in spans(table):
            stop = min(span.stop, span.start + left)
            if not missing or stop <= span.start:
                break
            left -= stop - span.start
            pieces = _pieces(rope, self._read, span.start, stop)
            if span.leaf is not None:
                _find_in_leaf(pieces, span.leaf, stop - span.start, missing)
            else:
                found_in = missing_mime if span.mime else missing
                Finder(found_in).feed(block_text(b"".join(pieces)), last=True)
        self._mime = set(self._needles) - missing_mime
        return set(self._needles) - missing


class Span(NamedTuple):
    """Bytes of a message that are searched: a leaf's body, or a header (`mime`: of a part, else of a message)."""

    start: int
    stop: int
    mime: bool = False
    leaf: Leaf | None = None


def spans(table: PartTable, inside: str = "") -> Iterator[Span]:
    """What is searched in a message beyond its own header, in order; `inside` is a part ("1.2.") to look into."""
    around = table.range(inside[:-1], "HEADER")
    for number in count(1):
        part = f"{inside}{number}"
        if table.range(part, "") is None:
            return
        mime = table.range(part, "MIME")
        if mime is not None and mime != around:  # the only part of a message has the message's header
            yield Span(*mime, mime=True)
        header = table.range(part, "HEADER")
        leaf = table.leaf(part)
        if header is not None:
            yield Span(*header)
            yield from spans(table, f"{part}.")
        elif leaf is None:
            yield from spans(table, f"{part}.")
        elif leaf.content_type.startswith(("text/", "message/")):
            yield Span(leaf.start, leaf.stop, leaf=leaf)


def _pieces(rope: Rope, read: ReadBlob, start: int, stop: int) -> Iterator[bytes]:
    for piece in rope.pieces(start, stop):
        if isinstance(piece, InlinePiece):
            yield piece.data
        else:
            for at in range(piece.start, piece.stop, CHUNK_BYTES):
                yield read(piece.digest, at, min(at + CHUNK_BYTES, piece.stop))


def _find_in_leaf(pieces: Iterator[bytes], leaf: Leaf, size: int, missing: set[str]) -> None:
    """Search a part's text; it is read no further than the last needle."""
    texts = _whole(pieces, leaf) if size <= CHUNK_BYTES else _streamed(pieces, leaf)
    raw, read = Finder(missing), Finder(missing)
    visible = HtmlText() if leaf.content_type == "text/html" else None
    for text, last in texts:
        raw.feed(text, last=last)
        if visible is not None:
            read.feed(visible.feed(text, last=last), last=last)
        if not missing:
            return


def _whole(pieces: Iterator[bytes], leaf: Leaf) -> Iterator[tuple[str, bool]]:
    data = _transfer(leaf.encoding)(b"".join(pieces), True)
    yield charset.decode(data, leaf.charset), True


def _streamed(pieces: Iterator[bytes], leaf: Leaf) -> Iterator[tuple[str, bool]]:
    """A large part's text in pieces, the last flag with the last one. From where the named charset cannot read
    on, UTF-8 is tried, then Windows-1252 takes over, as `charset.decode` does for a whole."""
    codec_names = iter([charset.codec(leaf.charset) or "utf_8", "utf_8"])
    decoder = codecs.getincrementaldecoder(next(codec_names))()
    decode_transfer = _transfer(leaf.encoding)
    last = False
    while not last:
        piece = next(pieces, None)
        last = piece is None
        data = decode_transfer(piece or b"", last)
        while True:
            held = decoder.getstate()[0]
            try:
                text = decoder.decode(data, last)
                break
            except UnicodeError:
                name = next(codec_names, None)
                decoder = (
                    codecs.getincrementaldecoder(name)()
                    if name is not None
                    else codecs.getincrementaldecoder("cp1252")("replace")
                )
                data = held + data
        yield text, last


def _transfer(encoding: str) -> transfer.Feed:
    """The decoder of an encoding; bytes under one that nobody knows are searched as they are."""
    known = encoding in ("base64", "quoted-printable")
    return transfer.decoder(encoding if known else "binary")


# -- header text


def is_plain(text: bytes) -> bool:
    """Whether nothing in a header needs decoding, RFC 2231 parameters apart."""
    # One octet is looked for many times faster than two, and most headers have no question mark.
    return text.isascii() and (b"?" not in text or b"=?" not in text)


def _unfolded(block: bytes) -> bytes:
    """A header block with LF as its line ends and each field on one line (RFC 5322 §2.2.3)."""
    block = block.replace(b"\r\n", b"\n")
    return block.replace(b"\n ", b" ").replace(b"\n\t", b"\t")


def _values(lower: bytes, name: bytes) -> Iterator[tuple[int, int]]:
    """Where the values of the fields `name` stand in an unfolded block in lower case that begins with LF."""
    start = b"\n" + name
    at = lower.find(start)
    while at >= 0:
        stop = lower.find(b"\n", at + 1)
        stop = stop if stop >= 0 else len(lower)
        colon = lower.find(b":", at + len(start), stop)
        if colon >= 0 and not lower[at + len(start) : colon].strip(b" \t"):
            yield colon + 1, stop
        at = lower.find(start, stop)


def plain_values(header: bytes, name: bytes) -> bytes:
    """The values of the fields `name` (lower case) in a header block where nothing is encoded, in lower case, LF
    between them."""
    lower = b"\n" + _unfolded(header).lower()
    return b"\n".join(lower[start:stop].strip(b" \t\r") for start, stop in _values(lower, name))


def block_text(block: bytes) -> str:
    """A header block as text: one line for each field, values decoded, RFC 2231 parameters once more decoded."""
    lines = _unfolded(block)
    if is_plain(lines) and b"*" not in lines:
        return lines.decode("ascii")
    return "\n".join([_line_text(line) for line in lines.split(b"\n")])


def _line_text(line: bytes) -> str:
    if b"*" in line and line[: len(b"content-")].lower() == b"content-":
        name, colon, value = line.partition(b":")
        return (name + colon).decode("ascii", "replace") + _value_text(name.strip().lower(), value)
    return line.decode("ascii") if is_plain(line) else headers.decode(line)


def _value_text(name: bytes, value: bytes) -> str:
    text = headers.decode(value)
    if name not in WITH_PARAMETERS or b"*" not in value:
        return text
    found = params.parse(value.partition(b";")[2])
    decoded = [params.text(found, key[:-1]) for key, _ in found if key.endswith(b"*")]
    return "\n".join([text, *(word for word in decoded if word)])


def day_of(value: bytes) -> int | None:
    """The day that a Date value names, as a proleptic Gregorian ordinal; None when it names none. Read are
    RFC 5322's form, its obsolete years of two and three digits (§4.3), and C's asctime."""
    text = value.decode("ascii", "replace").strip().lower()
    match = _DAY_FIRST.match(text)
    if match is not None:
        day, month, year = match.groups()
    else:
        match = _ASCTIME.match(text)
        if match is None:
            return None
        month, day, year = match.groups()
    if month not in _MONTHS:
        return None
    number = int(year)
    if len(year) == 2:
        number += 2000 if number < 50 else 1900
    elif len(year) == 3:
        number += 1900
    try:
        return datetime.date(number, _MONTHS.index(month) + 1, int(day)).toordinal()
    except ValueError:
        return None
