"""Stored rows made of raw messages, for the tests of matching, and what Python's email package sees in these."""

from __future__ import annotations

import email
import email.policy
from email.message import EmailMessage
from unicodedata import normalize

from wd_trio.mail.content import prepare
from wd_trio.mail.matching import Matcher
from wd_trio.mail.model import MessageRow
from wd_trio.mail.search import SearchKey


class Stored:
    """A message as a store would hand it out; `reads` lists the ranges of blobs that were asked for."""

    def __init__(
        self, raw: bytes, *, uid: int = 1, flags: int = 0, keywords: str = "", date: int = 0, modseq: int = 1
    ) -> None:
        prepared = prepare(raw)
        content = prepared.content()
        self.raw = raw
        self.row = MessageRow(
            uid,
            modseq,
            flags,
            keywords,
            date,
            content.size,
            header=content.header,
            parts=content.parts,
            rope=content.rope,
        )
        self.blobs = {
            source.digest: raw[source.start : source.start + source.size] for source in prepared.blob_sources
        }
        self.reads: list[tuple[int, int]] = []

    def read(self, digest: bytes, start: int, stop: int) -> bytes:
        self.reads.append((start, stop))
        return self.blobs[digest][start:stop]

    def matches(self, key: SearchKey, *, now: int = 0) -> bool:
        matcher = Matcher(key, now=now)
        known = matcher.row(self.row)
        answer = matcher.matches(self.row, self.read)
        assert known is None or known is answer
        return answer


def plain(
    body: bytes, content_type: bytes = b"text/plain; charset=utf-8", encoding: bytes = b"8bit"
) -> bytes:
    """A message of one part."""
    return (
        b"From: Anna <anna@example.com>\r\nSubject: of no account\r\nContent-Type: "
        + content_type
        + b"\r\nContent-Transfer-Encoding: "
        + encoding
        + b"\r\n\r\n"
        + body
    )


def naive_fold(text: str) -> str:
    return normalize("NFC", normalize("NFC", text).casefold())


class Naive:
    """The texts of a message as Python's email package decodes them."""

    def __init__(self, raw: bytes) -> None:
        message = email.message_from_bytes(raw, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        self.fields = [(name, str(value)) for name, value in message.items()]
        self.bodies: list[str] = []
        self.mime: list[str] = []
        for part in message.walk():
            if part is not message:
                self.mime += [f"{name}: {value}" for name, value in part.items()]
            if part.get_content_maintype() == "text":
                assert isinstance(part, EmailMessage)
                self.bodies.append(part.get_content())

    def header_has(self, name: str, text: str) -> bool:
        needle = naive_fold(text)
        return any(key.lower() == name.lower() and needle in naive_fold(value) for key, value in self.fields)

    def body_has(self, text: str) -> bool:
        return any(naive_fold(text) in naive_fold(body) for body in self.bodies)

    def text_has(self, text: str) -> bool:
        lines = [f"{name}: {value}" for name, value in self.fields] + self.mime
        return self.body_has(text) or any(naive_fold(text) in naive_fold(line) for line in lines)
