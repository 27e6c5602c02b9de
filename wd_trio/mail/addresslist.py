"""Address lists of header fields, read as leniently as mail is written (RFC 5322 §3.4, §4.4).

Two ways through one list: nearly every item matches one possessive pattern (`"Name" <local@domain>`, `Name
<local@domain>` or `local@domain`, then a comma or the end); what does not goes token by token through comments,
quoted strings, routes, groups and garbage, up to the next comma. Each byte is looked at a bounded number of
times, and lists are cut at `MAX_ADDRESSES` and `MAX_LIST_BYTES`.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

MAX_ADDRESSES: Final = 4096
MAX_LIST_BYTES: Final = 256 * 1024
MAX_WORD_BYTES: Final = 1000
MISSING_MAILBOX: Final = b"MISSING_MAILBOX"
MISSING_DOMAIN: Final = b"MISSING_DOMAIN"

_SIMPLE: Final = re.compile(
    rb'\s*+(?:(?:"([^"\\]*+)"|([^"(),:;<>@\[\]\\]*+))\s*+'
    rb'<([^\s"(),:;<>@\[\]\\]++)@([^\s"(),:;<>@\[\]\\]++)>'
    rb'|([^\s"(),:;<>@\[\]\\]++)@([^\s"(),:;<>@\[\]\\]++))'
    rb"\s*+(?:,|\Z)"
)
_TOKEN: Final = re.compile(
    rb'\s++|"(?:[^"\\]++|\\.)*+["\\]?+|\[[^\[\]]*+\]?+|[^\s"(),:;<>@\[\]\\]++|.', re.DOTALL
)
_COMMENT: Final = re.compile(rb"(?:[^()\\]++|\\.)++|.", re.DOTALL)
_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)


class Address(NamedTuple):
    """An IMAP address (RFC 3501 §7.4.2). A group starts with host None and its name in `mailbox`, and ends
    with both None."""

    name: bytes | None
    route: bytes | None
    mailbox: bytes | None
    host: bytes | None


GROUP_END: Final = Address(None, None, None, None)


def parse(value: bytes) -> list[Address]:
    """The addresses of an unfolded field value in order, groups in IMAP's way; never raises."""
    return _Reader(value[:MAX_LIST_BYTES]).read()


class _Reader:
    """One list. Between commas: `words` before "<" or "@", the address's own pieces, the last comment."""

    __slots__ = (
        "angle",
        "at",
        "bracketed",
        "comment",
        "domain",
        "group",
        "local",
        "out",
        "pos",
        "route",
        "value",
        "words",
    )

    def __init__(self, value: bytes) -> None:
        self.value = value
        self.pos = 0
        self.out: list[Address] = []
        self.group = False
        self._clear()

    def _clear(self) -> None:
        self.words: list[bytes] = []
        self.local: list[bytes] = []
        self.domain: list[bytes] = []
        self.route = b""
        self.comment = b""
        self.angle = False  # between "<" and ">"
        self.bracketed = False  # there was a "<"
        self.at = False  # an "@" was read

    def read(self) -> list[Address]:
        value, size, out = self.value, len(self.value), self.out
        while self.pos < size and len(out) < MAX_ADDRESSES:
            match = _SIMPLE.match(value, self.pos)
            if match is None:
                self._slow()
                continue
            self.pos = match.end()
            quoted, plain, local, domain, bare, bare_domain = match.groups()
            if bare is not None:
                out.append(_address(None, b"", bare, bare_domain))
            else:
                name = quoted if quoted is not None else b" ".join(plain.split())
                out.append(_address(name, b"", local, domain))
        if self.group:
            out.append(GROUP_END)
        return out

    def _slow(self) -> None:
        """Read tokens through the next comma, or the end of a group."""
        value = self.value
        while match := _TOKEN.match(value, self.pos):
            self.pos = match.end()
            token = match[0]
            if token == b"," and not (self.angle and self.at and not self.local):
                break
            if token == b"(":
                self._comment()
            elif token == b";" and not self.angle:
                self._flush()
                if self.group:
                    self.group = False
                    self.out.append(GROUP_END)
                return
            elif token == b":" and not self.angle and not self.at and not self.group:
                self.group = True
                self.out.append(Address(None, None, _phrase(self.words)[:MAX_WORD_BYTES], None))
                self._clear()
                return
            else:
                self._take(token)
        self._flush()

    def _take(self, token: bytes) -> None:
        if token == b"<":
            self.words += self.local + self.domain
            self.local, self.domain, self.at = [], [], False
            self.angle = self.bracketed = True
        elif token == b">":
            self.angle = False
        elif token == b"@":
            if self.angle and self.at:
                self.domain.append(token)
            elif not self.at:
                self.local = self.local if self.angle else _local_part(self.words)
            self.at = True
        elif token == b":" and self.angle:
            # A route: everything inside "<" so far (RFC 5322 §4.4 obs-route).
            self.route = b"@" + b"".join(self.domain)
            self.local, self.domain, self.at = [], [], False
        elif token.isspace():
            pass
        elif self.at and (self.angle or not self.domain or _joins(self.domain[-1], token)):
            self.domain.append(token)
        elif self.angle:
            self.local.append(_unquoted(token))
        else:
            self.words.append(token)

    def _comment(self) -> None:
        """Read to the closing parenthesis; nesting is counted, the text of the outermost is kept."""
        depth = 1
        start = self.pos
        while match := _COMMENT.match(self.value, self.pos):
            self.pos = match.end()
            if match[0] == b"(":
                depth += 1
            elif match[0] == b")":
                depth -= 1
                if not depth:
                    break
        text = self.value[start : self.pos].removesuffix(b")") if not depth else self.value[start : self.pos]
        self.comment = _ESCAPED.sub(rb"\1", text).strip() or self.comment

    def _flush(self) -> None:
        """Make an address of what was read since the last comma."""
        name = _phrase(self.words) or self.comment
        if self.local or self.domain or self.bracketed:
            self._append(name, b"".join(self.local))
        elif len(self.words) == 1 and not self.at and not self.words[0].startswith(b'"'):
            # No "@" anywhere: one word is a mailbox without a domain, more are somebody's name.
            self._append(self.comment, self.words[0])
        elif name:
            self._append(name, b"")
        self._clear()

    def _append(self, name: bytes, local: bytes) -> None:
        self.out.append(_address(name, self.route, local, b"".join(self.domain)))


def _address(name: bytes | None, route: bytes, local: bytes, domain: bytes) -> Address:
    return Address(
        name[:MAX_WORD_BYTES] if name else None,
        route[:MAX_WORD_BYTES] or None,
        local[:MAX_WORD_BYTES] or MISSING_MAILBOX,
        domain[:MAX_WORD_BYTES] or MISSING_DOMAIN,
    )


def _unquoted(token: bytes) -> bytes:
    if not token.startswith(b'"'):
        return token
    inner = token[1:-1] if len(token) > 1 and token.endswith(b'"') else token[1:]
    return _ESCAPED.sub(rb"\1", inner) if b"\\" in inner else inner


def _phrase(words: list[bytes]) -> bytes:
    return b" ".join([_unquoted(word) for word in words]).strip()


def _joins(before: bytes, after: bytes) -> bool:
    return before.endswith(b".") or after.startswith(b".")


def _local_part(words: list[bytes]) -> list[bytes]:
    """Take the words just before "@" off the end of `words`: blanks around dots are obsolete, not wrong."""
    taken: list[bytes] = []
    while words and (not taken or _joins(words[-1], taken[-1])):
        taken.append(words.pop())
    return [_unquoted(word) for word in reversed(taken)]
