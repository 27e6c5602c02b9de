"""The holder: the process in which TLS ends. Run by the supervisor as `python -m wd_trio.ops.tls.holder DESCRIPTOR`.

Python's ssl cannot export a connection's state, so TLS must not end in a process that is replaced. This one does
nothing else: clients' descriptors come from the supervisor, and when a handshake is done the plaintext end of a
socket pair goes back, which moves between workers like any other connection. It outlives workers, reloads and the
supervisor's replacement of itself; it knows no protocol, opens no store, and imports no more than it needs.

One thread, one epoll set, level-triggered; a connection's part is in held.py. Each turn of the loop:
- established connections first, one read each: a storm of handshakes costs those who are in a few milliseconds;
- then at most HANDSHAKES_A_TURN steps of handshakes (each may cost a signature), whose descriptors are one-shot;
- then one batch of new clients, the messages that wait to go, and once a second the deadlines.
A descriptor that waits for nothing is not in the set: else a dead one would fire for ever.

Over the cap on unfinished handshakes the one whose client has been silent for longest is given up ("crowded"). While
many clients have sent something and wait for a step, no more are taken: a storm of them costs time and nobody's
connection.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import ssl
import sys
import traceback
from collections import deque
from select import EPOLL_CLOEXEC, EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLONESHOT, EPOLLOUT, epoll
from time import monotonic
from typing import Final

from wd_trio.errors import Invalid
from wd_trio.ops.tls import channel as c
from wd_trio.ops.tls.held import Held, Over, Tls, remember_name
from wd_trio.servers.tls import server_context

EVENTS_A_TURN: Final = 256
HANDSHAKES_A_TURN: Final = 8
SHARE_OF_STEPS: Final = 4
"""Of the unfinished handshakes that there may be, a quarter at most wait for us when others are let in."""
SWEEP_S: Final = 1.0
TROUBLE_CHARS: Final = 8000
LEAVING_LINGER_S: Final = 1.0
"""On the way out nobody is waited for who has heard the last word."""
READABLE: Final = EPOLLIN | EPOLLHUP | EPOLLERR
WRITABLE: Final = EPOLLOUT | EPOLLHUP | EPOLLERR
"""A dead descriptor is both: trying shows how it died."""

EXIT_FAILED: Final = 1
EXIT_CANNOT_START: Final = 2


class Holder:
    """The whole process; `run` is its life and returns its exit status."""

    def __init__(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        self._channel: socket.socket | None = channel
        self._channel_events = 0
        self._channel_number = channel.fileno()
        self._epoll = epoll(flags=EPOLL_CLOEXEC)
        self._options = c.HolderOptions()
        self._context: ssl.SSLContext | None = None  # from Begin on
        self._held: dict[int, Held] = {}  # established, by the number of either descriptor
        self._open = 0
        self._shaking: dict[int, Held] = {}  # by descriptor, the one that is silent for longest first
        self._shakeable: deque[int] = deque()
        self._timed: dict[int, Held] = {}  # established and with a deadline, by id
        self._next_sweep = 0.0
        self._heard_at = 0.0
        self._to_say: deque[tuple[c.FromHolder, tuple[int, ...]]] = deque()
        self._secured: list[tuple[c.Secured, int]] = []
        self._failed: list[tuple[int, str]] = []
        self._leave_at = 0.0
        self._exit: int | None = None
        self._now = monotonic()

    def run(self) -> int:
        self._watch_channel()
        while self._exit is None:
            self._turn(self._epoll.poll(self._patience(), EVENTS_A_TURN))
        return self._exit

    def _turn(self, events: list[tuple[int, int]]) -> None:
        self._now = monotonic()
        from_channel = 0
        for number, mask in events:
            if number == self._channel_number:
                from_channel = mask
            elif number in self._shaking:
                self._shaking[number] = self._shaking.pop(number)  # to the end: its client has spoken
                self._shakeable.append(number)
            elif (held := self._held.get(number)) is not None:
                self._serve(held, number, mask)
        for _ in range(min(HANDSHAKES_A_TURN, len(self._shakeable))):
            self._shake(self._shakeable.popleft())
        if from_channel & READABLE and self._has_time:
            self._listen()
        self._report()
        if self._now >= self._next_sweep:
            self._sweep()

    @property
    def _has_time(self) -> bool:
        """Whether more may come: not while many wait for a step of ours. Once a second the supervisor is heard all
        the same."""
        return (
            len(self._shakeable) <= self._options.handshakes // SHARE_OF_STEPS
            or self._now >= self._heard_at + SWEEP_S
        )

    def _patience(self) -> float:
        if self._shakeable:
            return 0.0
        if self._shaking or self._timed or self._leave_at or self._to_say:
            return SWEEP_S
        return -1

    # -- established connections

    def _serve(self, held: Held, number: int, mask: int) -> None:
        try:
            if number == held.client.fileno():
                if mask & WRITABLE:
                    held.flush_client()
                if mask & READABLE and held.client_events & EPOLLIN:
                    held.from_client()
            else:
                if mask & WRITABLE:
                    held.flush_worker()
                if mask & READABLE and held.worker_events & EPOLLIN:
                    held.from_worker()
            self._settle(held)
        except Over:
            self._end(held)
        except Exception:  # a defect of ours, or a kernel without memory, ends this connection and no other
            self._trouble(traceback.format_exc())
            self._end(held)

    def _settle(self, held: Held) -> None:
        """Watch for what the connection wants now, and give it time only while it gets on."""
        client, worker = held.wants
        if client != held.client_events:
            self._watch(held.client.fileno(), held.client_events, client)
            held.client_events = client
        if worker != held.worker_events:
            assert held.worker is not None
            self._watch(held.worker.fileno(), held.worker_events, worker)
            held.worker_events = worker
        if not (held.stalled or held.lingering):
            if held.until:
                held.until = 0.0
                del self._timed[held.id]
        elif held.moved or not held.until:
            held.until = self._now + (self._options.flush_s if held.stalled else self._linger_s)
            self._timed[held.id] = held
        held.moved = False

    @property
    def _linger_s(self) -> float:
        return min(self._options.linger_s, LEAVING_LINGER_S) if self._leave_at else self._options.linger_s

    def _watch(self, number: int, before: int, now: int) -> None:
        if not before:
            self._epoll.register(number, now)
        elif now:
            self._epoll.modify(number, now)
        else:
            self._epoll.unregister(number)

    def _end(self, held: Held) -> None:
        self._open -= 1
        self._timed.pop(held.id, None)
        assert held.worker is not None
        for sock, events in ((held.client, held.client_events), (held.worker, held.worker_events)):
            del self._held[sock.fileno()]
            if events:
                self._epoll.unregister(sock.fileno())
        held.close()
        if self._leave_at:
            self._next_sweep = 0.0  # it may have been the last

    # -- handshakes

    def _come(self, number: int, descriptor: int) -> None:
        if self._channel is None or self._leave_at:
            os.close(descriptor)
            self._failed.append((number, "stopping"))
            return
        while len(self._shaking) >= self._options.handshakes:
            self._give_up(next(iter(self._shaking)), "crowded")
        assert self._context is not None
        try:
            client = socket.socket(fileno=descriptor)
        except OSError:  # it is no stream
            os.close(descriptor)
            self._failed.append((number, "closed"))
            return
        try:
            held = Held(number, client, self._context)
            self._epoll.register(descriptor, EPOLLIN | EPOLLONESHOT)
        except OSError:  # it is gone already, or the kernel has no memory
            client.close()
            self._failed.append((number, "closed"))
            return
        held.until = self._now + self._options.handshake_s
        self._shaking[descriptor] = held

    def _shake(self, number: int) -> None:
        held = self._shaking.get(number)
        if held is None:
            return  # given up while it waited its turn
        try:
            done = held.shake()
            if done:
                self._secure(held)
        except Over as over:
            self._give_up(number, over.reason)
        except OSError:
            self._give_up(number, "no room")
        except Exception:
            self._trouble(traceback.format_exc())
            self._give_up(number, "defect")
        else:
            if not done:
                wanted = EPOLLIN | (EPOLLOUT if held.stalled else 0)
                self._epoll.modify(number, wanted | EPOLLONESHOT)

    def _secure(self, held: Held) -> None:
        with held.connect() as theirs:
            self._secured.append((c.Secured(held.id, *held.facts()), theirs.detach()))
        number = held.client.fileno()
        del self._shaking[number]
        self._epoll.unregister(number)
        assert held.worker is not None
        self._held[number] = self._held[held.worker.fileno()] = held
        self._open += 1
        held.until = 0.0
        self._serve(held, number, 0)

    def _give_up(self, number: int, reason: str) -> None:
        held = self._shaking.pop(number)
        self._epoll.unregister(number)
        self._failed.append((held.id, reason))
        held.close()

    # -- time

    def _sweep(self) -> None:
        self._next_sweep = self._now + SWEEP_S
        for number, held in list(self._shaking.items()):
            if held.until <= self._now:
                self._give_up(number, "late")
        for held in list(self._timed.values()):
            if held.until <= self._now:
                self._end(held)
        self._report()
        if self._leave_at and (self._now >= self._leave_at or not self._open):
            self._exit = 0

    def _leave(self, deadline_s: float) -> None:
        """Take no more, and end with the last connection."""
        if not self._leave_at:
            self._leave_at = self._now + deadline_s
        for number in list(self._shaking):
            self._give_up(number, "stopping")
        self._next_sweep = 0.0

    # -- the supervisor

    def _listen(self) -> None:
        assert self._channel is not None
        self._heard_at = self._now
        try:
            self._obey(c.receive_nowait(self._channel))
        except BlockingIOError:
            return
        except ValueError as error:  # a later version's word: what it brought is closed, nothing hangs on it
            self._trouble(f"a message that this version does not know: {error}")
        except c.ChannelClosed:
            self._abandoned()

    def _obey(self, received: c.Received) -> None:
        match received.message:
            case c.Come(batch=batch, ids=ids):
                refused = received.truncated or len(received.descriptors) != len(ids)
                if refused:
                    c.close_all(received.descriptors)
                else:
                    for number, descriptor in zip(ids, received.descriptors, strict=True):
                        self._come(number, descriptor)
                self._say(c.Taken(batch, refused))
            case c.Ask(request=request):
                self._say(c.Counts(request, len(self._shaking), self._open))
            case c.Load(request=request, certificate=certificate, key=key):
                self._say(c.Loaded(request, self._load(certificate, key)))
            case c.Leave(deadline_s=deadline_s):
                self._leave(deadline_s)
            case c.Begin() as begin:
                self._begin(begin)

    def _begin(self, begin: c.Begin) -> None:
        fault = "supervisor and holder are of different versions"
        if begin.version == c.VERSION:
            self._options = begin.options
            fault = self._load(begin.certificate, begin.key)
        self._say(c.Ready(fault))
        if fault:
            self._report()
            self._exit = EXIT_CANNOT_START

    def _load(self, certificate: str, key: str) -> str:
        """Use this certificate for whoever comes from now on; or keep the old one and say why."""
        try:
            context = server_context(certificate, key)
        except Invalid as error:
            return f"{error.what}: {error}"
        context.sslobject_class = Tls
        context.sni_callback = remember_name
        self._context = context
        return ""

    def _say(self, message: c.FromHolder, descriptors: tuple[int, ...] = ()) -> None:
        self._to_say.append((message, descriptors))

    def _trouble(self, text: str) -> None:
        self._say(c.Trouble(text[-TROUBLE_CHARS:]))

    def _report(self) -> None:
        """Send what there is to say, as far as it goes; the rest when there is room."""
        while self._secured:
            batch, self._secured = self._secured[: c.BATCH], self._secured[c.BATCH :]
            self._say(c.Done([each for each, _ in batch]), tuple(theirs for _, theirs in batch))
        while self._failed:
            failed, self._failed = self._failed[: c.BATCH], self._failed[c.BATCH :]
            self._say(c.Gone(failed))
        while self._to_say and self._channel is not None:
            message, descriptors = self._to_say[0]
            try:
                c.send_nowait(self._channel, message, descriptors)
            except c.ChannelClosed:
                self._abandoned()
                return
            except OSError:  # full, or too many descriptors under way: a second later at the latest
                break
            self._to_say.popleft()
            c.close_all(descriptors)
        if self._channel is None:
            self._unsaid()
        self._watch_channel()

    def _watch_channel(self) -> None:
        if self._channel is None:
            return
        wanted = EPOLLIN | (EPOLLOUT if self._to_say else 0)
        if wanted != self._channel_events:
            self._watch(self._channel_number, self._channel_events, wanted)
            self._channel_events = wanted

    def _abandoned(self) -> None:
        """The supervisor is gone, and nobody took its place: nobody can come, and what is open ends with its
        worker."""
        assert self._channel is not None
        self._epoll.unregister(self._channel_number)
        self._channel.close()
        self._channel = None
        self._channel_number = -1
        self._unsaid()
        self._leave(self._options.drain_s)

    def _unsaid(self) -> None:
        """There is nobody to say it to; workers' ends that were not passed on are closed, and so end."""
        for _, descriptors in self._to_say:
            c.close_all(descriptors)
        self._to_say.clear()


def main(arguments: list[str]) -> int:
    """The process; its one argument is the channel's descriptor."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        # What all processes get is the supervisor's, which leads this one.
        signal.signal(number, signal.SIG_IGN)
    holder = Holder(socket.socket(fileno=int(arguments[0])))
    gc.collect()
    gc.freeze()
    return holder.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
