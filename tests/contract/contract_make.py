"""Values for the contract suite: contents by hand, so that it depends on ports and models only."""

from __future__ import annotations

import hashlib

from wd_trio.mail.model import BlobData, Content, NewMessage
from wd_trio.ports.mail import MailStore

CHUNK_BYTES = 256 * 1024


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += seconds


def make_content(text: str = "hello", *, size: int = 100, blobs: tuple[bytes, ...] = ()) -> Content:
    """A content whose every field tells `text`."""
    raw = text.encode()
    return Content(
        size=size,
        header=b"Subject: " + raw + b"\r\n\r\n",
        envelope=b'("' + raw + b'")',
        envelope_utf8=None,
        bodystructure=b'("TEXT" "PLAIN" "' + raw + b'")',
        bodystructure_utf8=b'("TEXT" "PLAIN" "utf8 ' + raw + b'")',
        body=b'("TEXT" "' + raw + b'")',
        parts=b"parts of " + raw,
        preview="preview of " + text,
        rope=b"rope of " + raw,
        blobs=blobs,
    )


def make_message(
    text: str = "hello",
    *,
    flags: int = 0,
    keywords: str = "",
    size: int = 100,
    blobs: tuple[bytes, ...] = (),
    internal_date: int = 1_600_000_000,
) -> NewMessage:
    return NewMessage(make_content(text, size=size, blobs=blobs), internal_date, flags, keywords)


def make_blob(data: bytes) -> BlobData:
    """A blob in uncompressed chunks."""
    chunks = tuple((False, data[at : at + CHUNK_BYTES]) for at in range(0, len(data), CHUNK_BYTES))
    return BlobData(hashlib.sha256(data).digest(), len(data), chunks)


def sweep(store: MailStore, limit: int = 100) -> int:
    """Sweep until nothing is left; how many steps it took."""
    steps = 0
    while removed := store.sweep_deleted(limit=limit):
        assert removed <= limit
        steps += 1
    return steps
