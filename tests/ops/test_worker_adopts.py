"""What a worker does with a batch of connections that comes while it leaves, and with input that is too long to go
along."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from wd_trio.ops import messages, worker
from wd_trio.ops.handoff import Channel, Received, channel_pair
from wd_trio.ops.worker import Worker, _next_moved
from wd_trio.servers.driver import MOVED, Connection
from wd_trio.servers.listener import ConnectionHost
from wd_trio.servers.slots import Phase, Slots


async def test_a_leave_while_a_batch_is_acknowledged_drains_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_exit_after", lambda seconds, status: None)
    (control, control_ours), (bus, bus_ours) = channel_pair(), channel_pair()
    served: list[str] = []

    async def handler(connection: Connection) -> str:
        served.append(connection.peer.id)
        return "done"

    def host(nursery: trio.Nursery) -> ConnectionHost:
        return ConnectionHost("imap", handler, nursery=nursery)

    slots = Slots.create(3)
    slots.at(1).id, slots.at(1).phase = 0xA1, Phase.ARRIVED
    leaving = Worker(control, bus, slots, [])
    client, theirs = socket.socketpair()
    channel = Channel(control_ours)
    with client, bus_ours, bus:
        async with trio.open_nursery() as nursery:
            await nursery.start(leaving._host, "imap", host, trio.lowlevel.checkpoint)
            received = Received(messages.Adopt(1, [1]), (theirs.detach(),))
            async with leaving._channel._sending:  # the acknowledgement has to wait
                nursery.start_soon(leaving._obey, received)
                await trio.testing.wait_all_tasks_blocked()
                leaving._leave(deadline_s=1.0, stopping=False)
                await trio.testing.wait_all_tasks_blocked()
        assert served == ["a1"]
        assert (await channel.receive()).message == messages.Adopted(1)
        assert client.recv(1) == b""
    channel.close()
    leaving._channel.close()
    slots.close()


async def test_input_that_no_message_takes_ends_its_connection_and_no_other() -> None:
    (control, control_ours), (bus, bus_ours) = channel_pair(), channel_pair()
    slots = Slots.create(3)
    for number in (1, 2):
        slots.at(number).id = number
    leaving = Worker(control, bus, slots, [])
    channel = Channel(control_ours)
    (lost, lost_theirs), (moves, moves_theirs) = socket.socketpair(), socket.socketpair()
    with lost, moves, moves_theirs.dup() as kept, lost_theirs.dup(), bus_ours, bus:
        leaving._connection_left(slots.at(1), MOVED, lost_theirs, bytes(messages.MESSAGE_BYTES))
        leaving._connection_left(slots.at(2), MOVED, moves_theirs, b"a NO")
        await leaving._tell_gone()
        assert (await channel.receive()).message == messages.Closed([1])
        assert (await channel.receive()).message == messages.Moved([2], {2: b"a NO"})
        assert lost.recv(1) == b"", "though the supervisor has a duplicate"
        kept.send(b"goes on")
        assert moves.recv(10) == b"goes on"
    channel.close()
    leaving._channel.close()
    slots.close()


def test_whatever_moves_fits_its_messages() -> None:
    most = messages.MANY_UNREAD_BYTES
    pieces = [
        *[0] * messages.MANY_SLOTS,
        most,
        *[20] * (messages.MANY_SLOTS - 1),
        most - 1,
        1,
        most // 2,
        most,
    ]
    moved = {(1 << 20) - number: bytes(size) for number, size in enumerate(pieces)}
    left, told = dict(moved), dict[int, bytes]()
    while left:
        message = _next_moved(left)
        assert len(messages.encode(message)) <= messages.MESSAGE_BYTES
        told |= {number: message.unread.get(number, b"") for number in message.slots}
    assert told == moved
