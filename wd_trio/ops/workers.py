"""The worker slots: who keeps each one filled, and how all are replaced while the server serves.

A keeper fills one slot with one generation of workers: one that dies is started again with back-off (0.1 s doubling
to 10 s, forgotten after 30 s of life). A roll puts a new keeper beside the old one, slot by slot: only when the new
worker is ready is the old one drained, so that a configuration that no worker can start with changes nothing.

What a worker holds (claims, sessions) it holds under a name that no other worker of this server ever has,
`<server>/<slot>.<number>`. Its connections go to others with their sessions; when those have taken them over, a
living worker is told to end the rest at once; where none lives, the next one to start does so before it is
ready. Until one of them has said so, a death is told again with the next one.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

import msgspec
import structlog
import trio

from wd_trio.config import Config
from wd_trio.ops import messages, metrics, status
from wd_trio.ops.children import Child, ChildOptions, ChildState, Surroundings
from wd_trio.ops.connections import NOBODY
from wd_trio.ops.door import Arrival, Door
from wd_trio.ops.hub import Hub
from wd_trio.ops.messages import Boot, Family
from wd_trio.ports.bus import Hint

log = structlog.get_logger()

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 10.0
STEADY_S: Final = 30.0
START_S: Final = 30.0
HARD_S: Final = 9.0


class Keeper:
    """Keeps one slot filled until it is retired."""

    def __init__(
        self,
        make: Callable[[Keeper], Child],
        slot: int,
        *,
        on_death: Callable[[Child], None],
        adopt: Callable[[Keeper], Child] | None = None,
    ) -> None:
        """`make` makes the child to run next; `adopt` the first, which runs already."""
        self.slot = slot
        self.child: Child | None = None
        self._adopted: Child | None = None
        self.failure = ""
        self.settled = trio.Event()
        """Set once: a worker became ready, or one cannot start (`failure` says why)."""
        self.ended = trio.Event()
        self._make = make
        self._on_death = on_death
        self._retired = False
        self._pausing = trio.CancelScope()
        if adopt is not None:
            self.child = self._adopted = adopt(self)
            if self.child.state == "ready":
                self.settled.set()

    async def run(self) -> None:
        try:
            await self._keep()
        finally:
            self.ended.set()
            self.settled.set()

    async def _keep(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._retired or self._adopted is not None:  # which runs already, and is to be seen out
            child, began = self._next(), trio.current_time()
            try:
                await child.run()
            except OSError as error:  # no process could be made: the machine is short of something
                child.failure = str(error)
            except (
                Exception
            ):  # a defect of ours costs this worker, whose connections others get, not the server
                log.exception("worker not led", slot=self.slot, worker_pid=child.pid)
            self._on_death(child)
            if self._retired:
                return
            if child.failure:
                self.failure = child.failure
                self.settled.set()
            metrics.worker_deaths_total.inc()
            if trio.current_time() - began >= STEADY_S:
                pause_s = FIRST_PAUSE_S
            log.error(
                "worker died",
                slot=self.slot,
                worker_pid=child.pid,
                status=_status(child.returncode),
                reason=child.failure or None,
                restart_in_s=pause_s,
            )
            with trio.CancelScope() as self._pausing:
                await trio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            if not self._retired:
                metrics.worker_restarts_total.labels(_cause(child)).inc()

    def _next(self) -> Child:
        if self._adopted is not None:
            child, self._adopted = self._adopted, None
        else:
            metrics.worker_starts_total.inc()
            self.child = child = self._make(self)
        return child

    async def retire(self, *, deadline_s: float, hard_s: float = HARD_S, stopping: bool = False) -> bool:
        """Drain the worker and fill the slot no more; True when it ended by itself."""
        self._retired = True
        self._pausing.cancel()
        clean = True
        if self.child is not None and self.child.state != "gone":
            clean = await self.child.drain(deadline_s=deadline_s, hard_s=hard_s, stopping=stopping)
        await self.ended.wait()
        return clean

    def kill(self) -> None:
        """End the worker at once and fill the slot no more."""
        self._retired = True
        self._pausing.cancel()
        if self.child is not None:
            self.child.kill()


class WorkersState(msgspec.Struct, frozen=True, kw_only=True):
    """What a successor of this process needs. `waiting` are connections without a worker, with their unread input and
    how often one was tried; `dead` is what all processes that are gone have counted, ours among them; `unburied` are
    the owner names of workers that are gone and still hold something in the store."""

    children: list[ChildState]
    waiting: list[tuple[int, bytes, int]]
    dead: list[Family]
    last_number: int
    unburied: list[str]


class Workers:
    """All slots. Runs in a nursery of its owner's."""

    def __init__(
        self,
        config: Config,
        *,
        count: int,
        server: str,
        door: Door,
        api_descriptors: Sequence[int],
        api_tls_descriptors: Sequence[int] = (),
        options: ChildOptions,
        nursery: trio.Nursery,
        upgrade: Callable[[int], None],
    ) -> None:
        """`upgrade` is called with the number of a connection whose client wants TLS to begin (STARTTLS)."""
        self._config = config
        self._count = count
        self._server = server
        self._around = Surroundings(
            door=door,
            hub=Hub(),
            api_descriptors=api_descriptors,
            api_tls_descriptors=api_tls_descriptors,
            upgrade=upgrade,
            arrived=self._tell_deaths,
            metrics_text=self.metrics_text,
            buried=self._buried,
            options=options,
        )
        self._nursery = nursery
        self._keepers: dict[int, Keeper] = {}
        self._retiring: set[Keeper] = set()
        self._coming: Keeper | None = None
        self._stopping = False
        self._ending = False
        self._dead = metrics.Totals()
        self._last_number = 0
        self._unburied: dict[str, bool] = {}  # owners, and whether a living worker was told

    # -- starting

    def start(self) -> None:
        """Fill every slot for the first time."""
        for slot in range(1, self._count + 1):
            self._keepers[slot] = self._keep(slot, self._config)

    async def wait_settled(self) -> str:
        """Wait until every slot has had a ready worker; or return why a worker cannot start at all."""
        for keeper in list(self._keepers.values()):
            await keeper.settled.wait()
            if keeper.failure:
                return keeper.failure
        return ""

    def _keep(self, slot: int, config: Config, adopted: ChildState | None = None) -> Keeper:
        def make(keeper: Keeper) -> Child:
            self._last_number += 1
            owner = f"{self._server}/{slot}.{self._last_number}"
            dead = sorted(self._without_heirs())[
                : messages.MANY_DEAD
            ]  # of the others it is told when it is ready
            api_tls = list(self._around.api_tls_descriptors)
            boot = Boot(messages.VERSION, config, self._server, slot, owner, dead, api_tls)
            return Child(boot, self._around, on_ready=lambda: self._became_ready(keeper))

        def adopt(keeper: Keeper) -> Child:
            assert adopted is not None
            boot = Boot(messages.VERSION, config, self._server, slot, adopted.owner)
            return Child.adopt(adopted, boot, self._around, on_ready=lambda: self._became_ready(keeper))

        keeper = Keeper(make, slot, on_death=self._died, adopt=adopt if adopted is not None else None)
        self._nursery.start_soon(keeper.run)
        return keeper

    def _became_ready(self, keeper: Keeper) -> None:
        child = keeper.child
        log.info("worker ready", slot=keeper.slot, worker_pid=child.pid if child else None)
        self._count_ready()
        self._tell_deaths(again=True)
        if self._ending and child is not None:
            self._nursery.start_soon(child.tell_ending)
        keeper.settled.set()

    def _died(self, child: Child) -> None:
        self._dead.add(child.samples, lasting_only=True)
        child.samples = []
        self._count_ready()
        if child.was_ready:  # before that it held nothing
            self._unburied[child.boot.owner] = False
        self._tell_deaths(again=True)

    def _tell_deaths(self, *, again: bool = False) -> None:
        """Tell a living worker of the dead whose connections others have taken over; `again` of those, too, that one
        was told of already."""
        if not self._unburied:
            return
        living = next((child for child in self._children() if child.state == "ready"), None)
        if living is None:
            return
        for owner in self._without_heirs():
            if again or not self._unburied[owner]:
                self._unburied[owner] = True
                self._nursery.start_soon(living.tell_death, owner)

    def _without_heirs(self) -> list[str]:
        """The dead of whom nothing is in flight any more: what they still hold in the store can be ended."""
        return [owner for owner in self._unburied if not self._around.door.connections.in_flight(owner)]

    def _buried(self, owner: str) -> None:
        self._unburied.pop(owner, None)

    def _count_ready(self) -> None:
        metrics.workers_ready.set(sum(child.state == "ready" for child in self._children()))

    def _children(self) -> list[Child]:
        return [keeper.child for keeper in self._all() if keeper.child is not None]

    # -- from one program of this process to the next

    def succeed(self, state: WorkersState, *, elsewhere: Collection[int] = ()) -> None:
        """Lead on the workers that a predecessor of this process had, in place of `start`. `elsewhere` are the
        numbers of connections that are no worker's for now and yet not lost. OSError when the machine is short of
        descriptors."""
        self._dead.add(state.dead)
        self._last_number = state.last_number
        self._unburied = dict.fromkeys(state.unburied, False)
        for each in state.children:
            self._keepers[each.slot] = self._keep(each.slot, self._config, each)
        for slot in range(1, self._count + 1):
            if slot not in self._keepers:
                self._keepers[slot] = self._keep(slot, self._config)
        self._count_ready()
        door = self._around.door
        numbers = {child.number for child in self._children()}
        waiting = [Arrival(number, unread, tries) for number, unread, tries in state.waiting]
        kept = {arrival.number for arrival in waiting}.union(elsewhere)
        for number in door.connections.forgotten(numbers, kept):
            door.connections.end(number)
        for arrival in waiting:
            door.connections.hold(arrival.number, NOBODY)
            door.place(arrival)
        self._tell_deaths()

    def leave_state(self) -> WorkersState:
        """What a successor needs, true at this moment."""
        dead = self._dead.copy()
        dead.add(_own_samples(), lasting_only=True)
        door = self._around.door
        pending = (arrival for child in self._children() for arrival in child.pending)
        return WorkersState(
            children=[state for child in self._children() if (state := child.leave_state()) is not None],
            waiting=[(each.number, each.unread, each.tries) for each in (*door.waiting, *pending)],
            dead=dead.families(),
            last_number=self._last_number,
            unburied=list(self._unburied),
        )

    @property
    def quiet(self) -> bool:
        """Nothing is under way with a worker that a successor would not know of."""
        return not self._retiring and self._coming is None and all(child.quiet for child in self._children())

    async def wait_rolled(self) -> None:
        """Wait until those that others have replaced are gone."""
        for keeper in list(self._retiring):
            await keeper.ended.wait()

    # -- replacing

    async def roll(self, config: Config, *, count: int) -> list[str]:
        """Replace every worker by one with `config`, one after the other; why not, if one cannot start (those
        before it keep the new configuration's workers only if the first could start, else nothing changed)."""
        await self.wait_rolled()
        for slot in range(1, count + 1):
            if self._stopping:
                return ["the server is stopping"]
            old = self._keepers.get(slot)
            self._coming = new = self._keep(slot, config)
            with trio.move_on_after(START_S):
                await new.settled.wait()
            self._coming = None
            if new.failure or new.ended.is_set() or not new.settled.is_set():
                new.kill()
                await new.ended.wait()
                return [new.failure or f"the new worker was not ready within {START_S:.0f} s"]
            self._keepers[slot] = new
            if old is not None:
                metrics.worker_restarts_total.labels("rolled").inc()
                self._retire(old)
        for slot in [slot for slot in self._keepers if slot > count]:
            self._retire(self._keepers.pop(slot))
        self._config, self._count = config, count
        return []

    def _retire(self, keeper: Keeper) -> None:
        self._retiring.add(keeper)
        if keeper.child is not None and keeper.child.state == "ready":
            keeper.child.retire()
        self._nursery.start_soon(self._see_out, keeper)

    async def _see_out(self, keeper: Keeper) -> None:
        await keeper.retire(deadline_s=self._config.server.drain_s)
        self._retiring.discard(keeper)

    # -- ending

    def announce_end(self) -> None:
        """Have every worker, and those that come, say that the server is about to go."""
        self._ending = True
        for child in self._children():
            if child.state == "ready":
                self._nursery.start_soon(child.tell_ending)

    async def stop(self, *, deadline_s: float, hard_s: float) -> bool:
        """Drain every worker at once and wait for all; True when all ended by themselves."""
        self._stopping = True
        clean: list[bool] = []

        async def see_out(keeper: Keeper) -> None:
            clean.append(await keeper.retire(deadline_s=deadline_s, hard_s=hard_s, stopping=True))

        async with trio.open_nursery() as nursery:
            for keeper in self._all():
                nursery.start_soon(see_out, keeper)
        return all(clean)

    def kill(self) -> None:
        """End every worker at once."""
        self._stopping = True
        for keeper in self._all():
            keeper.kill()

    def _all(self) -> list[Keeper]:
        coming = [self._coming] if self._coming is not None else []
        return [*self._keepers.values(), *self._retiring, *coming]

    # -- telling

    def publish(self, hint: Hint) -> None:
        """Give a hint to every worker, as if another one had published it."""
        self._around.hub.publish(hint)

    async def metrics_text(self) -> str:
        """The whole server's metrics as text."""
        return (await self.totals()).text()

    async def totals(self) -> metrics.Totals:
        """The whole server's metrics, asked for now: the living, the dead and the supervisor's own."""
        async with trio.open_nursery() as nursery:
            for child in self._children():
                nursery.start_soon(child.wait_sampled)
        totals = self._dead.copy()
        for child in self._children():
            totals.add(child.samples)
        status.measure(self._around.door.connections, [child.pid for child in self._children()])
        totals.add(_own_samples())
        return totals

    def status(self) -> list[dict[str, Any]]:
        return [
            {
                "slot": child.boot.slot,
                "pid": child.pid,
                "state": child.state,
                "connections": child.load,
                "parked": int(metrics.value(child.samples, status.PARKED)),
            }
            for child in self._children()
        ]


def _own_samples() -> list[Family]:
    return metrics.sample(metrics.SUPERVISOR)


def _cause(child: Child) -> str:
    """Why a worker that has ended had to be replaced, in a word."""
    if child.hung:
        return "hung"
    return "died" if child.was_ready else "failed"


def _status(returncode: int | None) -> str:
    if returncode is not None and returncode < 0:
        return f"killed by {_signal(-returncode)}"
    return f"exit status {returncode}"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have no name
        return f"signal {number}"
