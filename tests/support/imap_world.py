"""A world for IMAP tests: the real services over a real engine, sessions on socket pairs, clients that read lines.

Everything runs in one trio loop, so what one session commits is hinted to the others before its reply.
"""

from __future__ import annotations

import math
import select
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path

import engines
import trio
from cluster_house import fresh_mongo, fresh_redis

from wd_trio.config import Auth, Config, Redis, Store
from wd_trio.errors import NotFound
from wd_trio.mail.content import prepare
from wd_trio.mail.model import SEEN, Changes, NewMessage
from wd_trio.ops.boot import Services, open_services
from wd_trio.ports.bus import Hint
from wd_trio.secret import Secret
from wd_trio.servers.driver import DriverOptions, peer_of
from wd_trio.servers.imap.host import ImapHost
from wd_trio.servers.imap.options import ImapOptions, ImapServices
from wd_trio.servers.listener import ConnectionHost
from wd_trio.servers.parking import Parking
from wd_trio.servers.slots import Phase, Slot, Slots

SLOTS = 64
SILENCE_S = 20.0  # a server that says nothing for so long will not: fail instead of hanging
ENGINES = ("cluster", "sqlite")
SMALL = b"From: a@example.org\r\nSubject: small\r\n\r\nHello\r\n"


class Client:
    """The other end of one IMAP session."""

    def __init__(self, sock: socket.socket) -> None:
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self._buffer = b""
        self.closed = False

    async def send(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def read_line(self) -> str:
        """The next line without its end, "" when the server has closed."""
        while b"\r\n" not in self._buffer:
            with trio.fail_after(SILENCE_S):
                data = await self._stream.receive_some()
            if not data:
                assert not self._buffer, "the server closed within a line"
                self.closed = True
                return ""
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line.decode("utf-8", "surrogateescape")

    async def read_exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            data = await self._stream.receive_some()
            assert data, "the server closed within a literal"
            self._buffer += data
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    async def command(self, tag: str, text: str) -> list[str]:
        """Send a command and return its lines up to and with the tagged one."""
        await self.send(f"{tag} {text}\r\n".encode())
        lines = [await self.read_line()]
        while not lines[-1].startswith(f"{tag} "):
            assert not self.closed, f"the server closed: {lines}"
            lines.append(await self.read_line())
        return lines

    async def log_in(self, user: str) -> None:
        await self.read_line()
        lines = await self.command("login", f'LOGIN {user} "secret of {user}"')
        assert lines[-1].startswith("login OK"), lines

    def buffered(self) -> bytes:
        return self._buffer

    def readable(self) -> bool:
        """Whether the server has said something that was not read yet."""
        return bool(self._buffer or select.select([self._stream.socket], [], [], 0)[0])

    async def aclose(self) -> None:
        await self._stream.aclose()


class World:
    """Users alice and bob, and as many connections as asked for."""

    def __init__(self, services: Services, host: ConnectionHost | ImapHost) -> None:
        self.services = services
        self.host = host
        self.clients: list[Client] = []

    def client(self, number: int) -> Client:
        """Connection `number`, counted from 1; made when it is first asked for."""
        while len(self.clients) < number:
            self.connect()
        return self.clients[number - 1]

    def connect(self, ip: str = "127.0.0.1") -> Client:
        raise NotImplementedError

    async def deliver(self, user: str, *words: str, raw: bytes = SMALL, path: str = "INBOX") -> int:
        """Add a message as a delivery elsewhere would, hint included; its uid."""
        owner = await self.services.users.by_username(user)
        prepared = prepare(raw)
        message = NewMessage(prepared.content(), int(time.time()), SEEN if "seen" in words else 0)
        blobs = [prepared.blob(source) for source in prepared.blob_sources]
        appended = await self.services.gateway.run(
            self.services.store.append, owner.id, path, [message], blobs=blobs, create=True
        )
        changes = Changes(
            appended.previous_modseq, appended.modseq, appended.uids[-1] + 1, tuple(appended.rows), ()
        )
        self.services.hub.publish(
            Hint("mailbox", owner.id, appended.mailbox_id, appended.previous_modseq, appended.modseq, changes)
        )
        return appended.uids[0]


class ImapWorld(World):
    """A world whose `host` serves IMAP. Connections that `move` go to another host, and back."""

    def __init__(
        self,
        services: Services,
        imap: ImapServices,
        options: ImapOptions,
        nursery: trio.Nursery,
        flush_s: float,
    ) -> None:
        self.slots = Slots.create(SLOTS)
        self.free = list(range(SLOTS))
        self.left: list[int] = []
        """The numbers of the slots of connections that moved, one by one."""
        self._imap = imap
        self._options = options
        self._flush_s = flush_s
        self.hosts = [
            self._open_host(nursery, lambda: self.hosts[1]),
            self._open_host(nursery, lambda: self.hosts[0]),
        ]
        super().__init__(services, self.hosts[0])

    def _open_host(self, nursery: trio.Nursery, successor: Callable[[], ImapHost]) -> ImapHost:
        def left(slot: Slot, why: str, sock: socket.socket, unread: bytes) -> None:
            self.left.append(slot.number)
            successor().adopt(sock, peer_of(slot), slot=slot, unread=unread)

        return ImapHost(
            self._imap,
            self._options,
            slots=self.slots,
            nursery=nursery,
            options=DriverOptions(flush_s=self._flush_s),
            on_end=self._ended,
            on_leave=left,
        )

    def _ended(self, slot: Slot) -> None:
        slot.clear()
        self.free.append(slot.number)

    def move(self) -> None:
        """Let every connection go over to another host, those that cannot now when they can."""
        for host in self.hosts:
            for connection, _ in list(host.awake._open.values()):
                if connection.slot.phase != Phase.ARRIVED:
                    connection.begin_drain(moving=True)
            parking = host.parking
            parking._moving = True
            for number in list(parking._parked.numbers()):
                if number not in self.left[-1:]:
                    parking._depart(number)
            parking._moving = None

    def connect(self, ip: str = "127.0.0.1") -> Client:
        ours, theirs = socket.socketpair()
        slot = self.slots.at(self.free.pop(0))
        slot.id = len(self.clients) + 1
        slot.protocol, slot.ip, slot.port, slot.phase = "imap", ip, 1, Phase.ARRIVED
        self.host.adopt(theirs, peer_of(slot), slot=slot)
        self.clients.append(Client(ours))
        return self.clients[-1]


def world_config(engine: str, folder: Path) -> Config:
    """An engine with nothing in it: of SQLite a file in `folder`, else the run's MongoDB and Redis, emptied."""
    auth = Auth(argon2_time_cost=1, argon2_memory_kib=8, failure_delay_s=0.0)
    if engine == "sqlite":
        return Config(store=Store(url=f"sqlite:{folder / 'mail.db'}"), auth=auth)
    fresh_mongo(time.time)
    fresh_redis(time.time)
    return Config(store=Store(url=engines.mongo_url()), redis=Redis(url=engines.redis_url()), auth=auth)


@asynccontextmanager
async def open_world(
    engine: str,
    folder: Path,
    *,
    options: ImapOptions | None = None,
    flush_s: float = 60.0,
    park_after_s: float = math.inf,
) -> AsyncIterator[ImapWorld]:
    """Connections park when they were quiet for so long; `options`, where given, say it instead."""
    config = world_config(engine, folder)
    async with open_services(config, server="test", worker="1") as services:
        await services.sessions.end_worker("1")  # of a world on the same files before
        for user in ("alice", "bob"):
            try:
                await services.users.by_username(user)
            except NotFound:
                await services.users.create(user, Secret(f"secret of {user}"), address=f"{user}@example.org")
        made = ImapServices(
            auth=services.auth,
            sessions=services.sessions,
            mailboxes=services.mailboxes,
            messages=services.messages,
            hub=services.hub,
        )
        chosen = options or ImapOptions(
            hostname="mail.test",
            version="test",
            trusted_networks=(ip_network("127.0.0.0/8"),),
            park_after_s=park_after_s,
        )
        async with trio.open_nursery() as nursery:
            world = ImapWorld(services, made, chosen, nursery, flush_s)
            try:
                yield world
            finally:
                for client in world.clients:
                    await client.aclose()
                nursery.cancel_scope.cancel()


async def until_parked(world: ImapWorld, count: int) -> None:
    """Until so many connections are parked, and no other has a task."""
    with trio.fail_after(20):
        while len(parking(world)) != count or len(world.host) != count:
            await trio.lowlevel.checkpoint()


def parking(world: ImapWorld) -> Parking:
    return world.hosts[0].parking


def fill(world: ImapWorld, number: int) -> None:
    """Leave no room in the kernel for what a parked connection is to be told."""
    sock = socket.socket(fileno=parking(world)._parked.descriptor(number))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    try:
        while True:
            sock.send(b"* OK\r\n")
    except BlockingIOError:
        sock.detach()


async def idler(world: ImapWorld, number: int, user: str = "alice") -> Client:
    client = world.client(number)
    await client.log_in(user)
    await client.command("s", "SELECT INBOX")
    await client.send(b"i IDLE\r\n")
    assert await client.read_line() == "+ idling"
    return client
