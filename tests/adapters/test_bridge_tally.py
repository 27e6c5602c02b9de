"""What commands cost, on whose account: crossings and round trips tallied by task, through threads and groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import trio

from wd_trio import errors, telemetry
from wd_trio.adapters.bridge import Gateway, LaneOptions
from wd_trio.adapters.lanes import Outcome
from wd_trio.ports.gateway import reads, writes


@reads("store")
def look(times: int = 1) -> None:
    telemetry.round_trip("mine", times)


@writes("store")
def put(times: int = 0) -> None:
    if times:
        telemetry.round_trip("own", times)


@reads("store")
def fail() -> None:
    telemetry.round_trip("mine")
    raise errors.NotFound(what="mailbox")


def group(calls: Sequence[Callable[[], object]]) -> list[Outcome]:
    """Runs all calls in something that costs a round trip before them and one after."""
    telemetry.round_trip("shared")
    outcomes: list[Outcome] = [(call(), None) for call in calls]
    telemetry.round_trip("shared")
    return outcomes


LANES = (LaneOptions(name="store.read", threads=2), LaneOptions(name="store.write", group=group))


def crossings(protocol: str, command: str, lane: str) -> float | None:
    labels = {"protocol": protocol, "command": command, "lane": lane}
    return telemetry.REGISTRY.get_sample_value("wildduck_command_crossings_total", labels)


def round_trips(protocol: str, command: str, engine: str) -> float | None:
    labels = {"protocol": protocol, "command": command, "engine": engine}
    return telemetry.REGISTRY.get_sample_value("wildduck_engine_round_trips_total", labels)


async def test_each_command_has_its_own_account() -> None:
    async with Gateway(LANES) as gateway:
        tally = telemetry.open_tally("p1")
        await gateway.run(look)
        await gateway.run(look, 3)
        tally.count("GET")
        tally.count("NOOP")
        await gateway.run(put, 2)
        tally.count("PUT")
        await gateway.run(look)
        tally.count("GET")
    assert crossings("p1", "GET", "store.read") == 3
    assert round_trips("p1", "GET", "mine") == 5
    assert crossings("p1", "PUT", "store.write") == 1
    assert (round_trips("p1", "PUT", "shared"), round_trips("p1", "PUT", "own")) == (2, 2)
    assert crossings("p1", "NOOP", "store.read") is None


async def test_the_children_of_a_task_spend_on_its_account_and_others_do_not() -> None:
    async with Gateway(LANES) as gateway:

        async def other() -> None:
            tally = telemetry.open_tally("p3")
            for _ in range(5):
                await gateway.run(look)
            tally.count("OTHER")

        async with trio.open_nursery() as outside:
            tally = telemetry.open_tally("p2")
            outside.start_soon(other)
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(gateway.run, look)
                    nursery.start_soon(gateway.run, put)
            tally.count("MANY")
    assert crossings("p2", "MANY", "store.read") == 20
    assert crossings("p2", "MANY", "store.write") == 20
    assert round_trips("p2", "MANY", "mine") == 20
    assert round_trips("p2", "MANY", "shared") == 40, "a group's work counts for each of its calls"
    assert crossings("p3", "OTHER", "store.read") == round_trips("p3", "OTHER", "mine") == 5


async def test_a_call_that_fails_or_is_refused_has_cost_what_it_has_cost() -> None:
    async with Gateway([*LANES, LaneOptions(name="full.read", queue=0)]) as gateway:
        tally = telemetry.open_tally("p4")
        with pytest.raises(errors.NotFound):
            await gateway.run(fail)
        with pytest.raises(errors.Unavailable):
            await gateway.run(reads("full")(lambda: None))
        tally.count("GET")
    assert crossings("p4", "GET", "store.read") == 1
    assert round_trips("p4", "GET", "mine") == 1
    assert crossings("p4", "GET", "full.read") is None, "it went nowhere"


async def test_without_an_account_and_outside_of_a_call_nothing_is_counted(tmp_path: Path) -> None:
    before = list(telemetry.round_trips_total.collect())
    async with Gateway(LANES) as gateway:
        await gateway.run(look)
        await gateway.run(put, 1)
    telemetry.round_trip("mine")
    assert list(telemetry.round_trips_total.collect()) == before
