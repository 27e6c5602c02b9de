"""The entrance: headers are required from balancers, never looked for from others, and cost nobody else anything."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio
import trio.testing
from proxy_headers import LOCAL, PROXY, TCP4, addresses, tls, v2

from wd_trio.addresses import Listen
from wd_trio.config import Limits
from wd_trio.ops import entrance as entrance_module
from wd_trio.ops.connections import Connections
from wd_trio.ops.door import Arrival, Door
from wd_trio.ops.entrance import HEADER_S, Entrance
from wd_trio.ops.listeners import Listener
from wd_trio.servers.driver import Peer, peer_of
from wd_trio.servers.proxy import read_header
from wd_trio.servers.slots import Slots

V1 = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 143\r\n"
BALANCER = "127.0.0.9"


@dataclass
class Arrived:
    sock: socket.socket
    peer: Peer


class Worker:
    """Takes all that the door lets in."""

    def __init__(self) -> None:
        self.arrivals: list[Arrived] = []
        self.came = trio.Event()
        self.connections = Connections(Slots.create(2000))

    @property
    def load(self) -> int:
        return len(self.arrivals)

    def give(self, arrival: Arrival) -> None:
        sock = self.connections.take_descriptor(arrival.number)
        self.arrivals.append(Arrived(sock, peer_of(self.connections.slots.at(arrival.number))))
        self.came.set()
        self.came = trio.Event()

    async def wait_for(self, count: int) -> Arrived:
        while len(self.arrivals) < count:
            await self.came.wait()
        return self.arrivals[count - 1]

    def read(self, number: int = 0) -> bytes:
        """What a session finds to read."""
        return self.arrivals[number].sock.recv(1000, socket.MSG_DONTWAIT)

    def close(self) -> None:
        for arrival in self.arrivals:
            arrival.sock.close()
        self.connections.close()


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.close()


@contextlib.asynccontextmanager
async def opened(
    worker: Worker, *networks: str, limits: Limits | None = None
) -> AsyncIterator[tuple[Entrance, tuple[str, int]]]:
    """An entrance that serves IMAP on a real port, and where that is."""
    door = Door(limits or Limits(), worker.connections)
    door.open_to(worker)
    entrance = Entrance(door, networks)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setblocking(False)
        place = sock.getsockname()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(entrance.serve, Listener("imap", Listen(*place), sock))
            yield entrance, place
            nursery.cancel_scope.cancel()


@contextlib.contextmanager
def caller(place: tuple[str, int], data: bytes = b"", ip: str = BALANCER) -> Iterator[socket.socket]:
    with socket.create_connection(place, source_address=(ip, 0)) as sock:
        sock.sendall(data)
        sock.setblocking(False)
        yield sock


async def ended(sock: socket.socket) -> bool:
    """Whether the server closed without a word."""
    await trio.lowlevel.wait_readable(sock)
    return sock.recv(100) == b""


@pytest.mark.parametrize(
    ("header", "ip", "port", "secure"),
    [
        (V1, "203.0.113.7", 4711, False),
        (b"PROXY UNKNOWN\r\n", BALANCER, None, False),
        (v2(PROXY, TCP4, addresses("203.0.113.8", 4712)), "203.0.113.8", 4712, False),
        (v2(PROXY, TCP4, addresses("203.0.113.8", 4712) + tls(1)), "203.0.113.8", 4712, True),
        (v2(LOCAL, 0), BALANCER, None, False),
    ],
)
async def test_a_header_names_the_client_and_nothing_behind_it_is_read(
    worker: Worker, header: bytes, ip: str, port: int | None, secure: bool
) -> None:
    async with opened(worker, "127.0.0.8/31") as (_, place):
        with caller(place, header + b"a1 NOOP\r\n") as sock:
            arrival = await worker.wait_for(1)
            expected = sock.getsockname()[1] if port is None else port
            assert (arrival.peer.ip, arrival.peer.port, arrival.peer.secure) == (ip, expected, secure)
            assert arrival.peer.protocol == "imap"
            assert worker.read() == b"a1 NOOP\r\n"


async def test_a_header_in_pieces(worker: Worker) -> None:
    header = v2(PROXY, TCP4, addresses("203.0.113.8", 4712))
    async with opened(worker, "127.0.0.9/32") as (entrance, place):
        with caller(place) as sock:
            for byte in header:
                sock.send(bytes([byte]))
                await trio.testing.wait_all_tasks_blocked()
            assert (await worker.wait_for(1)).peer.ip == "203.0.113.8"
            assert entrance.unfinished == 0


async def test_others_are_never_listened_to(worker: Worker) -> None:
    async with opened(worker, "192.0.2.0/24") as (_, place):
        with caller(place, V1):
            assert (await worker.wait_for(1)).peer.ip == BALANCER
            with trio.fail_after(10):
                await trio.lowlevel.wait_readable(worker.arrivals[0].sock)
            assert worker.read() == V1  # the session's to refuse


async def test_unix_sockets_never_speak_for_others(worker: Worker) -> None:
    door = Door(Limits(), worker.connections)
    door.open_to(worker)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        async with trio.open_nursery() as nursery:
            Entrance(door, ["0.0.0.0/0", "::/0"]).come(nursery, "lmtp", ours, "unix", 0)
        assert worker.arrivals[0].peer.ip == "unix"


@pytest.mark.parametrize("data", [b"a1 NOOP\r\n", b"PROXY TCP4 nobody\r\n", v2(0x11, 0), b"EHLO x\r\n"])
async def test_without_a_header_a_balancers_connection_is_closed(worker: Worker, data: bytes) -> None:
    async with opened(worker, "127.0.0.0/8") as (entrance, place):
        # what was not read makes the kernel close that way
        with caller(place, data) as sock, contextlib.suppress(ConnectionResetError):
            assert await ended(sock)
        assert worker.load == entrance.unfinished == 0


@pytest.mark.parametrize("data", [b"", V1[:9]])
async def test_a_connection_that_ends_before_its_header(worker: Worker, data: bytes) -> None:
    async with opened(worker, "127.0.0.0/8") as (entrance, place):
        with caller(place, data) as sock:
            sock.shutdown(socket.SHUT_WR)
            assert await ended(sock)
        assert worker.load == entrance.unfinished == 0


async def test_a_slow_header_has_three_seconds_and_stands_in_nobodys_way(
    worker: Worker, autojump_clock: trio.testing.MockClock
) -> None:
    began = trio.current_time()
    door = Door(Limits(), worker.connections)
    door.open_to(worker)
    entrance = Entrance(door, ["127.0.0.9/32"])
    pairs = [socket.socketpair() for _ in range(2)]
    (slow, slow_side), (quick, quick_side) = pairs
    async with trio.open_nursery() as nursery:
        slow.send(V1[:-1])
        entrance.come(nursery, "imap", slow_side, BALANCER, 1)
        quick.send(V1)
        entrance.come(nursery, "imap", quick_side, BALANCER, 2)
        await worker.wait_for(1)
        assert trio.current_time() == began
        assert entrance.unfinished == 1
    assert trio.current_time() - began == pytest.approx(HEADER_S)
    assert worker.load == 1
    assert slow.recv(100) == b""
    assert slow_side.fileno() == -1
    for sock in (slow, quick):
        sock.close()


async def test_the_number_of_unfinished_headers_is_bounded(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entrance_module, "HEADERS", 2)
    async with opened(worker, "127.0.0.9/32") as (entrance, place):
        with caller(place) as one, caller(place), caller(place) as third, caller(place, ip="127.0.0.10"):
            assert await ended(third)
            await worker.wait_for(1)  # who needs no header comes in all the same
            assert entrance.unfinished == 2
            one.send(V1)
            assert (await worker.wait_for(2)).peer.ip == "203.0.113.7"
            assert entrance.unfinished == 1


async def test_limits_count_clients_not_the_balancer(worker: Worker) -> None:
    other = v2(PROXY, TCP4, addresses("203.0.113.8", 4712))
    limits = replace(Limits(), connections_per_ip=1)
    async with opened(worker, "127.0.0.9/32", limits=limits) as (_, place):
        with caller(place, V1), caller(place, other):
            await worker.wait_for(2)
            with caller(place, V1) as again:
                await trio.lowlevel.wait_readable(again)
                assert again.recv(100).startswith(b"* BYE [UNAVAILABLE]")


async def test_stopping_closes_those_whose_header_has_not_come(worker: Worker) -> None:
    async with opened(worker, "127.0.0.9/32") as (entrance, place):
        with caller(place) as sock:
            while not entrance.unfinished:
                await trio.testing.wait_all_tasks_blocked(0.01)
            held = sock.dup()
    with held:
        held.settimeout(10)
        assert held.recv(100) == b""
    assert entrance.unfinished == 0


async def test_other_networks_after_a_reload(worker: Worker) -> None:
    async with opened(worker) as (entrance, place):
        with caller(place, V1):
            assert (await worker.wait_for(1)).peer.ip == BALANCER
        entrance.trust(["127.0.0.9/32"])
        with caller(place, V1):
            assert (await worker.wait_for(2)).peer.ip == "203.0.113.7"


async def test_a_read_header_leaves_nothing_in_the_event_loop() -> None:
    """A descriptor that is handed over and closed while epoll knows it would haunt the supervisor."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_header, ours)
            await trio.testing.wait_all_tasks_blocked()
            assert registered(ours)
            theirs.send(V1)
        assert not registered(ours)


def registered(sock: socket.socket) -> bool:
    """Whether some epoll of this process knows the socket, as the kernel tells it."""
    told = ""
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the folder's own descriptor
            if link.readlink() == Path("anon_inode:[eventpoll]"):
                told += Path("/proc/self/fdinfo", link.name).read_text()
    return re.search(rf"^tfd:\s+{sock.fileno()} ", told, re.MULTILINE) is not None
