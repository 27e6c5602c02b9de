"""A worker that does one thing, for tests of the supervisor's side: run with its mode before the descriptors.

greets: adopts, says `hello SLOT` to each new connection and `again SLOT` with what came along to one that another
worker had; holds them, and moves them when it drains, the unread input being `rest`. cuts: the same, but what it
says is never said whole. refuses: takes no batch. dies-second: slot 1 greets, any other takes its first batch and
ends without a word. deaf: is ready and then answers nothing. buries: tells its connections of dead workers, too.
cannot: says that it cannot start; cannot-again: only the first one of a server can. upgrades: greets, then lets go of
each connection for TLS. late: greets, once it has been asked whether it lives.
Each tells its connections, too, when the server is about to go.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

import trio

from wd_trio.ops import messages
from wd_trio.ops.handoff import Channel, ChannelOver, Received, close_all
from wd_trio.servers.slots import Phase, Progress, Slots


class SmallWorker:
    def __init__(self, mode: str, channel: Channel, slots: Slots, boot: messages.Boot) -> None:
        self.mode = "greets" if mode == "dies-second" and boot.slot == 1 else mode
        self.channel = channel
        self.slots = slots
        self.boot = boot
        self.held: dict[int, socket.socket] = {}
        self.ending = False

    async def run(self) -> int:
        for owner in self.boot.dead:
            await self.channel.send(messages.Buried(owner))
        if self.mode == "late":
            await self.channel.receive()
        await self.channel.send(messages.Ready(os.getpid()))
        if self.mode == "deaf":
            signal.pause()  # the loop itself hangs, until it is killed
        while True:
            received = await self.channel.receive()
            match received.message:
                case messages.Ping(number=number):
                    await self.channel.send(messages.Pong(number))
                case messages.AskSamples(request=request):
                    sample = [messages.Family("jobs", "counter", "Jobs", [("jobs_total", (), 2.0)])]
                    await self.channel.send(messages.Samples(request, sample, True))
                case messages.Drain(stopping=stopping):
                    return await self.leave(stopping=stopping)
                case messages.Ending():
                    self.ending = True
                    for sock in self.held.values():
                        sock.send(b"ending\n")
                case messages.Died(owner=owner):
                    await self.channel.send(messages.Buried(owner))
                    for sock in self.held.values() if self.mode == "buries" else ():
                        sock.send(b"buried %s\n" % owner.encode())
                case messages.Adopt():
                    await self.adopt(received.message, received)

    async def leave(self, *, stopping: bool) -> int:
        if stopping:
            for sock in self.held.values():
                sock.shutdown(socket.SHUT_RDWR)
            await self.channel.send(messages.Closed(list(self.held)))
        else:
            for number in self.held:
                self.slots.at(number).progress = Progress.READING
            await self.channel.send(messages.Moved(list(self.held), dict.fromkeys(self.held, b"rest")))
        return 0

    async def adopt(self, message: messages.Adopt, received: Received) -> None:
        if self.mode.startswith("dies"):
            os._exit(7)
        if self.mode == "refuses":
            close_all(received.descriptors)
            await self.channel.send(messages.Adopted(message.batch, refused=True))
            return
        await self.channel.send(messages.Adopted(message.batch))
        for number, descriptor in zip(message.slots, received.descriptors, strict=True):
            slot = self.slots.at(number)
            sock = self.held[number] = socket.socket(fileno=descriptor)
            slot.progress = Progress.SAYING
            if slot.phase == Phase.ARRIVED:
                dead = " ".join(self.boot.dead) if self.mode == "buries" else ""
                sock.send(b"hello %d%s\n" % (self.boot.slot, dead.encode()))
                slot.phase = Phase.GREETED
            else:
                sock.send(b"again %d%s\n" % (self.boot.slot, message.unread.get(number, b"")))
            if self.ending:
                sock.send(b"ending\n")
            if self.mode != "cuts":
                slot.progress = 0
            if self.mode == "upgrades":
                await self.channel.send(messages.Upgrade(number))


async def main(mode: str, control: int, slots: int) -> int:
    channel = Channel(socket.socket(fileno=control))
    boot = (await channel.receive()).message
    assert isinstance(boot, messages.Boot)
    if mode == "cannot" or (mode == "cannot-again" and not boot.owner.endswith(".1")):
        await channel.send(messages.Failed("no luck"))
        return 2
    return await SmallWorker(mode, channel, Slots(slots), boot).run()


if __name__ == "__main__":
    try:
        sys.exit(trio.run(main, sys.argv[1], int(sys.argv[2]), int(sys.argv[4])))
    except ChannelOver:
        sys.exit(3)
