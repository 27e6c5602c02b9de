"""LMTP connections that outlive their workers between two transactions, and end with them within one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import hand_over
import pytest
import trio
from delivery_house import House, open_house
from hand_over import standing_still
from lmtp_sessions import GREETING, MESSAGE, OPTIONS, STORED, Client, is_stored_form, stuffed

from wd_trio.servers.driver import Connection, ConnectionOver
from wd_trio.servers.lmtp.session import LmtpServices, serve_lmtp
from wd_trio.servers.slots import TAG_BYTES, Phase, Progress, Standing, why_lost
from wd_trio.service.delivery import Delivery

OK = b"250 2.0.0 OK\r\n"
DRAINING = b"421 4.3.2 The server is going down, come back soon\r\n"
LHLO = b"LHLO mx.example\r\n"
MAIL = b"MAIL FROM:<s@x.example>\r\n"
RCPT = b"RCPT TO:<u@example.org>\r\n"


@dataclass
class HandOver:
    house: House
    server: hand_over.Server
    user: str
    clients: list[Client]

    async def serve(self, connection: Connection) -> str:
        return await serve_lmtp(connection, LmtpServices(delivery=self.house.delivery), OPTIONS)

    def connect(self) -> Client:
        ours = self.server.connect("192.0.2.1")
        ours.setblocking(False)
        self.clients.append(Client(ours))
        return self.clients[-1]

    async def ready(self) -> Client:
        """A client that has said LHLO."""
        client = self.connect()
        assert await client.reply() == GREETING
        await client.say(LHLO)
        return client

    async def move(self) -> None:
        await self.server.move(self.serve)

    async def kill(self) -> None:
        await self.server.kill(self.serve)

    async def wait_settled(self) -> None:
        await self.server.wait_resumed()

    async def deliver(self, client: Client) -> None:
        """A whole transaction."""
        replies = await client.say(MAIL + RCPT + b"DATA\r\n", 3)
        assert replies[-1].startswith(b"354 ")
        (stored,) = await client.say(stuffed(MESSAGE))
        assert STORED.fullmatch(stored)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[HandOver]:
    async with open_house(tmp_path) as house, hand_over.open_server("lmtp") as server:
        world = HandOver(house, server, await house.user("u@example.org"), [])
        server.begin(world.serve)
        yield world
        for client in world.clients:
            await client.stream.aclose()


async def begin_to_move(world: HandOver, nursery: trio.Nursery) -> None:
    """Have the worker leave, with connections that cannot yet."""
    nursery.start_soon(world.move)
    while not world.server.host._draining:
        await trio.lowlevel.checkpoint()


async def test_moves_between_transactions(world: HandOver) -> None:
    client = world.connect()
    assert await client.reply() == GREETING
    await world.move()
    assert (await client.say(MAIL))[0].startswith(b"503 "), "LHLO was not said"
    (told,) = await client.say(LHLO)
    assert told.startswith(b"250-store.example\r\n")
    await world.move()
    await world.deliver(client)
    await world.move()
    await world.deliver(client)
    await world.move()
    assert await client.say(b"QUIT\r\n") == [b"221 2.0.0 Bye\r\n"]
    bodies = world.house.bodies(world.user)
    assert len(bodies) == 2
    assert all(is_stored_form(body, MESSAGE, "u@example.org") for body in bodies), "mx.example is known still"


async def test_behind_starttls_nobody_goes_on_in_clear(
    world: HandOver, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool]] = []

    async def upgrade(connection: Connection) -> None:
        seen.append((why_lost(connection.slot), connection.slot.has(Standing.HELLO)))
        raise ConnectionOver("seen")

    monkeypatch.setattr(Connection, "upgrade", upgrade)
    monkeypatch.setitem(globals(), "OPTIONS", replace(OPTIONS, starttls=True))
    client = await world.ready()
    (reply,) = await client.say(b"STARTTLS\r\n")
    assert reply.startswith(b"220 ")
    await world.server.wait_empty()
    assert seen == [("not movable", False)]


async def test_half_a_line_goes_along_with_who_moves_again_at_once(world: HandOver) -> None:
    """A worker that is told to go before it has looked at what was brought along passes it on."""
    client = await world.ready()
    await client.stream.send_all(b"NOOP\r\nMAIL FROM:<s@x")
    assert await client.reply() == OK
    await world.wait_settled()
    await world.server.start_move()
    for _ in range(3):
        world.server.finish_move(world.serve)
        await world.server.start_move()
    world.server.finish_move(world.serve)
    assert await client.say(b".example>\r\n") == [b"250 2.1.0 Sender OK\r\n"]


async def test_half_a_line_goes_along(world: HandOver) -> None:
    client = await world.ready()
    await client.stream.send_all(b"NOOP\r\nMAIL FROM:<s@x")
    assert await client.reply() == OK
    await world.wait_settled()
    assert world.server.slot().progress == Progress.READING
    await world.move()
    assert await client.say(b".example>\r\n") == [b"250 2.1.0 Sender OK\r\n"]


@pytest.mark.parametrize("said", [MAIL, MAIL + RCPT, MAIL + RCPT + b"DATA\r\nSubject: x\r\n"])
async def test_a_transaction_is_finished_first(world: HandOver, said: bytes) -> None:
    client = await world.ready()
    await client.say(said, said.count(b"\r\n") - said.count(b"Subject"))
    rest = (MAIL + RCPT + b"DATA\r\nSubject: x\r\n").removeprefix(said) + b"\r\nbody\r\n.\r\n"
    async with trio.open_nursery() as nursery:
        await begin_to_move(world, nursery)
        await client.stream.send_all(rest + MAIL + b"RS")
        replies = rest.count(b"RCPT") + rest.count(b"DATA")
        for _ in range(replies):
            await client.reply()
        assert STORED.fullmatch(await client.reply())
    assert await client.reply() == b"250 2.1.0 Sender OK\r\n", "by the next worker"
    assert await client.say(b"ET\r\n") == [OK]
    assert len(world.house.bodies(world.user)) == 1


async def test_a_transaction_that_is_given_up(world: HandOver) -> None:
    client = await world.ready()
    await client.say(MAIL)
    async with trio.open_nursery() as nursery:
        await begin_to_move(world, nursery)
        assert await client.say(b"RSET\r\n") == [OK]
    await world.deliver(client)


async def test_a_name_too_long_for_the_slot(world: HandOver) -> None:
    client = world.connect()
    assert await client.reply() == GREETING
    await client.say(b"LHLO " + b"a" * 40 + b"." + b"b" * (TAG_BYTES - 40) + b"\r\n")
    await world.deliver(client)
    await world.wait_settled()
    assert world.server.slot().progress == Progress.FIXED
    await world.move()
    assert await client.reply() == DRAINING


async def test_kills_between_transactions_go_unnoticed(world: HandOver) -> None:
    greeted, ready = world.connect(), await world.ready()
    assert await greeted.reply() == GREETING
    for _ in range(2):
        await world.wait_settled()
        await world.kill()
        await world.deliver(ready)
    assert (await greeted.say(LHLO))[0].startswith(b"250-")
    assert not world.server.lost


async def test_a_kill_before_the_greeting(world: HandOver, monkeypatch: pytest.MonkeyPatch) -> None:
    with standing_still(monkeypatch, Connection, "send", lambda: True) as point:
        client = world.connect()
        await point.reached.wait()
    assert world.server.slot().phase == Phase.ARRIVED
    await world.kill()
    assert await client.reply() == GREETING


@pytest.mark.parametrize("said", [MAIL, MAIL + RCPT, MAIL + RCPT + b"DATA\r\n"])
async def test_a_transaction_ends_with_its_worker(world: HandOver, said: bytes) -> None:
    client = await world.ready()
    await client.say(said, said.count(b"\r\n"))
    await world.wait_settled()
    await world.kill()
    assert world.server.lost == {0: "not movable"}
    assert await client.reply() == b""


@pytest.mark.parametrize("after", [False, True])
async def test_a_kill_after_the_dot(world: HandOver, monkeypatch: pytest.MonkeyPatch, *, after: bool) -> None:
    client = await world.ready()
    await client.say(MAIL + RCPT + b"DATA\r\n", 3)
    with standing_still(monkeypatch, Delivery, "deliver", lambda: True, after=after) as point:
        await client.stream.send_all(stuffed(MESSAGE))
        await point.reached.wait()
        await world.kill()
    assert list(world.server.lost) == [0]
    assert await client.reply() == b"", "the MTA sends it again"


async def test_a_line_too_long_ends_with_its_worker(world: HandOver) -> None:
    client = await world.ready()
    await client.stream.send_all(b"x" * 5000)
    while world.server.slot().progress != Progress.FIXED:
        await trio.lowlevel.checkpoint()
    async with trio.open_nursery() as nursery:
        await begin_to_move(world, nursery)
        assert await client.say(b"\r\n") == [b"500 5.5.2 Line too long\r\n"]
    assert await client.say(b"NOOP\r\n") == [OK]


async def test_a_stream_of_deliveries_through_moves(world: HandOver) -> None:
    """Everything that was answered 250 is there once, whenever workers follow each other."""
    count = 12
    client = await world.ready()
    done = trio.Event()

    async def deliver() -> None:
        for number in range(count):
            message = b"Subject: %d\r\n\r\nbody\r\n" % number
            await client.stream.send_all(MAIL + RCPT + b"DATA\r\n")
            assert (await client.replies(3))[2].startswith(b"354 ")
            await client.stream.send_all(stuffed(message))
            assert STORED.fullmatch(await client.reply())
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(deliver)
        while not done.is_set():
            await world.wait_settled()
            await world.move()
    subjects = [body.split(b"Subject: ")[1].split(b"\r\n")[0] for body in world.house.bodies(world.user)]
    assert subjects == [b"%d" % number for number in range(count)]
