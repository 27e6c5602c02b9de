"""The byte-range MIME scan: where every part of a message begins and ends, and what its header says it is.

One pass. Headers are read to their first empty line; bodies are only searched for lines that begin with "--",
and each such line is looked up among the boundaries of all open multiparts, so that an outer delimiter ends
inner parts whose own never came (RFC 2046 §5.1.2). A delimiter line is `--boundary` or `--boundary--` and
trailing blanks, nothing else; the line end before it belongs to it. Lines end in LF, a CR before it included.
Where two open multiparts share a boundary the outer one owns it.

Nothing raises, whatever the bytes. What lies beyond `ScanLimits` is one opaque leaf: a multipart or message
nested too deep becomes application/octet-stream; the last part that is allowed reaches to the end of the message;
a header beyond the cap continues as body. A multipart without a boundary, or in which it never occurs, is
text/plain: every multipart in the tree has children. No pattern here can backtrack. What costs more than a
search per byte has a limit for the whole message: header bytes read, envelope fields kept, lines looked up.
"""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from wd_trio.mail import headers, params
from wd_trio.mail.envelope import ENVELOPE_FIELDS
from wd_trio.mail.model import Buffer
from wd_trio.mail.params import Params

Data: TypeAlias = Buffer | mmap.mmap

MAX_BOUNDARY_BYTES: Final = 256
_COUNT_STEP_BYTES: Final = 1 << 18
_MAX_LANGUAGES: Final = 32

_PART_FIELDS: Final = frozenset(
    {
        b"content-type",
        b"content-transfer-encoding",
        b"content-disposition",
        b"content-id",
        b"content-description",
        b"content-language",
        b"content-location",
        b"content-md5",
    }
)
_MESSAGE_FIELDS: Final = _PART_FIELDS | ENVELOPE_FIELDS

# "--", a boundary, "--" and some blanks; a longer line is cut, and no boundary equals it then.
_DASHES: Final = re.compile(rb"\n--([^\n]{1,%d}+)" % (MAX_BOUNDARY_BYTES + 64))
# A line that can end a header: an empty one, or one that may be a delimiter.
_HEADER_STOP: Final = re.compile(rb"\n(?:\r?+\n|--([^\n]{1,%d}+))" % (MAX_BOUNDARY_BYTES + 64))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanLimits:
    """How much of a message is understood. `depth` counts multiparts and messages around a part; `misses` are
    lines that begin with "--" and are no delimiter. One header ends after `header_bytes` at the latest; of all
    headers together `headers_bytes` are read, and `envelope_bytes` of embedded messages' envelope fields."""

    depth: int = 50
    parts: int = 1000
    misses: int = 1_000_000
    header_bytes: int = 1 << 20
    headers_bytes: int = 8 << 20
    envelope_bytes: int = 256 << 10


_DEFAULT_LIMITS: Final = ScanLimits()
FLAT: Final = ScanLimits(depth=0, parts=1)


_DEFAULT_PARAMS: Final[Params] = ((b"charset", b"us-ascii"),)


class Part:
    """One entity: its header is data[header_start:body_start], its body data[body_start:body_end].

    `type` and `subtype` are lower case. `children` are a multipart's parts (never empty for one); `message` is
    the message that a message/rfc822 or message/global holds. `fields` holds the raw values of a message's
    envelope fields, None for a part that is no message. `lines` counts the line ends within the body.
    Header values are raw bytes, None where absent; `encoding` is lower case, "7bit" where absent.
    """

    __slots__ = (
        "body_end",
        "body_start",
        "children",
        "description",
        "disposition",
        "encoding",
        "fields",
        "header_start",
        "id",
        "language",
        "lines",
        "location",
        "md5",
        "message",
        "params",
        "subtype",
        "type",
    )

    def __init__(self, header_start: int) -> None:
        self.header_start = header_start
        self.body_start = header_start
        self.body_end = header_start
        self.lines = 0
        self.type = "text"
        self.subtype = "plain"
        self.params: Params = _DEFAULT_PARAMS
        self.encoding = "7bit"
        self.disposition: params.Disposition | None = None
        self.id: bytes | None = None
        self.description: bytes | None = None
        self.language: tuple[bytes, ...] = ()
        self.location: bytes | None = None
        self.md5: bytes | None = None
        self.children: list[Part] = []
        self.message: Part | None = None
        self.fields: dict[bytes, bytes] | None = None

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return self.body_end - self.body_start

    @property
    def content_type(self) -> str:
        return f"{self.type}/{self.subtype}"

    def param(self, name: str) -> str | None:
        """A Content-Type parameter as text (RFC 2231 and RFC 2047 decoded), None when absent."""
        return params.text(self.params, name.encode())

    def filename(self) -> str | None:
        """The file name of the disposition, else the name of the type."""
        found = params.text(self.disposition.params, b"filename") if self.disposition else None
        return found if found is not None else self.param("name")


