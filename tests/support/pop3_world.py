"""A world for POP3 tests: that of imap_world.py, with POP3 sessions on socket pairs instead of IMAP's."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import trio
from imap_world import Client, World, world_config

from wd_trio.errors import Unavailable
from wd_trio.mail.model import DELETED, Columns, FlagChange, Mailbox
from wd_trio.mail.numset import UidSet
from wd_trio.ops.boot import Services, open_services
from wd_trio.secret import Secret
from wd_trio.servers.driver import DriverOptions, peer_of
from wd_trio.servers.listener import ConnectionHost
from wd_trio.servers.pop3.options import Pop3Options, Pop3Services
from wd_trio.servers.pop3.serve import serve_pop3
from wd_trio.servers.slots import Phase, Slot
from wd_trio.service.messages import Place

NETWORKS = (ip_network("127.0.0.0/8"),)
OPTIONS = Pop3Options(hostname="mail.test", trusted_networks=NETWORKS)
MARKED = "+OK Marked to be deleted"
TROUBLE = "-ERR [SYS/TEMP] Trouble on our side, try again later"


class Pop3Client(Client):
    """The other end of one POP3 session."""

    async def say(self, text: str) -> str:
        """Send a command; the first line of its answer."""
        await self.send(text.encode() + b"\r\n")
        return await self.read_line()

    async def body(self) -> bytes:
        """A multi-line body up to its final dot, unstuffed."""
        lines = []
        while (line := await self.read_line()) != ".":
            assert not self.closed, "the server closed within a body"
            lines.append(line.removeprefix(".").encode("utf-8", "surrogateescape") + b"\r\n")
        return b"".join(lines)

    async def log_in(self, user: str) -> None:
        assert (await self.read_line()).startswith("+OK")
        await self.send(f"USER {user}\r\nPASS secret of {user}\r\n".encode())
        assert [await self.read_line(), await self.read_line()] == ["+OK Now the password", "+OK Logged in"]


class Pop3World(World):
    """Users alice and bob, POP3 connections, and what happens to their mail elsewhere."""

    def __init__(self, services: Services, host: ConnectionHost, ended: list[int]) -> None:
        """`ended` gets the numbers of the connections that are over, counted from 1."""
        super().__init__(services, host)
        self._ended = ended
        self._by_number: dict[int, Pop3Client] = {}

    def connect(self, ip: str = "127.0.0.1") -> Pop3Client:
        ours, theirs = socket.socketpair()
        client = Pop3Client(ours)
        self.clients.append(client)
        slot = Slot.alone()
        slot.phase, slot.protocol, slot.id, slot.ip = Phase.ARRIVED, "pop3", len(self.clients), ip
        self.host.adopt(theirs, peer_of(slot), slot=slot)
        return client

    def client(self, number: int) -> Pop3Client:
        """Connection `number`; made when it is first asked for, and again after it was lost."""
        if number not in self._by_number:
            self._by_number[number] = self.connect()
        return self._by_number[number]

    async def lose(self, number: int) -> None:
        """Break a connection, and wait until its session is over."""
        client = self._by_number.pop(number)
        await client.aclose()
        await self.wait_ended(client)

    async def wait_ended(self, client: Pop3Client) -> None:
        while self.clients.index(client) + 1 not in self._ended:
            await trio.lowlevel.checkpoint()

    async def logged_in(self, user: str = "alice") -> Pop3Client:
        client = self.connect()
        await client.log_in(user)
        return client

    async def inbox(self, user: str = "alice") -> tuple[Mailbox, UidSet]:
        owner = await self.services.users.by_username(user)
        opened, uids = await self.services.mailboxes.open(owner.id, "INBOX")
        return opened.mailbox, uids

    async def flags(self, user: str = "alice") -> dict[int, int]:
        """The flags of each message in INBOX, by uid."""
        mailbox, uids = await self.inbox(user)
        pages = [rows async for rows in self.services.messages.pages(mailbox.id, uids, Columns.NONE)]
        return {row.uid: row.flags for rows in pages for row in rows}

    async def mark_deleted(self, user: str, *uids: int) -> None:
        """Set \\Deleted as a session elsewhere would."""
        mailbox, _ = await self.inbox(user)
        change = FlagChange("add", DELETED)
        async for _ in self.services.messages.store_flags(Place(user, mailbox.id), UidSet.of(uids), change):
            pass

    async def expunge(self, user: str, *uids: int) -> None:
        """Remove messages as a session elsewhere would."""
        await self.mark_deleted(user, *uids)
        mailbox, _ = await self.inbox(user)
        async for gone in self.services.messages.expunge(Place(user, mailbox.id), UidSet.of(uids)):
            assert len(gone.uids) == len(uids)


@asynccontextmanager
async def open_pop3_world(
    folder: Path, *, engine: str = "sqlite", options: Pop3Options = OPTIONS, flush_s: float = 60.0
) -> AsyncIterator[Pop3World]:
    config = world_config(engine, folder)
    async with open_services(config, server="test", worker="test/1") as services:
        for user in ("alice", "bob"):
            await services.users.create(user, Secret(f"secret of {user}"), address=f"{user}@example.org")
        async with serving(services, options, flush_s) as world:
            yield world


@asynccontextmanager
async def serving(
    services: Services, options: Pop3Options = OPTIONS, flush_s: float = 60.0
) -> AsyncIterator[Pop3World]:
    """POP3 over services that are open."""
    made = Pop3Services(auth=services.auth, sessions=services.sessions, maildrops=services.maildrops)
    ended: list[int] = []
    async with trio.open_nursery() as nursery:
        host = ConnectionHost(
            "pop3",
            lambda connection: serve_pop3(connection, made, options),
            nursery=nursery,
            options=DriverOptions(flush_s=flush_s),
            on_end=lambda slot: ended.append(slot.id),
        )
        world = Pop3World(services, host, ended)
        try:
            yield world
        finally:
            for client in world.clients:
                await client.aclose()
            nursery.cancel_scope.cancel()


async def deliver_some(world: Pop3World, count: int) -> None:
    for number in range(1, count + 1):
        await world.deliver("alice", raw=b"Subject: %d\r\n\r\nbody %d\r\n" % (number, number))


def failing(monkeypatch: pytest.MonkeyPatch, target: object, name: str, times: int = 1) -> None:
    """Make the next calls of an async method fail as if the engine were down."""
    whole: Callable[..., Any] = getattr(target, name)
    left = [times]

    async def fails(*arguments: Any, **options: Any) -> Any:
        if left[0]:
            left[0] -= 1
            await trio.lowlevel.checkpoint()
            raise Unavailable("down")
        return await whole(*arguments, **options)

    monkeypatch.setattr(target, name, fails)
