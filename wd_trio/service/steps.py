"""Async iteration step by step, for loops that are left early.

An async generator that is not run to its end wants closing by whoever left it, which a lost connection would
have to arrange at every level. An iterator over a plain step holds nothing open and needs no closing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Steps(Generic[T]):
    """The values of `step()`, until it gives None."""

    __slots__ = ("_step",)

    def __init__(self, step: Callable[[], Awaitable[T | None]]) -> None:
        self._step = step

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        value = await self._step()
        if value is None:
            raise StopAsyncIteration
        return value
