"""The TLS holder without a process of its own: storms, no memory, no supervisor, words of a later version."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Callable
from typing import Any

from certificates import Pair, trusting_anything

from wd_trio.ops.handoff import channel_pair
from wd_trio.ops.tls import channel
from wd_trio.ops.tls.channel import HolderOptions
from wd_trio.ops.tls.holder import Holder

PATIENT = HolderOptions(handshake_s=60.0, drain_s=60.0)


class NoMemory:
    """An epoll set that has no room for any more, once it is told so."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.full = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def register(self, number: int, events: int) -> None:
        if self.full:
            raise OSError(12, "Cannot allocate memory")
        self._real.register(number, events)


def begun(pair: Pair, options: HolderOptions = PATIENT) -> tuple[Holder, NoMemory, socket.socket]:
    """A holder that does nothing by itself, and its supervisor's end."""
    ours, theirs = channel_pair()
    holder = Holder(theirs)
    kernel = NoMemory(holder._epoll)
    holder._epoll = kernel  # type: ignore[assignment]  # it does what the real one does
    holder._begin(channel.Begin(channel.VERSION, pair.certificate, pair.key, options))
    holder._report()
    return holder, kernel, ours


def turn(holder: Holder) -> None:
    """What comes with one look at the descriptors that are ready."""
    for number, mask in holder._epoll.poll(0):
        if number in holder._shaking:
            holder._shake(number)
        elif number in holder._held:
            holder._serve(holder._held[number], number, mask)


def shake(
    holder: Holder, client: socket.socket, *, before_the_end: Callable[[], None] = lambda: None
) -> None:
    """Make the handshake of a client that the holder has, whose last step is the holder's."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trusting_anything().wrap_bio(incoming, outgoing)
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            client.sendall(outgoing.read())
            turn(holder)
            incoming.write(client.recv(65536))
        else:
            before_the_end()
            client.sendall(outgoing.read())
            turn(holder)
            return


class Speaker:
    """A client that says what is to be said whenever it is looked at."""

    def __init__(self) -> None:
        self.sock, self.theirs = socket.socketpair()
        self.sock.setblocking(False)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = trusting_anything().wrap_bio(self._incoming, self._outgoing)

    def speak(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._incoming.write(self.sock.recv(65536))
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        self.sock.send(self._outgoing.read())


def test_a_storm_of_clients_takes_its_time_and_loses_nobody(pair: Pair) -> None:
    """More than may be unfinished at once; all of them have spoken before the holder looks."""
    holder, _, ours = begun(pair, HolderOptions(handshakes=40, handshake_s=60.0))
    speakers = [Speaker() for _ in range(90)]
    for batch in range(3):
        some = range(batch * 30, batch * 30 + 30)
        with contextlib.ExitStack() as stack:
            theirs = [stack.enter_context(speakers[number].theirs).fileno() for number in some]
            channel.send_nowait(ours, channel.Come(batch, list(some)), theirs)
    said: list[object] = []
    done: list[int] = []
    while len(done) < len(speakers):
        for speaker in speakers:
            speaker.speak()
        holder._turn(holder._epoll.poll(0))
        with contextlib.suppress(BlockingIOError):
            while True:
                received = channel.receive_nowait(ours)
                channel.close_all(received.descriptors)
                said.append(received.message)
                if isinstance(received.message, channel.Done):
                    done += [secured.id for secured in received.message.secured]
        assert not [word for word in said if isinstance(word, channel.Gone)]
    ours.close()
    holder._abandoned()
    for held_one in set(holder._held.values()):
        holder._end(held_one)
    for speaker in speakers:
        speaker.sock.close()
    holder._epoll.close()


def test_a_kernel_without_memory_costs_only_those_who_come(pair: Pair) -> None:
    before = set(os.listdir("/proc/self/fd"))
    holder, kernel, ours = begun(pair)
    good, theirs = socket.socketpair()
    holder._come(1, theirs.detach())
    shake(holder, good)
    kernel.full = True
    late, theirs = socket.socketpair()
    holder._come(2, theirs.detach())
    assert holder._failed == [(2, "closed")]
    kernel.full = False
    half, theirs = socket.socketpair()
    holder._come(3, theirs.detach())
    shake(holder, half, before_the_end=lambda: setattr(kernel, "full", True))
    assert holder._open == 1
    assert len(holder._held) == 2
    ours.close()
    holder._abandoned()
    for held_one in set(holder._held.values()):
        holder._end(held_one)
    holder._report()
    for sock in (good, late, half):
        sock.close()
    holder._epoll.close()
    assert set(os.listdir("/proc/self/fd")) == before, "nor is a descriptor left"


def test_whom_no_supervisor_will_take_is_ended_at_once(pair: Pair) -> None:
    """Its handshake was done in the very turn in which the supervisor went."""
    holder, _, ours = begun(pair)
    client, theirs = socket.socketpair()
    holder._come(1, theirs.detach())
    shake(holder, client)
    ours.close()
    holder._abandoned()
    holder._report()
    (held_one,) = set(holder._held.values())
    assert held_one.worker is not None
    assert held_one.worker.recv(1) == b""
    holder._end(held_one)
    client.close()
    holder._epoll.close()


def test_a_word_of_a_later_version_ends_nobody(pair: Pair) -> None:
    holder, _, ours = begun(pair)
    ours.send(b"\x81\xa4type\xa6Sooner")
    channel.send_nowait(ours, channel.Ask(7))
    for _ in range(2):
        holder._now += 10.0
        holder._listen()
    holder._report()
    said = [channel.receive_nowait(ours).message for _ in range(3)]
    assert isinstance(said[1], channel.Trouble)
    assert said[2] == channel.Counts(7, 0, 0)
    ours.close()
    holder._abandoned()
    holder._epoll.close()


def test_a_defect_that_says_much_is_cut(pair: Pair) -> None:
    holder, _, ours = begun(pair)
    holder._trouble("é" * channel.MESSAGE_BYTES)
    holder._report()
    channel.receive_nowait(ours)
    assert isinstance(channel.receive_nowait(ours).message, channel.Trouble)
    ours.close()
    holder._abandoned()
    holder._epoll.close()
