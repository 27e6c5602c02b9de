"""The text of an HTML document, piece by piece and in full: what a reader sees, for searching.

Markup is passed over by hopping from "<" to ">"; comments and the content of scripts and styles go too. Tags that
stand within words (`<b>`, `<span>`) leave nothing, all others a blank; runs of blanks become one, entities are
decoded. No parser, no tree: linear, in constant memory, and nothing raises whatever is unclosed.
"""

from __future__ import annotations

import html
from typing import Final

_INLINE: Final = frozenset({"a", "b", "big", "em", "font", "i", "mark", "s", "small", "span", "strong"}) | {
    "sub",
    "sup",
    "tt",
    "u",
    "wbr",
}
_UNSEEN: Final = frozenset({"script", "style"})
_MAX_NAME: Final = 32
_MAX_ENTITY: Final = 40


class HtmlText:
    """Feed the document's text in pieces, take what can be read by now."""

    __slots__ = ("_blank", "_held", "_until")

    def __init__(self) -> None:
        self._held = ""
        self._until = ""  # what ends the markup that is being passed over, "" in text
        self._blank = False

    def feed(self, text: str, *, last: bool) -> str:
        """The text that the next piece adds."""
        text = self._held + text
        out: list[str] = []
        at = 0
        while at < len(text):
            step = self._skip(text, at, last) if self._until else self._read(text, at, out, last)
            if step < 0:
                break
            at = step
        self._held = text[at:]
        return self._joined(html.unescape("".join(out)))

    def _joined(self, text: str) -> str:
        """With runs of blanks, also those across pieces, made one space."""
        words = " ".join(text.split())
        if not words:
            self._blank = self._blank or bool(text)
            return ""
        if self._blank or text[0].isspace():
            words = " " + words
        self._blank = text[-1].isspace()
        return words

    def _read(self, text: str, at: int, out: list[str], last: bool) -> int:
        """Take text up to the next markup and enter that; where to go on, -1 when more is needed."""
        start = text.find("<", at)
        if start < 0:
            stop = len(text)
            if not last:
                entity = text.rfind("&", max(at, stop - _MAX_ENTITY))
                stop = entity if entity >= 0 else stop
            out.append(text[at:stop])
            return stop if stop > at else -1
        if start > at:
            out.append(text[at:start])
        if start + _MAX_NAME >= len(text) and not last and ">" not in text[start:]:
            # Not enough to see what it is. What stands before it is taken.
            return start if start > at else -1
        return self._enter(text, start, out)

    def _enter(self, text: str, start: int, out: list[str]) -> int:
        if text.startswith("<!--", start):
            self._until = "-->"
            return start + 4
        letter = text[start + 1 : start + 2]
        if not (letter.isalpha() or letter in ("/", "!", "?")) or not letter:
            out.append("<")
            return start + 1
        words = text[start + 1 : start + 1 + _MAX_NAME].partition(">")[0].strip("/").split(maxsplit=1)
        name = words[0].lower() if words else ""
        if name not in _INLINE:
            out.append(" ")
        self._until = f"</{name}" if name in _UNSEEN and letter != "/" else ">"
        return start + 1

    def _skip(self, text: str, at: int, last: bool) -> int:
        """Go behind what ends the markup; -1 when it is not there, and then little is kept."""
        until = self._until
        found = text.find(until, at) if until in (">", "-->") else _find_close(text, until, at)
        if found < 0:
            keep = max(at, len(text) - len(until) + 1)
            return keep if keep > at and not last else (len(text) if last else -1)
        self._until = ">" if until.startswith("</") else ""
        return found + len(until)


def _find_close(text: str, close: str, at: int) -> int:
    while (at := text.find("</", at)) >= 0:
        if text[at : at + len(close)].lower() == close:
            return at
        at += 2
    return -1
