"""A worker that does one thing, for tests of the supervisor's side: run with its mode before the descriptors.

greets: adopts, says `hello SLOT` to each connection and holds it until a drain. refuses: takes no batch.
dies-second: slot 1 greets, any other takes its first batch and ends without a word. deaf: is ready and then answers
nothing. buries: tells its connections of dead workers, too. cannot: says that it cannot start; cannot-again: only
the first one of a server can.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

import trio

from wd_trio.ops import messages
from wd_trio.ops.handoff import Channel, ChannelOver, close_all


async def main(mode: str, control: int) -> int:
    channel = Channel(socket.socket(fileno=control))
    boot = (await channel.receive()).message
    assert isinstance(boot, messages.Boot)
    if mode == "cannot" or (mode == "cannot-again" and not boot.owner.endswith(".1")):
        await channel.send(messages.Failed("no luck"))
        return 2
    if mode == "dies-second" and boot.slot == 1:
        mode = "greets"
    for owner in boot.dead:
        await channel.send(messages.Buried(owner))
    await channel.send(messages.Ready(os.getpid()))
    held: list[socket.socket] = []
    if mode == "deaf":
        signal.pause()  # the loop itself hangs, until it is killed
    while True:
        received = await channel.receive()
        match received.message:
            case messages.Ping(number=number):
                await channel.send(messages.Pong(number))
            case messages.AskSamples(request=request):
                sample = [messages.Family("jobs", "counter", "Jobs", [("jobs_total", (), 2.0)])]
                await channel.send(messages.Samples(request, sample, True))
            case messages.Drain():
                return 0
            case messages.Died(owner=owner):
                await channel.send(messages.Buried(owner))
                for sock in held if mode == "buries" else ():
                    sock.send(b"buried %s\n" % owner.encode())
            case messages.Adopt(batch=batch):
                if mode.startswith("dies"):
                    os._exit(7)
                if mode == "refuses":
                    close_all(received.descriptors)
                    await channel.send(messages.Adopted(batch, refused=True))
                    continue
                await channel.send(messages.Adopted(batch))
                for descriptor in received.descriptors:
                    held.append(socket.socket(fileno=descriptor))
                    dead = " ".join(boot.dead) if mode == "buries" else ""
                    held[-1].send(b"hello %d%s\n" % (boot.slot, dead.encode()))


if __name__ == "__main__":
    try:
        sys.exit(trio.run(main, sys.argv[1], int(sys.argv[2])))
    except ChannelOver:
        sys.exit(3)
