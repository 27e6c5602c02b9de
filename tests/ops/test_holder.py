"""The TLS holder, as a real process: octets both ways, ends both ways, and clients that do not mean well."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import socket
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from select import EPOLLIN

import pytest
import trio
from certificates import Pair, trusting_anything
from holder_house import Client, House, house, receive_exactly, until

from wd_trio.ops.tls.channel import HolderOptions
from wd_trio.ops.tls.held import READ_BYTES, Held

MEGABYTE = 1 << 20


@pytest.fixture
async def held(pair: Pair) -> AsyncIterator[House]:
    async with house(pair) as made:
        yield made


async def test_a_handshake_brings_the_plaintext_end_and_the_facts(held: House, pair: Pair) -> None:
    client, worker = await held.pair()
    newcomer, _, facts = held.secured[0]
    assert newcomer.ip == "127.0.0.1"
    assert newcomer.port == client.stream.socket.getsockname()[1]
    assert (facts.version, facts.cipher, facts.name) == (
        "TLSv1.3",
        client.tls.cipher()[0],
        "mail.example.org",
    )  # type: ignore[index]  # there is one
    assert client.tls.getpeercert(binary_form=True) == pair.der
    await worker.send_all(b"* OK ready\r\n")
    assert await client.receive() == b"* OK ready\r\n"
    await client.send(b"a1 NOOP\r\n")
    assert await worker.receive_some() == b"a1 NOOP\r\n"


async def test_the_worker_has_what_came_with_the_end_of_the_handshake(held: House) -> None:
    client = Client(await held.connect())
    quiet = client.stream.send_all
    kept = bytearray()

    async def gather(data: bytes) -> None:
        kept.extend(data)

    while True:
        try:
            client.tls.do_handshake()
        except ssl.SSLWantReadError:
            await client._flush()
            await client._fill()
        else:
            break
    client.stream.send_all = gather  # type: ignore[method-assign]  # the last flight leaves with the first command
    await client._flush()
    await client.send(b"a1 CAPABILITY\r\n")
    await quiet(kept)
    worker = await held.wait_secured(1)
    assert await worker.receive_some() == b"a1 CAPABILITY\r\n"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_megabytes_both_ways_at_once_through_slow_readers(held: House, version: ssl.TLSVersion) -> None:
    context = trusting_anything()
    context.minimum_version = context.maximum_version = version
    client = Client(await held.connect(), context=context)
    await client.handshake()
    worker = await held.wait_secured(1)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        client.stream.setsockopt(socket.SOL_SOCKET, option, 65536)
    there, back = random.Random(1).randbytes(8 * MEGABYTE), random.Random(2).randbytes(8 * MEGABYTE)
    sent = Counter[str]()
    got: dict[str, bytes] = {}

    async def write(way: str, data: bytes, send: Callable[[bytes], Awaitable[None]]) -> None:
        for at in range(0, len(data), 65536):
            await send(data[at : at + 65536])
            sent[way] += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, "there", there, client.send)
        nursery.start_soon(write, "back", back, worker.send_all)
        await _until_still(sent)  # nobody reads yet
        assert sent["there"] < 128
        assert sent["back"] < 128
        nursery.start_soon(_keep, got, "back", client.receive_exactly(len(back)))
        await _until_still(sent)
        assert sent["there"] < 128
        nursery.start_soon(_keep, got, "there", receive_exactly(worker, len(there)))
    assert got == {"there": there, "back": back}


async def _keep(got: dict[str, bytes], way: str, read: Awaitable[bytes]) -> None:
    got[way] = await read


async def _until_still(sent: Counter[str]) -> None:
    """Until the writers have not got on for a while: each way is full."""
    seen: list[int] = []

    def look() -> list[int]:
        seen.append(sent.total())
        return seen[-10:]

    await until(look, lambda last: len(last) == 10 and last[0] > 0 and last[0] == last[-1])


async def test_a_reader_that_stops_stops_the_writer_and_not_the_memory(held: House) -> None:
    before = _private_kb(held.holding.statistics().pid)
    pairs = [await held.pair() for _ in range(20)]
    taken = []
    for client, worker in pairs:
        taken.append(0)
        with trio.move_on_after(0.05):  # nobody reads: both ways fill up to the kernel's brim
            while True:
                taken[-1] += await worker.socket.send(bytes(65536))
        with trio.move_on_after(0.05):
            await client.send(bytes(16 * MEGABYTE))
    assert min(taken) > 0
    assert _private_kb(held.holding.statistics().pid) - before < 20 * 200
    quiet, quiet_worker = await held.pair()
    await quiet.send(b"still served")
    assert await quiet_worker.receive_some() == b"still served"
    await pairs[0][0].receive_exactly(taken[0])


def _private_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


# --- ends


async def test_the_client_ends_its_side_and_still_hears_the_worker(held: House) -> None:
    client, worker = await held.pair()
    await client.send(b"last words")
    await client.end()
    assert await receive_exactly(worker, 10) == b"last words"
    assert await worker.receive_some() == b""
    await worker.send_all(b"and the answer")
    assert await client.receive_exactly(14) == b"and the answer"
    await worker.aclose()
    assert await client.receive() == b""
    await held.wait_open(0)


async def test_a_fin_without_close_notify_is_an_end_of_that_side_too(held: House) -> None:
    client, worker = await held.pair()
    await client.send(b"bye")
    await client.stream.send_eof()
    assert await receive_exactly(worker, 3) == b"bye"
    assert await worker.receive_some() == b""
    await worker.send_all(b"answer")
    assert await client.receive_exactly(6) == b"answer"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_the_worker_ends_its_side_and_still_hears_the_client(
    held: House, version: ssl.TLSVersion
) -> None:
    context = trusting_anything()
    context.minimum_version = context.maximum_version = version
    client = Client(await held.connect(), context=context)
    await client.handshake()
    worker = await held.wait_secured(1)
    await worker.send_all(b"* BYE\r\n")
    await worker.send_eof()
    assert await client.receive_exactly(7) == b"* BYE\r\n"
    assert await client.receive() == b""
    await client.send(b"a record and " + b"another" * 5000)
    assert await receive_exactly(worker, 13 + 35000) == b"a record and " + b"another" * 5000
    await client.end()
    assert await worker.receive_some() == b""
    await held.wait_open(0)


async def test_last_words_of_a_worker_that_closes_reach_a_client_that_keeps_talking(held: House) -> None:
    client, worker = await held.pair()
    await client.send(b"x" * 100_000)  # more than anybody will read
    await worker.send_all(b"* BYE too much\r\n")
    await worker.aclose()
    assert await client.receive_exactly(16) == b"* BYE too much\r\n"
    assert await client.receive() == b""


async def test_a_client_that_never_ends_is_not_waited_for_long(pair: Pair) -> None:
    async with house(pair, holder=HolderOptions(linger_s=0.1)) as held:
        client, worker = await held.pair()
        await worker.aclose()
        assert await client.receive() == b""
        await held.wait_open(0)
        with trio.fail_after(30):
            assert await client.stream.receive_some() == b""


async def test_a_client_that_takes_nothing_is_given_up_when_its_worker_has_gone(pair: Pair) -> None:
    async with house(pair, holder=HolderOptions(flush_s=0.1)) as held:
        _client, worker = await held.pair()
        with trio.move_on_after(0.1):
            while True:
                await worker.send_all(bytes(65536))
        await worker.aclose()
        await held.wait_open(0)


class Talkative:
    """TLS that answers all that it reads with as much of its own, and has nothing for anybody else."""

    def __init__(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
        self._incoming = incoming
        self._outgoing = outgoing

    def pending(self) -> int:
        return 0

    def read(self, _size: int) -> bytes:
        self._outgoing.write(self._incoming.read())
        raise ssl.SSLWantReadError


def test_a_client_that_makes_tls_itself_talk_and_does_not_listen_is_not_listened_to() -> None:
    """Key updates that want an answer, or renegotiations that are declined."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with contextlib.closing(Held(1, theirs, context)) as held_alone, ours:
        talkative = Talkative(held_alone._incoming, held_alone._outgoing)
        held_alone._tls = talkative  # type: ignore[assignment]  # as much of TLS as is asked for
        while held_alone.wants[0] & EPOLLIN:
            ours.send(bytes(4096))
            held_alone.from_client()
        assert held_alone.stalled
        assert held_alone._outgoing.pending < 3 * READ_BYTES
        while held_alone.stalled:
            ours.recv(65536)
            held_alone.flush_client()
        assert held_alone.wants[0] & EPOLLIN


