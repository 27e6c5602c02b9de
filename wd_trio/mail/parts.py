"""The part table: from an IMAP section to a byte range, without looking at the message (RFC 3501 §6.4.5).

The scan's tree, reduced to offsets, encoding, type and charset, in msgpack. Offsets count from the start of the
stored message, trace headers that delivery put before the scanned bytes included. A part's body is its content
as it stands in the message, transfer encoding and all. Numbers lead through multiparts; from a message/rfc822
part they lead into its message; the body of a message that is no multipart is its part 1.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from wd_trio.errors import Invalid
from wd_trio.mail.mime import Part

MAX_NUMBERS: Final = 128
MAX_CHARSET: Final = 64
_MAX_DIGITS: Final = 9


class _Node(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    header_start: int
    body_start: int
    body_end: int
    content_type: str = "text/plain"
    encoding: str = "7bit"
    charset: str = ""
    children: list[_Node] = []
    message: _Node | None = None


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(_Node)


class Leaf(NamedTuple):
    """A part with a body of its own: its bytes [start, stop) and how to read them. All words in lower case;
    `charset` is "" where the header names none."""

    start: int
    stop: int
    encoding: str
    content_type: str
    charset: str


class PartTable:
    """Byte ranges of all parts of one stored message."""

    __slots__ = ("_root",)

    def __init__(self, root: _Node) -> None:
        self._root = root

    @classmethod
    def of(cls, root: Part, prefix_bytes: int = 0) -> PartTable:
        """The table of a scanned message that is stored behind `prefix_bytes` of further header lines."""
        node = _node(root, prefix_bytes)
        node.header_start = 0
        return cls(node)

    def encode(self) -> bytes:
        return _ENCODER.encode(self._root)

    @classmethod
    def decode(cls, data: bytes) -> PartTable:
        """What `encode` gave. Invalid for anything else."""
        try:
            return cls(_DECODER.decode(data))
        except msgspec.DecodeError as error:
            raise Invalid(str(error), what="part table") from error

    @property
    def size(self) -> int:
        """Bytes of the stored message."""
        return self._root.body_end

    def range(self, part: str, text: str) -> tuple[int, int] | None:
        """[start, stop) of section `part` ("" or "1.2") and `text` ("", "HEADER", "TEXT" or "MIME"); None
        where the message has no such section. The header of HEADER.FIELDS is that of "HEADER"."""
        if not part:
            if text == "MIME":
                return None
            return _message_range(self._root, text)
        node = self._find(part)
        if node is None:
            return None
        if text == "MIME":
            return node.header_start, node.body_start
        if not text:
            return node.body_start, node.body_end
        return _message_range(node.message, text) if node.message is not None else None

    def leaf(self, part: str) -> Leaf | None:
        """What part `part` holds; None where there is none or it is a multipart."""
        node = self._find(part)
        if node is None or node.children:
            return None
        return Leaf(node.body_start, node.body_end, node.encoding, node.content_type, node.charset)

    def _find(self, part: str) -> _Node | None:
        words = part.split(".", MAX_NUMBERS)
        if len(words) > MAX_NUMBERS:
            return None
        node, is_message = self._root, True
        for depth, word in enumerate(words):
            if not (word.isascii() and word.isdigit()) or word[0] == "0" or len(word) > _MAX_DIGITS:
                return None
            if depth:
                is_message = node.message is not None
                node = node.message or node
            number = int(word)
            if node.children:
                if number > len(node.children):
                    return None
                node = node.children[number - 1]
            elif not is_message or number != 1:
                return None
        return node


def _message_range(node: _Node, text: str) -> tuple[int, int] | None:
    if text == "HEADER":
        return node.header_start, node.body_start
    if text == "TEXT":
        return node.body_start, node.body_end
    return (node.header_start, node.body_end) if not text else None


def _node(part: Part, shift: int) -> _Node:
    charset = part.param("charset") if part.type == "text" else None
    return _Node(
        part.header_start + shift,
        part.body_start + shift,
        part.body_end + shift,
        part.content_type,
        part.encoding,
        (charset or "").lower()[:MAX_CHARSET],
        [_node(child, shift) for child in part.children],
        _node(part.message, shift) if part.message is not None else None,
    )
