"""Metrics over processes: samples, pieces, sums, and totals that never go down."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
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


# --- what is told of them

DOCS = Path(__file__).parents[2] / "docs"
ENDINGS = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}


def exposed() -> dict[str, set[str]]:
    """The names under which each of our metrics is exposed, by the name under which it is known."""
    known: dict[str, set[str]] = {}
    for registry in (telemetry.REGISTRY, metrics.SUPERVISOR):
        for metric in registry.collect():
            name = metric.name + ("_total" if metric.type == "counter" else "")
            known[name] = {metric.name + ending for ending in ENDINGS[metric.type]}
    return known


def expressions(panel: Any) -> list[str]:
    return [target["expr"] for target in panel.get("targets", ())]


def board() -> Any:
    return json.loads((DOCS / "grafana.json").read_text())


def test_the_board_draws_every_metric_and_no_other() -> None:
    queries = [query for panel in board()["panels"] for query in expressions(panel)]
    variables = [each["query"]["query"] for each in board()["templating"]["list"] if each["type"] == "query"]
    used = {name for query in [*queries, *variables] for name in re.findall(r"\bwildduck_\w+", query)}
    known = exposed()
    assert used <= set().union(*known.values())
    assert [name for name, names in known.items() if not names & used] == []


def test_the_board_is_whole() -> None:
    panels = board()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in panels
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    }
    assert len(places) == sum(panel["gridPos"]["w"] * panel["gridPos"]["h"] for panel in panels), "overlap"
    for panel in panels:
        assert panel["type"] == "row" or expressions(panel)
        for query in expressions(panel):
            assert query.count("(") == query.count(")")
            assert "[" not in query or re.search(r"\[(\$__rate_interval|\d+[hd])\]", query)


def test_the_board_filters_by_labels_that_the_metrics_have() -> None:
    labels = {"job", "instance", "le"}
    by_name: dict[str, set[str]] = {}
    for collector in {**telemetry.REGISTRY._collector_to_names, **metrics.SUPERVISOR._collector_to_names}:
        own: Any = getattr(collector, "_labelnames", None) or getattr(collector, "_labels", ())
        for metric in collector.collect():
            for name in exposed()[metric.name + ("_total" if metric.type == "counter" else "")]:
                by_name[name] = labels | set(own)
    for panel in board()["panels"]:
        for query in expressions(panel):
            for name, given in re.findall(r"(wildduck_\w+)\{([^}]*)\}", query):
                asked = set(re.findall(r"(\w+)(?==~|!=|=\")", given))
                assert asked <= by_name[name], query


def test_every_metric_is_documented_and_no_other() -> None:
    section = (DOCS / "operations.md").read_text().partition("## Health and metrics")[2].partition("\n## ")[0]
    told = re.findall(r"`(wildduck_\w+)`", section)
    assert sorted(told) == sorted(exposed())


@pytest.mark.parametrize("labels", [("imap", "NOOP"), ("imap", 'odd "name"')])
def test_the_loops_own_counters_are_sampled_like_others(labels: tuple[str, ...]) -> None:
    registry = CollectorRegistry(auto_describe=False)
    counter = telemetry.LoopCounter("turns", "Turns", ("protocol", "command"), registry=registry)
    counter.add(labels, 2)
    counter.add(labels, 3)
    totals = Totals()
    totals.add(metrics.sample(registry), lasting_only=True)
    totals.add(metrics.sample(registry))
    name = labels[1].replace('"', '\\"')
    assert values(totals.text()) == {f'turns_total{{command="{name}",protocol="imap"}}': 10}
