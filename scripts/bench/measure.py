"""One row on one target: warm up, then CPU and time around the operations; a fault is the row's own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial

from scripts.bench import idle
from scripts.bench.population import populate
from scripts.bench.rows import Row, Rows
from scripts.bench.target import Sizes, Target
from scripts.bench.wire import Fault, Line, Timings, drive

NOT_THERE = "not there"
PUSH = "IDLE push"
MEMORY = "memory of an idle connection"


@dataclass(frozen=True, slots=True)
class Result:
    """One cell of the table. Without `operations` there are no figures; `note` says why, or something more."""

    row: str
    target: str
    connections: int
    operations: int = 0
    per_second: float = 0.0
    cpu_ms: float = 0.0
    """The server's alone."""
    engines_ms: dict[str, float] = field(default_factory=dict)
    """The databases' behind it."""
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    note: str = ""

    def plain(self) -> dict[str, object]:
        return asdict(self)


def measured(
    target: Target, sizes: Sizes, *, only: Sequence[str] = (), pipeline: int = 1
) -> Iterator[Result]:
    """Populate the target, then measure every row whose name holds one of `only`, at each number of connections."""
    populate(target, sizes)
    rows = Rows(target, sizes, pipeline=pipeline)
    for row in rows.all():
        if not _wanted(row.name, only):
            continue
        there = row.protocol in target.places and row.there()
        for connections in sizes.connections:
            if there:
                yield _guarded(row.name, target, connections, partial(_row, row, target, sizes))
            else:
                yield Result(row.name, target.name, connections, note=NOT_THERE)
    if _wanted(PUSH, only):
        for connections in sizes.connections:
            yield _guarded(PUSH, target, connections, partial(_push, target, sizes))
    if _wanted(MEMORY, only):
        yield _guarded(MEMORY, target, sizes.idle[1], partial(_memory, target, sizes))


def _wanted(name: str, only: Sequence[str]) -> bool:
    return not only or any(part.lower() in name.lower() for part in only)


def _guarded(name: str, target: Target, connections: int, measure: Callable[[int], Result]) -> Result:
    try:
        return measure(connections)
    except (Fault, OSError) as error:
        return Result(name, target.name, connections, note=f"failed: {error}"[:300])


def _row(row: Row, target: Target, sizes: Sizes, connections: int) -> Result:
    lines = [Line(number) for number in range(connections)]
    try:
        for line in lines:
            row.ready(line)
        if row.warm:
            drive(lines, row.operation, seconds=sizes.seconds, most=row.warm)
        return _around(
            row.name,
            target,
            connections,
            lambda: drive(lines, row.operation, seconds=sizes.seconds, most=row.most),
            each=row.each,
        )
    finally:
        for line in lines:
            line.close()


def _push(target: Target, sizes: Sizes, connections: int) -> Result:
    push = idle.Push(target, sizes, connections)
    try:
        return _around(PUSH, target, connections, push.run, operations=sizes.pushes)
    finally:
        push.close()


def _memory(target: Target, sizes: Sizes, connections: int) -> Result:
    slope = idle.memory(target, sizes)
    low, high = (f"{size / 1e6:.0f} MB" for size in slope.plateaus_bytes)
    note = f"{slope.bytes_each / 1024:.1f} KB each ({low} at {sizes.idle[0]}, {high} at {sizes.idle[1]})"
    return Result(MEMORY, target.name, connections, note=note)


def _around(
    name: str,
    target: Target,
    connections: int,
    run: Callable[[], Timings],
    *,
    each: int = 1,
    operations: int | None = None,
) -> Result:
    """The result of a run. Latencies are of what was sent together, all else is for each command."""
    before_s = target.cpu_s()
    timings = run()
    spent_s = {name: now_s - before_s[name] for name, now_s in target.cpu_s().items()}
    count = (operations or len(timings.latencies_s)) * each
    if not count:
        return Result(name, target.name, connections, note="nothing done in the time")
    return Result(
        name,
        target.name,
        connections,
        operations=count,
        per_second=count / timings.elapsed_s,
        cpu_ms=spent_s.pop("") / count * 1e3,
        engines_ms={name: used_s / count * 1e3 for name, used_s in spent_s.items()},
        p50_ms=timings.percentile(0.5) * 1e3,
        p99_ms=timings.percentile(0.99) * 1e3,
    )


def stamp() -> str:
    """When, for the head of a table."""
    return time.strftime("%Y-%m-%d")
