"""The gateway beside trio.to_thread.run_sync: time per call at 1 and at 50 calls in flight.

    python scripts/bench/gateway.py [CALLS]

The call does nothing, so that the hand-over alone is measured. The gateway should need at most a fifth of the
time per call at 50 in flight; the last line says how many times less it needed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable

import trio

from wd_trio.adapters.bridge import Gateway, LaneOptions
from wd_trio.adapters.lanes import Outcome
from wd_trio.ports.gateway import reads, writes

CALLS = 20_000
REPEATS = 3


def unmarked() -> None:
    pass


@reads("store")
def read() -> None:
    pass


@writes("store")
def write() -> None:
    pass


def in_turn(calls: object) -> list[Outcome]:
    return [(call(), None) for call in calls]  # type: ignore[attr-defined]  # calls: Sequence[Callable]


async def time_per_call(run: Callable[[], Awaitable[object]], in_flight: int, calls: int) -> float:
    """Microseconds per call, the best of some repeats (the machine may be busy with other things)."""

    async def caller() -> None:
        for _ in range(calls // in_flight):
            await run()

    best = float("inf")
    for _ in range(REPEATS):
        started = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(in_flight):
                nursery.start_soon(caller)
        best = min(best, time.perf_counter() - started)
    return best / (calls // in_flight * in_flight) * 1e6


async def main(calls: int) -> None:
    lanes = [
        LaneOptions(name="work", threads=1),
        LaneOptions(name="store.read", threads=4),
        LaneOptions(name="store.write", group=in_turn),
    ]
    async with Gateway(lanes) as gateway:
        rows: list[tuple[str, Callable[[], Awaitable[object]]]] = [
            ("trio.to_thread.run_sync", lambda: trio.to_thread.run_sync(unmarked)),
            ("gateway, 1 thread", lambda: gateway.run(unmarked)),
            ("gateway, 4 threads", lambda: gateway.run(read)),
            ("gateway, group", lambda: gateway.run(write)),
        ]
        table = [(name, [await time_per_call(run, n, calls) for n in (1, 50)]) for name, run in rows]
        statistics = gateway.statistics()
    print(f"{'µs per call':<26}{'1 in flight':>14}{'50 in flight':>14}")
    for name, (alone, crowded) in table:
        print(f"{name:<26}{alone:>14.1f}{crowded:>14.1f}")
    slowest = max(crowded for _, (_, crowded) in table[1:])
    print(f"{statistics.crossings} crossings came back in {statistics.deliveries} wake-ups of the loop")
    print(
        f"at 50 in flight the slowest lane took {table[0][1][1] / slowest:.1f} times less time than to_thread"
    )


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else CALLS)
