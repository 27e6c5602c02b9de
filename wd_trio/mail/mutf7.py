"""Modified UTF-7, the ASCII in which IMAP writes mailbox names (RFC 3501 §5.1.3).

"&" shifts into base64 (with "," for "/", without padding) of UTF-16BE, "-" shifts back, "&-" is "&". There is
exactly one right spelling of every name: `decode` refuses all others, or two spellings would name one mailbox.
"""

from __future__ import annotations

import binascii
import re
from typing import Final

from wd_trio.errors import Invalid

_OTHER: Final = re.compile(r"[^\x20-\x7e]++")
_SHIFTED: Final = re.compile(r"&([^-&]*+)-")


def encode(text: str) -> str:
    """The ASCII spelling of a Unicode name. Invalid for a lone surrogate."""
    if text.isascii() and text.isprintable():
        return text.replace("&", "&-")
    try:
        return _OTHER.sub(_shift, text.replace("&", "&-"))
    except UnicodeEncodeError as error:
        raise Invalid("not Unicode", what="mailbox name") from error


def decode(text: str | bytes) -> str:
    """The Unicode name of its ASCII spelling. Invalid when it is not the one right spelling."""
    try:
        spelled = text if isinstance(text, str) else text.decode("ascii")
        name = _SHIFTED.sub(_unshift, spelled)
    except (UnicodeDecodeError, binascii.Error, ValueError) as error:
        raise Invalid("bad modified UTF-7", what="mailbox name") from error
    if encode(name) != spelled:
        raise Invalid("not the canonical modified UTF-7", what="mailbox name")
    return name


def _shift(match: re.Match[str]) -> str:
    letters = binascii.b2a_base64(match[0].encode("utf-16-be"), newline=False).decode("ascii")
    return f"&{letters.rstrip('=').replace('/', ',')}-"


def _unshift(match: re.Match[str]) -> str:
    letters = match[1].replace(",", "/")
    if not letters:
        return "&"
    return binascii.a2b_base64(letters + "=" * (-len(letters) % 4), strict_mode=True).decode("utf-16-be")
