"""What pages of documents need in any engine: cursors, and where the texts of a prefix end.

A cursor is the entry that a page ended at, (value, id), as JSON in URL-safe base64; every engine gives the same.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

import msgspec

from wd_trio import errors

_LAST_CODE_POINT: Final = 0x10FFFF
_BEFORE_SURROGATES: Final = 0xD7FF
_AFTER_SURROGATES: Final = 0xE000


def encoded(value: str, id_: str) -> str:
    """The cursor that stands behind an entry."""
    return base64.urlsafe_b64encode(msgspec.json.encode((value, id_))).decode().rstrip("=")


def decoded(cursor: str) -> tuple[str, str]:
    """The entry of a cursor. Invalid (what="cursor") for what `encoded` did not give."""
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        return msgspec.json.decode(raw, type=tuple[str, str])
    except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
        raise errors.Invalid("no cursor of ours", what="cursor") from error


def after_prefix(prefix: str) -> str | None:
    """The smallest text, by code points, behind all that begin with `prefix`; None when there is none."""
    stem = prefix.rstrip(chr(_LAST_CODE_POINT))
    if not stem:
        return None
    last = ord(stem[-1])
    return stem[:-1] + chr(_AFTER_SURROGATES if last == _BEFORE_SURROGATES else last + 1)
