"""The pipeline: many calls of ports, one exchange with Redis.

A port's method is written as *steps*: a generator that yields the commands it can send now and gets their answers,
and so on until it returns.

    @reads("state")
    @steps
    def claims(self, key: str) -> Steps[int]:
        (holders,) = yield [("HGETALL", key)]
        return len(holders) // 2

Called as usual, the method runs alone. `RedisLink.run_group` is the group of the gateway's lanes "state.read" and
"state.write": it takes all calls that are queued, brings them forward together, and sends what they all want next in
one exchange, until each has returned. So fifty calls cost about as many round trips as one.

- A command that fails is thrown into its own call only. A lost connection fails what was on it with Unavailable.
- The commands of one step may be done in any order and with others between them; scripts are the only atoms.
- A call that is not itself such a method but calls some (a use case of two reads) cannot be brought forward in steps:
  what it called has not begun, so it is called once more, where they run at once. Such a call must bear that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeAlias, TypeVar, cast
from weakref import WeakSet

import redis

from wd_trio import telemetry
from wd_trio.adapters.mongo_redis.redis_routes import Command, Route, RouteOptions, open_route
from wd_trio.adapters.mongo_redis.redis_url import parse_redis_url
from wd_trio.adapters.mongo_redis.scripts import source_of
from wd_trio.errors import Unavailable

P = ParamSpec("P")
T = TypeVar("T")
Steps: TypeAlias = Generator[list[Command], list[Any], T]
Outcome: TypeAlias = tuple[object, BaseException | None]

ENGINE: Final = "redis"


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisOptions:
    """`call_s` bounds what a call takes over all of its steps. `clock_offset_s` is added to the engine's own clock:
    for tests, which cannot wait."""

    route: RouteOptions = field(default_factory=RouteOptions)
    call_s: float = 4.0
    clock_offset_s: Callable[[], float] = lambda: 0.0


class HasLink(Protocol):
    @property
    def link(self) -> RedisLink: ...


S = TypeVar("S", bound=HasLink)


def steps(method: Callable[Concatenate[S, P], Steps[T]]) -> Callable[Concatenate[S, P], T]:
    """Make a method of one that is written as steps; `self.link` brings it forward."""

    @wraps(method)
    def perform(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.link.perform(method(self, *args, **kwargs))

    return perform


class _OfThread(threading.local):
    """What each thread has of its own."""

    route: Route | None = None
    begun: list[Steps[Any]] | None = None  # while a group begins its calls: the methods that they called


class RedisLink:
    """This process' way to Redis, for any of its threads; each has connections of its own."""

    def __init__(self, url: str, options: RedisOptions | None = None) -> None:
        """Connects when it is first used. Invalid for a URL that cannot be."""
        self.address = parse_redis_url(url)
        self.options = options or RedisOptions()
        self._mine = _OfThread()
        self._routes: WeakSet[Route] = WeakSet()  # a thread's goes with its thread
        self._closed = False

    @property
    def offset_ms(self) -> int:
        return round(self.options.clock_offset_s() * 1000)

    def close(self) -> None:
        """End all connections. Idempotent; calls from now on are Unavailable."""
        self._closed = True
        for route in list(self._routes):
            route.close()

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """The answers to commands, which may go to several servers and be done in any order. In the place of each
        that failed an exception: Unavailable, or the driver's where the command is at fault."""
        if not commands:
            return []
        if self._closed:
            return [Unavailable("the link is closed", what=ENGINE) for _ in commands]
        route = self._mine.route
        if route is None:
            route = self._mine.route = open_route(self.address, self.options.route)
            self._routes.add(route)
        telemetry.round_trip(ENGINE)
        replies = route.exchange(commands)
        strange = [
            place for place, reply in enumerate(replies) if isinstance(reply, redis.exceptions.NoScriptError)
        ]
        if (
            strange
        ):  # a server that has not seen these scripts yet, or was restarted: it keeps them from now on
            again = route.exchange([_with_source(commands[place]) for place in strange])
            for place, reply in zip(strange, again, strict=True):
                replies[place] = reply
        return replies

    def perform(self, call: Steps[T]) -> T:
        """Run a call's steps. While a group begins, they are handed to the group instead."""
        begun = self._mine.begun
        if begun is not None:
            begun.append(call)
            return cast(T, call)
        (outcome,) = self._bring_forward([call])
        value, error = outcome
        if error is not None:
            raise error
        return cast(T, value)

    def run_group(self, calls: Sequence[Callable[[], object]]) -> list[Outcome]:
        """The outcomes of all calls; see the module's text."""
        outcomes: list[Outcome] = [(None, None)] * len(calls)
        places: list[int] = []
        stepping: list[Steps[Any]] = []
        alone: list[int] = []
        for place, call in enumerate(calls):
            outcome, begun = self._begin(call)
            if not begun:
                outcomes[place] = outcome
            elif len(begun) == 1 and outcome[0] is begun[0]:
                places.append(place)
                stepping.append(begun[0])
            else:
                alone.append(place)
        for place, outcome in zip(places, self._bring_forward(stepping), strict=True):
            outcomes[place] = outcome
        down = any(isinstance(error, Unavailable) for _, error in outcomes)
        for place in alone:
            if down:  # each would wait for its own time-out, one after the other
                outcomes[place] = None, Unavailable("Redis failed a moment ago", what=ENGINE)
                continue
            outcomes[place] = _outcome_of(calls[place])
            down = isinstance(outcomes[place][1], Unavailable)
        return outcomes

    def _begin(self, call: Callable[[], object]) -> tuple[Outcome, list[Steps[Any]]]:
        begun = self._mine.begun = []
        try:
            return _outcome_of(call), begun
        finally:
            self._mine.begun = None

    def _bring_forward(self, calls: Sequence[Steps[Any]]) -> list[Outcome]:
        """Run calls side by side, an exchange for each step of all."""
        until = time.monotonic() + self.options.call_s
        outcomes: list[Outcome] = [(None, None)] * len(calls)
        waiting: list[tuple[int, list[Command]]] = []
        for place, call in enumerate(calls):
            _advance(call, None, place, waiting, outcomes)
        while waiting:
            if time.monotonic() >= until:
                for place, _ in waiting:
                    calls[place].close()
                    outcomes[place] = None, Unavailable("Redis is too slow", what=ENGINE)
                break
            replies = self.exchange([command for _, commands in waiting for command in commands])
            at = 0
            answered, waiting = waiting, []
            for place, commands in answered:
                upto = at + len(commands)
                _advance(calls[place], replies[at:upto], place, waiting, outcomes)
                at = upto
        return outcomes


def _advance(
    call: Steps[Any],
    replies: list[Any] | None,
    place: int,
    waiting: list[tuple[int, list[Command]]],
    outcomes: list[Outcome],
) -> None:
    """Give a call its answers: it is waiting again then, or has its outcome."""
    try:
        if replies is None:
            commands = next(call)
        else:
            fault = next((reply for reply in replies if isinstance(reply, Exception)), None)
            commands = call.send(replies) if fault is None else call.throw(fault)
    except StopIteration as end:
        outcomes[place] = end.value, None
    except Exception as error:
        outcomes[place] = None, error
    else:
        waiting.append((place, commands))


def _outcome_of(call: Callable[[], object]) -> Outcome:
    try:
        return call(), None
    except Exception as error:
        return None, error


def _with_source(command: Command) -> Command:
    return ("EVAL", source_of(str(command[1])), *command[2:])