async def test_a_client_that_vanishes_is_an_end_for_the_worker(held: House) -> None:
    client, worker = await held.pair()
    client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await client.stream.aclose()  # a reset
    assert await worker.receive_some() == b""
    await held.wait_open(0)


async def test_a_record_that_was_tampered_with_ends_the_connection(held: House) -> None:
    client, worker = await held.pair()
    await client.stream.send_all(b"\x17\x03\x03\x00\x20" + b"no such ciphertext was ever made")
    assert await worker.receive_some() == b""
    await held.wait_open(0)


# --- handshakes that come to nothing


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"a1 LOGIN ann secret\r\n", "no handshake"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "no handshake"),
        (b"\x16\x03\x01\x00\x05hello", "no handshake"),
        (b"\x16\x03\x01\xff\xff" + bytes(20_000), "no handshake"),
        (b"", "closed"),
        (b"\x16\x03\x01", "closed"),
    ],
)
async def test_garbage_instead_of_a_handshake(held: House, data: bytes, reason: str) -> None:
    stream = await held.connect()
    with contextlib.suppress(trio.BrokenResourceError):  # the holder may have heard enough already
        if data:
            await stream.send_all(data)
        await stream.send_eof()
    assert await held.wait_failed() == [reason]
    assert not held.secured
    await held.pair()


