"""The door: counts, limits, placement, and connections that lost their worker."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest
import trio
import trio.testing

from wd_trio.config import Limits
from wd_trio.ops.connections import Connections
from wd_trio.ops.door import TRIES, Arrival, Door
from wd_trio.servers.slots import Slots


class Worker:
    """A worker that takes what it is given."""

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []

    @property
    def load(self) -> int:
        return len(self.arrivals)

    def give(self, arrival: Arrival) -> None:
        self.arrivals.append(arrival)


class Outside:
    """Clients at the door."""

    def __init__(self) -> None:
        self.clients: list[socket.socket] = []
        self.served: list[socket.socket] = []

    def come(self, door: Door, ip: str = "192.0.2.1", protocol: str = "imap") -> socket.socket:
        client, served = socket.socketpair()
        client.settimeout(10)
        self.clients.append(client)
        self.served.append(served)
        door.come(protocol, served, ip, 4711)
        return client

    def close(self) -> None:
        for sock in (*self.clients, *self.served):
            sock.close()


@pytest.fixture
def outside() -> Iterator[Outside]:
    made = Outside()
    yield made
    made.close()


@pytest.fixture
def connections() -> Iterator[Connections]:
    made = Connections(Slots.create(100))
    yield made
    made.close()


def test_the_least_loaded_worker_gets_the_next(outside: Outside, connections: Connections) -> None:
    door = Door(Limits(), connections)
    workers = [Worker(), Worker(), Worker()]
    for worker in workers:
        door.open_to(worker)
    for _ in range(7):
        outside.come(door)
    assert sorted(worker.load for worker in workers) == [2, 2, 3]
    assert len({arrival.number for worker in workers for arrival in worker.arrivals}) == 7
    assert len(door) == 7


@pytest.mark.parametrize(
    ("limits", "protocol", "words"),
    [
        (replace(Limits(), connections=2), "imap", b"* BYE [UNAVAILABLE]"),
        (replace(Limits(), connections=2), "pop3", b"-ERR [SYS/TEMP]"),
        (replace(Limits(), connections_per_ip=2), "imap", b"* BYE [UNAVAILABLE]"),
        (replace(Limits(), connections_per_ip=2), "lmtp", b"421 4.3.2"),
    ],
)
def test_a_limit_refuses_in_the_protocols_words(
    limits: Limits, protocol: str, words: bytes, outside: Outside, connections: Connections
) -> None:
    door, worker = Door(limits, connections), Worker()
    door.open_to(worker)
    for _ in range(2):
        outside.come(door, protocol=protocol)
    refused = outside.come(door, protocol=protocol)
    assert refused.recv(1000).startswith(words)
    assert refused.recv(1000) == b""
    assert worker.load == 2
    connections.leave(worker.arrivals[0].number)
    outside.come(door, protocol=protocol)
    assert worker.load == 3


def test_addresses_are_counted_apart_and_unix_sockets_not_at_all(
    outside: Outside, connections: Connections
) -> None:
    door, worker = Door(replace(Limits(), connections_per_ip=1), connections), Worker()
    door.open_to(worker)
    for ip in ("192.0.2.1", "192.0.2.2", "unix", "unix"):
        outside.come(door, ip)
    assert worker.load == 4


def test_an_end_told_twice_counts_once(outside: Outside, connections: Connections) -> None:
    door, worker = Door(Limits(), connections), Worker()
    door.open_to(worker)
    outside.come(door)
    outside.come(door)
    number = worker.arrivals[0].number
    connections.leave(number)
    connections.leave(number)
    connections.leave(99)
    assert len(door) == 1


def test_without_workers_connections_wait_for_the_next(outside: Outside, connections: Connections) -> None:
    door, dead, new = Door(Limits(), connections), Worker(), Worker()
    door.open_to(dead)
    door.close_to(dead)
    outside.come(door)
    assert dead.load == 0
    door.open_to(new)
    assert new.load == 1


def test_what_a_worker_could_not_take_goes_to_another_and_then_is_refused(
    outside: Outside, connections: Connections
) -> None:
    door, one, other = Door(Limits(), connections), Worker(), Worker()
    door.open_to(one)
    client = outside.come(door)
    door.close_to(one)
    door.open_to(other)
    door.come_back(one.arrivals)
    (arrival,) = other.arrivals
    assert arrival.tries == 1
    for _ in range(TRIES - 1):
        door.come_back([arrival])
    assert client.recv(1000).startswith(b"* BYE")
    assert len(door) == 0


def test_who_could_not_take_one_is_not_asked_again_though_it_has_the_fewest(
    outside: Outside, connections: Connections
) -> None:
    door, poor, other = Door(Limits(), connections), Worker(), Worker()
    door.open_to(other)
    outside.come(door)
    door.open_to(poor)
    outside.come(door)
    (refused,) = poor.arrivals
    poor.arrivals.clear()
    door.come_back([refused], poor)
    assert not poor.arrivals
    assert other.load == 2
    door.close_to(other)
    door.come_back([refused], poor)
    assert poor.arrivals == [refused], "there is no other"


def test_those_that_wait_at_the_end_are_told(outside: Outside, connections: Connections) -> None:
    door = Door(Limits(), connections)
    client = outside.come(door)
    door.refuse_waiting()
    assert client.recv(1000).startswith(b"* BYE")
    assert len(door) == 0


def test_a_client_that_is_gone_already_is_refused_quietly(outside: Outside, connections: Connections) -> None:
    door = Door(replace(Limits(), connections=0), connections)
    client, served = socket.socketpair()
    client.close()
    door.come("imap", served, "192.0.2.1", 1)
    assert served.fileno() == -1


async def test_accepting_waits_for_a_worker(connections: Connections) -> None:
    door, worker = Door(Limits(), connections), Worker()
    wanted = trio.Event()

    async def wait() -> None:
        await door.wait_wanted()
        wanted.set()

    door.open_to(worker)
    await door.wait_wanted()
    door.close_to(worker)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert not wanted.is_set()
        door.open_to(worker)
        await wanted.wait()
