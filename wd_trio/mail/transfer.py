"""Content transfer encodings undone piece by piece (RFC 2045 §6): base64, quoted-printable, and those that are
the bytes themselves. Lenient as mail clients are: what does not belong to an encoding is passed over.
"""

from __future__ import annotations

import binascii
import string
from collections.abc import Callable
from typing import Final, TypeAlias

from wd_trio.errors import Invalid

Feed: TypeAlias = Callable[[bytes, bool], bytes]
"""Takes the next piece and whether it is the last; gives what can be decoded by now."""

IDENTITY: Final = frozenset({"", "7bit", "8bit", "binary"})
MAX_HELD_BYTES: Final = 1 << 16  # of a quoted-printable line that does not end
_ALPHABET: Final = (string.ascii_letters + string.digits + "+/=").encode("ascii")
_FOREIGN: Final = bytes(set(range(256)) - set(_ALPHABET))


def decoder(encoding: str) -> Feed:
    """The decoder of an encoding, for one body. Invalid (what="encoding") for one that is not known."""
    name = encoding.strip().lower()
    if name in IDENTITY:
        return lambda data, _last: data
    if name == "base64":
        return _base64()
    if name == "quoted-printable":
        return _quoted_printable()
    raise Invalid(f"unknown content transfer encoding {name[:40]!r}", what="encoding")


def _base64() -> Feed:
    held = b""
    over = False

    def feed(data: bytes, last: bool) -> bytes:
        nonlocal held, over
        if over:
            return b""
        held += data.translate(None, _FOREIGN)
        padding = held.find(b"=")
        if padding >= 0:
            over, last, held = True, True, held[:padding]
        cut = len(held) if last else len(held) - len(held) % 4
        quads, held = held[:cut], held[cut:]
        if last and len(quads) % 4 == 1:
            quads = quads[:-1]  # six bits alone say nothing
        return binascii.a2b_base64(quads + b"=" * (-len(quads) % 4))

    return feed


def _quoted_printable() -> Feed:
    held = b""

    def feed(data: bytes, last: bool) -> bytes:
        nonlocal held
        held += data
        if last:
            whole, held = held, b""
        else:
            cut = held.rfind(b"\n") + 1
            if not cut and len(held) > MAX_HELD_BYTES:
                cut = _safe_cut(held)
            whole, held = held[:cut], held[cut:]
        return binascii.a2b_qp(whole)

    return feed


def _safe_cut(line: bytes) -> int:
    """Where an endless line may be cut: not within an escape, not before what may be blanks at its end."""
    cut = len(line) - 2
    escape = line.rfind(b"=", cut - 2, cut)
    return cut if escape < 0 else escape
