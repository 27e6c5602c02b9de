"""A user's INBOX seen through the API, and messages to put there."""

from __future__ import annotations

import base64
import random
from dataclasses import dataclass
from typing import Any

from api_world import ApiWorld, Caller

from wd_trio.mail.content import prepare
from wd_trio.mail.model import NewMessage

PDF = random.Random(1).randbytes(300_000)
PNG = b"\x89PNG small"
RICH = (
    b"Return-Path: <bounce@example.org>\r\n"
    b"Delivered-To: alice@example.org\r\n"
    b"From: =?utf-8?q?J=C3=BCrgen?= <j@example.org>\r\n"
    b'To: "Alice, A." <alice@example.org>, Team: bob@example.org, carol@example.org;\r\n'
    b"Cc: undisclosed\r\n"
    b"Reply-To: list@example.org\r\n"
    b"Subject: =?utf-8?b?R3LDvMOfZQ==?= from here\r\n"
    b"Date: Mon, 23 Nov 2026 18:00:00 +0100\r\n"
    b"Message-ID: <rich@example.org>\r\n"
    b"In-Reply-To: <two@example.org>\r\n"
    b"References: <one@example.org>\r\n <two@example.org>\r\n"
    b"List-ID: Friends <friends.example.org>\r\n"
    b"MIME-Version: 1.0\r\n"
    b"Content-Type: multipart/mixed; boundary=outer\r\n"
    b"\r\n"
    b"--outer\r\n"
    b"Content-Type: multipart/related; boundary=inner\r\n"
    b"\r\n"
    b"--inner\r\n"
    b"Content-Type: text/html; charset=iso-8859-1\r\n"
    b"Content-Transfer-Encoding: quoted-printable\r\n"
    b"\r\n"
    b'<p>Gr=FC=DFe</p><img src=3D"cid:logo@x"><img src=3D"cid:other">\r\n'
    b"--inner\r\n"
    b"Content-Type: image/png\r\n"
    b"Content-ID: <logo@x>\r\n"
    b"Content-Disposition: inline; filename=logo.png\r\n"
    b"Content-Transfer-Encoding: base64\r\n"
    b"\r\n" + base64.encodebytes(PNG).replace(b"\n", b"\r\n") + b"--inner--\r\n"
    b"--outer\r\n"
    b"Content-Type: application/pdf\r\n"
    b"Content-Disposition: attachment; filename*=utf-8''%C3%BCber.pdf\r\n"
    b"Content-Transfer-Encoding: base64\r\n"
    b"\r\n" + base64.encodebytes(PDF).replace(b"\n", b"\r\n") + b"--outer\r\n"
    b"Content-Type: message/rfc822\r\n"
    b"\r\n"
    b"From: x@example.org\r\nSubject: inside\r\n\r\nHi\r\n"
    b"--outer--\r\n"
)


def small(number: int) -> bytes:
    return b"From: a%d@example.org\r\nSubject: s%d\r\n\r\nHello %d\r\n" % (number, number, number)


@dataclass
class Box:
    """A user's INBOX."""

    world: ApiWorld
    user: str
    caller: Caller
    id: str

    @property
    def url(self) -> str:
        return f"/users/{self.user}/mailboxes/{self.id}/messages"

    async def add(self, *raws: bytes, flags: int = 0, path: str = "INBOX", date: int = 1_700_000_000) -> None:
        for raw in raws:
            prepared = prepare(raw)
            blobs = [prepared.blob(source) for source in prepared.blob_sources]
            message = NewMessage(prepared.content(), date, flags)
            await self.world.services.gateway.run(
                self.world.services.store.append, self.user, path, [message], blobs=blobs
            )

    async def other(self, path: str) -> str:
        return self.world.services.store.find_mailbox(self.user, path).id

    async def uids(self, **query: Any) -> list[int]:
        return [each["id"] for each in (await self.caller.get(self.url, **query))["results"]]
