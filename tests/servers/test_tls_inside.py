"""TLS that ends in the worker: the same connection, and the same sessions, over it."""

from __future__ import annotations

import random
import socket
import ssl

import pytest
import trio
from certificates import Pair, make_pair, trusting_anything
from holder_house import Client

from wd_trio.servers.driver import Connection, DriverOptions, IdleTooLong, Peer, PeerLost
from wd_trio.servers.listener import ConnectionHost
from wd_trio.servers.slots import Slot, Standing, why_lost
from wd_trio.servers.tls import server_context


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("certificates"))


def connect(
    pair: Pair, *, handshake_s: float = 10.0, flush_s: float = 60.0, context: ssl.SSLContext | None = None
) -> tuple[Client, Connection]:
    ours, theirs = socket.socketpair()
    options = DriverOptions(
        tls=server_context(pair.certificate, pair.key), handshake_s=handshake_s, flush_s=flush_s
    )
    peer = Peer("c1", "imap", "192.0.2.1", 1)
    connection = Connection(theirs, peer, options=options, on_end=lambda _, reason: None)
    return Client(trio.SocketStream(trio.socket.from_stdlib_socket(ours)), context=context), connection


async def secured(pair: Pair, **options: object) -> tuple[Client, Connection]:
    client, connection = connect(pair, **options)  # type: ignore[arg-type]  # connect says which
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.handshake)
        await connection.secure()
    return client, connection


async def test_a_connection_over_tls(pair: Pair) -> None:
    client, connection = await secured(pair)
    assert connection.peer.secure
    assert not connection.can_leave
    assert not connection.can_upgrade
    assert why_lost(connection.slot) == "tls"
    await connection.send(b"* OK ready\r\n")
    assert await client.receive_exactly(12) == b"* OK ready\r\n"
    await client.send(b"a1 NOOP\r\n")
    assert await connection.receive(timeout_s=10) == b"a1 NOOP\r\n"
    await client.end()
    assert await connection.receive(timeout_s=10) == b""
    connection.end("closed")
    assert await client.receive() == b""
    await client.stream.aclose()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_megabytes_both_ways(pair: Pair, version: ssl.TLSVersion) -> None:
    context = trusting_anything()
    context.minimum_version = context.maximum_version = version
    client, connection = await secured(pair, context=context)
    data = random.Random(3).randbytes(2 << 20)
    got = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, data)
        while len(got) < len(data):
            got += await connection.receive(timeout_s=30) or b""
    assert got == data
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.send, data)
        assert await client.receive_exactly(len(data)) == data
    await client.stream.aclose()
    connection.end("closed")


async def test_what_is_deciphered_already_needs_no_readable_socket(pair: Pair) -> None:
    client, connection = await secured(pair)
    await client.send(b"x" * 40_000)  # three records, of which a read takes one
    got = 0
    while got < 40_000:
        got += len(await connection.receive(timeout_s=10) or b"")
    await client.stream.aclose()
    connection.end("closed")


async def test_last_words_and_a_whole_end(pair: Pair) -> None:
    client, connection = await secured(pair)
    async with trio.open_nursery() as nursery:
        await connection.send(b"* BYE\r\n")
        nursery.start_soon(connection.finish, "drain")
        assert await client.receive_exactly(7) == b"* BYE\r\n"
        assert await client.receive() == b""
        await client.stream.aclose()


@pytest.mark.parametrize("data", [b"a1 LOGIN ann secret\r\n", b""])
async def test_a_handshake_that_is_none(pair: Pair, data: bytes) -> None:
    client, connection = connect(pair)
    if data:
        await client.stream.send_all(data)
    await client.stream.send_eof()
    with pytest.raises(PeerLost) as caught:
        await connection.secure()
    assert caught.value.reason == "no handshake"
    connection.end("closed")
    await client.stream.aclose()


async def test_a_handshake_has_a_deadline(pair: Pair, autojump_clock: trio.testing.MockClock) -> None:
    client, connection = connect(pair)
    with pytest.raises(PeerLost):
        await connection.secure()
    assert trio.current_time() == 10.0
    connection.end("closed")
    await client.stream.aclose()


async def test_deadlines_hold_over_tls(pair: Pair, autojump_clock: trio.testing.MockClock) -> None:
    client, connection = await secured(pair, flush_s=5.0)
    with pytest.raises(IdleTooLong):
        await connection.receive(timeout_s=30)
    with pytest.raises(PeerLost) as caught:
        await connection.send(bytes(8 << 20))
    assert caught.value.reason == "flush deadline"
    connection.end("closed")
    await client.stream.aclose()


async def test_a_host_makes_tls_before_the_session_where_the_slot_says_so(pair: Pair) -> None:
    async def handler(connection: Connection) -> str:
        await connection.send(b"secure" if connection.peer.secure else b"clear")
        await connection.finish("quit")
        return "quit"

    ours, theirs = socket.socketpair()
    slot = Slot.alone()
    slot.standing = Standing.INSIDE
    async with trio.open_nursery() as nursery:
        options = DriverOptions(tls=server_context(pair.certificate, pair.key))
        host = ConnectionHost("imap", handler, nursery=nursery, options=options)
        host.adopt(theirs, Peer("c1", "imap", "192.0.2.1", 1), slot=slot)
        client = Client(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
        await client.handshake()
        assert await client.receive_exactly(6) == b"secure"
        assert await client.receive() == b""
        await client.stream.aclose()
