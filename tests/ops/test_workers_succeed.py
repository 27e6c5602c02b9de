"""A successor of the supervisor leads on the workers that it finds, with real processes of a small worker.

In place of an exec the first program's tasks end, and nothing that they would do on their way out happens.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from wd_trio.config import Config
from wd_trio.ops import children, metrics
from wd_trio.ops.children import Child, ChildOptions
from wd_trio.ops.connections import NOBODY, Connections, ConnectionsState
from wd_trio.ops.door import Door
from wd_trio.ops.processes import Process
from wd_trio.ops.workers import Workers, WorkersState
from wd_trio.servers.slots import Slots

SMALL = str(Path(__file__).with_name("small_worker.py"))
NEVER_S = 1e6


class House:
    """Workers behind a door, and clients before it, under one program after the other."""

    def __init__(self, mode: str, count: int, patches: pytest.MonkeyPatch) -> None:
        self._mode = mode
        self._count = count
        self._patches = patches
        self._clients: list[socket.socket] = []
        self.door: Door
        self.left: tuple[WorkersState, ConnectionsState]
        self.workers: Workers

    @asynccontextmanager
    async def first(self) -> AsyncIterator[None]:
        """The first program, which ends as by an exec."""
        self._make(Connections(Slots.create(100)))
        with self._patches.context() as patch:
            async with trio.open_nursery() as nursery:
                self.workers = self._workers(nursery, NEVER_S)
                self.workers.start()
                yield
                patch.setattr(Process, "kill", lambda _: None)
                patch.setattr(Process, "wait", forever)
                patch.setattr(children, "REAP_S", 0.0)
                patch.setattr(Child, "_leave", lambda child: child._channel.close())
                nursery.cancel_scope.cancel()

    def hand_over(self) -> None:
        """Write down what there is: from here on the first program does not count."""
        state = self.workers.leave_state()
        kept = [
            msgspec.structs.replace(each, channel=os.dup(each.channel), bus=os.dup(each.bus))
            for each in state.children
        ]
        self.left = (msgspec.structs.replace(state, children=kept), self.door.connections.state())

    @asynccontextmanager
    async def second(self, left: tuple[WorkersState, ConnectionsState] | None = None) -> AsyncIterator[None]:
        workers, connections = left or self.left
        self._make(Connections.succeed(connections))
        async with trio.open_nursery() as nursery:
            self.workers = self._workers(nursery, 0.05)
            self.workers.succeed(workers)
            try:
                yield
            finally:
                self.workers.kill()
                self.door.refuse_waiting()
        self.door.connections.close()

    def _make(self, connections: Connections) -> None:
        self.door = Door(Config().limits, connections)

    def _workers(self, nursery: trio.Nursery, ping_s: float) -> Workers:
        return Workers(
            Config(),
            count=self._count,
            server="server",
            door=self.door,
            api_descriptors=[],
            options=ChildOptions(command=(sys.executable, SMALL, self._mode), ping_s=ping_s),
            nursery=nursery,
            upgrade=lambda number: None,
        )

    def come(self) -> trio.SocketStream:
        ours, theirs = socket.socketpair()
        self._clients.append(ours)
        self.door.come("imap", theirs, "192.0.2.1", 4711)
        return trio.SocketStream(trio.socket.from_stdlib_socket(ours))

    def pids(self) -> list[int]:
        return [worker["pid"] for worker in self.workers.status() if worker["state"] == "ready"]

    async def wait(self, condition: Callable[[], object]) -> None:
        while not condition():
            await trio.sleep(0.01)

    def close(self) -> None:
        for client in self._clients:
            client.close()


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., House]]:
    made: list[House] = []

    def make(mode: str = "greets", *, count: int = 1) -> House:
        made.append(House(mode, count, monkeypatch))
        return made[-1]

    yield make
    for each in made:
        each.close()


async def forever(_process: Process) -> int:
    await trio.sleep_forever()
    raise AssertionError


async def hears(stream: trio.SocketStream) -> bytes:
    return bytes(await stream.receive_some(100))


async def test_workers_and_connections_go_on(house: Callable[..., House]) -> None:
    at = house(count=2)
    async with at.first():
        assert await at.workers.wait_settled() == ""
        assert "jobs_total 4.0" in await at.workers.metrics_text()
        streams = [at.come() for _ in range(10)]
        assert sorted([await hears(stream) for stream in streams]) == [b"hello 1\n"] * 5 + [b"hello 2\n"] * 5
        await at.wait(lambda: at.workers.quiet)
        pids = at.pids()
        at.hand_over()
    starts = metrics.SUPERVISOR.get_sample_value("wildduck_worker_starts_total") or 0.0
    async with at.second():
        assert at.pids() == pids
        assert [worker["connections"] for worker in at.workers.status()] == [5, 5]
        assert await at.workers.wait_settled() == ""
        assert metrics.SUPERVISOR.get_sample_value("wildduck_worker_starts_total") == starts
        text = await at.workers.metrics_text()
        assert "jobs_total 4.0" in text
        counted = [line for line in text.splitlines() if line.startswith("wildduck_worker_starts_total ")]
        assert counted == [f"wildduck_worker_starts_total {2 * starts}"], (
            "its predecessor's, and its own here"
        )
        new = at.come()
        assert await hears(new) in (b"hello 1\n", b"hello 2\n")
        assert await at.workers.roll(Config(), count=2) == []
        for stream in [*streams, new]:
            assert (await hears(stream)).startswith(b"again")
        owners = {child.boot.owner for child in at.workers._children() if child.state == "ready"}
        assert owners == {"server/1.3", "server/2.4"}, "no name comes twice"
        await at.workers.wait_rolled()
        assert not set(at.pids()) & set(pids)
        assert await at.workers.stop(deadline_s=8, hard_s=9)


async def test_a_worker_that_died_in_between_is_replaced(house: Callable[..., House]) -> None:
    at = house("buries", count=2)
    async with at.first():
        assert await at.workers.wait_settled() == ""
        streams = [at.come() for _ in range(4)]
        first = [await hears(stream) for stream in streams]
        await at.wait(lambda: at.workers.quiet)
        await at.wait(lambda: all(not slot.progress for _, slot in at.door.connections))
        victim = at.pids()[0]
        at.hand_over()
        os.kill(victim, signal.SIGKILL)
    async with at.second():
        orphans = [stream for stream, heard in zip(streams, first, strict=True) if heard == b"hello 1\n"]
        for stream in orphans:
            assert (await hears(stream)).startswith(b"again")
        await at.wait(lambda: len(at.pids()) == 2 and victim not in at.pids())
        await at.wait(lambda: not at.workers._unburied)
        assert len(at.door) == 4


async def test_a_worker_that_was_starting_becomes_ready(house: Callable[..., House]) -> None:
    at = house("late")
    async with at.first():
        await at.wait(at.workers.status)
        at.hand_over()
        assert not at.pids()
    async with at.second():
        assert await at.workers.wait_settled() == ""
        assert at.pids() == [at.left[0].children[0].pid]
        assert await hears(at.come()) == b"hello 1\n"


async def test_who_waits_goes_on_waiting_and_who_is_lost_is_ended(house: Callable[..., House]) -> None:
    at = house()
    async with at.first():
        assert await at.workers.wait_settled() == ""
        at.door.pause()
        waits, lost = at.come(), at.come()
        assert at.workers.quiet
        await trio.testing.wait_all_tasks_blocked()
        at.door.connections.hold(1, NOBODY)
        at.hand_over()
    workers, connections = at.left
    assert sorted(workers.waiting) == [(0, b"", 0), (1, b"", 0)]
    workers = msgspec.structs.replace(workers, waiting=workers.waiting[:1])
    async with at.second((workers, connections)):
        assert await hears(waits) == b"hello 1\n"
        assert await hears(lost) == b""
        assert len(at.door) == 1


async def test_those_that_wait_elsewhere_are_not_lost(house: Callable[..., House]) -> None:
    at = house()
    async with at.first():
        assert await at.workers.wait_settled() == ""
        at.hand_over()
    async with at.second():
        ours, theirs = socket.socketpair()
        at._clients.append(ours)
        number = at.door.admit("imap", theirs, "192.0.2.1", 4711)
        assert number is not None
        at.workers.succeed(
            WorkersState(children=[], waiting=[], dead=[], last_number=5, unburied=[]), elsewhere={number}
        )
        assert at.door.connections.is_there(number)


async def test_the_unburied_are_told_to_the_living(house: Callable[..., House]) -> None:
    at = house("buries")
    async with at.first():
        assert await at.workers.wait_settled() == ""
        stream = at.come()
        assert (await hears(stream)).startswith(b"hello")
        await at.wait(lambda: at.workers.quiet)
        at.workers._unburied["server/9.9"] = True
        at.hand_over()
    async with at.second():
        assert await hears(stream) == b"buried server/9.9\n"
        await at.wait(lambda: not at.workers._unburied)


async def test_while_a_batch_is_on_its_way_it_is_not_quiet(house: Callable[..., House]) -> None:
    at = house("deaf")
    async with at.first():
        assert await at.workers.wait_settled() == ""
        assert at.workers.quiet
        at.come()
        await trio.testing.wait_all_tasks_blocked()
        assert not at.workers.quiet
        at.hand_over()
    async with at.second():
        at.workers.kill()
