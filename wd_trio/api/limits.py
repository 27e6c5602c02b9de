"""How often a token may call: a bucket for each, in this process.

A bucket is one moment, that at which it will be full again (the generic cell rate algorithm): a call moves it on by
one over the rate, and is refused when it would lie more than a burst ahead. The table is bounded; who is pushed out,
the one that called longest ago, begins with a full bucket again. Workers count apart, so a user with connections to
all of them may call as many times as often.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import trio

BUCKETS: Final = 10_000


class Buckets:
    """The buckets of one process, by token."""

    def __init__(self, *, most: int = BUCKETS) -> None:
        self._most = most
        self._full_at_s: OrderedDict[str, float] = OrderedDict()

    def take(self, key: str, *, per_s: float, burst_s: float) -> float:
        """Count a call at a rate of `per_s`, which may come in bursts of `burst_s` seconds' worth. 0.0 when it is
        within; else in how many seconds one will be, and nothing is counted."""
        now = trio.current_time()
        full_at_s = max(now, self._full_at_s.pop(key, now))
        wait_s = full_at_s - now + 1 / per_s - max(burst_s, 1 / per_s)
        self._full_at_s[key] = full_at_s if wait_s > 0 else full_at_s + 1 / per_s
        if len(self._full_at_s) > self._most:
            self._full_at_s.popitem(last=False)
        return max(0.0, wait_s)