def scan(data: Data, *, limits: ScanLimits = _DEFAULT_LIMITS) -> Part:
    """The MIME tree of a whole message. `data` is not copied but for its headers; it may be bytes, bytearray,
    mmap or a contiguous memoryview of any of them. Never raises for any content."""
    if isinstance(data, bytes):
        return _Scanner(data, limits).run()
    with memoryview(data) as whole, whole.cast("B") as view:
        return _Scanner(view, limits).run()


class _Delimiter(NamedTuple):
    """A delimiter line: where what stands before it ends, where the next line begins, whose it is."""

    end: int
    next_start: int
    owner: int
    closes: bool


class _Scanner:
    """`chain` holds the open entities from the root inwards, `bounds` the boundary that each owns (None: none);
    `active` leads from a boundary to its owner's place in the chain."""

    __slots__ = (
        "active",
        "bounds",
        "chain",
        "counted",
        "data",
        "envelope_left",
        "headers_left",
        "limits",
        "lines",
        "misses",
        "parts",
    )

    def __init__(self, data: bytes | memoryview, limits: ScanLimits) -> None:
        self.data = data
        self.limits = limits
        self.chain: list[Part] = []
        self.bounds: list[bytes | None] = []
        self.active: dict[bytes, int] = {}
        self.parts = 0
        self.misses = 0
        self.headers_left = limits.headers_bytes
        self.envelope_left = limits.envelope_bytes
        self.counted = 0  # line ends are counted up to here …
        self.lines = 0  # … and are so many

    def run(self) -> Part:
        root = self._open(0)
        root.fields = {}
        part: Part | None = root
        while part is not None:
            part = self._entity(part)
        return root

    def _open(self, header_start: int) -> Part:
        part = Part(header_start)
        self.chain.append(part)
        self.bounds.append(None)
        self.parts += 1
        if self.parts >= self.limits.parts:
            self.active.clear()  # the last part: nothing ends it any more
        return part

    def _entity(self, part: Part) -> Part | None:
        """Read one entity's header and settle where its body leads: the entity to read next, None at the end."""
        cut = self._header(part)
        self._read_header(part)
        part.lines = self._lines_to(part.body_start)
        if part.type == "multipart":
            self._open_multipart(part, cut is None)
        elif part.type == "message" and part.subtype in ("rfc822", "global"):
            if self._exhausted():
                _make_opaque(part)
            else:
                nested = part.message = self._open(part.body_start)
                nested.fields = {}
                if cut is None:
                    return nested
                nested.lines = part.lines
        return self._proceed(cut or self._next_delimiter(part.body_start))

    def _read_header(self, part: Part) -> None:
        start = part.header_start
        block = bytes(self.data[start : min(part.body_start, start + self.headers_left)])
        self.headers_left -= len(block)
        _interpret(part, block)
        if part.fields and self.parts > 1:
            size = sum(map(len, part.fields.values()))
            if size > self.envelope_left:
                part.fields = {}
            else:
                self.envelope_left -= size

    def _exhausted(self) -> bool:
        return len(self.chain) > self.limits.depth or self.parts >= self.limits.parts

    def _open_multipart(self, part: Part, has_body: bool) -> None:
        boundary = (params.raw(part.params, b"boundary") or b"").rstrip()
        if self._exhausted():
            _make_opaque(part)
        elif not boundary or len(boundary) > MAX_BOUNDARY_BYTES:
            _make_plain(part)
        elif has_body and boundary not in self.active:
            self.active[boundary] = len(self.chain) - 1
            self.bounds[-1] = boundary

    def _proceed(self, delimiter: _Delimiter | None) -> Part | None:
        """Do what a delimiter says; the part that it opens, or None when the message is over."""
        while delimiter is not None:
            index = delimiter.owner
            self._end(index + 1, delimiter.end)
            if not delimiter.closes:
                owner = self.chain[index]
                child = self._open(delimiter.next_start)
                if owner.subtype == "digest":
                    child.type, child.subtype, child.params = "message", "rfc822", ()
                owner.children.append(child)
                return child
            self.active.pop(self.bounds[index] or b"", None)
            delimiter = self._next_delimiter(delimiter.next_start)
        self._end(0, len(self.data))
        return None

    def _end(self, first: int, end: int) -> None:
        """End the entities from place `first` of the chain inwards. One whose header took the line end before
        the delimiter ends where its header does, and so do those around it."""
        for part, boundary in zip(reversed(self.chain[first:]), reversed(self.bounds[first:]), strict=True):
            end = max(end, part.body_start)
            part.body_end = end
            part.lines = self._lines_to(end) - part.lines
            if boundary is not None:
                self.active.pop(boundary, None)
            if part.type == "multipart" and not part.children:
                _make_plain(part)
        del self.chain[first:], self.bounds[first:]

    def _header(self, part: Part) -> _Delimiter | None:
        """Set where the body starts; a delimiter that cut the header short is given back."""
        data, start = self.data, part.header_start
        if not start:
            # The first line has no line end before it that the pattern could see.
            first = bytes(data[:2])
            if first[:1] == b"\n" or first == b"\r\n":
                part.body_start = 1 + (first == b"\r\n")
                return None
        cap = min(len(data), start + self.limits.header_bytes)
        position = max(start - 1, 0)
        while match := _HEADER_STOP.search(data, position, cap):
            if match[1] is None:
                part.body_start = match.end()
                return None
            delimiter = self._delimiter(match)
            if delimiter is not None:
                part.body_start = max(start, delimiter.end)
                return delimiter
            position = match.end()
        part.body_start = cap
        return None

    def _next_delimiter(self, start: int) -> _Delimiter | None:
        """The first delimiter of any open multipart at or after the line that begins at `start`."""
        if self.active:
            for match in _DASHES.finditer(self.data, max(start - 1, 0)):
                delimiter = self._delimiter(match)
                if delimiter is not None:
                    return delimiter
                if not self.active:
                    break
        return None

    def _delimiter(self, match: re.Match[bytes]) -> _Delimiter | None:
        line = match[1].rstrip(b" \t\r")
        owner = self.active.get(line)
        closes = False
        if owner is None and line.endswith(b"--"):
            owner = self.active.get(line[:-2])
            closes = True
        if owner is None:
            self.misses += 1
            if self.misses >= self.limits.misses:
                self.active.clear()  # enough looked up: nothing ends the open parts any more
            return None
        end = match.start()
        if end and self.data[end - 1] == 13:
            end -= 1
        return _Delimiter(end, min(match.end() + 1, len(self.data)), owner, closes)

    def _lines_to(self, position: int) -> int:
        """The line ends before `position`; positions never go back, so that each byte is counted once."""
        self.lines += _count_lines(self.data, self.counted, position)
        self.counted = position
        return self.lines


