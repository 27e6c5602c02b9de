"""LMTP sessions for tests: a connection host over the real store, and clients that read whole replies."""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import trio
from delivery_house import House, open_house

from wd_trio.servers.driver import DriverOptions, Peer
from wd_trio.servers.listener import ConnectionHost
from wd_trio.servers.lmtp.session import LmtpOptions, LmtpServices, serve_lmtp

OPTIONS = LmtpOptions(hostname="store.example", message_bytes=1 << 20, recipients=50)
GREETING = b"220 store.example LMTP wd-trio\r\n"
MESSAGE = b"Subject: hello\r\n\r\nfirst\r\n.dotted\r\nbare\nend\r\n"
STORED = re.compile(rb"250 2\.0\.0 Stored, id [0-9a-f]{24}\r\n")
TROUBLE = re.compile(rb"451 4\.3\.0 Trouble on our side, try again later(, id [0-9a-f]{24})?\r\n")


def stuffed(message: bytes) -> bytes:
    return re.sub(rb"(^|\r\n)\.", rb"\1..", message) + b".\r\n"


class Client:
    """The other end: says things and reads whole replies."""

    def __init__(self, sock: socket.socket) -> None:
        self.stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self._read = b""

    async def reply(self) -> bytes:
        """The next reply with all its lines; b"" at the end of the stream."""
        taken = b""
        while True:
            line, found, rest = self._read.partition(b"\r\n")
            if found:
                self._read = rest
                taken += line + found
                if line[3:4] != b"-":
                    return taken
                continue
            data = await self.stream.receive_some()
            if not data:
                assert not self._read + taken, "the stream ended inside a reply"
                return b""
            self._read += data

    async def replies(self, count: int) -> list[bytes]:
        return [await self.reply() for _ in range(count)]

    async def say(self, data: bytes, count: int = 1) -> list[bytes]:
        await self.stream.send_all(data)
        return await self.replies(count)

    async def begin(self, *recipients: str) -> list[bytes]:
        """Up to 354; the replies to RCPT."""
        assert (await self.replies(1))[0] == GREETING
        await self.say(b"LHLO mx.example\r\nMAIL FROM:<s@x.example>\r\n", 2)
        lines = b"".join(b"RCPT TO:<%s>\r\n" % recipient.encode() for recipient in recipients)
        *told, data = await self.say(lines + b"DATA\r\n", len(recipients) + 1)
        assert data.startswith(b"354 ")
        return told


class Server:
    """A connection host for LMTP and its clients."""

    def __init__(self, house: House, nursery: trio.Nursery, options: LmtpOptions, flush_s: float) -> None:
        self._count = 0
        self._clients: list[Client] = []
        services = LmtpServices(delivery=house.delivery)

        self.host = ConnectionHost(
            "lmtp",
            lambda connection: serve_lmtp(connection, services, options),
            nursery=nursery,
            options=DriverOptions(flush_s=flush_s),
        )

    def connect(self, ip: str = "192.0.2.1") -> Client:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self._count += 1
        self.host.adopt(ours, Peer(f"c{self._count}", "lmtp", ip, 25))
        self._clients.append(Client(theirs))
        return self._clients[-1]

    async def close(self) -> None:
        for client in self._clients:
            await client.stream.aclose()

    async def wait_empty(self) -> None:
        while len(self.host):
            await trio.lowlevel.checkpoint()


@asynccontextmanager
async def serving(
    folder: Path, options: LmtpOptions = OPTIONS, *, flush_s: float = 60.0
) -> AsyncIterator[tuple[House, Server]]:
    async with open_house(folder) as house, trio.open_nursery() as nursery:
        server = Server(house, nursery, options, flush_s)
        yield house, server
        await server.close()
        nursery.cancel_scope.cancel()


Served: TypeAlias = tuple[House, Server]


def is_stored_form(stored: bytes, body: bytes, address: str, *, sender: str = "s@x.example") -> bool:
    """Whether `stored` is exactly the trace headers, then exactly the message."""
    head = re.compile(
        re.escape(f"Return-Path: <{sender}>\r\nDelivered-To: {address}\r\n".encode())
        + rb"Received: from mx\.example \(\[192\.0\.2\.1\]\) by store\.example with LMTP\r\n"
        rb"\tid [0-9a-f]{24} for <" + re.escape(address.encode()) + rb">;\r\n"
        rb"\tTue, 01 Jan 2030 00:00:00 \+0000\r\n"
    )
    found = head.match(stored)
    return found is not None and stored[found.end() :] == body


def stored_as(house: House, user: str, body: bytes, address: str) -> bool:
    (message,) = house.bodies(user)
    return is_stored_form(message, body, address)
