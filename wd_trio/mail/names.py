"""Mailbox names: one spelling for each, whatever the client's keyboard or file system made of it.

Names are Unicode in NFC with "/" between levels; a first level INBOX is in capitals (RFC 3501 §5.1).
"""

from __future__ import annotations

import unicodedata
from typing import Final

from wd_trio.errors import Invalid
from wd_trio.mail.model import SEPARATOR

INBOX: Final = "INBOX"
MAX_NAME_BYTES: Final = 1000
MAX_LEVELS: Final = 32


def fold_inbox(name: str) -> str:
    """The name with a first level INBOX, however it is written in ASCII, in capitals."""
    if name[:5].isascii() and name[:5].upper() == INBOX and name[5:6] in ("", SEPARATOR):
        return INBOX + name[5:]
    return name


def stored_path(path: str) -> str:
    """The name under which a store keeps a mailbox: INBOX in capitals however it is written (RFC 3501 §5.1), any
    other as it is."""
    return INBOX if path.isascii() and path.upper() == INBOX else path


def canonical(path: str) -> str:
    """The one spelling of a name; of one too long to exist, itself (long runs of accents cost to normalise)."""
    if path.isascii() or len(path) > MAX_NAME_BYTES:
        return fold_inbox(path)
    return fold_inbox(unicodedata.normalize("NFC", path))


def checked(path: str) -> str:
    """The canonical name, of one that may be given to a mailbox. Invalid (what="name") for any other."""
    name = canonical(path)
    levels = name.split(SEPARATOR)
    if not all(levels) or len(levels) > MAX_LEVELS or len(name.encode()) > MAX_NAME_BYTES:
        raise Invalid("an empty level, too many of them, or too long", what="name")
    if any(unicodedata.category(letter)[0] == "C" or letter in "*%" for letter in name):
        raise Invalid("control characters and wildcards are not for names", what="name")
    return name
