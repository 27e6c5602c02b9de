"""What the supervisor believes of connections between two workers: nobody's sessions are ended too early."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from wd_trio.config import Limits
from wd_trio.ops import messages
from wd_trio.ops.connections import Connections
from wd_trio.ops.door import Arrival, Door
from wd_trio.ops.feed import Feed
from wd_trio.ops.handoff import Channel, channel_pair, close_all
from wd_trio.servers.slots import Phase, Progress, Slots


class Between:
    """A door, one connection that is logged in, and workers to give it to."""

    def __init__(self) -> None:
        self.connections = Connections(Slots.create(10))
        self.door = Door(Limits(), self.connections)
        self.client, served = socket.socketpair()
        self.number = self.connections.enter("imap", served, "192.0.2.1", 1)
        self.slot = self.connections.slots.at(self.number)
        self.slot.phase = Phase.OPEN
        self.channels: list[Channel] = []

    def feed(self, owner: str) -> Feed:
        return Feed(self.door, owner, arrived=lambda: None, upgrade=lambda number: None)

    def channel(self) -> tuple[Channel, Channel]:
        ours, theirs = channel_pair()
        pair = Channel(ours), Channel(theirs)
        self.channels += pair
        return pair

    def in_flight(self, *owners: str) -> list[int]:
        return [self.connections.in_flight(owner) for owner in owners]

    def close(self) -> None:
        for channel in self.channels:
            channel.close()
        self.client.close()
        self.connections.close()


@pytest.fixture
async def between() -> AsyncIterator[Between]:
    made = Between()
    yield made
    made.close()


async def hand_over(nursery: trio.Nursery, feed: Feed, ours: Channel, theirs: Channel) -> messages.Adopt:
    """What the worker of a feed is sent; it has not answered."""
    nursery.start_soon(feed.run, ours)
    received = await theirs.receive()
    close_all(received.descriptors)
    assert isinstance(received.message, messages.Adopt)
    return received.message


async def test_two_workers_that_die_one_after_the_other_are_both_remembered(between: Between) -> None:
    """The second dies before it says that it has the connection: its session may be either one's."""
    first, second, third = (between.feed(owner) for owner in ("s/1.1", "s/2.2", "s/3.3"))
    first.give(Arrival(between.number))
    first._pending.clear()  # it has it
    between.door.open_to(second)
    first.leave_to_others()
    assert between.in_flight("s/1.1", "s/2.2") == [1, 0]
    async with trio.open_nursery() as nursery:
        await hand_over(nursery, second, *between.channel())
        between.door.close_to(second)
        between.door.open_to(third)
        second.leave_to_others()
        assert between.in_flight("s/1.1", "s/2.2") == [1, 1]
        batch = await hand_over(nursery, third, *between.channel())
        third.hear(messages.Adopted(batch.batch))
        await trio.testing.wait_all_tasks_blocked()
        assert between.in_flight("s/1.1", "s/2.2", "s/3.3") == [0, 0, 0]
        nursery.cancel_scope.cancel()


async def test_what_left_again_before_its_batch_was_answered_is_in_flight(between: Between) -> None:
    first, second = between.feed("s/1.1"), between.feed("s/2.2")
    first.give(Arrival(between.number))
    async with trio.open_nursery() as nursery:
        batch = await hand_over(nursery, first, *between.channel())
        first.hear(messages.Moved([between.number]))  # nobody takes it yet
        first.hear(messages.Adopted(batch.batch))
        await trio.testing.wait_all_tasks_blocked()
        assert between.in_flight("s/1.1") == [1]
        between.door.open_to(second)
        batch = await hand_over(nursery, second, *between.channel())
        second.hear(messages.Adopted(batch.batch))
        await trio.testing.wait_all_tasks_blocked()
        assert between.in_flight("s/1.1") == [0]
        nursery.cancel_scope.cancel()


async def test_what_could_not_be_sent_keeps_what_it_brings_along(between: Between) -> None:
    """Its worker dies while the channel is full: nothing of the connection is lost."""
    first, second = between.feed("s/1.1"), between.feed("s/2.2")
    ours, _ = between.channel()
    between.slot.progress = Progress.READING
    async with trio.open_nursery() as nursery, ours._sending:
        nursery.start_soon(first.run, ours)
        first.give(Arrival(between.number, b"a NO"))
        await trio.testing.wait_all_tasks_blocked()
        assert not first.pending
        nursery.cancel_scope.cancel()
    between.door.open_to(second)
    first.leave_to_others()
    assert second.pending == (Arrival(between.number, b"a NO"),)
