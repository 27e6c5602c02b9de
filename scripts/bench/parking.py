"""What a parked connection costs, and how soon it hears of a delivery.

    python -m scripts.bench.parking                     500 → 10,000 connections, one worker
    python -m scripts.bench.parking --high 2000 --json

Memory is the slope between two plateaus of connections in IDLE, over the supervisor and its workers (PSS, which has
the slots in shared memory once). CPU is the server's, with the high plateau held and CHANGES_A_SECOND deliveries
to a mailbox that none of them watches. Push latency is taken twice in the same run, at connections that are parked
and at connections that cannot park, because the tag of their IDLE is too long for a slot.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from scripts.bench import samples
from scripts.bench.idle import Push, greet, held
from scripts.bench.population import populate
from scripts.bench.rows import deliver
from scripts.bench.target import ONCE, SINKS, TINY, Sizes, Target, own_server, raise_descriptors
from scripts.bench.wire import Line, Timings, play
from wd_trio.servers.slots import TAG_BYTES

CHANGES_A_SECOND = 10
SETTLE_S = 40.0
WATCHERS = 20
ACCOUNTS = 500
"""That the connections are spread over."""


@dataclass(frozen=True, slots=True)
class Told:
    """The figures of a run."""

    connections: tuple[int, int]
    bytes_each: float
    bytes_each_later: float
    """Once their sessions' documents were written, and the deliveries made."""
    cpu_share: float
    """Of one core, with the deliveries; `cpu_share_alone` with the deliveries and no parked connection."""
    cpu_share_alone: float
    parked_ms: tuple[float, float]
    unparked_ms: tuple[float, float]
    """p50 and p99 from the end of a message to the EXISTS at each of WATCHERS connections."""


def _changes(target: Target, seconds: float) -> float:
    """The share of a core that the server takes while messages are delivered at the rate."""
    line = Line(0, target.places["lmtp"])
    play(line, greet())
    began_s, cpu_s = time.perf_counter(), target.cpu_s()[""]
    for number in range(max(1, int(seconds * CHANGES_A_SECOND))):
        time.sleep(max(0.0, began_s + number / CHANGES_A_SECOND - time.perf_counter()))
        letter = samples.distinct(samples.message(3, 2_000), number)
        play(line, deliver([target.recipient(SINKS + 1)], letter))
    share = (target.cpu_s()[""] - cpu_s) / (time.perf_counter() - began_s)
    line.close()
    return share


def _push(target: Target, sizes: Sizes, tag: bytes) -> tuple[float, float]:
    push = Push(target, sizes, WATCHERS, tag=tag)
    try:
        timings: Timings = push.run()
    finally:
        push.close()
    return timings.percentile(0.5) * 1e3, timings.percentile(0.99) * 1e3


def measure(target: Target, sizes: Sizes, settle_s: float) -> Told:
    """All figures on a populated server, which is given so long to write the documents of sessions that came."""
    parked, unparked = _push(target, sizes, b"z"), _push(target, sizes, b"z" * TAG_BYTES)
    time.sleep(settle_s)
    alone = _changes(target, sizes.seconds)
    with held(target, sizes, range(ONCE, ONCE + sizes.once)) as slope:
        time.sleep(settle_s)
        share = _changes(target, sizes.seconds)
        grown_bytes = target.memory_bytes() - slope.plateaus_bytes[0]
    later = grown_bytes / (sizes.idle[1] - sizes.idle[0])
    return Told(sizes.idle, slope.bytes_each, later, share, alone, parked, unparked)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What a parked connection costs.")
    parser.add_argument("--low", type=int, default=500)
    parser.add_argument("--high", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--tiny", action="store_true", help="sizes that measure nothing")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    raise_descriptors()
    idle = (chosen.low, chosen.high)
    sizes = replace(Sizes(), idle=idle, seconds=chosen.seconds, once=ACCOUNTS, argon2=TINY.argon2)
    if chosen.tiny:
        sizes = TINY
    with (
        tempfile.TemporaryDirectory(prefix="parking-") as folder,
        own_server(Path(folder), workers=chosen.workers, sizes=sizes) as target,
    ):
        populate(target, replace(sizes, messages=min(sizes.messages, 100), big=1))
        told = measure(target, sizes, 0.0 if chosen.tiny else SETTLE_S)
    if chosen.json:
        print(json.dumps(asdict(told)))
        return 0
    print(
        f"{told.connections[0]} → {told.connections[1]} connections: {told.bytes_each:.0f} bytes each", end=""
    )
    print(f", {told.bytes_each_later:.0f} when all has come to rest")
    print(f"CPU with {CHANGES_A_SECOND} deliveries/s: {told.cpu_share:.2%} of a core", end="")
    print(f" ({told.cpu_share_alone:.2%} without them)")
    for name, (p50, p99) in (("parked", told.parked_ms), ("not parked", told.unparked_ms)):
        print(f"push to {WATCHERS} connections, {name}: p50 {p50:.2f} ms, p99 {p99:.2f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
