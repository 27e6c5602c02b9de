"""The hub and its buses: hints arrive whole at everybody else, and what overflows becomes an order to resync."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import trio
import trio.testing

from wd_trio.adapters.hints import DATAGRAM_BYTES, datagrams, decode_datagram, encode_hint
from wd_trio.adapters.sqlite.bus import QUEUE_HINTS, HubBus, LocalBus
from wd_trio.errors import Unavailable
from wd_trio.mail.model import Changes, FlagRow, Vanished
from wd_trio.mail.numset import UidSet
from wd_trio.ops.handoff import channel_pair
from wd_trio.ops.hub import Hub
from wd_trio.ports.bus import Hint, Resync

PLAIN = Hint("folders", "u1")
FULL = Hint(
    "mailbox",
    "u1",
    "m1",
    4,
    6,
    Changes(
        4,
        6,
        9,
        (FlagRow(7, 5, 1, ""), FlagRow(8, 6, 0, "$Forwarded Ünicode")),
        (Vanished(5, UidSet([(1, 3), (5, 5)])), Vanished(6, UidSet([(6, 6)]))),
        True,
    ),
)


def numbered(number: int) -> Hint:
    return Hint("mailbox", "u1", "m1", number, number + 1)


@pytest.mark.parametrize("hint", [PLAIN, FULL, numbered(1)])
def test_a_hint_survives_the_wire(hint: Hint) -> None:
    assert decode_datagram(datagrams([encode_hint(hint)])[0]) == [hint]


@pytest.mark.parametrize("rows", [1_300, 100_000])
def test_a_long_hint_loses_its_changes_only(rows: int) -> None:
    changes = Changes(4, 6, rows, [FlagRow(uid, 6, 0, "$Keyword") for uid in range(1, rows)])
    long = Hint("mailbox", "u1", "m1", 4, 6, changes)
    encoded = encode_hint(long)
    assert len(encoded) < 100
    assert decode_datagram(datagrams([encoded])[0]) == [Hint("mailbox", "u1", "m1", 4, 6)]


def test_many_hints_are_packed_in_order_into_bounded_datagrams() -> None:
    hints = [FULL if number % 3 else numbered(number) for number in range(3000)]
    packed = datagrams([encode_hint(hint) for hint in hints])
    assert 1 < len(packed) < 10
    assert max(map(len, packed)) <= DATAGRAM_BYTES
    assert [hint for datagram in packed for hint in decode_datagram(datagram)] == hints


class Buses:
    """Workers' buses at one hub."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.hub = Hub()
        self.socks: dict[HubBus, socket.socket] = {}
        self._nursery = nursery
        self._stack = ExitStack()

    async def join(self, *, sending: bool = True) -> HubBus:
        ours, theirs = channel_pair()
        bus = HubBus(theirs)
        self.socks[bus] = theirs
        self._stack.callback(bus.close)
        self._nursery.start_soon(self.hub.serve, ours)
        if sending:
            self._nursery.start_soon(bus.run)
        assert await bus.receive() == [Resync()]
        await trio.testing.wait_all_tasks_blocked()
        return bus

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def buses(nursery: trio.Nursery) -> Iterator[Buses]:
    made = Buses(nursery)
    yield made
    made.close()


async def receive(bus: HubBus, count: int) -> list[Hint | Resync]:
    got: list[Hint | Resync] = []
    while len(got) < count:
        got.extend(await bus.receive())
    return got


async def test_a_hint_reaches_all_others_and_not_its_publisher(buses: Buses) -> None:
    one, two, three = [await buses.join() for _ in range(3)]
    one.publish_nowait(FULL)
    assert await receive(two, 1) == [FULL]
    assert await receive(three, 1) == [FULL]
    two.publish_nowait(PLAIN)
    assert await receive(one, 1) == [PLAIN]


async def test_the_supervisors_own_hints_reach_everybody(buses: Buses) -> None:
    one, two = [await buses.join() for _ in range(2)]
    buses.hub.publish(PLAIN)
    assert await receive(one, 1) == [PLAIN]
    assert await receive(two, 1) == [PLAIN]


