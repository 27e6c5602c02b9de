"""Strings as FETCH sends them: quoted where the bytes allow it, else a literal (RFC 3501 §4.3, RFC 9051 §4.3).

A quoted string holds no NUL, CR or LF, and 8-bit bytes only as UTF-8 under UTF8=ACCEPT (RFC 6855 §3). NUL is
dropped, CR and LF that survived unfolding become spaces, so that a stored value can never end a line of ours.
"""

from __future__ import annotations

import re
from typing import Final

NIL: Final = b"NIL"
MAX_STRING_BYTES: Final = 64 * 1024

_PLAIN: Final = re.compile(rb'[^\x00\r\n"\\\x80-\xff]*+')
_LINE_ENDS: Final = bytes.maketrans(b"\r\n", b"  ")


def string(value: bytes, utf8: bool) -> bytes:
    """`value` as an IMAP string; `utf8` chooses UTF-8 in quotes over a literal for 8-bit bytes, where bytes
    that are no UTF-8 become U+FFFD. Values beyond `MAX_STRING_BYTES` are cut."""
    if _PLAIN.fullmatch(value) and len(value) <= MAX_STRING_BYTES:
        return b'"%b"' % value
    value = value[:MAX_STRING_BYTES].translate(_LINE_ENDS, b"\0")
    if not value.isascii():
        if not utf8:
            return b"{%d}\r\n%b" % (len(value), value)
        value = value.decode("utf-8", "replace").encode()
    return b'"%b"' % value.replace(b"\\", b"\\\\").replace(b'"', b'\\"')


def nstring(value: bytes | None, utf8: bool) -> bytes:
    """NIL for None, else `string`."""
    return NIL if value is None else string(value, utf8)
