"""How long a silent client of IMAP may stay, whatever becomes of its workers: from when it was last heard or, where
nobody knows that any more, from the first death on."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path

import trio
from imap_kills import Survivor, go_on
from imap_world import Client, ImapWorld, open_world
from trio.testing import MockClock

from wd_trio.servers.imap.options import ImapOptions
from wd_trio.servers.slots import SLOT_BYTES, Progress, Slot

IDLE_S = 400.0
BYE = "* BYE Disconnected for inactivity"


@asynccontextmanager
async def clocked(tmp_path: Path) -> AsyncIterator[ImapWorld]:
    """A world in which nobody parks, and deadlines are told by the test's clock."""
    options = ImapOptions(
        trusted_networks=(ip_network("127.0.0.0/8"),),
        clock=trio.current_time,
        idle_timeout_s=IDLE_S,
        park_after_s=math.inf,
    )
    async with open_world("sqlite", tmp_path, options=options) as world:
        yield world


async def passes(clock: MockClock, seconds: float) -> None:
    clock.jump(seconds)
    await trio.testing.wait_all_tasks_blocked()


async def killed(world: ImapWorld, slot: Slot) -> tuple[Client, Slot]:
    """The worker of that connection dies; another goes on."""
    copy = world.slots.at(world.free.pop())
    copy.memory[copy.base : copy.base + SLOT_BYTES] = slot.memory[slot.base : slot.base + SLOT_BYTES]
    client = go_on(world, Survivor(copy, b""))
    await trio.testing.wait_all_tasks_blocked()
    return client, copy


async def test_deaths_do_not_lengthen_a_silence(tmp_path: Path, mock_clock: MockClock) -> None:
    async with clocked(tmp_path) as world:
        await world.client(1).log_in("alice")
        await passes(mock_clock, 100)
        _, slot = await killed(world, world.slots.at(0))
        for _ in range(3):
            await passes(mock_clock, IDLE_S / 4)
            client, slot = await killed(world, slot)
            assert not client.readable()
        await passes(mock_clock, IDLE_S / 4 + 2)
        assert client.readable()
        assert await client.read_line() == BYE


async def test_who_was_heard_since_has_all_the_time_again(tmp_path: Path, mock_clock: MockClock) -> None:
    async with clocked(tmp_path) as world:
        await world.client(1).log_in("alice")
        client, slot = await killed(world, world.slots.at(0))
        await passes(mock_clock, IDLE_S / 2)
        assert await client.command("n", "NOOP") == ["n OK NOOP completed"]
        await passes(mock_clock, IDLE_S / 4)
        client, slot = await killed(world, slot)
        await passes(mock_clock, IDLE_S / 2)
        assert not client.readable()
        # Within a command the slot still has the time before.
        slot.note_command("c", 0, 7)
        slot.progress = Progress.BUSY
        await passes(mock_clock, IDLE_S / 2 - 1)
        client, _ = await killed(world, slot)
        assert (await client.read_line()).startswith("c NO [UNAVAILABLE] ")
        await passes(mock_clock, IDLE_S / 2)
        assert not client.readable()
