"""Slots and children with real processes of a small worker: hand-over, restarts, hangs, rolls and ends."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from wd_trio.config import Config
from wd_trio.ops import messages, metrics
from wd_trio.ops.children import ChildOptions
from wd_trio.ops.connections import Connections
from wd_trio.ops.door import Door
from wd_trio.ops.workers import Workers, _status
from wd_trio.servers.slots import Slots

SMALL = str(Path(__file__).with_name("small_worker.py"))


class House:
    """Workers behind a door, and clients before it."""

    def __init__(self, workers: Workers, door: Door, upgraded: list[int]) -> None:
        self.upgraded = upgraded
        self.workers = workers
        self.door = door
        self.clients: list[socket.socket] = []

    def come(self) -> trio.SocketStream:
        ours, theirs = socket.socketpair()
        self.clients.append(ours)
        self.door.come("imap", theirs, "192.0.2.1", 4711)
        return trio.SocketStream(trio.socket.from_stdlib_socket(ours))

    def pids(self) -> list[int]:
        return [worker["pid"] for worker in self.workers.status() if worker["state"] == "ready"]

    async def settled(self) -> None:
        """Every reply was said whole, and the slots say so: a client may hear of it a moment earlier."""
        await self.wait(lambda: all(not slot.progress for _, slot in self.door.connections))

    async def wait(self, condition: Callable[[], object]) -> None:
        while not condition():
            await trio.sleep(0.01)


@asynccontextmanager
async def house(
    mode: str, *, count: int = 1, silence_s: float = 30.0, sample_s: float = 15.0
) -> AsyncIterator[House]:
    options = ChildOptions(
        command=(sys.executable, SMALL, mode), ping_s=0.05, silence_s=silence_s, sample_s=sample_s
    )
    config = Config()
    upgraded: list[int] = []
    connections = Connections(Slots.create(1000))
    door = Door(config.limits, connections)
    async with AsyncExitStack() as stack:
        stack.callback(connections.close)
        nursery = await stack.enter_async_context(trio.open_nursery())
        workers = Workers(
            config,
            count=count,
            server="server",
            door=door,
            api_descriptors=[],
            options=options,
            nursery=nursery,
            upgrade=upgraded.append,
        )
        made = House(workers, door, upgraded)
        workers.start()
        try:
            yield made
        finally:
            workers.kill()
            door.refuse_waiting()
            for client in made.clients:
                client.close()


async def test_many_connections_go_over_in_batches_and_are_spread() -> None:
    async with house("greets", count=2) as at:
        assert await at.workers.wait_settled() == ""
        streams = [at.come() for _ in range(200)]  # more than a batch for each
        heard = [await stream.receive_some(100) for stream in streams]
        assert sorted(heard) == [b"hello 1\n"] * 100 + [b"hello 2\n"] * 100
        assert [worker["connections"] for worker in at.workers.status()] == [100, 100]
        assert await at.workers.stop(deadline_s=8, hard_s=9)
        assert len(at.door) == 0
        assert [await stream.receive_some(100) for stream in streams] == [b""] * 200


async def test_a_batch_whose_worker_died_goes_to_another() -> None:
    async with house("dies-second", count=2) as at:
        assert await at.workers.wait_settled() == ""
        streams = [at.come() for _ in range(10)]
        assert [await stream.receive_some(100) for stream in streams] == [b"hello 1\n"] * 10


async def test_a_worker_that_takes_nothing_leaves_refusals() -> None:
    async with house("refuses") as at:
        assert await at.workers.wait_settled() == ""
        stream = at.come()
        assert (await stream.receive_some(100)).startswith(b"* BYE [UNAVAILABLE]")
        assert len(at.door) == 0


def moved(cause: str) -> float:
    labels = {"protocol": "imap", "cause": cause}
    return metrics.SUPERVISOR.get_sample_value("wildduck_connections_moved_total", labels) or 0.0


async def test_the_connections_of_a_dead_worker_go_to_the_others() -> None:
    before = moved("died")
    async with house("greets", count=2) as at:
        assert await at.workers.wait_settled() == ""
        streams = [at.come() for _ in range(150)]
        first = [await stream.receive_some(100) for stream in streams]
        await at.settled()
        os.kill(at.pids()[0], signal.SIGKILL)
        orphans = [stream for stream, heard in zip(streams, first, strict=True) if heard == b"hello 1\n"]
        assert {await stream.receive_some(100) for stream in orphans} <= {b"again 1\n", b"again 2\n"}
        assert len(at.door) == 150
        assert moved("died") - before == len(orphans) == 75


async def test_a_reply_that_was_cut_ends_its_connection() -> None:
    labels = {"protocol": "imap", "reason": "reply cut"}
    async with house("cuts", count=2) as at:
        assert await at.workers.wait_settled() == ""
        before = metrics.SUPERVISOR.get_sample_value("wildduck_connections_lost_total", labels) or 0.0
        stream = at.come()
        assert (await stream.receive_some(100)).startswith(b"hello")
        (victim,) = [child for child in at.workers._children() if child.load]
        os.kill(victim.pid, signal.SIGKILL)
        assert await stream.receive_some(100) == b""
        assert metrics.SUPERVISOR.get_sample_value("wildduck_connections_lost_total", labels) == before + 1
        await at.wait(lambda: len(at.door) == 0)


async def test_a_rolled_worker_s_connections_go_on_with_their_unread_input() -> None:
    before = moved("rolled")
    async with house("greets") as at:
        assert await at.workers.wait_settled() == ""
        streams = [at.come() for _ in range(150)]
        for stream in streams:
            assert await stream.receive_some(100) == b"hello 1\n"
        for _ in range(3):
            assert await at.workers.roll(Config(), count=1) == []
            for stream in streams:
                assert await stream.receive_some(100) == b"again 1rest\n"
        assert len(at.door) == 150
        assert moved("rolled") - before == 450
        await at.wait(lambda: not at.workers._unburied)


async def test_a_connection_that_wants_tls_is_nobodys_until_it_has_it() -> None:
    async with house("upgrades") as at:
        assert await at.workers.wait_settled() == ""
        stream = at.come()
        assert await stream.receive_some(100) == b"hello 1\n"
        await at.wait(lambda: at.upgraded)
        assert [worker["connections"] for worker in at.workers.status()] == [0]
        assert len(at.door) == 1


async def test_a_dead_worker_is_replaced_and_its_counters_live_on() -> None:
    async with house("greets") as at:
        assert await at.workers.wait_settled() == ""
        assert "jobs_total 2.0" in await at.workers.metrics_text()
        (pid,) = at.pids()
        os.kill(pid, signal.SIGKILL)
        await at.wait(lambda: at.pids() and at.pids() != [pid])
        assert "jobs_total 4.0" in await at.workers.metrics_text()
        stream = at.come()
        assert await stream.receive_some(100) == b"hello 1\n"


async def test_what_nobody_asked_for_is_told_now_and_then() -> None:
    async with house("greets", sample_s=0.05) as at:
        assert await at.workers.wait_settled() == ""
        (pid,) = at.pids()
        (child,) = at.workers._children()
        await at.wait(lambda: child.samples)
        os.kill(pid, signal.SIGKILL)
        await at.wait(lambda: at.pids() and at.pids() != [pid])
        assert "jobs_total 4.0" in await at.workers.metrics_text()


async def test_a_heartbeat_asks_for_no_samples() -> None:
    async with house("greets") as at:
        assert await at.workers.wait_settled() == ""
        (child,) = at.workers._children()
        heard = child._heard
        await at.wait(lambda: child._heard > heard)
        assert child.samples == []


def restarts(cause: str) -> float:
    labels = {"cause": cause}
    return metrics.SUPERVISOR.get_sample_value("wildduck_worker_restarts_total", labels) or 0.0


def drains(result: str) -> float:
    labels = {"result": result}
    return metrics.SUPERVISOR.get_sample_value("wildduck_worker_drain_seconds_count", labels) or 0.0


async def test_restarts_and_drains_are_counted() -> None:
    before = restarts("died"), restarts("rolled"), drains("clean"), drains("killed")
    async with house("greets") as at:
        assert await at.workers.wait_settled() == ""
        (pid,) = at.pids()
        os.kill(pid, signal.SIGKILL)
        await at.wait(lambda: at.pids() and at.pids() != [pid])
        assert restarts("died") - before[0] == 1
        assert await at.workers.roll(Config(), count=1) == []
        await at.wait(lambda: len(at.workers.status()) == 1)
        assert restarts("rolled") - before[1] == 1
        assert drains("clean") - before[2] == 1
        assert await at.workers.stop(deadline_s=8, hard_s=9)
        assert drains("clean") - before[2] == 2
    assert restarts("died") - before[0] == 1, "an end that was wanted is no death"
    assert drains("killed") == before[3]


async def test_workers_hear_that_the_server_is_about_to_go_and_so_do_those_that_come() -> None:
    async with house("greets") as at:
        assert await at.workers.wait_settled() == ""
        stream = at.come()
        assert await stream.receive_some(100) == b"hello 1\n"
        at.workers.announce_end()
        assert await stream.receive_some(100) == b"ending\n"
        await at.settled()
        os.kill(at.pids()[0], signal.SIGKILL)
        said = b""
        while said != b"again 1\nending\n":
            said += await stream.receive_some(100)


async def test_what_a_dead_worker_held_is_ended_by_a_living_one() -> None:
    async with house("buries", count=2) as at:
        assert await at.workers.wait_settled() == ""
        streams = at.come(), at.come()
        for stream in streams:
            assert (await stream.receive_some(100)).startswith(b"hello")
        await at.settled()
        victim = at.workers._children()[0]
        os.kill(victim.pid, signal.SIGKILL)
        await at.wait(lambda: not at.workers._unburied and victim.state == "gone")
        buried = b"buried %s\n" % victim.boot.owner.encode()
        heard = set()
        for stream in streams:
            said = b""
            while not said.endswith(buried):
                piece = await stream.receive_some(100)
                assert piece, "closed"
                said += piece
            heard.add(said)
        assert heard == {buried, b"again 2\n" + buried}, "told when its connections had been taken over"


async def test_where_none_lives_the_next_worker_ends_it_before_it_is_ready() -> None:
    async with house("buries") as at:
        assert await at.workers.wait_settled() == ""
        (pid,) = at.pids()
        os.kill(pid, signal.SIGKILL)
        await at.wait(lambda: at.pids() and at.pids() != [pid])
        stream = at.come()
        assert await stream.receive_some(100) == b"hello 1server/1.1\n"
        assert not at.workers._unburied


async def test_a_supervisor_that_was_held_up_kills_nobody_for_it(mock_clock: MockClock) -> None:
    mock_clock.rate = 1.0
    before = restarts("hung")
    async with house("greets") as at:
        assert await at.workers.wait_settled() == ""
        pids = at.pids()
        (child,) = at.workers._children()
        for _ in range(3):
            heard = child._heard
            mock_clock.jump(1000)
            await at.wait(partial(lambda then: child._heard > then or child.state == "gone", heard))
        assert at.pids() == pids
        assert restarts("hung") == before


async def test_a_defect_in_leading_a_worker_costs_nobody_else_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with house("greets", count=2) as at:
        assert await at.workers.wait_settled() == ""
        streams = [at.come() for _ in range(4)]
        first = [await stream.receive_some(100) for stream in streams]
        await at.settled()
        victim, other = at.workers._children()

        def fail(_: object) -> None:
            raise RuntimeError("a defect")

        monkeypatch.setattr(victim, "_take_samples", fail)
        await victim.wait_sampled()
        for stream, heard in zip(streams, first, strict=True):
            if heard == b"hello 1\n":
                assert (await stream.receive_some(100)).startswith(b"again")
        await at.wait(lambda: len(at.pids()) == 2)
        assert other.pid in at.pids()
        assert victim.pid not in at.pids()


async def test_a_worker_that_hangs_is_killed() -> None:
    async with house("deaf", silence_s=0.2) as at:
        assert await at.workers.wait_settled() == ""
        (pid,) = at.pids()
        await at.wait(lambda: at.pids() and at.pids() != [pid])
        assert restarts("hung") >= 1


async def test_a_worker_that_hangs_holds_an_end_up_no_longer_than_told() -> None:
    async with house("deaf") as at:
        assert await at.workers.wait_settled() == ""
        before = drains("killed")
        assert not await at.workers.stop(deadline_s=0.1, hard_s=0.2)
        assert drains("killed") - before == 1
        assert at.pids() == []


async def test_a_worker_that_cannot_start_is_told() -> None:
    async with house("cannot") as at:
        assert await at.workers.wait_settled() == "no luck"


async def test_a_roll_replaces_every_worker_under_another_owner() -> None:
    async with house("greets", count=2) as at:
        assert await at.workers.wait_settled() == ""
        before = at.pids()
        old = at.come()
        assert (await old.receive_some(100)).startswith(b"hello")
        assert await at.workers.roll(Config(), count=2) == []
        assert len(at.pids()) == 2
        assert not set(before) & set(at.pids())
        owners = {child.boot.owner for child in at.workers._children() if child.state == "ready"}
        assert owners == {"server/1.3", "server/2.4"}
        assert (await old.receive_some(100)).startswith(b"again")
        assert await at.workers.roll(Config(), count=1) == []
        await at.wait(lambda: len(at.workers.status()) == 1)


async def test_a_roll_that_cannot_start_changes_nothing() -> None:
    async with house("cannot-again") as at:
        assert await at.workers.wait_settled() == ""
        before = at.pids()
        assert await at.workers.roll(Config(), count=1) == ["no luck"]
        assert at.pids() == before


@pytest.mark.parametrize("command", [("/nowhere/at/all",), (sys.executable, "-c", "raise SystemExit(5)")])
async def test_a_command_that_fails_is_tried_again(command: tuple[str, ...]) -> None:
    options = ChildOptions(command=command)
    door = Door(Config().limits, Connections(Slots.create(1)))
    async with trio.open_nursery() as nursery:
        workers = Workers(
            Config(),
            count=1,
            server="s",
            door=door,
            api_descriptors=[],
            options=options,
            nursery=nursery,
            upgrade=lambda number: None,
        )
        workers.start()
        at = House(workers, door, [])
        first = workers._keepers[1]
        await at.wait(lambda: first.child)
        child = first.child
        before = restarts("failed")
        await at.wait(lambda: first.child is not child)
        assert restarts("failed") - before == 1
        assert not workers._unburied  # none was ever ready, so none held anything
        workers.kill()


async def test_a_server_that_cannot_spawn_says_so_and_stops() -> None:
    options = ChildOptions(command=("/nowhere/at/all",))
    async with trio.open_nursery() as nursery:
        workers = Workers(
            Config(),
            count=2,
            server="s",
            door=Door(Config().limits, Connections(Slots.create(1))),
            api_descriptors=[],
            options=options,
            nursery=nursery,
            upgrade=lambda number: None,
        )
        workers.start()
        assert "/nowhere/at/all" in await workers.wait_settled()
        assert {worker["state"] for worker in workers.status()} <= {"gone", "starting"}
        assert await workers.stop(deadline_s=1, hard_s=2)


async def test_the_dead_told_at_the_start_are_bounded_and_the_rest_is_told_later() -> None:
    async with house("buries") as at:
        assert await at.workers.wait_settled() == ""
        at.workers._unburied |= {f"server/1.x{number:04}": True for number in range(messages.MANY_DEAD * 2)}
        (pid,) = at.pids()
        os.kill(pid, signal.SIGKILL)
        await at.wait(lambda: at.pids() and at.pids() != [pid])
        assert len(at.workers._children()[0].boot.dead) == messages.MANY_DEAD
        await at.wait(lambda: not at.workers._unburied)


def test_every_status_has_a_name() -> None:
    assert _status(-9) == "killed by SIGKILL"
    assert _status(-40) == "killed by signal 40"  # a real-time one
    assert _status(3) == "exit status 3"
