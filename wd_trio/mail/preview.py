"""A preview: up to 200 characters of what a message says (in the spirit of RFC 8970).

The first text part that is no attachment is read, at most `MAX_BODY_BYTES` of it: transfer encoding undone,
charset decoded, HTML stripped by hopping from "<" to ">" (linear, no parser, entities decoded once), blanks
collapsed, what cannot be printed left out. Nothing raises; a message without text has the preview "".
"""

from __future__ import annotations

import binascii
import html
from typing import Final

from wd_trio.mail import charset
from wd_trio.mail.mime import Data, Part

MAX_CHARACTERS: Final = 200
MAX_BODY_BYTES: Final = 64 * 1024
_MAX_TEXT: Final = 4096  # characters of text looked at: blanks and invisible ones may be many
_JOINER: Final = "\u200d"  # unprintable by itself, but part of printable emoji and Indic clusters
_RAW_TEXT: Final = ("script", "style", "title", "head")  # elements whose content is not the message
_NOT_BASE64: Final = bytes(
    byte for byte in range(256) if not (chr(byte).isascii() and (chr(byte).isalnum() or byte in b"+/"))
)
_INLINE: Final = frozenset({"a", "b", "i", "u", "em", "strong", "span", "font", "small", "sub", "sup"})


def preview(data: Data, root: Part) -> str:
    """The preview of a scanned message."""
    part = _first_text(root)
    if part is None or part.body_start >= part.body_end:
        return ""
    stop = min(part.body_end, part.body_start + MAX_BODY_BYTES)
    body = _decoded(bytes(data[part.body_start : stop]), part.encoding)
    text = charset.decode(body, part.param("charset") or "", cut=stop < part.body_end)
    return readable(strip_html(text) if part.subtype == "html" else text)


def _first_text(root: Part) -> Part | None:
    """The first text/plain or text/html part, depth first; embedded messages only when nothing else has one."""
    embedded: list[Part] = []
    stack = [root]
    while stack or embedded:
        part = stack.pop() if stack else embedded.pop(0)
        if part.message is not None:
            embedded.append(part.message)
        elif part.children:
            stack.extend(reversed(part.children))
        elif (
            part.type == "text"
            and part.subtype in ("plain", "html")
            and (part.disposition is None or part.disposition.kind != "attachment")
            and part.size
        ):
            return part
    return None


def _decoded(body: bytes, encoding: str) -> bytes:
    if encoding == "quoted-printable":
        return binascii.a2b_qp(body)
    if encoding == "base64":
        return _base64(body)
    return body


def _base64(body: bytes) -> bytes:
    """As much as is whole: the body may be cut anywhere, or hold bytes that are no base64."""
    letters = body.partition(b"=")[0].translate(None, _NOT_BASE64)
    if len(letters) % 4 == 1:
        letters = letters[:-1]
    return binascii.a2b_base64(letters + b"==")


def strip_html(text: str) -> str:
    """The text of an HTML document, tags and unseen elements gone; linear, whatever is unclosed."""
    out: list[str] = []
    kept = 0
    position = 0
    while kept < _MAX_TEXT:
        start = text.find("<", position)
        piece = text[position:start] if start >= 0 else text[position:]
        out.append(piece)
        kept += len(piece.strip())
        if start < 0:
            break
        position = _after_markup(text, start, out)
        if position < 0:
            break
    return html.unescape("".join(out))


def _after_markup(text: str, start: int, out: list[str]) -> int:
    """Where the text goes on behind the "<" at `start`; -1 when what it opens never closes."""
    if text.startswith("<!--", start):
        end = text.find("-->", start + 4)
        return end + 3 if end >= 0 else -1
    letter = text[start + 1 : start + 2]
    if not (letter.isalpha() or letter in ("/", "!", "?")):
        out.append("<")
        return start + 1
    end = text.find(">", start)
    if end < 0:
        return -1
    words = text[start + 1 : min(end, start + 32)].strip("/").split(maxsplit=1)
    name = words[0].lower() if words else ""
    if name not in _INLINE:
        out.append(" ")
    if name in _RAW_TEXT and letter != "/" and text[end - 1] != "/":
        close = _find_close(text, name, end)
        if close < 0:
            return -1
        end = text.find(">", close)
    return end + 1 if end >= 0 else -1


def _find_close(text: str, name: str, position: int) -> int:
    while (position := text.find("</", position)) >= 0:
        if text[position + 2 : position + 2 + len(name)].lower() == name:
            return position
        position += 2
    return -1


def readable(text: str) -> str:
    """At most `MAX_CHARACTERS`: runs of blanks made one space, what does not print left out."""
    text = " ".join(text[:_MAX_TEXT].split())
    if not text.isprintable():
        kept = "".join([char for char in text if char.isprintable() or char == _JOINER])
        text = " ".join(kept.split())
    return text[:MAX_CHARACTERS].rstrip()
