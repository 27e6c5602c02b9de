"""Header blocks: fields in order, by name, selected, and decoded for reading.

A block is what stands before the body, with or without its closing empty line. Lines end in LF, a CR before it
is part of the line end; a line that begins with SP or HTAB continues the field above (RFC 5322 §2.2.3). Names
are compared without regard to case; blanks before the colon (RFC 5322 §4.5) are accepted. Values are raw:
unfolded by removing line ends only, RFC 2047 words and 8-bit bytes as they are. `decode` turns one into text.
Everything is one pass, and no input raises.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Container, Iterable, Iterator
from functools import lru_cache
from typing import Final, NamedTuple

from wd_trio.mail import charset

# The fields that make an envelope and that may be repeated: their values are joined as one list.
ADDRESS_FIELDS: Final = frozenset({b"from", b"sender", b"reply-to", b"to", b"cc", b"bcc"})
_WORD: Final = re.compile(rb"=\?([^?\s]{1,75}+)\?([bBqQ])\?([^?]{0,1000}+)\?=")
_MAX_SELECT_NAMES: Final = 1000  # names that one lru entry may hold


class Field(NamedTuple):
    """One field: lower-case name, unfolded raw value without blanks around it, byte range in the block."""

    name: bytes
    value: bytes
    start: int
    stop: int


def fields(block: bytes) -> Iterator[Field]:
    """The fields of a header block in order; lines that are no field are passed over."""
    start = 0
    size = len(block)
    while start < size:
        stop = block.find(b"\n", start) + 1 or size
        if block[start:stop] in (b"\n", b"\r\n"):
            return
        while block[stop : stop + 1] in (b" ", b"\t"):
            stop = block.find(b"\n", stop) + 1 or size
        name, colon, value = block[start:stop].partition(b":")
        name = name.rstrip(b" \t")
        if colon and name and b"\n" not in name:
            yield Field(name.lower(), unfold(value), start, stop)
        start = stop


def unfold(value: bytes) -> bytes:
    """A raw value on one line: line ends before blanks removed, stripped."""
    if b"\n" in value:
        value = value.replace(b"\r\n", b"").replace(b"\n", b"")
    return value.strip(b" \t\r")


def pick(block: bytes, wanted: Container[bytes]) -> dict[bytes, bytes]:
    """The unfolded values of the fields named in `wanted` (lower case): the first of each name; those of
    `ADDRESS_FIELDS` joined by commas."""
    found: dict[bytes, list[bytes]] = {}
    current: list[bytes] | None = None
    for line in block.split(b"\n"):
        if line[:1] in (b" ", b"\t"):
            if current is not None:
                current.append(line)
            continue
        current = None
        colon = line.find(b":")
        if colon <= 0:
            continue
        name = line[:colon].rstrip(b" \t").lower()
        if name not in wanted:
            continue
        if name not in found:
            current = found[name] = [line[colon + 1 :]]
        elif name in ADDRESS_FIELDS:
            current = found[name]
            current += b",", line[colon + 1 :]
    return {
        name: (lines[0] if len(lines) == 1 else b"".join([line.rstrip(b"\r") for line in lines])).strip(
            b" \t\r"
        )
        for name, lines in found.items()
    }


@lru_cache(maxsize=256)
def _folded(names: tuple[str, ...]) -> frozenset[bytes]:
    return frozenset(name.strip().lower().encode("utf-8", "replace") for name in names)


def select_fields(header: bytes, names: Iterable[str], exclude: bool) -> bytes:
    """The fields of `names` (or all others, with `exclude`) with their own bytes in their own order, and an
    empty line (RFC 3501 §6.4.5, HEADER.FIELDS and HEADER.FIELDS.NOT)."""
    given = tuple(names)
    wanted = _folded(given) if len(given) <= _MAX_SELECT_NAMES else _folded.__wrapped__(given)
    kept: list[bytes] = []
    keep = False
    for line in header.split(b"\n"):
        if line[:1] not in (b" ", b"\t"):
            if line in (b"", b"\r"):
                break
            keep = (line.partition(b":")[0].rstrip(b" \t\r").lower() in wanted) is not exclude
        if keep:
            kept.append(line)
    else:
        # The block was cut short: its last line gets the end that it lacks.
        if keep and not kept[-1].endswith(b"\r"):
            kept[-1] += b"\r"
    kept.append(b"\r\n")
    return b"\n".join(kept)


def decode(value: bytes) -> str:
    """A raw unfolded value as text, RFC 2047 words decoded; never raises, whatever the words claim."""
    if b"=?" not in value:
        return charset.decode(value)
    out: list[str] = []
    pending: list[bytes] = []  # adjacent words of one charset: a character may be cut between them
    pending_charset = ""
    position = 0
    for match in _WORD.finditer(value):
        word = _word_bytes(match[2], match[3])
        if word is None:
            continue
        between = value[position : match.start()]
        name = match[1].partition(b"*")[0].decode("ascii", "replace").lower()
        if pending and (between.strip() or name != pending_charset):
            out.append(charset.decode(b"".join(pending), pending_charset))
            pending = []
        if between.strip() or not position:
            out.append(charset.decode(between))
        pending.append(word)
        pending_charset = name
        position = match.end()
    if pending:
        out.append(charset.decode(b"".join(pending), pending_charset))
    out.append(charset.decode(value[position:]))
    return "".join(out)


def _word_bytes(encoding: bytes, text: bytes) -> bytes | None:
    """The bytes of an encoded word; None when its base64 is beyond repair."""
    if encoding in b"qQ":
        return binascii.a2b_qp(text, header=True)
    try:
        return binascii.a2b_base64(text.rstrip(b"=") + b"==")
    except binascii.Error:
        return None