async def test_a_client_that_does_not_like_the_certificate(held: House) -> None:
    client = Client(await held.connect(), context=ssl.create_default_context())
    with pytest.raises(ssl.SSLCertVerificationError):
        await client.handshake()
    await client._flush()
    assert await held.wait_failed() == ["alert"]


async def test_old_versions_are_refused(held: House) -> None:
    context = trusting_anything()
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    client = Client(await held.connect(), context=context)
    with pytest.raises(ssl.SSLError):
        await client.handshake()
    assert await held.wait_failed() == ["no handshake"]


async def test_a_handshake_that_drips_has_one_deadline(pair: Pair) -> None:
    hello = b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03"  # 16 KB of it, all told
    async with house(pair, holder=HolderOptions(handshake_s=0.3)) as held:
        stream = await held.connect()
        await stream.send_all(hello)
        while not held.failed:
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(b"\x00")
            await trio.sleep(0.01)
        assert await held.wait_failed() == ["late"]


async def test_over_the_cap_the_one_that_waits_longest_is_given_up(pair: Pair) -> None:
    async with house(pair, holder=HolderOptions(handshakes=5)) as held:
        silent = [await held.connect() for _ in range(5)]
        await until(lambda: held.holding.statistics().waiting, lambda now: now == 0)
        await held.pair()
        assert await held.wait_failed() == ["crowded"]
        assert held.failed[0][0].port == silent[0].socket.getsockname()[1]
        with trio.fail_after(30):
            assert await silent[0].receive_some() == b""


# --- many


async def test_a_thousand_descriptors_in_a_burst(pair: Pair) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8192)), hard))
    try:
        async with house(pair, holder=HolderOptions(handshakes=1000)) as held:
            before = len(os.listdir("/proc/self/fd"))
            clients: list[Client] = []
            async with trio.open_nursery() as nursery:
                for _ in range(1000):
                    nursery.start_soon(_join, held, clients)
            async with trio.open_nursery() as nursery:
                for number, client in enumerate(clients[::5]):
                    nursery.start_soon(_say_number, client, number)
                for count in range(1, 201):
                    nursery.start_soon(_echo, await held.wait_secured(count))
            for client in clients:
                await client.stream.aclose()
            assert await held.wait_failed(800) == ["closed"] * 800
            await held.wait_open(0)
            assert len(os.listdir("/proc/self/fd")) <= before
            assert len(os.listdir(f"/proc/{held.holding.statistics().pid}/fd")) < 20
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def _join(held: House, clients: list[Client]) -> None:
    clients.append(Client(await held.connect()))


async def _say_number(client: Client, number: int) -> None:
    await client.handshake()
    await client.send(b"%4d" % number)
    await client.end()
    assert await client.receive_exactly(4) == b"%4d" % number
    assert await client.receive() == b""


async def _echo(worker: trio.SocketStream) -> None:
    await worker.send_all(await receive_exactly(worker, 4))
    assert await worker.receive_some() == b""
    await worker.aclose()


async def test_a_full_table_costs_only_those_who_come(pair: Pair) -> None:
    """The holder runs out of descriptors: who does not fit is told of, and it goes on when there is room again."""
    async with house(pair) as held:
        first, worker = await held.pair()
        pid = held.holding.statistics().pid
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")) + 4, 4096))
        streams = [await held.connect() for _ in range(40)]
        reasons = await held.wait_failed(30)
        assert set(reasons) == {"no room"}
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (4096, 4096))
        for stream in streams:
            await stream.aclose()
        await held.pair()
        await first.send(b"all the time")
        assert await worker.receive_some() == b"all the time"
