"""The plain requests of HTTP/1.1, which are nearly all that an API gets: read and answered without a state machine.

h11 knows all of HTTP and is most of what a small request costs (docs/performance.md). A request is plain when it came
whole, is a GET without a body and names nothing that governs the connection; an answer is when its body is at hand.
What is plain h11 reads and frames in the same way (tests/ops/test_plain_http.py holds this to that); about everything
else, faults among it, h11 alone decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Final, NamedTuple

MAX_HEAD_BYTES: Final = 8192
MAX_FIELDS: Final = 100

_LINE: Final = re.compile(rb"GET (/[\x21-\x7e]*+) HTTP/1\.1")
_TOKEN: Final = rb"[-!#$%&'*+.^_`|~0-9a-zA-Z]++"
# RFC 9110 §5.5 without what is obsolete.
_VALUE: Final = rb"(?:[\x21-\x7e]++(?:[ \t]++[\x21-\x7e]++)*+)?"
_FIELD: Final = re.compile(rb"(%b):[ \t]*+(%b)[ \t]*+" % (_TOKEN, _VALUE))
_SENT: Final = re.compile(rb"(?:%b: %b\r\n)*+" % (_TOKEN, _VALUE))
_GOVERNING: Final = frozenset(
    {b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"expect", b"te", b"trailer"}
)
_START: Final = {status.value: b"HTTP/1.1 %d \r\n" % status for status in HTTPStatus if status >= 200}
_BODILESS: Final = (204, 205, 304)

Header = tuple[bytes, bytes]


class PlainRequest(NamedTuple):
    """A GET. Names of headers are in lower case; `size` is what it took of the octets that came."""

    target: bytes
    headers: list[Header]
    size: int


def plain_request(data: bytes) -> PlainRequest | None:
    """The plain request with which `data` begins, if it does."""
    stop = data.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)
    line, *fields = data[: max(stop, 0)].split(b"\r\n", MAX_FIELDS)
    start = _LINE.fullmatch(line)
    if start is None:
        return None
    headers: list[Header] = []
    hosts = 0
    for field in fields:
        match = _FIELD.fullmatch(field)
        if match is None:
            return None
        name, value = match[1].lower(), match[2]
        if name == b"host":
            hosts += 1
        elif name in _GOVERNING and (name != b"connection" or value.lower() != b"keep-alive"):
            return None
        headers.append((name, value))
    return PlainRequest(start[1], headers, stop + 4) if hosts == 1 else None


def plain_answer(status: int, headers: Iterable[Header], body: bytes) -> bytes | None:
    """The octets of a whole answer to a plain request; None when it is not plain: its length must be told, and
    nothing else about the connection."""
    start = _START.get(status)
    if start is None or status in _BODILESS:
        return None
    length = b""
    for name, value in headers:
        if name == b"content-length" and not length:
            length = value
        elif name in _GOVERNING:
            return None
    head = b"".join([b"%b: %b\r\n" % header for header in headers])
    if length != b"%d" % len(body) or not _SENT.fullmatch(head):
        return None
    return b"%b%b\r\n%b" % (start, head, body)
