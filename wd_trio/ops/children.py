"""One worker process as the supervisor sees it: started, booted, fed with connections, watched, drained.

A child is started by exec with the two ends of its sockets and the API's listeners inherited, in a process group of
its own (a terminal's Ctrl-C is the supervisor's alone), and without the variables that may hold secrets: all it is
to know comes with `Boot`. A child that answers no heartbeat is killed: what hangs is replaced.

A child that an earlier program in this process has started is adopted: its number, the ends of its sockets and what
is known of it are all there is (`state`).
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import msgspec
import structlog
import trio

from wd_trio.ops import messages, metrics
from wd_trio.ops.door import Arrival, Door
from wd_trio.ops.feed import Feed
from wd_trio.ops.handoff import Channel, ChannelOver, channel_pair
from wd_trio.ops.hub import Hub
from wd_trio.ops.processes import Process, environment, wait_hung

log = structlog.get_logger()

WORKER_COMMAND: Final = (sys.executable, "-m", "wd_trio.ops.worker")
ARENAS: Final = 2
ANSWER_SAMPLES_S: Final = 1.0
LAST_WORDS_S: Final = 1.0
REAP_S: Final = 5.0
TEXT_PIECE_CHARS: Final = 30_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildOptions:
    command: Sequence[str] = WORKER_COMMAND
    ping_s: float = 3.0
    silence_s: float = 15.0
    """A worker that says nothing for so long is killed; until it is ready it gets `start_silence_s`."""
    start_silence_s: float = 60.0
    sample_s: float = 15.0
    """A worker is asked for its samples at every scrape, and so often without one: what it counted after it last told
    dies with it when it is killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all children of a supervisor share."""

    door: Door
    hub: Hub
    api_descriptors: Sequence[int]
    upgrade: Callable[[int], None]
    """Called with the number of a connection that is to go on behind the end of TLS."""
    arrived: Callable[[], None]
    """Called when connections that another worker had were taken over, or ended."""
    metrics_text: Callable[[], Awaitable[str]]
    buried: Callable[[str], None]
    """Called with the owner of a dead worker when a living one has ended what it held."""
    api_tls_descriptors: Sequence[int] = ()
    options: ChildOptions = field(default_factory=ChildOptions)


class ChildState(msgspec.Struct, frozen=True, kw_only=True):
    """What a successor of this process needs to lead a worker on; its descriptors must stay open across the exec.
    `number` is the one by which its connections are kept, `last_words` what it has said of its last samples."""

    pid: int
    slot: int
    owner: str
    state: str
    number: int
    channel: int
    bus: int
    request: int
    samples: list[messages.Family]
    last_words: list[messages.Family] | None = None


class Child:
    """A worker process. `run` is its whole life; the rest may be called while it runs."""

    def __init__(
        self, boot: messages.Boot, around: Surroundings, *, on_ready: Callable[[], None], number: int = 0
    ) -> None:
        self.boot = boot
        self.state = "starting"
        self.pid = 0
        self.returncode: int | None = None
        self.was_ready = False
        self.failure = ""
        self.hung = False
        """Killed for its silence."""
        self.samples: list[messages.Family] = []
        self._around = around
        self._on_ready = on_ready
        self._process: Process | None = None
        self._channel: Channel | None = None
        self._bus: socket.socket | None = None
        self._adopted = False
        self._feed = Feed(
            around.door, boot.owner, arrived=around.arrived, upgrade=around.upgrade, number=number
        )
        self._heard = 0  # so many messages
        self._request = 0
        self._answering = 0
        self._asked: dict[int, tuple[list[messages.Family], trio.Event]] = {}
        self._gone = trio.Event()
        self._all_read = trio.Event()

    # -- from one program of this process to the next

    @classmethod
    def adopt(
        cls, state: ChildState, boot: messages.Boot, around: Surroundings, *, on_ready: Callable[[], None]
    ) -> Child:
        """A worker that a predecessor of this process has started; `boot` is what it was told, as far as we know.
        OSError when the machine is short of descriptors."""
        child = cls(boot, around, on_ready=on_ready, number=state.number)
        child._process = Process(state.pid)
        child._channel = Channel(socket.socket(fileno=state.channel))
        child._bus = socket.socket(fileno=state.bus)
        child._adopted = True
        child.pid = state.pid
        child.samples = state.samples
        child._request = state.request
        if state.last_words is not None:
            child._asked[0] = (state.last_words, trio.Event())
        child.state = state.state
        child.was_ready = state.state != "starting"
        if state.state == "ready":
            around.door.open_to(child._feed)
        return child

    def leave_state(self) -> ChildState | None:
        """What a successor needs, true at this moment; None when there is no process."""
        if self._process is None or self._channel is None or self._bus is None or self.state == "gone":
            return None
        return ChildState(
            pid=self.pid,
            slot=self.boot.slot,
            owner=self.boot.owner,
            state=self.state,
            number=self._feed.number,
            channel=self._channel.fileno(),
            bus=self._bus.fileno(),
            request=self._request,
            samples=self.samples,
            last_words=self._asked[0][0] if 0 in self._asked else None,
        )

    @property
    def quiet(self) -> bool:
        """Nothing is under way between us that a successor would not know of."""
        if self._process is None or self.state == "gone":
            return True
        whole = self._process.returncode is None and self._bus is not None and self._bus.fileno() != -1
        return whole and self._feed.quiet and not self._answering

    @property
    def pending(self) -> tuple[Arrival, ...]:
        """Connections that it is to get and has not been sent."""
        return self._feed.pending

    @property
    def number(self) -> int:
        """By which its connections are kept."""
        return self._feed.number

    # -- its life

    async def run(self) -> None:
        """Start the process, or take over the one that was adopted, and serve it until it has ended, however it
        ends; then `state` is "gone".

        OSError when there could be no process.
        """
        try:
            if not self._adopted:
                self._start()
        except BaseException:
            self._leave()
            raise
        process, channel, bus = self._process, self._channel, self._bus
        assert process is not None  # started, or adopted
        assert channel is not None
        assert bus is not None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(self._around.hub.serve, bus, behind=self._adopted))
                nursery.start_soon(self._listen, channel, nursery)
                nursery.start_soon(self._feed.run, channel)
                nursery.start_soon(self._watch, channel)
                nursery.start_soon(self._sample_now_and_then)
                self.returncode = await process.wait()
                with trio.move_on_after(LAST_WORDS_S):
                    await self._all_read.wait()
                nursery.cancel_scope.cancel()
        finally:
            # First of all it must be gone: its slots are read, and its connections given to others.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + REAP_S):
                process.kill()
                self.returncode = await process.wait()
            self._leave()

    def _start(self) -> None:
        """The process, with its first message sent: in one step, so that it is either there whole or not at all."""
        control, control_theirs = channel_pair()
        bus, bus_theirs = channel_pair()
        api = [*self._around.api_descriptors, *self._around.api_tls_descriptors]
        slots = self._around.door.connections.slots.descriptor
        inherited = [control_theirs.fileno(), bus_theirs.fileno(), slots, *api]
        try:
            with control_theirs, bus_theirs:
                control.send(messages.encode(self.boot))
                self._process = Process.spawn(
                    [*self._around.options.command, *(str(descriptor) for descriptor in inherited)],
                    inherited=inherited,
                    environ=environment(os.environ, arenas=ARENAS),
                )
        except BaseException:
            control.close()
            bus.close()
            raise
        self.pid = self._process.pid
        self._channel, self._bus = Channel(control), bus

    def _leave(self) -> None:
        self.state = "gone"
        around = self._around
        around.door.close_to(self._feed)
        if self._channel is not None:
            self._channel.close()
        self._feed.leave_to_others()
        self._gone.set()

    # -- what it says

    async def _listen(self, channel: Channel, nursery: trio.Nursery) -> None:
        try:
            while True:
                message = (await channel.receive()).message
                self._heard += 1
                self._hear(message, channel, nursery)
        except ChannelOver:
            self._all_read.set()
        except ValueError:  # also what msgspec raises: it speaks another language, so it cannot be led
            log.exception("worker sent nonsense", slot=self.boot.slot, worker_pid=self.pid)
            self.kill()

    def _hear(self, message: messages.Message, channel: Channel, nursery: trio.Nursery) -> None:
        match message:
            case messages.Ready():
                if self.state == "starting":
                    self.state = "ready"
                    self.was_ready = True
                    self._around.door.open_to(self._feed)
                    self._on_ready()
            case messages.Failed(reason=reason):
                self.failure = reason
            case messages.Adopted() | messages.Closed() | messages.Moved() | messages.Upgrade():
                self._feed.hear(message)
            case messages.Leaving():
                self.retire()
            case messages.Buried(owner=owner):
                self._around.buried(owner)
            case messages.Samples():
                self._take_samples(message)
            case messages.AskMetrics(request=request):
                nursery.start_soon(self._answer_metrics, channel, request)
            case _:
                pass  # Pong: having been heard is all it means

    @property
    def load(self) -> int:
        """Connections that it has or is about to get."""
        return self._feed.load

    async def tell_death(self, owner: str) -> None:
        """Have it end what a dead worker held; `Surroundings.buried` is called when it has."""
        if self._channel is not None:
            await self._say(self._channel, messages.Died(owner))

    async def tell_ending(self) -> None:
        """Have it say that the server is about to go."""
        if self._channel is not None:
            await self._say(self._channel, messages.Ending())

    async def _say(self, channel: Channel, message: messages.Message) -> bool:
        try:
            await channel.send(message)
        except ChannelOver:
            return False  # it is going; the wait for its process ends this child
        return True

    # -- watching

    async def _watch(self, channel: Channel) -> None:
        await wait_hung(
            lambda: self._heard,
            lambda number: self._say(channel, messages.Ping(number)),
            ping_s=self._around.options.ping_s,
            silence_s=lambda: self._silence_s,
        )
        log.error("worker hangs", slot=self.boot.slot, worker_pid=self.pid, silent_s=self._silence_s)
        self.hung = True
        self.kill()

    @property
    def _silence_s(self) -> float:
        options = self._around.options
        return options.start_silence_s if self.state == "starting" else options.silence_s

    # -- metrics

    async def _sample_now_and_then(self) -> None:
        while True:
            await trio.sleep(self._around.options.sample_s)
            await self.wait_sampled()

    async def wait_sampled(self) -> None:
        """Ask for fresh samples and wait for them, ANSWER_SAMPLES_S at most; `samples` holds the last ones."""
        channel = self._channel
        if channel is None or self.state not in ("ready", "draining"):
            return
        self._request += 1
        request = self._request
        done = trio.Event()
        self._asked[request] = ([], done)
        try:
            with trio.move_on_after(ANSWER_SAMPLES_S):
                if await self._say(channel, messages.AskSamples(request)):
                    await done.wait()
        finally:
            del self._asked[request]

    def _take_samples(self, message: messages.Samples) -> None:
        if message.request not in self._asked and message.request != 0:
            return  # its asker has given up
        parts, done = self._asked.setdefault(message.request, ([], trio.Event()))
        parts.extend(message.families)
        if message.last:
            self.samples = parts
            done.set()
            if message.request == 0:
                del self._asked[0]

    async def _answer_metrics(self, channel: Channel, request: int) -> None:
        self._answering += 1
        try:
            await self._tell_metrics(channel, request)
        finally:
            self._answering -= 1

    async def _tell_metrics(self, channel: Channel, request: int) -> None:
        text = await self._around.metrics_text()
        for at in range(0, max(len(text), 1), TEXT_PIECE_CHARS):
            piece = text[at : at + TEXT_PIECE_CHARS]
            if not await self._say(
                channel, messages.Metrics(request, piece, at + TEXT_PIECE_CHARS >= len(text))
            ):
                return

    # -- its end

    async def drain(self, *, deadline_s: float, hard_s: float, stopping: bool) -> bool:
        """Ask it to end and wait until it has; kill it after `hard_s`. True when it ended by itself, or had
        nothing to end."""
        if self.state == "starting":
            self.kill()
            await self._gone.wait()
            return True
        self.retire()
        channel = self._channel
        assert channel is not None  # only a starting child has none
        begun = trio.current_time()
        with trio.move_on_after(hard_s):
            await self._say(channel, messages.Drain(deadline_s, stopping))
            await self._gone.wait()
            metrics.drain_seconds.labels("clean").observe(trio.current_time() - begun)
            return True
        log.error("worker did not drain", slot=self.boot.slot, worker_pid=self.pid)
        self.kill()
        await self._gone.wait()
        metrics.drain_seconds.labels("killed").observe(trio.current_time() - begun)
        return False

    def retire(self) -> None:
        """Give it no more connections; those not yet on their way go to others."""
        self.state = "gone" if self._gone.is_set() else "draining"
        self._around.door.close_to(self._feed)
        self._feed.give_back_pending()

    def kill(self) -> None:
        """End the process now."""
        if self._process is not None:
            self._process.kill()
