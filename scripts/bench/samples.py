"""The mail of the benchmarks: made from a fixed seed, so that every run and every peer gets the same.

An INBOX is 80 % of 2 to 3 KB of text, 15 % of 20 KB and 5 % of 120 KB with an attachment. One message in a hundred
holds the word NEEDLE, one in fifty comes from SENDER.
"""

from __future__ import annotations

import base64
import random

NEEDLE = "heliotrope"
SENDER = "rosalind"
_VOCABULARY = (
    "mail store worker session message folder engine answer letter paper window garden river morning "
    "evening number system member office report meeting budget figure market summer winter travel "
    "ticket hotel station"
)
_WORDS = _VOCABULARY.split()
_NAMES = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy")


def inbox(count: int) -> list[bytes]:
    """The messages of an INBOX."""
    return [message(number, _size(number)) for number in range(count)]


def _size(number: int) -> int:
    place = number % 20
    if place == 7:
        return 120_000
    if place in (3, 11, 17):
        return 20_000
    return 2_000 + number * 37 % 1_000


def message(number: int, size_bytes: int) -> bytes:
    """One message of about that size, unlike every other one; beyond 10 KB most of it is an attachment."""
    rng = random.Random(number * 1_000_003 + size_bytes)
    name = SENDER if number % 50 == 1 else rng.choice(_NAMES)
    needle = NEEDLE if number % 100 == 5 else "plain"
    subject = " ".join(rng.choices(_WORDS, k=6))
    head = (
        f"Return-Path: <{name}@example.net>\r\n"
        f"Received: from mx{number % 7}.example.net (mx{number % 7}.example.net [192.0.2.{number % 250}])\r\n"
        f"\tby mail.example.org with ESMTPS id {rng.getrandbits(48):012x}\r\n"
        f"\tfor <bench@example.org>; Mon, 23 Nov 2026 10:{number % 60:02}:00 +0000\r\n"
        f"Message-ID: <{rng.getrandbits(64):016x}.{number}@example.net>\r\n"
        f"Date: Mon, 23 Nov 2026 10:{number % 60:02}:00 +0000\r\n"
        f'From: "{name.title()} Example" <{name}@example.net>\r\n'
        f"To: Bench <bench@example.org>, {rng.choice(_NAMES)}@example.com\r\n"
        f"Cc: {rng.choice(_NAMES)}@example.com\r\n"
        f"Subject: {subject}\r\n"
        "MIME-Version: 1.0\r\n"
    )
    if size_bytes <= 10_240:
        body = _text(rng, size_bytes - len(head) - 80, needle)
        return (head + "Content-Type: text/plain; charset=utf-8\r\n\r\n" + body).encode()
    boundary = f"=_{rng.getrandbits(64):016x}"
    attachment = base64.encodebytes(rng.randbytes(int((size_bytes - 3_000) * 0.73))).replace(b"\n", b"\r\n")
    text = (
        f'Content-Type: multipart/mixed; boundary="{boundary}"\r\n\r\n'
        f"--{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{_text(rng, 2_000, needle)}"
        f'\r\n--{boundary}\r\nContent-Type: application/pdf; name="report.pdf"\r\n'
        'Content-Disposition: attachment; filename="report.pdf"\r\nContent-Transfer-Encoding: base64\r\n\r\n'
    )
    return (head + text).encode() + attachment + f"--{boundary}--\r\n".encode()


def _text(rng: random.Random, size_bytes: int, needle: str) -> str:
    lines = [f"A word to look for: {needle}."]
    size = len(lines[0])
    while size < size_bytes:
        lines.append(" ".join(rng.choices(_WORDS, k=10)))
        size += len(lines[-1]) + 2
    return "\r\n".join(lines) + "\r\n"


def distinct(template: bytes, number: int) -> bytes:
    """The template with another attachment (or text) and another Message-ID: nothing of it was stored before."""
    stamp = b"%015d" % number
    at = template.rfind(b"\r\n\r\n") + 4
    if template.count(b"\r\n\r\n") == 1:
        return template[:at] + stamp + b"\r\n" + template[at:]
    return template[:at] + stamp.rjust(16, b"A") + template[at + 16 :]
