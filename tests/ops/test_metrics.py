"""Metrics over processes: samples, pieces, sums, and totals that never go down."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from wd_trio import telemetry
from wd_trio.ops import messages, metrics
from wd_trio.ops.messages import Family
from wd_trio.ops.metrics import Totals


class Process:
    """The metrics of one pretended worker."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self.jobs = Counter("jobs", "Jobs done", ["kind"], registry=self.registry)
        self.open = Gauge("open", "Jobs open", registry=self.registry)
        self.seconds = Histogram("seconds", "Time taken", buckets=(1.0, 2.0), registry=self.registry)

    def sample(self) -> list[Family]:
        return metrics.sample(self.registry)


def values(text: str) -> dict[str, float]:
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_workers_are_summed_and_the_dead_live_on_without_their_gauges() -> None:
    dead, living = Process(), Process()
    for process in (dead, living):
        process.jobs.labels("a").inc(3)
        process.open.set(5)
        process.seconds.observe(1.5)
    living.jobs.labels('odd "name"\n').inc()
    totals = Totals()
    totals.add(dead.sample(), lasting_only=True)
    totals.add(living.sample())
    found = values(totals.text())
    assert found['jobs_total{kind="a"}'] == 6
    assert found['jobs_total{kind="odd \\"name\\"\\n"}'] == 1
    assert found["open"] == 5
    assert found['seconds_bucket{le="1.0"}'] == 0
    assert found['seconds_bucket{le="2.0"}'] == 2
    assert found['seconds_bucket{le="+Inf"}'] == 2
    assert found["seconds_count"] == 2
    assert found["seconds_sum"] == 3.0
    assert not any("created" in name for name in found)


def test_the_text_names_types_and_help() -> None:
    process = Process()
    process.jobs.labels("a").inc()
    totals = Totals()
    totals.add(process.sample())
    lines = totals.text().splitlines()
    assert "# HELP jobs_total Jobs done" in lines
    assert "# TYPE jobs_total counter" in lines
    assert "# TYPE seconds histogram" in lines


def test_a_copy_is_apart() -> None:
    process = Process()
    process.open.set(1)
    totals = Totals()
    totals.add(process.sample())
    copy = totals.copy()
    copy.add(process.sample())
    assert values(totals.text())["open"] == 1
    assert values(copy.text())["open"] == 2


def test_pieces_are_bounded_and_complete() -> None:
    process = Process()
    for number in range(1000):
        process.jobs.labels(f"kind {number}").inc()
    families = process.sample()
    parts = list(metrics.pieces(families))
    assert len(parts) > 3
    for number, part in enumerate(parts):
        assert (
            len(messages.encode(messages.Samples(1, part, number == len(parts) - 1))) < messages.MESSAGE_BYTES
        )
    whole, pieced = Totals(), Totals()
    whole.add(families)
    for part in parts:
        pieced.add(part)
    assert values(whole.text()) == values(pieced.text())


def test_nothing_is_still_one_piece() -> None:
    assert list(metrics.pieces([])) == [[]]


def test_the_processes_own_registry_fits_the_channel() -> None:
    for part in metrics.pieces(metrics.sample(telemetry.REGISTRY)):
        messages.encode(messages.Samples(1, part, False))
