"""From an accepted socket to the door, by the holder or by the worker's own TLS; and what STARTTLS does."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import trio
import trio.testing
from certificates import Pair, make_pair
from holder_house import Client, until

from wd_trio.addresses import parse_listen
from wd_trio.config import Config, Tls
from wd_trio.ops.connections import Connections
from wd_trio.ops.door import Arrival, Door
from wd_trio.ops.entrance import Entrance
from wd_trio.ops.listeners import Listener
from wd_trio.ops.tls import clients
from wd_trio.ops.tls.securing import Securing
from wd_trio.servers.slots import Phase, Progress, Slots, Standing


@dataclass
class Worker:
    """Takes what comes to the door."""

    arrivals: list[int] = field(default_factory=list)

    @property
    def load(self) -> int:
        return len(self.arrivals)

    def give(self, arrival: Arrival) -> None:
        self.arrivals.append(arrival.number)


@dataclass
class World:
    pair: Pair
    config: Config
    connections: Connections
    worker: Worker
    securing: Securing

    def plain(self, number: int) -> trio.SocketStream:
        """The descriptor that a worker would get."""
        return trio.SocketStream(trio.socket.from_stdlib_socket(self.connections.take_descriptor(number)))


def a_client() -> tuple[Client, socket.socket]:
    ours, theirs = socket.socketpair()
    return Client(trio.SocketStream(trio.socket.from_stdlib_socket(ours))), theirs


@contextlib.asynccontextmanager
async def world(folder: Path, *, hold: bool) -> AsyncIterator[World]:
    pair = make_pair(folder)
    config = Config(tls=Tls(certificate=pair.certificate, key=pair.key, hold=hold))
    connections = Connections(Slots.create(8))
    door, worker = Door(config.limits, connections), Worker()
    door.open_to(worker)
    securing = Securing(config, door)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(securing.holding.run)
        yield World(pair, config, connections, worker, securing)
        for number in range(len(connections.slots)):
            connections.end(number)
        await securing.holding.stop(deadline_s=5.0)
    connections.close()


async def test_who_has_shaken_hands_comes_to_the_door_as_secure(tmp_path: Path) -> None:
    async with world(tmp_path, hold=True) as here:
        client, theirs = a_client()
        here.securing.come("pop3", theirs, "192.0.2.9", 4711)
        assert len(here.connections) == 0
        await client.handshake()
        await until(lambda: here.worker.arrivals, bool)
        slot = here.connections.slots.at(here.worker.arrivals[0])
        assert (slot.protocol, slot.ip, slot.port, slot.phase) == ("pop3", "192.0.2.9", 4711, Phase.ARRIVED)
        assert slot.standing == Standing.SECURE
        async with here.plain(slot.number) as worker, client.stream:
            await worker.send_all(b"+OK\r\n")
            assert await client.receive() == b"+OK\r\n"


async def test_a_storm_waits_in_the_backlog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not accepted yet cannot be refused."""
    monkeypatch.setattr(clients, "ROOM", 3)
    async with world(tmp_path, hold=True) as here:
        securing = here.securing
        await until(securing.holding.statistics, lambda now: now.ready)
        pid = securing.holding.statistics().pid
        os.kill(pid, signal.SIGSTOP)
        with socket.create_server(("127.0.0.1", 0)) as listening, contextlib.ExitStack() as stack:
            listening.setblocking(False)
            listener = Listener("imap", parse_listen("127.0.0.1:0"), listening, tls=True)
            entrance = Entrance(securing._door, [], securing)

            def count() -> int:
                return securing.holding.statistics().waiting

            async with trio.open_nursery() as nursery:
                nursery.start_soon(entrance.serve, listener)
                for waiting in (1, 2, 3, 3, 3):
                    stack.enter_context(socket.create_connection(listening.getsockname()))
                    await until(count, waiting.__eq__)
                    await trio.testing.wait_all_tasks_blocked()
                assert count() == 3
                os.kill(pid, signal.SIGCONT)
                await until(securing.holding.statistics, lambda now: now.unfinished == 5)
                nursery.cancel_scope.cancel()


async def test_starttls_keeps_the_slot_and_changes_the_descriptor(tmp_path: Path) -> None:
    async with world(tmp_path, hold=True) as here:
        client, theirs = a_client()
        number = here.connections.enter("imap", theirs, "192.0.2.9", 4711)
        slot = here.connections.slots.at(number)
        slot.phase, slot.progress = Phase.GREETED, Progress.FIXED
        before = slot.id
        here.securing.upgrade(number)
        await client.handshake()
        await until(lambda: here.worker.arrivals, bool)
        assert here.worker.arrivals == [number]
        assert (slot.id, slot.phase, slot.standing) == (before, Phase.GREETED, Standing.SECURE)
        assert slot.progress == 0, "any worker may go on with it now"
        async with here.plain(number) as worker, client.stream:
            await client.send(b"a1 CAPABILITY\r\n")
            assert await worker.receive_some() == b"a1 CAPABILITY\r\n"
            here.connections.end(number)
            assert await client.receive() == b""  # ending the plaintext end ends the client's


async def test_a_starttls_that_comes_to_nothing_ends_the_connection(tmp_path: Path) -> None:
    async with world(tmp_path, hold=True) as here:
        client, theirs = a_client()
        number = here.connections.enter("imap", theirs, "192.0.2.9", 4711)
        here.securing.upgrade(number)
        async with client.stream:
            await client.stream.send_all(b"a2 LOGIN ann secret\r\n")
            with contextlib.suppress(trio.BrokenResourceError):
                while await client.stream.receive_some():
                    pass  # an alert
        await until(lambda: len(here.connections), lambda count: count == 0)
        assert here.worker.arrivals == []


async def test_one_that_was_ended_during_its_handshake_stays_ended(tmp_path: Path) -> None:
    async with world(tmp_path, hold=True) as here:
        client, theirs = a_client()
        number = here.connections.enter("imap", theirs, "192.0.2.9", 4711)
        duplicate = here.connections.take_descriptor(number)
        here.securing.upgrade(number)
        await until(here.securing.holding.statistics, lambda now: now.unfinished == 1)
        duplicate.close()
        here.connections.leave(number)
        await client.handshake()
        assert await client.receive() == b""
        assert here.worker.arrivals == []
        await client.stream.aclose()


async def test_another_certificate(tmp_path: Path) -> None:
    async with world(tmp_path, hold=True) as here:
        other = make_pair(tmp_path, "other")
        wanted = replace(here.config, tls=Tls(certificate=other.certificate, key=other.key))
        await until(here.securing.holding.statistics, lambda now: now.ready)
        assert await here.securing.reload(wanted) == []
        client, theirs = a_client()
        here.securing.come("imap", theirs, "192.0.2.9", 4711)
        await client.handshake()
        assert client.tls.getpeercert(binary_form=True) == other.der
        await client.stream.aclose()


async def test_without_a_holder_the_worker_is_told_to_make_tls(tmp_path: Path) -> None:
    async with world(tmp_path, hold=False) as here:
        client, theirs = a_client()
        here.securing.come("imap", theirs, "192.0.2.9", 4711)
        slot = here.connections.slots.at(here.worker.arrivals[0])
        assert slot.has(Standing.INSIDE)
        assert not slot.has(Standing.SECURE)
        assert here.securing.holding.statistics().pid == 0
        await client.stream.aclose()
