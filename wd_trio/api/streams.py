"""Bodies of answers that are streamed: what is read in steps goes out in steps, so any size costs the same memory.

Quart pulls the next piece when hypercorn has taken the last one, so a client that reads slowly is read for slowly.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from quart.wrappers.response import ResponseBody


class StepsBody(ResponseBody):
    """A body made of an iterator's pieces; the iterator needs no closing."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException],
        exc_value: BaseException,
        tb: TracebackType,
    ) -> None:
        """Nothing is held open."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces

    async def convert_to_sequence(self) -> bytes:
        return b"".join([piece async for piece in self._pieces])
