"""The threads' side of the gateway: lanes, the threads that serve them, and the crossings they carry.

A lane is a queue and a fixed set of named threads. The loop appends crossings and then rouses the lane; a thread
takes one, runs it and puts it among the finished ones; `finished_one` tells the gateway so. Rules:
- A crossing belongs to whoever claims it first: a thread (it begins), its caller (withdrawn) or the watch
  (overdue). The claim is a try-lock, so that no two of them ever act on the same crossing.
- A thread that found its queue empty puts its gate among the idle ones and looks once more before it sleeps on
  it; who rouses opens one idle gate. So no append is missed, and a busy lane costs no wake-ups.
  A thread that wakes to more than one crossing wakes the next thread: the loop never pays for a crowd.
- A lane with a `group` has one thread, which hands over all that is queued in one go. Crossings there begin one
  by one, when the group calls them; until then they can be withdrawn. What the group left is queued again in front.
- A `brief` lane's calls are done sooner than threads can take turns at the interpreter. One thread runs what is
  queued, for LOT_S, and then tells the gateway of all of it and wakes the next thread if there is more. A call that
  will take long says so before it begins (`make_way`), and none is kept behind it.
- Threads are daemons and are joined for a bounded time: an engine that hangs must not hold the exit.

Single operations on a deque are atomic in CPython; nothing here needs two of them to be.
"""

from __future__ import annotations

import copy
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from wd_trio import errors, telemetry

Outcome: TypeAlias = tuple[object, BaseException | None]
Group: TypeAlias = Callable[[Sequence[Callable[[], object]]], Sequence[Outcome]]

LOT_S: Final = 0.001
"""How long a thread of a brief lane works before it tells of what it has done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneOptions:
    """One lane. `name` is what ports.gateway.lane_of gives: "<engine>.read", "<engine>.write", or a plain name.

    `group` runs many calls as one unit of the engine: it returns their outcomes in order, of all of them or of
    the first ones (at least one); the others are handed over again. `abandon`: a cancelled caller may leave a
    call that has begun. `brief`: most calls take a fraction of a millisecond, and those that do not call `make_way`.
    `queue`: calls that may wait; `wait_s`: how long each may.
    """

    name: str
    threads: int = 1
    group: Group | None = None
    abandon: bool = False
    brief: bool = False
    queue: int = 1000
    wait_s: float = 2.0

    @property
    def engine(self) -> str | None:
        """The engine behind the lane; None for lanes of plain computing, which have no breaker."""
        engine, dot, _ = self.name.partition(".")
        return engine if dot else None


class Crossing:
    """One call on its way through a lane and back. Calling it runs the call; the outcome stays in it."""

    __slots__ = (
        "_args",
        "_call",
        "_claim",
        "_kwargs",
        "begun",
        "begun_at",
        "ended_at",
        "error",
        "lane",
        "overdue",
        "queued_at",
        "round_trips",
        "task",
        "value",
    )

    def __init__(
        self,
        lane: Lane,
        task: Any,
        call: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        self.lane = lane
        self.task = task  # opaque here: the gateway's waiting task, None once it has left
        self._call = call
        self._args = args
        self._kwargs = kwargs
        self._claim = threading.Lock()
        self.queued_at = time.monotonic()
        self.begun = False
        self.begun_at = 0.0
        self.ended_at = 0.0
        self.overdue = False
        self.round_trips: dict[str, int] = {}
        """What the call and its share of a group's work made, by engine; complete when it has ended."""
        self.value: Any = None
        self.error: BaseException | None = None

    def claim(self) -> bool:
        """Take it; True for exactly one caller, ever."""
        return self._claim.acquire(blocking=False)

    def run(self) -> bool:
        """Begin, run and end it; False when its caller has left."""
        if not self._claim.acquire(blocking=False):
            return False
        self.begun = True
        self.begun_at = time.monotonic()
        telemetry.tally_thread(self.round_trips)
        try:
            self.value = self._call(*self._args, **self._kwargs)
        except BaseException as exc:  # whatever it is, it is the caller's to see
            self.error = exc
        self.ended_at = time.monotonic()
        del self._call, self._args, self._kwargs
        return True

    def __call__(self) -> object:
        """Begin it, for a group: returns and raises what the call does; nothing runs when the caller has left.

        A group may call it again after it rolled back, and `end`s it with the outcome that holds.
        """
        if not self.begun:
            if not self._claim.acquire(blocking=False):
                return None
            self.begun = True
            self.begun_at = time.monotonic()
        shared = telemetry.tally_thread(self.round_trips)
        try:
            return self._call(*self._args, **self._kwargs)
        finally:
            telemetry.tally_thread(shared)

    def end(self, value: object, error: BaseException | None) -> None:
        self.value = value
        self.error = error
        self.ended_at = time.monotonic()
        # The call and its arguments may hold messages or passwords: not a moment longer than needed.
        del self._call, self._args, self._kwargs


