"""The gateway: how async code reaches a synchronous engine, and how an engine says which lane its calls take.

An adapter marks each port method with the lane it runs in (`@reads("store")`, `@writes("store")`). The
gateway (adapters/bridge.py) looks the mark up; an unmarked callable runs in the lane "work" (CPU and scratch
files). One `run` is one crossing and one unit of work: on a write lane it is one atomic step of the engine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

WORK = "work"  # the lane of unmarked callables
HASH = "hash"  # the lane of password hashing: at most one thread per core


def reads(lane: str) -> Callable[[F], F]:
    """Mark a method as reading through `lane`: a cancelled caller may abandon it."""
    return _mark(f"{lane}.read")


def writes(lane: str) -> Callable[[F], F]:
    """Mark a method as writing through `lane`: once begun, its outcome is always waited for."""
    return _mark(f"{lane}.write")


def lane_of(call: Callable[..., Any]) -> str:
    """The lane name that a callable was marked with ("store.read", "state.write", …), else "work"."""
    return getattr(call, "__wd_lane__", WORK)


def in_lane(lane: str) -> Callable[[F], F]:
    """Mark a plain function with a lane by its full name, e.g. `@in_lane(HASH)`."""
    return _mark(lane)


def _mark(lane: str) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        function.__wd_lane__ = lane  # type: ignore[attr-defined]  # functions take attributes; F cannot say so
        return function

    return decorate


class Gateway(Protocol):
    """Runs synchronous engine calls in their lane's threads, from trio.

    Raises what the call raised; errors.Unavailable when the lane's queue is full (1,000 calls), the call
    waited longer than 2 s to begin, or the engine's breaker is open.
    """

    async def run(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
