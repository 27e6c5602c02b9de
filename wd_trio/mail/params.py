"""Content-Type and Content-Disposition values: a word and its parameters (RFC 2045 §5.1, RFC 2183, RFC 2231).

Values are raw bytes with quotes removed. RFC 2231 continuations are joined into one parameter; one that carries
a charset keeps its `name*` and its percent-encoding, which is ASCII and which every client can read; `text`
decodes it. The tokenizer walks from ";" to ";" with possessive patterns: linear on any input.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import unquote_to_bytes

from wd_trio.mail import charset, headers

Params: TypeAlias = tuple[tuple[bytes, bytes], ...]

MAX_PARAMS: Final = 64
MAX_VALUE_BYTES: Final = 4096
MAX_WORD_BYTES: Final = 128  # types, names and the like; longer ones are no such word
_MAX_CACHED_BYTES: Final = 256
_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.0-9A-Z^_`a-z{|}~]++")
_SEPARATORS: Final = re.compile(rb"[;\s]*+")
_PARAM: Final = re.compile(
    rb"([!#$%&'*+\-.0-9A-Z^_`a-z{|}~]++)\s*+=\s*+"
    rb'(?:"((?:[^"\\]++|\\.)*+)"?+|([^;]*+))',
    re.DOTALL,
)
_ESCAPED: Final = re.compile(rb'\\(["\\])')
_COMMENT_TAIL: Final = re.compile(rb"[ \t]++\([^()]*+\)\s*+\Z")
_SECTION: Final = re.compile(r"([^*]++)(?:\*(\d{1,4}))?+(\*)?+\Z")
_PLAIN: Final = b"!#$&+-.^_`{|}~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_QUOTE: Final = tuple(bytes((byte,)) if byte in _PLAIN else b"%%%02X" % byte for byte in range(256))


class ContentType(NamedTuple):
    """Lower-case ASCII words; `type` is "" when the value has no `type/subtype`."""

    type: str
    subtype: str
    params: Params


class Disposition(NamedTuple):
    """`kind` is lower-case ASCII, "" when there is none."""

    kind: str
    params: Params


def content_type(value: bytes) -> ContentType:
    """A Content-Type value taken apart; anything that is no `type/subtype` gives the type ""."""
    return _cached_type(value) if len(value) <= _MAX_CACHED_BYTES else _type(value)


def _type(value: bytes) -> ContentType:
    head, _, rest = value.partition(b";")
    head = head.partition(b"(")[0]
    words = [word.strip() for word in head.split(b"/")]
    if len(words) != 2 or not all(len(word) <= MAX_WORD_BYTES and _TOKEN.fullmatch(word) for word in words):
        return ContentType("", "", ())
    return ContentType(words[0].decode().lower(), words[1].decode().lower(), parse(rest))


_cached_type = lru_cache(maxsize=2048)(_type)


def disposition(value: bytes) -> Disposition:
    """A Content-Disposition value taken apart."""
    head, _, rest = value.partition(b";")
    kind = word(head)
    return Disposition(kind, parse(rest)) if kind else Disposition("", ())


def word(value: bytes) -> str:
    """The token with which a value begins, in lower case; "" when there is none or it is too long."""
    match = _TOKEN.match(value.lstrip())
    return match[0].decode().lower() if match and len(match[0]) <= MAX_WORD_BYTES else ""


def parse(value: bytes) -> Params:
    """The parameters of `a=b; c="d"`, names in lower case; at most `MAX_PARAMS` of `MAX_VALUE_BYTES`."""
    if not value:
        return ()
    found: list[tuple[str, bytes]] = []
    split = False
    position = 0
    while len(found) < MAX_PARAMS:
        separators = _SEPARATORS.match(value, position)
        position = separators.end() if separators else position
        match = _PARAM.match(value, position)
        if match is None:
            position = value.find(b";", position)
            if position < 0:
                break
            continue
        name = match[1].decode().lower()
        position = match.end()
        if len(name) <= MAX_WORD_BYTES:
            split = split or "*" in name
            found.append((name, _value(match, name)))
    return _joined(found) if split else tuple((name.encode(), text) for name, text in found)


def _value(match: re.Match[bytes], name: str) -> bytes:
    quoted: bytes | None = match[2]
    if quoted is not None:
        return (_ESCAPED.sub(rb"\1", quoted) if b"\\" in quoted else quoted)[:MAX_VALUE_BYTES]
    text = match[3].strip()[:MAX_VALUE_BYTES]
    if text.endswith(b")") and not name.startswith(("name", "filename")):
        # File names end in "(1)" unquoted more often than in a comment.
        text = _COMMENT_TAIL.sub(b"", text)
    return text


def _joined(found: list[tuple[str, bytes]]) -> Params:
    """RFC 2231 §3 and §4.1: sections put together at the place of the first."""
    whole: dict[str, bytes] = {}
    sections: dict[str, dict[int, tuple[bool, bytes]]] = {}
    order: dict[str, None] = {}
    for name, text in found:
        match = _SECTION.match(name)
        if match is None or match[2] is None:
            whole.setdefault(name, text)
            order.setdefault(name)
        else:
            sections.setdefault(match[1], {}).setdefault(int(match[2]), (match[3] is not None, text))
            order.setdefault(match[1] + "*0")
    joined: list[tuple[bytes, bytes]] = []
    for name in order:
        if name in whole:
            joined.append((name.encode(), whole[name]))
        else:
            joined.append(_one(name[:-2], sections[name[:-2]]))
    return tuple(joined)


def _one(name: str, parts: dict[int, tuple[bool, bytes]]) -> tuple[bytes, bytes]:
    run = [parts[number] for number in sorted(parts)]
    if not any(extended for extended, _ in run):
        return name.encode(), b"".join(text for _, text in run)[:MAX_VALUE_BYTES]
    quoted = b"".join(text if extended else quote(text) for extended, text in run)
    if not run[0][0]:
        quoted = b"''" + quoted
    return name.encode() + b"*", quoted[:MAX_VALUE_BYTES]


def quote(text: bytes) -> bytes:
    """Percent-encoded as RFC 2231's ext-octet."""
    return b"".join([_QUOTE[byte] for byte in text])


def raw(params: Params, name: bytes) -> bytes | None:
    """The bytes of a parameter; its RFC 2231 form percent-decoded. None when it is not there."""
    for key, value in params:
        if key == name:
            return value
    for key, value in params:
        if key == name + b"*":
            return unquote_to_bytes(value.split(b"'", 2)[-1])
    return None


def text(params: Params, name: bytes) -> str | None:
    """A parameter as text, its RFC 2231 form preferred; never raises. None when it is not there."""
    for key, value in params:
        if key == name + b"*":
            named, mark, rest = value.partition(b"'")
            if not mark:
                return charset.decode(unquote_to_bytes(value))
            return charset.decode(unquote_to_bytes(rest.partition(b"'")[2]), named.decode("ascii", "replace"))
    value_only = raw(params, name)
    return None if value_only is None else headers.decode(value_only)
