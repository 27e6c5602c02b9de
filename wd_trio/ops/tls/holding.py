"""The holder of TLS connections as the supervisor sees it: kept running, fed with clients, led, replaced when it
dies.

    holding = Holding(certificate, key, on_secured=…, on_failed=…)
    nursery.start_soon(holding.run)
    holding.come(Newcomer("imap", ip, port), sock)          # → on_secured(newcomer, plaintext socket, facts)
                                                            # or on_failed(newcomer, reason)

Who is how far is in clients.py. What is to be done with a finished handshake is data (`Newcomer`), not a
closure: a supervisor that replaces itself hands it to its successor (`export_state`, `adopt_state`), which gets the
answer. Every message is sent in one step that never waits, so at any moment it is known whether it has left.

A holder that dies takes its TLS connections along (what a key has begun nobody else can go on with); a new one is
started with back-off, and who comes meanwhile waits for it. One that cannot start refuses those who wait: they must
not gather.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog
import trio

from wd_trio.errors import Invalid
from wd_trio.ops import metrics
from wd_trio.ops.handoff import CROWDED_PAUSE_S, channel_pair
from wd_trio.ops.processes import Process, environment, wait_hung
from wd_trio.ops.tls import channel as c
from wd_trio.ops.tls.clients import Clients, OnFailed, OnSecured
from wd_trio.ops.tls.state import NEW, HoldingState, Newcomer, TlsFacts
from wd_trio.servers.tls import server_context

__all__ = ["NEW", "Holding", "HoldingOptions", "HoldingState", "HoldingStatistics", "Newcomer", "TlsFacts"]

log = structlog.get_logger()

HOLDER_COMMAND: Final = (sys.executable, "-m", "wd_trio.ops.tls.holder")
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 10.0
STEADY_S: Final = 30.0
LOAD_S: Final = 5.0
LAST_WORDS_S: Final = 1.0
KILL_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldingOptions:
    command: Sequence[str] = HOLDER_COMMAND
    holder: c.HolderOptions = field(default_factory=c.HolderOptions)
    ping_s: float = 3.0
    silence_s: float = 20.0
    """A holder that says nothing for so long is killed: it hangs, and so does everyone in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldingStatistics:
    pid: int
    ready: bool
    waiting: int
    """Clients that no holder has yet."""
    unfinished: int
    """Handshakes in the holder, by our own count."""
    open: int
    """Connections in the holder, as it last told (a few seconds ago at most)."""