async def test_a_burst_arrives_in_order(buses: Buses) -> None:
    one, two = [await buses.join() for _ in range(2)]
    hints = [numbered(number) for number in range(QUEUE_HINTS)]
    for hint in hints:
        one.publish_nowait(hint)
    assert await receive(two, len(hints)) == hints


async def test_a_publishers_overflow_becomes_resync(buses: Buses) -> None:
    one, two = [await buses.join() for _ in range(2)]
    for number in range(QUEUE_HINTS + 10):
        one.publish_nowait(numbered(number))
    got = await receive(two, 10)
    assert got[0] == Resync()
    assert got[1:] == [numbered(number) for number in range(QUEUE_HINTS + 1, QUEUE_HINTS + 10)]


async def test_a_worker_that_does_not_read_is_told_to_resync_and_delays_nobody(buses: Buses) -> None:
    buses.hub = Hub(queue_datagrams=10)
    writer, reader, sleeper = [await buses.join() for _ in range(3)]
    rows = [FlagRow(uid, 1, 0, "") for uid in range(1, 1300)]
    sent = 500
    for number in range(sent):
        heavy = Hint("mailbox", "u1", "m1", number, number + 1, Changes(number, number + 1, 1300, rows))
        writer.publish_nowait(heavy)
        (got_one,) = await receive(reader, 1)
        assert isinstance(got_one, Hint)
        assert got_one.modseq == number + 1
    got: list[Hint | Resync] = []
    while Resync() not in got:
        got.extend(await sleeper.receive())
    last = numbered(sent)  # for which there is room again, wherever the last overflow was
    writer.publish_nowait(last)
    assert await receive(reader, 1) == [last]
    while last not in got:
        got.extend(await sleeper.receive())
    assert len(got) < sent
    numbers = [hint.modseq for hint in got if isinstance(hint, Hint)]
    assert numbers == sorted(numbers)


async def test_a_kernel_without_room_costs_hints_and_no_bus(
    buses: Buses, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    one, two = [await buses.join() for _ in range(2)]

    async def send(data: bytes, flags: int) -> int:
        monkeypatch.undo()
        raise OSError(errno.ENOBUFS, "No buffer space available")

    for port in buses.hub._ports:
        monkeypatch.setattr(port._sock, "send", send)
    one.publish_nowait(PLAIN)
    assert await receive(two, 1) == [Resync()]
    one.publish_nowait(FULL)
    assert await receive(two, 1) == [FULL]


async def test_a_worker_that_dies_leaves_the_others_connected(buses: Buses, nursery: trio.Nursery) -> None:
    one, two, dying = [await buses.join(sending=False) for _ in range(3)]
    nursery.start_soon(one.run)
    one.publish_nowait(PLAIN)
    assert await receive(two, 1) == [PLAIN]
    buses.socks[dying].send(datagrams([encode_hint(numbered(1))])[0])
    dying.close()  # its last hint is queued at the hub, and one is unread here
    assert await receive(one, 2) == [numbered(1), Resync()], "it may have died between a commit and its hint"
    assert await receive(two, 2) == [numbered(1), Resync()]
    one.publish_nowait(FULL)
    assert await receive(two, 1) == [FULL]


async def test_without_a_hub_the_bus_is_unavailable() -> None:
    ours, theirs = channel_pair()
    bus = HubBus(theirs)
    assert await bus.receive() == [Resync()]
    ours.close()
    with pytest.raises(Unavailable):
        await bus.receive()
    bus.publish_nowait(PLAIN)
    with pytest.raises(Unavailable):
        await bus.run()
    bus.publish_nowait(PLAIN)  # never raises
    bus.close()


async def test_a_datagram_that_is_no_hint_means_resync() -> None:
    ours, theirs = channel_pair()
    bus = HubBus(theirs)
    await bus.receive()
    ours.send(b"\xc1nonsense")
    assert await bus.receive() == [Resync()]
    ours.close()
    bus.close()


async def test_the_local_bus_keeps_silent(autojump_clock: trio.testing.MockClock) -> None:
    bus = LocalBus()
    bus.publish_nowait(FULL)
    with trio.move_on_after(10_000) as scope:
        await bus.receive()
    assert scope.cancelled_caught
