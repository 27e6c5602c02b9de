"""Substrings without regard to case, in texts that come in pieces.

Text and needle are compared in one form (`fold`): Unicode's full case folding, canonically composed, so that
"STRASSE" finds "straße" and "e" with a combining accent finds "é"; an accent is part of its letter. ASCII, which
most of mail is, only needs lower case. Blanks and line ends are characters like others.
Composing takes time by the square of a run of accents, so runs are broken after `MAX_ACCENTS` (as UAX #15's
stream-safe form does after 30).

`Finder` keeps of a text no more than the longest needle and a piece: pieces are folded up to a place where folding
the parts is folding the whole, and each search begins so far back that a needle across pieces is found. The
searches are `in`: linear, and no pattern is ever made of a client's text.
"""

from __future__ import annotations

import re
from typing import Final
from unicodedata import combining, normalize

MAX_ACCENTS: Final = 64

_LOOK_BACK: Final = 64  # characters searched for a place to cut; no text has so many accents on one letter
_CONTEXT: Final = 8
_LONG: Final = re.compile(rf"[^\x00-\x7f]{{{MAX_ACCENTS + 1},}}+")  # only there can too long a run be
_BREAK: Final = "\u034f"  # combining grapheme joiner, which joins nothing
_ACCENTS: Final = "\u0f73\u0f75\u0f81"  # letters by their class, but each is two accents


def fold(text: str) -> str:
    """The form in which texts are compared."""
    if text.isascii():
        return text.lower()
    return normalize("NFC", normalize("NFC", _LONG.sub(_broken, text)).casefold())


def _broken(long: re.Match[str]) -> str:
    """Text with its runs of accents broken."""
    text = long[0]
    if not any(map(combining, text)) and not any(accents in text for accents in _ACCENTS):
        return text
    out: list[str] = []
    run = 0
    for char in text:
        run = run + 1 if combining(char) or char in _ACCENTS else 0
        if run > MAX_ACCENTS:
            out.append(_BREAK)
            run = 1
        out.append(char)
    return "".join(out)


class Finder:
    """Looks for needles (folded, not empty) in one text; each that is found leaves the set `missing`, which
    finders of several texts may share."""

    __slots__ = ("_held", "_missing", "_overlap", "_tail")

    def __init__(self, missing: set[str]) -> None:
        self._missing = missing
        self._overlap = max(map(len, missing), default=1) - 1
        self._held = ""  # not yet folded
        self._tail = ""  # the end of what was searched

    def feed(self, text: str, *, last: bool) -> None:
        """Search the next piece; `last` ends the text."""
        if self._held:
            text = self._held + text
        if not last:
            cut = _cut(text)
            text, self._held = text[:cut], text[cut:]
        searched = self._tail + fold(text)
        self._missing.difference_update([needle for needle in self._missing if needle in searched])
        self._tail = searched[-self._overlap :] if self._overlap else ""


def _cut(text: str) -> int:
    """Where an unfinished text may be cut: nothing composes with what stands before an ASCII character."""
    for at in range(len(text) - 1, max(len(text) - _LOOK_BACK, 0), -1):
        if text[at].isascii() or _parts(text[max(at - _CONTEXT, 0) : at], text[at : at + _CONTEXT]):
            return at
    return 0 if len(text) < _LOOK_BACK else len(text)


def _parts(before: str, after: str) -> bool:
    return fold(before + after) == fold(before) + fold(after)