class Holding:
    """Keeps a holder while there is a certificate. `run` is its life, in a nursery of the owner's; the rest may be
    called while it runs."""

    def __init__(
        self,
        certificate: str,
        key: str,
        *,
        on_secured: OnSecured,
        on_failed: OnFailed,
        options: HoldingOptions | None = None,
    ) -> None:
        """`certificate` and `key` are paths of PEM files; "" when there is no TLS (yet)."""
        self._files = (certificate, key)
        self._clients = Clients(on_secured=on_secured, on_failed=on_failed)
        self._options = options or HoldingOptions()
        self._process: Process | None = None
        self._channel: socket.socket | None = None
        self._ready = False
        self._adopted = False
        self._stopping = False
        self._heard = 0  # words of the holder
        self._open = 0
        self._last_request = 0
        self._loads: dict[int, tuple[trio.Event, list[str]]] = {}
        self._wanted = trio.Event()
        self._work = trio.Event()
        self._pausing = trio.CancelScope()
        self._ended = trio.Event()

    # -- its life

    async def run(self) -> None:
        """Keep a holder running until `stop`; cancelled, it leaves the holder to itself, which then drains."""
        try:
            pause_s = FIRST_PAUSE_S
            while not self._stopping:
                if not self._files[0] and not self._adopted:
                    await self._wanted.wait()
                    continue
                began, was_ready = trio.current_time(), False
                status: int | None = None
                try:
                    status = await self._live()
                except OSError as error:  # no process could be made: the machine is short of something
                    log.warning("TLS holder not started", error=str(error))
                finally:
                    was_ready, lost = self._ready, self._lose()
                if self._stopping:
                    return
                metrics.tls_holder_deaths_total.inc()
                metrics.tls_connections_lost_total.inc(lost)
                if trio.current_time() - began >= STEADY_S:
                    pause_s = FIRST_PAUSE_S
                log.error("TLS holder died", status=status, connections_lost=lost, restart_in_s=pause_s)
                if not was_ready:
                    self._clients.fail_waiting("no holder")
                with trio.CancelScope() as self._pausing:
                    await trio.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
        finally:
            self._clients.fail_waiting("stopping")
            self._ended.set()

    async def _live(self) -> int | None:
        """One holder's life, from its start (or adoption) to its end; its exit status."""
        channel, process = self._channel, self._process
        if not self._adopted or channel is None or process is None:
            channel, process = self._start()
            await self._say(channel, c.Begin(c.VERSION, *self._files, self._options.holder))
        elif self._files[0]:
            self._last_request += 1
            await self._say(channel, c.Load(self._last_request, *self._files))
        self._adopted = False
        async with trio.open_nursery() as nursery:
            heard_all = trio.Event()
            nursery.start_soon(self._listen, channel, heard_all)
            nursery.start_soon(self._feed, channel)
            nursery.start_soon(self._watch, channel, process)
            status = await process.wait()
            with trio.move_on_after(LAST_WORDS_S):
                await heard_all.wait()
            nursery.cancel_scope.cancel()
        return status

    def _start(self) -> tuple[socket.socket, Process]:
        ours, theirs = channel_pair()
        try:
            with theirs:
                self._process = Process.spawn(
                    [*self._options.command, str(theirs.fileno())],
                    inherited=[theirs.fileno()],
                    environ=environment(os.environ, arenas=1),
                )
        except BaseException:
            ours.close()
            raise
        self._channel = ours
        return ours, self._process

    def _lose(self) -> int:
        """The holder is gone: so are its connections (how many), and every handshake that it had."""
        if self._channel is not None:
            self._channel.close()
        self._channel = self._process = None
        self._ready = False
        lost, self._open = self._open, 0
        metrics.tls_connections_open.set(0)
        self._clients.lose()
        for done, _ in self._loads.values():  # the next one begins with what it was to load
            done.set()
        return lost

    # -- clients

    def come(self, newcomer: Newcomer, sock: socket.socket) -> None:
        """Have TLS made with a client. Takes the socket over: `on_secured` or `on_failed` is called, later or now."""
        if self._stopping or not self._files[0]:
            self._clients.refuse(newcomer, sock, "stopping" if self._stopping else "no certificate")
            return
        self._clients.come(newcomer, sock)
        self._work.set()

    async def wait_room(self) -> None:
        """Wait until not too many wait already."""
        while not self._clients.has_room:  # noqa: ASYNC110 - many things make room, and it is rarely waited for
            await trio.sleep(CROWDED_PAUSE_S)

    async def _feed(self, channel: socket.socket) -> None:
        while True:
            batch = self._clients.next_batch() if self._ready and not self._stopping else None
            if batch is None:
                await self._work.wait()
                self._work = trio.Event()
            elif not await self._say(channel, *batch, sent=self._clients.left):
                return

    # -- what it says

    async def _listen(self, channel: socket.socket, heard_all: trio.Event) -> None:
        try:
            while True:
                try:
                    received = c.receive_nowait(channel)
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(channel)
                    continue
                self._heard += 1
                self._hear(received)
                await trio.lowlevel.checkpoint()
        except c.ChannelClosed:
            heard_all.set()
        except ValueError:
            log.exception("TLS holder sent nonsense")
            self.kill()

    def _hear(self, received: c.Received) -> None:
        match received.message:
            case c.Ready(fault=fault):
                if fault:
                    log.error("TLS holder cannot start", error=fault)
                    return
                self._ready = True
                log.info("TLS holder ready", holder_pid=self._process.pid if self._process else None)
                self._work.set()
            case c.Taken() as taken:
                self._clients.taken(taken)
                self._work.set()
            case c.Done() as done:
                self._clients.done(done, received.descriptors)
            case c.Gone(failed=failed):
                self._clients.gone(failed)
            case c.Counts(open=count):
                self._open = count
                metrics.tls_connections_open.set(count)
            case c.Loaded(request=request, fault=fault):
                self._loaded(request, fault)
            case c.Trouble(text=text):
                log.error("a TLS connection failed", trouble=text)
            case _:
                log.error("unexpected word of the TLS holder", message=type(received.message).__name__)

    async def _say(
        self,
        channel: socket.socket,
        message: c.ToHolder,
        descriptors: Sequence[int] = (),
        *,
        sent: Callable[[], None] = lambda: None,
    ) -> bool:
        """Send when there is room; `sent` is called in the same step. False when nobody is there."""
        while True:
            try:
                c.send_nowait(channel, message, descriptors)
            except OSError as error:  # it is full, or too many descriptors are under way
                if not isinstance(error, BlockingIOError):
                    log.warning("TLS holder not reached", error=str(error))
                await trio.sleep(CROWDED_PAUSE_S)  # rare, and several may wait
            except c.ChannelClosed:
                return False
            else:
                sent()
                return True

    async def _watch(self, channel: socket.socket, process: Process) -> None:
        silence_s = self._options.silence_s
        await wait_hung(
            lambda: self._heard,
            lambda _: self._ask(channel),
            ping_s=self._options.ping_s,
            silence_s=lambda: silence_s,
        )
        log.error("TLS holder hangs", holder_pid=process.pid, silent_s=silence_s)
        process.kill()

    async def _ask(self, channel: socket.socket) -> None:
        self._last_request += 1
        await self._say(channel, c.Ask(self._last_request))

    # -- leading it

    async def reload(self, certificate: str, key: str) -> list[str]:
        """Use this certificate from now on; the faults, if it is no good: then the old one stays. Connections that
        are open keep theirs. Without one ("") nobody comes any more."""
        try:
            if certificate:
                server_context(certificate, key)
        except Invalid as error:
            return [f"{error.what}: {error}"]
        before, self._files = self._files, (certificate, key)  # those of a holder that starts meanwhile
        self._wanted.set()
        self._wanted = trio.Event()
        faults: list[str] = []
        if certificate and self._channel is not None:
            faults = await self._load(self._channel, certificate, key)
        if faults:
            self._files = before
        return faults

    async def _load(self, channel: socket.socket, certificate: str, key: str) -> list[str]:
        self._last_request += 1
        request = self._last_request
        done, faults = self._loads[request] = (trio.Event(), [])
        try:
            with trio.move_on_after(LOAD_S):
                if await self._say(channel, c.Load(request, certificate, key)):
                    await done.wait()
                return faults
        finally:
            del self._loads[request]
        return [f"the TLS holder did not answer within {LOAD_S:.0f} s"]

    def _loaded(self, request: int, fault: str) -> None:
        asked = self._loads.get(request)
        if asked is not None:
            if fault:
                asked[1].append(fault)
            asked[0].set()
        elif fault:
            log.error("TLS holder keeps its old certificate", fault=fault)

    async def stop(self, *, deadline_s: float) -> bool:
        """Have the holder end with its last connection, within the deadline; True when it needed no force."""
        self._stopping = True
        self._wanted.set()
        self._pausing.cancel()
        self._work.set()
        if self._ended.is_set():
            return True
        with trio.move_on_after(deadline_s + KILL_S):
            if self._channel is not None:
                await self._say(self._channel, c.Leave(deadline_s))
            await self._ended.wait()
            return True
        log.error("TLS holder did not end")
        self.kill()
        await self._ended.wait()
        return False

    def kill(self) -> None:
        """End the holder now, and everyone in it."""
        if self._process is not None:
            self._process.kill()

    def statistics(self) -> HoldingStatistics:
        return HoldingStatistics(
            pid=self._process.pid if self._process is not None else 0,
            ready=self._ready,
            waiting=self._clients.waiting,
            unfinished=self._clients.unfinished,
            open=self._open,
        )

    # -- across an exec

    @property
    def quiet(self) -> bool:
        """Nothing is under way that a successor would not know of: no holder has ended whose end is not seen to."""
        return self._process is None or self._process.returncode is None

    def export_state(self) -> HoldingState:
        """All that a successor needs, true at this moment: exec before anything else of this process runs."""
        return self._clients.export_state(
            pid=self._process.pid if self._process is not None else 0,
            channel=self._channel.fileno() if self._channel is not None else -1,
            ready=self._ready,
        )

    def adopt_state(self, state: HoldingState) -> None:
        """Go on where a predecessor of this process left off, its descriptors now being ours. Before `run`."""
        self._clients.adopt_state(state)
        if not state.pid or state.channel < 0:
            return
        self._adopted = True
        self._ready = state.ready
        self._channel = socket.socket(fileno=state.channel)
        self._channel.setblocking(False)
        self._process = Process(state.pid)
