"""The gateway: synchronous engine calls for one trio loop, many of them for one wake-up.

    async with Gateway([LaneOptions(name="store.write", group=database.group), …]) as gateway:
        page = await gateway.run(store.fetch, mailbox_id, uids, columns)

The loop puts crossings into their lanes (lanes.py) and rouses these before it would wait for the kernel: a thread
woken earlier would take the interpreter at the loop's next system call, and the two would hand it to each other for
each of twenty commands. Threads run the crossings and put them among the finished; the first one to do so since the
last delivery wakes the loop, and the delivery hands out all that is there. At one call in flight this costs what any
thread hand-over costs; at fifty the two wake-ups are shared by fifty.

What a caller may rely on
- Cancelled before its call has begun: the call never runs. After: a lane that may be abandoned is left at once
  and the result dropped; any other outcome is waited for and returned, and the next checkpoint cancels.
- Unavailable at once when the lane's queue is full or the engine's breaker is open (breaker.py); after `wait_s`
  when the call did not get to begin, even if every thread of the lane hangs. One watch thread sees to that, by
  the real clock: a test's clock that jumps must not time out a thread that works.
- What the call raised is raised as it is.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Final, ParamSpec, Self, TypeVar

import trio
from prometheus_client import Counter as Metric

from wd_trio import errors, telemetry
from wd_trio.adapters.breaker import Breaker
from wd_trio.adapters.lanes import Crossing, Lane, LaneOptions
from wd_trio.ports.gateway import lane_of

__all__ = ["Gateway", "GatewayStatistics", "LaneOptions", "LaneStatistics"]

P = ParamSpec("P")
T = TypeVar("T")

BREAKER_THRESHOLD: Final = 5
BREAKER_RETRY_S: Final = 0.5
CLOSE_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class LaneStatistics:
    """One lane since the start. `waiting` is now; `wakes` counts threads woken, `groups` calls of the group."""

    name: str
    waiting: int
    wakes: int
    groups: int
    results: dict[str, int]
    breaker_open: bool


@dataclass(frozen=True, slots=True)
class GatewayStatistics:
    """`deliveries` counts wake-ups of the loop, `crossings` the calls that they brought back."""

    deliveries: int
    crossings: int
    lanes: tuple[LaneStatistics, ...]


class Gateway:
    """Implements ports.gateway.Gateway. Opened once, by the loop that uses it; all its methods are for that loop."""

    def __init__(
        self,
        lanes: Iterable[LaneOptions],
        *,
        breaker_threshold: int = BREAKER_THRESHOLD,
        breaker_retry_s: float = BREAKER_RETRY_S,
        close_s: float = CLOSE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wake_asked = False
        self._rouser = _Rouser()
        self._deliveries = 0
        self._crossings = 0
        self._close_s = close_s
        self._is_open = False
        self._token: trio.lowlevel.TrioToken | None = None
        breakers: dict[str, Breaker] = {}
        self._desks: dict[str, _Desk] = {}
        for options in lanes:
            breaker = None
            if options.engine is not None:
                breaker = breakers.setdefault(
                    options.engine,
                    Breaker(threshold=breaker_threshold, retry_s=breaker_retry_s, clock=clock),
                )
            self._desks[options.name] = _Desk(Lane(options, self._ask_delivery), breaker)
        self._watch_ends = threading.Event()
        self._watch = threading.Thread(target=self._refuse_overdue, name="gateway-watch", daemon=True)

    async def __aenter__(self) -> Self:
        await trio.lowlevel.checkpoint()
        self._token = trio.lowlevel.current_trio_token()
        for desk in self._desks.values():
            desk.lane.start()
            telemetry.gateway_waiting.labels(desk.lane.options.name).set_function(desk.waiting)
        self._watch.start()
        trio.lowlevel.add_instrument(self._rouser)
        self._is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Refuse new calls, let those that are queued end, and join the threads for `close_s` at most."""
        self._is_open = False
        trio.lowlevel.remove_instrument(self._rouser)
        for desk in self._desks.values():
            desk.lane.close()
            telemetry.gateway_waiting.remove(desk.lane.options.name)
        with trio.CancelScope(shield=True):  # bounded: the joins share one deadline of `close_s`
            await trio.to_thread.run_sync(self._join, limiter=trio.CapacityLimiter(1))

    async def run(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `call` in its lane and return its result; see the module's text for what is promised.

        KeyError for a call marked with a lane that this gateway does not have.
        """
        desk = self._desks[lane_of(call)]
        if not self._is_open or not desk.admits():
            await trio.lowlevel.checkpoint()
            raise errors.Unavailable("refused by the gateway", what=desk.lane.options.name)
        await trio.lowlevel.checkpoint_if_cancelled()
        crossing = Crossing(desk.lane, trio.lowlevel.current_task(), call, args, kwargs)
        tally = telemetry.tally.get()
        if tally is not None:
            tally.crossed(desk.lane.options.name)
        desk.lane.queue.append(crossing)
        self._rouser.lanes.add(desk.lane)
        await trio.lowlevel.wait_task_rescheduled(partial(desk.abort, crossing))
        if tally is not None and crossing.round_trips:
            tally.made(crossing.round_trips)
        error = crossing.error
        if error is None:
            value: T = crossing.value
            return value
        # Its traceback holds frames that hold the crossing and the error: break both cycles.
        crossing.error = None
        try:
            raise error
        finally:
            del error

    def statistics(self) -> GatewayStatistics:
        return GatewayStatistics(
            self._deliveries, self._crossings, tuple(desk.statistics() for desk in self._desks.values())
        )

    def _deliver(self) -> None:
        """Hand out all that has finished; what finishes meanwhile asks for the next delivery itself."""
        self._wake_asked = False
        self._deliveries += 1
        for desk in self._desks.values():
            finished = desk.lane.finished
            if not finished:
                continue
            batch = [finished.popleft() for _ in range(len(finished))]
            for crossing in batch:
                if crossing.task is not None:
                    trio.lowlevel.reschedule(crossing.task)
            self._crossings += len(batch)
            desk.settle(batch)

    def _ask_delivery(self) -> None:
        """Called by the threads after each crossing that they put among the finished."""
        # Who reads True here has put its crossing before a delivery that is still to come. Two who read False
        # ask twice, which costs a wake-up and no more.
        if self._wake_asked:
            return
        self._wake_asked = True
        assert self._token is not None
        try:
            self._token.run_sync_soon(self._deliver, idempotent=True)
        except trio.RunFinishedError:
            return  # the loop has ended while an engine hung: nobody waits for this any more

    def _refuse_overdue(self) -> None:
        """The watch: sleeps until the oldest waiting call would be overdue, at most once per `wait_s` idle."""
        lanes = [desk.lane for desk in self._desks.values()]
        pause_s = 0.0
        while not self._watch_ends.wait(pause_s):
            now = time.monotonic()
            again_at = min((lane.refuse_overdue(now) for lane in lanes), default=now + 1.0)
            pause_s = max(0.001, again_at - time.monotonic())

    def _join(self) -> None:
        until = time.monotonic() + self._close_s
        for desk in self._desks.values():
            desk.lane.join(until)
        self._watch_ends.set()
        self._watch.join(max(0.0, until - time.monotonic()))


class _Rouser(trio.abc.Instrument):
    """Rouses lanes when the loop has run all that could run."""

    def __init__(self) -> None:
        self.lanes: set[Lane] = set()
        """Those that something was put into."""

    def before_io_wait(self, timeout: float) -> None:
        if self.lanes:
            for lane in self.lanes:
                lane.rouse()
            self.lanes.clear()


class _Desk:
    """The loop's side of one lane: admission, leaving, and counting what came back."""

    def __init__(self, lane: Lane, breaker: Breaker | None) -> None:
        self.lane = lane
        self._breaker = breaker
        self._results: Counter[str] = Counter()
        self._metrics: dict[str, Metric] = {}
        self._wait_seconds = telemetry.gateway_wait_seconds.labels(lane.options.name)
        self._run_seconds = telemetry.gateway_run_seconds.labels(lane.options.name)

    def admits(self) -> bool:
        lane, breaker = self.lane, self._breaker
        if lane.waiting < lane.options.queue and (breaker is None or breaker.admits()):
            return True
        self._count("refused", 1)
        return False

    def abort(self, crossing: Crossing, _: object) -> trio.lowlevel.Abort:
        """A cancelled caller wants to go: it may when nothing has begun, or when nobody needs the result."""
        if self.lane.withdraw(crossing):
            self._count("withdrawn", 1)
        elif self.lane.options.abandon:
            self._count("abandoned", 1)
        else:
            return trio.lowlevel.Abort.FAILED
        crossing.task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def waiting(self) -> float:
        return float(self.lane.waiting)

    def settle(self, crossings: Sequence[Crossing]) -> None:
        """Count a delivery's crossings; one of them stands for all in the histograms, which are not cheap."""
        failed = [crossing for crossing in crossings if crossing.error is not None]
        if len(failed) < len(crossings):
            self._count("ok", len(crossings) - len(failed))
            if self._breaker is not None:
                self._breaker.answered()
        if failed:
            self._settle_failed(failed)
        sample = crossings[-1]
        if sample.begun:
            self._wait_seconds.observe(sample.begun_at - sample.queued_at)
            self._run_seconds.observe(sample.ended_at - sample.begun_at)

    def statistics(self) -> LaneStatistics:
        return LaneStatistics(
            name=self.lane.options.name,
            waiting=self.lane.waiting,
            wakes=self.lane.wakes,
            groups=self.lane.groups,
            results=dict(self._results),
            breaker_open=self._breaker is not None and self._breaker.is_open,
        )

    def _settle_failed(self, crossings: Sequence[Crossing]) -> None:
        failures = 0
        overdue = False
        for crossing in crossings:
            result = _fault_of(crossing)
            self._count(result, 1)
            failures += result == "unavailable"
            overdue |= result == "overdue"
            if result == "error" and self._breaker is not None:
                self._breaker.answered()
        if self._breaker is not None:
            # Many calls overdue behind one slow call are one piece of news about the engine.
            for _ in range(failures + overdue):
                self._breaker.failed()

    def _count(self, result: str, count: int) -> None:
        self._results[result] += count
        metric = self._metrics.get(result)
        if metric is None:
            metric = self._metrics[result] = telemetry.crossings_total.labels(self.lane.options.name, result)
        metric.inc(count)


def _fault_of(crossing: Crossing) -> str:
    if crossing.overdue:
        return "overdue"
    if isinstance(crossing.error, errors.Unavailable):
        return "unavailable"
    return "error" if isinstance(crossing.error, errors.WdError) else "fault"
