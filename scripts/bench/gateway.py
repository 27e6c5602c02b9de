"""The gateway beside trio.to_thread.run_sync: time per call at 1 and at 50 calls in flight.

    python scripts/bench/gateway.py [CALLS]

The call does nothing, so that the hand-over alone is measured. The gateway should need at most a fifth of the
time per call at 50 in flight; the last line says how many times less it needed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable, Sequence

import trio

from wd_trio.adapters.bridge import Gateway, LaneOptions
from wd_trio.adapters.lanes import Outcome
from wd_trio.ports.gateway import reads, writes

CALLS = 10_000
REPEATS = 7
IN_FLIGHT = (1, 50)


def unmarked() -> None:
    pass


@reads("store")
def read() -> None:
    pass


@writes("store")
def write() -> None:
    pass


def in_turn(calls: Sequence[Callable[[], object]]) -> list[Outcome]:
    return [(call(), None) for call in calls]


async def time_per_call(run: Callable[[], Awaitable[object]], in_flight: int, calls: int) -> float:
    """Microseconds per call."""

    async def caller() -> None:
        for _ in range(calls // in_flight):
            await run()

    started = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(in_flight):
            nursery.start_soon(caller)
    return (time.perf_counter() - started) / (calls // in_flight * in_flight) * 1e6


async def main(calls: int) -> None:
    lanes = [
        LaneOptions(name="work", threads=1),
        LaneOptions(name="store.read", threads=4),
        LaneOptions(name="store.write", group=in_turn),
    ]
    async with Gateway(lanes) as gateway:
        rows: dict[str, Callable[[], Awaitable[object]]] = {
            "trio.to_thread.run_sync": lambda: trio.to_thread.run_sync(unmarked),
            "gateway, 1 thread": lambda: gateway.run(unmarked),
            "gateway, 4 threads": lambda: gateway.run(read),
            "gateway, group": lambda: gateway.run(write),
        }
        # In turn, and the best of each: a machine that is busy with other things then favours nobody.
        best = {(name, in_flight): float("inf") for name in rows for in_flight in IN_FLIGHT}
        for _ in range(REPEATS):
            for (name, in_flight), fastest in best.items():
                best[name, in_flight] = min(fastest, await time_per_call(rows[name], in_flight, calls))
        statistics = gateway.statistics()
    print(f"{'µs per call':<26}" + "".join(f"{f'{in_flight} in flight':>14}" for in_flight in IN_FLIGHT))
    for name in rows:
        print(f"{name:<26}" + "".join(f"{best[name, in_flight]:>14.1f}" for in_flight in IN_FLIGHT))
    crowded = [best[name, IN_FLIGHT[-1]] for name in rows]
    print(f"{statistics.crossings} crossings came back in {statistics.deliveries} wake-ups of the loop")
    print(
        f"at 50 in flight the slowest lane took {crowded[0] / max(crowded[1:]):.1f} times less time than to_thread"
    )


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else CALLS)
