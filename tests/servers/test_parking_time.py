"""Parked connections and time: keep-alives, and the end of those who say or take nothing for long."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import trio
from imap_world import ImapWorld, fill, idler, open_world, parking, until_parked
from trio.testing import MockClock

from wd_trio.servers.imap.options import ImapOptions
from wd_trio.servers.parking import ROUND_TICKS, TICK_S


async def test_time_runs_out_however_often_it_parks(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path, park_after_s=0.0) as world:
        await world.deliver("alice")
        client = await idler(world, 1)
        await until_parked(world, 1)
        slot = world.slots.at(0)
        until_s = slot.until_s
        for _ in range(20):
            parking(world)._unpark_for_news(0)
            await until_parked(world, 1)
        assert until_s <= slot.until_s <= until_s + 1
        await client.aclose()


@asynccontextmanager
async def clocked(tmp_path: Path, **changes: float) -> AsyncIterator[ImapWorld]:
    """A world in which deadlines are told by the test's clock."""
    options = ImapOptions(trusted_networks=(ip_network("127.0.0.0/8"),), clock=trio.current_time)
    async with open_world(
        "sqlite",
        tmp_path,
        options=replace(options, **changes),  # type: ignore[arg-type]  # the caller names fields of the type they have
    ) as world:
        yield world


async def passes(clock: MockClock, seconds: float) -> None:
    """Let that time pass in steps, so that whoever sleeps wakes at each."""
    until = trio.current_time() + seconds
    while trio.current_time() < until:
        clock.jump(TICK_S)
        await trio.testing.wait_all_tasks_blocked()


async def test_keep_alives_and_the_end_of_a_silent_idler(tmp_path: Path, mock_clock: MockClock) -> None:
    async with clocked(tmp_path, keepalive_s=120.0, idle_timeout_s=400.0) as world:
        client = await idler(world, 1)
        await until_parked(world, 1)
        for _ in range(3):
            before = trio.current_time()
            while not world.clients[0].readable():
                await passes(mock_clock, TICK_S)
            assert await client.read_line() == "* OK Still here"
            assert 0.7 * (120 - ROUND_TICKS) - 1 <= trio.current_time() - before <= 120
        assert world.slots.at(0).progress == 0
        await passes(mock_clock, 400 - (trio.current_time() % 400) + 2 * ROUND_TICKS)
        while (line := await client.read_line()) == "* OK Still here":
            pass
        assert line == "* BYE Disconnected for inactivity"
        assert await client.read_line() == ""


async def test_a_quiet_one_is_ended_in_time_and_hears_nothing_before(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with clocked(tmp_path, park_after_s=0.0, idle_timeout_s=400.0) as world:
        client = world.client(1)
        await client.log_in("alice")
        await until_parked(world, 1)
        await passes(mock_clock, 390)
        assert not client.readable()
        await passes(mock_clock, 30)
        assert await client.read_line() == "* BYE Disconnected for inactivity"


async def test_the_time_before_parking_counts(tmp_path: Path, mock_clock: MockClock) -> None:
    async with clocked(tmp_path, park_after_s=100.0, idle_timeout_s=400.0) as world:
        client = world.client(1)
        await client.log_in("alice")
        await passes(mock_clock, 101)
        await until_parked(world, 1)
        await passes(mock_clock, 330)
        assert await client.read_line() == "* BYE Disconnected for inactivity"


async def test_a_client_that_takes_nothing_is_given_up(tmp_path: Path, mock_clock: MockClock) -> None:
    async with clocked(tmp_path, keepalive_s=60.0) as world:
        await idler(world, 1)
        await until_parked(world, 1)
        lot = parking(world)
        fill(world, 0)
        await passes(mock_clock, 60)
        assert len(lot) == 1, "it has another chance"
        assert world.slots.at(0).progress == 0
        await passes(mock_clock, 80)
        assert len(lot) == 0
