"""The driver: one reader, one writer, every timer, and the one way to end a connection."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from wd_trio import telemetry
from wd_trio.servers.driver import (
    COUNT_BYTES,
    KICK_GRACE_S,
    Connection,
    Draining,
    DriverOptions,
    IdleTooLong,
    Kicked,
    Peer,
    PeerLost,
)
from wd_trio.servers.listener import ConnectionHost


class Wire:
    """A connection, the client's end of it, and what its end was reported as."""

    def __init__(self, flush_s: float = 60.0) -> None:
        self.client, server = socket.socketpair()
        self.client.setblocking(False)
        self.ended: list[str] = []
        self.connection = Connection(
            server,
            Peer("c1", "test", "127.0.0.1", 1),
            options=DriverOptions(flush_s=flush_s),
            on_end=lambda connection, reason: self.ended.append(reason),
        )


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    made = Wire()
    yield made
    made.client.close()
    made.connection.end("test over")


async def test_bytes_both_ways(wire: Wire) -> None:
    wire.client.send(b"hello")
    assert await wire.connection.receive(timeout_s=1) == b"hello"
    await wire.connection.send(b"back")
    assert wire.client.recv(10) == b"back"
    wire.client.shutdown(socket.SHUT_WR)
    assert await wire.connection.receive(timeout_s=1) == b""
    assert (wire.connection.bytes_in, wire.connection.bytes_out) == (5, 4)


def counted(direction: str, protocol: str = "test") -> float:
    labels = {"protocol": protocol, "direction": direction}
    return telemetry.REGISTRY.get_sample_value("wildduck_bytes_total", labels) or 0.0


async def test_octets_are_counted_at_the_end_and_for_much_before(wire: Wire) -> None:
    before = counted("in"), counted("out")
    wire.client.send(b"hello")
    await wire.connection.receive(timeout_s=1)
    assert (counted("in"), counted("out")) == before
    piece = bytes(COUNT_BYTES // 8)
    for _ in range(9):
        await wire.connection.send(piece)
        left = len(piece)
        while left:
            left -= len(wire.client.recv(left))
    assert counted("in") - before[0] == 5
    assert counted("out") - before[1] == COUNT_BYTES
    wire.connection.end("done")
    wire.connection.end("again")
    assert counted("in") - before[0] == 5
    assert counted("out") - before[1] == 9 * len(piece)


async def test_a_silent_peer_is_noticed(wire: Wire, autojump_clock: MockClock) -> None:
    with pytest.raises(IdleTooLong):
        await wire.connection.receive(timeout_s=1800)
    assert trio.current_time() >= 1800


async def test_a_peer_that_never_reads_is_given_up(autojump_clock: MockClock) -> None:
    wire = Wire(flush_s=60)
    with pytest.raises(PeerLost, match="flush deadline"):
        await wire.connection.send(b"x" * (1 << 24))
    wire.connection.end("over")
    wire.client.close()


async def test_waking_interrupts_only_those_who_asked(wire: Wire) -> None:
    got: list[bytes | None] = []

    async def read(wakeable: bool) -> None:
        got.append(await wire.connection.receive(timeout_s=60, wakeable=wakeable))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read, True)
        await wait_all_tasks_blocked()
        wire.connection.wake()
    assert got == [None]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read, False)
        await wait_all_tasks_blocked()
        wire.connection.wake()
        await wait_all_tasks_blocked()
        wire.client.send(b"data")
    assert got == [None, b"data"]
    assert await wire.connection.receive(timeout_s=60, wakeable=True) is None, "the wake-up was kept"


async def test_drain_interrupts_and_may_be_read_through(wire: Wire) -> None:
    wire.connection.begin_drain()
    with pytest.raises(Draining):
        await wire.connection.receive(timeout_s=60)
    wire.client.send(b"rest of a message")
    assert await wire.connection.receive(timeout_s=60, through_drain=True) == b"rest of a message"


async def test_drain_reaches_a_pending_receive(wire: Wire) -> None:
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(Draining):
                await wire.connection.receive(timeout_s=60)

        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        wire.connection.begin_drain()


async def test_drain_leaves_a_receive_that_reads_through_it(wire: Wire) -> None:
    got: list[bytes | None] = []
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            got.append(await wire.connection.receive(timeout_s=60, through_drain=True))

        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        wire.connection.begin_drain()
        await wait_all_tasks_blocked()
        wire.client.send(b"the rest")
    assert got == [b"the rest"]