class Lane:
    """A queue of crossings and its threads. `start` once, `close` once."""

    def __init__(self, options: LaneOptions, finished_one: Callable[[], None]) -> None:
        if options.threads < 1 or (options.group is not None and options.threads != 1):
            raise ValueError(f"lane {options.name}: a group has one thread, any other lane at least one")
        self.options = options
        self.queue: deque[Crossing] = deque()
        self.finished: deque[Crossing] = deque()
        self.wakes = 0
        self.groups = 0
        self._in_hand: Sequence[Crossing] = ()
        self._idle: deque[threading.Lock] = deque()
        self._closing = False
        self._finished_one = finished_one
        serve = self._serve_groups if options.group else self._serve_briefly if options.brief else self._serve
        self._threads = [
            threading.Thread(target=serve, name=f"{options.name}-{number}", daemon=True)
            for number in range(options.threads)
        ]

    # -- the loop's side

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Crossings that have not begun, about."""
        return len(self.queue) + len(self._in_hand)

    def rouse(self) -> None:
        """Have a thread look at the queue; due after something was appended, and once for all that was."""
        if self.queue and self._idle:
            self._wake_one()

    def withdraw(self, crossing: Crossing) -> bool:
        """Take a crossing back before it begins; False when that is too late."""
        if not crossing.claim():
            return False
        self._discard(crossing)
        return True

    def close(self) -> None:
        """Let the threads end once the queue is empty."""
        self._closing = True
        while self._idle:
            self._wake_one()

    def join(self, until: float) -> bool:
        """Wait for the threads to end, to that moment of time.monotonic at most; True when all have ended."""
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    # -- the watch's side

    def refuse_overdue(self, now: float) -> float:
        """Claim and finish with Unavailable what has waited `wait_s`; return when to look again."""
        for crossing in (*self._in_hand, *self.queue.copy()):
            if crossing.begun:
                continue
            due = crossing.queued_at + self.options.wait_s
            if due > now:
                return due
            if crossing.claim():
                self._discard(crossing)
                crossing.overdue = True
                self._end(crossing, None, errors.Unavailable("waited too long", what=self.options.name))
        return now + self.options.wait_s

    # -- the threads' side

    def _serve(self) -> None:
        gate = threading.Lock()
        gate.acquire()
        while True:
            try:
                crossing = self.queue.popleft()
            except IndexError:
                if self._closing:
                    return
                self._sleep(gate)
                continue
            if self.queue and self._idle:
                self._wake_one()
            if crossing.run():
                self.finished.append(crossing)
                self._finished_one()
            del crossing  # an idle thread must not keep the last call's result alive

    def _serve_briefly(self) -> None:
        _thread.brief_lane = self
        gate = threading.Lock()
        gate.acquire()
        lot_ends = 0.0
        while True:
            try:
                crossing = self.queue.popleft()
            except IndexError:
                self.make_way()
                lot_ends = 0.0
                if self._closing:
                    return
                self._sleep(gate)
                continue
            if crossing.run():
                self.finished.append(crossing)
                if not lot_ends:
                    lot_ends = crossing.begun_at + LOT_S
                elif crossing.ended_at >= lot_ends:
                    self.make_way()
                    lot_ends = 0.0
            del crossing

    def make_way(self) -> None:
        """Let nothing wait for this thread: neither what is done nor what is queued."""
        if self.finished:
            self._finished_one()
        self.rouse()

    def _serve_groups(self) -> None:
        gate = threading.Lock()
        gate.acquire()
        while True:
            batch: list[Crossing] = []
            with suppress(IndexError):
                while True:
                    batch.append(self.queue.popleft())
            if batch:
                self._run_group(batch)
            elif self._closing:
                return
            else:
                self._sleep(gate)

    def _run_group(self, batch: list[Crossing]) -> None:
        group = self.options.group
        assert group is not None
        self._in_hand = batch
        self.groups += 1
        shared: dict[str, int] = {}
        telemetry.tally_thread(shared)
        outcomes: Sequence[Outcome]
        try:
            outcomes = group(batch)
        except BaseException as exc:  # the engine failed as a whole: each caller is told
            outcomes = [(None, _own_copy(exc)) for _ in batch]
        if not outcomes:
            fault = RuntimeError(f"the group of lane {self.options.name} ran none of its calls")
            outcomes = [(None, fault) for _ in batch]
        self.queue.extendleft(reversed(batch[len(outcomes) :]))
        self._in_hand = ()
        for crossing, (value, error) in zip(batch, outcomes, strict=False):
            if crossing.begun or crossing.claim():
                crossing.round_trips = _sum(crossing.round_trips, shared)
                crossing.end(value, error)
                self.finished.append(crossing)
        self._finished_one()  # once for all: the first one told of would have the loop in the others' way

    def _end(self, crossing: Crossing, value: object, error: BaseException | None) -> None:
        crossing.end(value, error)
        self.finished.append(crossing)
        self._finished_one()

    def _sleep(self, gate: threading.Lock) -> None:
        self._idle.append(gate)
        if self.queue or self._closing:
            try:
                self._idle.remove(gate)
            except ValueError:
                pass  # opened by someone already: the acquire below takes that wake-up
            else:
                return
        gate.acquire()

    def _wake_one(self) -> None:
        try:
            gate = self._idle.pop()
        except IndexError:
            return  # another thread took the last one
        self.wakes += 1
        gate.release()

    def _discard(self, crossing: Crossing) -> None:
        # Absent when a thread took it meanwhile; that thread sees the claim and lets it be.
        with suppress(ValueError):
            self.queue.remove(crossing)


class _Thread(threading.local):
    brief_lane: Lane | None = None


_thread: Final = _Thread()


def make_way() -> None:
    """The call that this thread is in will take long from here on. For adapters whose lanes are brief; elsewhere it
    does nothing."""
    lane = _thread.brief_lane
    if lane is not None:
        lane.make_way()


def _sum(own: dict[str, int], shared: dict[str, int]) -> dict[str, int]:
    """Both together; the result may be `shared` itself, which nobody changes any more."""
    if not own:
        return shared
    return {engine: own.get(engine, 0) + shared.get(engine, 0) for engine in own | shared}


def _own_copy(error: BaseException) -> BaseException:
    """An error for one of many callers: raising one instance in many tasks would mix up their tracebacks."""
    return copy.copy(error) if isinstance(error, errors.WdError) else error
