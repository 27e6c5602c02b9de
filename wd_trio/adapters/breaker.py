"""The breaker of one engine: answers at once while the engine is down, and finds out when it is back.

Closed, it counts outcomes in a row that said Unavailable; at `threshold` it opens. Open, it refuses everything
but one probe every `retry_s`; the first answer from the engine, the probe's or an older call's, closes it. A
probe needs no book-keeping: one that is cancelled or never comes back is followed by the next `retry_s` later.

Used from one thread only (the loop's). The clock is a parameter so that tests own the time.
"""

from __future__ import annotations

from collections.abc import Callable


class Breaker:
    __slots__ = ("_clock", "_failures", "_next_probe", "_retry_s", "_threshold")

    def __init__(self, *, threshold: int, retry_s: float, clock: Callable[[], float]) -> None:
        self._threshold = threshold
        self._retry_s = retry_s
        self._clock = clock
        self._failures = 0
        self._next_probe = 0.0

    @property
    def is_open(self) -> bool:
        return self._failures >= self._threshold

    def admits(self) -> bool:
        """May a call go to the engine now? While open, a yes is given once every `retry_s`."""
        if self._failures < self._threshold:
            return True
        now = self._clock()
        if now < self._next_probe:
            return False
        self._next_probe = now + self._retry_s
        return True

    def answered(self) -> None:
        """The engine gave an answer, a refusal such as NotFound included: it is up."""
        self._failures = 0

    def failed(self) -> None:
        """The engine was Unavailable."""
        self._failures += 1
        if self._failures == self._threshold:
            self._next_probe = self._clock() + self._retry_s
