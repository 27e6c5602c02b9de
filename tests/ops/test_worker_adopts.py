"""What a worker does with a batch of connections that comes while it leaves."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from wd_trio.ops import messages, worker
from wd_trio.ops.handoff import Channel, Received, channel_pair
from wd_trio.ops.worker import Worker
from wd_trio.servers.driver import Connection
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
