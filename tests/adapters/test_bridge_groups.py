"""Groups of the gateway: all that is queued is one, each call has its own outcome, and who leaves is left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import trio
from bridge_support import SHORT_WAIT_S, Group, echo_write, lane_named
from trio.testing import wait_all_tasks_blocked

from wd_trio import errors, telemetry
from wd_trio.adapters.bridge import Gateway, LaneOptions
from wd_trio.adapters.lanes import Outcome
from wd_trio.adapters.sqlite.database import SqliteDatabase
from wd_trio.ports.gateway import writes


def remembering(ran: list[int]) -> Callable[[int], None]:
    """A write that adds its value to `ran`."""

    @writes("store")
    def write(value: int) -> None:
        ran.append(value)

    return write


async def test_a_group_gets_everything_that_is_queued() -> None:
    group = Group()
    group.gate.clear()
    async with Gateway([LaneOptions(name="store.write", group=group)]) as gateway:
        results: set[object] = set()

        async def caller(value: int) -> None:
            results.add(await gateway.run(echo_write, value))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller, 0)
            await wait_all_tasks_blocked()
            await trio.to_thread.run_sync(group.entered.wait)
            for value in range(1, 51):
                nursery.start_soon(caller, value)
            await wait_all_tasks_blocked()
            group.gate.set()
        assert group.sizes == [1, 50]
        assert results == set(range(51))
        assert lane_named(gateway, "store.write").groups == 2


async def test_what_a_bounded_group_leaves_keeps_its_order() -> None:
    group = Group(most=7)
    group.gate.clear()
    order: list[int] = []
    append = remembering(order)
    async with (
        Gateway([LaneOptions(name="store.write", group=group)]) as gateway,
        trio.open_nursery() as nursery,
    ):
        for value in range(30):
            nursery.start_soon(gateway.run, append, value)
            await wait_all_tasks_blocked()
        group.gate.set()
    assert order == list(range(30))
    assert max(group.sizes) == 7


async def test_each_call_of_a_group_has_its_own_outcome() -> None:
    @writes("store")
    def halve(value: int) -> int:
        if value % 2:
            raise errors.Invalid(f"{value} is odd")
        return value // 2

    outcomes: dict[int, object] = {}
    async with Gateway([LaneOptions(name="store.write", group=Group())]) as gateway:

        async def caller(value: int) -> None:
            try:
                outcomes[value] = await gateway.run(halve, value)
            except errors.Invalid as error:
                outcomes[value] = str(error)

        async with trio.open_nursery() as nursery:
            for value in range(4):
                nursery.start_soon(caller, value)
    assert outcomes == {0: 0, 1: "1 is odd", 2: 1, 3: "3 is odd"}


@pytest.mark.parametrize("failure", [errors.Unavailable("disk", what="x"), ValueError("bug")])
async def test_a_group_that_fails_as_a_whole_tells_every_caller(failure: Exception) -> None:
    def group(calls: Sequence[Callable[[], object]]) -> list[Outcome]:
        raise failure

    seen: list[Exception] = []
    async with Gateway([LaneOptions(name="store.write", group=group)]) as gateway:

        async def caller() -> None:
            try:
                await gateway.run(echo_write, 1)
            except (errors.Unavailable, ValueError) as error:
                seen.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(caller)
    assert [str(error) for error in seen] == [str(failure)] * 3
    if isinstance(failure, errors.WdError):
        assert len({id(error) for error in seen}) == 3


async def test_a_group_that_runs_nothing_is_a_fault_and_no_endless_loop() -> None:
    async with Gateway([LaneOptions(name="store.write", group=lambda calls: [])]) as gateway:
        with pytest.raises(RuntimeError, match="ran none"):
            await gateway.run(echo_write, 1)


async def test_with_sqlite_fifty_writes_take_few_commits(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "group.db")
    with database.writing() as connection:
        connection.execute("CREATE TABLE numbers (value INTEGER)")

    @writes("store")
    def insert(value: int) -> None:
        with database.writing() as connection:
            connection.execute("INSERT INTO numbers VALUES (?)", (value,))
        if value % 10 == 0:
            raise errors.Conflict(what="ten")

    conflicts: list[int] = []
    commits = telemetry.commits_total.labels("sqlite")
    before = commits._value.get()
    async with Gateway([LaneOptions(name="store.write", group=database.group)]) as gateway:

        async def caller(value: int) -> None:
            try:
                await gateway.run(insert, value)
            except errors.Conflict:
                conflicts.append(value)

        async with trio.open_nursery() as nursery:
            for value in range(50):
                nursery.start_soon(caller, value)
    assert commits._value.get() - before <= 5
    with database.reading() as connection:
        kept = [value for (value,) in connection.execute("SELECT value FROM numbers ORDER BY value")]
    assert sorted(conflicts) == [0, 10, 20, 30, 40]
    assert kept == [value for value in range(50) if value % 10]
    database.close()


async def test_cancelled_in_the_hands_of_a_group_a_call_never_runs() -> None:
    group = Group()
    group.gate.clear()
    ran: list[int] = []
    append = remembering(ran)
    async with (
        Gateway([LaneOptions(name="store.write", group=group)]) as gateway,
        trio.open_nursery() as nursery,
    ):
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_when_entered, scope, group)
            await gateway.run(append, 1)
        assert scope.cancelled_caught
        group.gate.set()
        await gateway.run(append, 2)
    assert ran == [2]
    assert lane_named(gateway, "store.write").results == {"withdrawn": 1, "ok": 1}


async def test_a_call_in_the_hands_of_a_hung_group_is_unavailable_and_never_runs() -> None:
    group = Group()
    group.gate.clear()
    ran: list[int] = []
    append = remembering(ran)
    async with Gateway([LaneOptions(name="store.write", group=group, wait_s=SHORT_WAIT_S)]) as gateway:
        with pytest.raises(errors.Unavailable):
            await gateway.run(append, 1)
        group.gate.set()
    assert ran == []


def test_a_group_has_one_thread() -> None:
    with pytest.raises(ValueError, match="one thread"):
        Gateway([LaneOptions(name="store.write", threads=2, group=Group())])


async def cancel_when_entered(scope: trio.CancelScope, group: Group) -> None:
    await trio.to_thread.run_sync(group.entered.wait)
    scope.cancel()