@pytest.mark.parametrize("through_drain", [False, True])
async def test_a_kick_reaches_every_receive(wire: Wire, through_drain: bool) -> None:
    heard: list[str] = []

    async def read() -> None:
        with pytest.raises(Kicked) as kicked:
            await wire.connection.receive(timeout_s=60, through_drain=through_drain)
        heard.append(kicked.value.reason)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        wire.connection.kick("killed")
        wire.connection.kick("again")
    wire.client.send(b"more")
    await read()
    assert heard == ["killed", "killed"]
    await wire.connection.send(b"bye")
    assert wire.client.recv(10) == b"bye"


async def test_a_kicked_connection_sends_for_a_moment_only(autojump_clock: MockClock) -> None:
    wire = Wire(flush_s=3600)
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises(PeerLost, match="killed"):
                await wire.connection.send(b"x" * (1 << 24))

        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        began = trio.current_time()
        wire.connection.kick("killed")
    assert trio.current_time() - began <= KICK_GRACE_S
    with pytest.raises(PeerLost, match="killed"):
        await wire.connection.send(b"more")
    wire.connection.end("over")
    wire.connection.kick("too late")
    wire.client.close()


async def test_end_sends_fin_while_a_duplicate_lives(wire: Wire) -> None:
    duplicate = wire.connection._sock.dup()
    wire.connection.end("over")
    wire.connection.end("again")
    assert wire.ended == ["over"]
    assert wire.client.recv(1) == b"", "the peer sees the end at once"
    duplicate.close()


async def test_last_words_survive_unread_input() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    connection = Connection(
        server, Peer("c", "test", "127.0.0.1", 1), options=DriverOptions(), on_end=lambda c, r: None
    )
    client.sendall(b"garbage" * 1000)
    await connection.send(b"* BYE\r\n")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.finish, "protocol")
        await wait_all_tasks_blocked()
        assert await trio.to_thread.run_sync(client.recv, 100) == b"* BYE\r\n"
        client.close()
    listener.close()


async def test_a_reset_is_a_lost_peer() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    connection = Connection(
        server, Peer("c", "test", "127.0.0.1", 1), options=DriverOptions(), on_end=lambda c, r: None
    )
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    with pytest.raises(PeerLost):
        await connection.receive(timeout_s=5)
    connection.end("reset")
    listener.close()


async def test_a_failing_handler_ends_its_own_connection_only() -> None:
    async def handler(connection: Connection) -> str:
        data = await connection.receive(timeout_s=60)
        if data == b"fail":
            raise RuntimeError("a defect")
        await connection.send(b"fine")
        return "done"

    ended: list[int] = []
    async with trio.open_nursery() as nursery:
        host = ConnectionHost("test", handler, nursery=nursery, on_end=lambda slot: ended.append(slot.port))
        clients = []
        for port, name in enumerate(("a", "b")):
            client, server = socket.socketpair()
            client.settimeout(5)
            clients.append(client)
            host.adopt(server, Peer(name, "test", "127.0.0.1", port))
        clients[0].send(b"fail")
        await wait_all_tasks_blocked()
        assert ended == [0]
        clients[1].send(b"go")
        await wait_all_tasks_blocked()
        assert ended == [0, 1]
        assert clients[1].recv(10) == b"fine"
        assert len(host) == 0
        for client in clients:
            client.close()


async def test_drain_waits_then_cancels(autojump_clock: MockClock) -> None:
    async def handler(connection: Connection) -> str:
        try:
            while True:
                await connection.receive(timeout_s=3600)
        except Draining:
            await connection.send(b"bye")
            if connection.peer.id == "slow":
                await trio.sleep_forever()
            return "drain"

    async with trio.open_nursery() as nursery:
        host = ConnectionHost("test", handler, nursery=nursery)
        clients = []
        for name in ("quick", "slow"):
            client, server = socket.socketpair()
            clients.append(client)
            host.adopt(server, Peer(name, "test", "127.0.0.1", 1))
        await wait_all_tasks_blocked()
        assert await host.drain(deadline_s=8) == 1
        assert [client.recv(10) for client in clients] == [b"bye", b"bye"]
        await wait_all_tasks_blocked()
        assert len(host) == 0
        for client in clients:
            client.close()