def _count_lines(data: bytes | memoryview, start: int, stop: int) -> int:
    if isinstance(data, bytes):
        return data.count(b"\n", start, stop)
    return sum(
        bytes(data[at : min(at + _COUNT_STEP_BYTES, stop)]).count(b"\n")
        for at in range(start, stop, _COUNT_STEP_BYTES)
    )


def _interpret(part: Part, block: bytes) -> None:
    found = headers.pick(block, _PART_FIELDS if part.fields is None else _MESSAGE_FIELDS)
    if part.fields is not None:
        part.fields = found
    if not found:
        return
    value = found.get(b"content-type")
    if value is not None:
        kind = params.content_type(value)
        if kind.type:
            part.type, part.subtype, part.params = kind
        else:
            _make_plain(part)  # RFC 2045 §5.2
    value = found.get(b"content-transfer-encoding")
    if value:
        part.encoding = params.word(value) or part.encoding
    value = found.get(b"content-disposition")
    if value:
        disposition = params.disposition(value)
        part.disposition = disposition if disposition.kind else None
    value = found.get(b"content-language")
    if value:
        tags = [tag.strip() for tag in value.split(b",", _MAX_LANGUAGES)]
        part.language = tuple(tag for tag in tags[:_MAX_LANGUAGES] if tag)
    part.id = found.get(b"content-id") or None
    part.description = found.get(b"content-description") or None
    part.location = found.get(b"content-location") or None
    part.md5 = found.get(b"content-md5") or None


def _make_plain(part: Part) -> None:
    part.type, part.subtype = "text", "plain"
    part.params = tuple(pair for pair in part.params if pair[0] == b"charset") or _DEFAULT_PARAMS


def _make_opaque(part: Part) -> None:
    part.type, part.subtype, part.params = "application", "octet-stream", ()
