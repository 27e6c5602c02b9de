"""The server's metrics: the sum over its workers, living and dead.

Each worker samples its own registry. The supervisor adds the samples of the living to an accumulator of the dead:
counters and histograms of a worker that is gone live on there, as they were when it last told (at each scrape, now
and then without one, and in its last words), its gauges go. So a total never goes down while the supervisor lives,
and what a killed worker counted after it last told is lost, never shown and then taken back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric

from wd_trio.ops.messages import MANY_SAMPLES, Family

LASTING: Final = frozenset({"counter", "histogram", "summary"})

SUPERVISOR: Final = CollectorRegistry(auto_describe=False)
worker_starts_total: Final = Counter("wildduck_worker_starts", "Workers started", registry=SUPERVISOR)
worker_deaths_total: Final = Counter(
    "wildduck_worker_deaths", "Workers that ended without being asked to", registry=SUPERVISOR
)
worker_restarts_total: Final = Counter(
    "wildduck_worker_restarts",
    "Workers started in the place of another, by what became of that: died, hung, failed to start, rolled",
    ["cause"],
    registry=SUPERVISOR,
)
drain_seconds: Final = Histogram(
    "wildduck_worker_drain_seconds",
    "Time that workers took to drain, by result: clean, killed",
    ["result"],
    buckets=(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 8.0, 10.0, 30.0, 60.0),
    registry=SUPERVISOR,
)
reloads_total: Final = Counter(
    "wildduck_reloads", "Reloads by result: done, refused", ["result"], registry=SUPERVISOR
)
upgrades_total: Final = Counter(
    "wildduck_upgrades",
    "Upgrades of a running server by result: done, refused",
    ["result"],
    registry=SUPERVISOR,
)
workers_ready: Final = Gauge("wildduck_workers_ready", "Workers that take connections", registry=SUPERVISOR)
refused_total: Final = Counter(
    "wildduck_connections_refused",
    "Connections refused at the door",
    ["protocol", "reason"],
    registry=SUPERVISOR,
)
connections_moved_total: Final = Counter(
    "wildduck_connections_moved",
    "Connections that went on with another worker, by what became of theirs: rolled, died",
    ["protocol", "cause"],
    registry=SUPERVISOR,
)
connections_lost_total: Final = Counter(
    "wildduck_connections_lost",
    "Connections that ended with their worker, by why no other could go on",
    ["protocol", "reason"],
    registry=SUPERVISOR,
)
connections_by_state: Final = Gauge(
    "wildduck_connections_by_state",
    "Connections open, by how far they are: arrived, greeted, logged in, idle",
    ["protocol", "state"],
    registry=SUPERVISOR,
)
connections_secure: Final = Gauge(
    "wildduck_connections_secure",
    "Connections open whose client is on TLS, wherever that ends",
    ["protocol"],
    registry=SUPERVISOR,
)
connections_waiting: Final = Gauge(
    "wildduck_connections_without_worker",
    "Connections that wait for a worker, are between two, or begin TLS",
    registry=SUPERVISOR,
)
memory_bytes: Final = Gauge(
    "wildduck_memory_bytes",
    "Resident memory of the server's processes: supervisor, workers, holder",
    ["role"],
    registry=SUPERVISOR,
)
start_seconds: Final = Gauge(
    "wildduck_start_time_seconds", "When the server's process began, in Unix time", registry=SUPERVISOR
)
hub_datagrams_total: Final = Counter(
    "wildduck_hub_datagrams", "Datagrams of hints at the hub, by fate", ["fate"], registry=SUPERVISOR
)
tls_handshakes_total: Final = Counter(
    "wildduck_tls_handshakes",
    "TLS handshakes in the holder by result: done, or why they came to nothing",
    ["protocol", "result"],
    registry=SUPERVISOR,
)
tls_connections_open: Final = Gauge(
    "wildduck_tls_connections_open", "Connections whose TLS the holder ends, now", registry=SUPERVISOR
)
tls_handshakes_unfinished: Final = Gauge(
    "wildduck_tls_handshakes_unfinished", "Handshakes under way in the holder, now", registry=SUPERVISOR
)
tls_connections_lost_total: Final = Counter(
    "wildduck_tls_connections_lost", "Connections that went with a holder that died", registry=SUPERVISOR
)
tls_holder_deaths_total: Final = Counter(
    "wildduck_tls_holder_deaths", "TLS holders that ended without being asked to", registry=SUPERVISOR
)

Key: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]


def sample(registry: CollectorRegistry) -> list[Family]:
    """Everything a registry holds now, without the times of creation, which do not add up."""
    return [
        Family(
            metric.name,
            metric.type,
            metric.documentation,
            [
                (each.name, tuple(sorted(each.labels.items())), float(each.value))
                for each in metric.samples
                if not each.name.endswith("_created")
            ],
        )
        for metric in registry.collect()
    ]


def value(families: Iterable[Family], name: str) -> float:
    """The sum over all samples of that name."""
    return sum(value for family in families for each, _, value in family.samples if each == name)


def pieces(families: Sequence[Family]) -> Iterator[list[Family]]:
    """The same families in pieces of about MANY_SAMPLES samples, a long one cut up; at least one piece."""
    piece: list[Family] = []
    held = 0
    for family in families:
        for at in range(0, max(len(family.samples), 1), MANY_SAMPLES):
            part = family.samples[at : at + MANY_SAMPLES]
            if piece and held + len(part) > MANY_SAMPLES:
                yield piece
                piece, held = [], 0
            piece.append(Family(family.name, family.kind, family.help, part))
            held += len(part)
    yield piece


class Totals:
    """Sums of samples, by name and labels."""

    def __init__(self) -> None:
        self._facts: dict[str, tuple[str, str]] = {}
        self._values: dict[str, dict[Key, float]] = {}

    def add(self, families: Iterable[Family], *, lasting_only: bool = False) -> None:
        """Add samples; with `lasting_only` those that outlive their process."""
        for family in families:
            if lasting_only and family.kind not in LASTING:
                continue
            self._facts.setdefault(family.name, (family.kind, family.help))
            values = self._values.setdefault(family.name, {})
            for name, labels, value in family.samples:
                values[name, labels] = values.get((name, labels), 0.0) + value

    def copy(self) -> Totals:
        made = Totals()
        made._facts = dict(self._facts)
        made._values = {name: dict(values) for name, values in self._values.items()}
        return made

    def families(self) -> list[Family]:
        """The sums, for a successor of this process to add to."""
        return [
            Family(name, kind, text, [(*key, value) for key, value in self._values[name].items()])
            for name, (kind, text) in self._facts.items()
        ]

    def of(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        """(labels, sum) of every sample of that name."""
        for values in self._values.values():
            for (sample_name, labels), value in values.items():
                if sample_name == name:
                    yield dict(labels), value

    def collect(self) -> Iterator[Metric]:
        """The sums as prometheus_client's exposition takes them."""
        for name, (kind, help_text) in self._facts.items():
            metric = Metric(name, help_text, kind)
            for (sample_name, labels), value in self._values[name].items():
                metric.add_sample(sample_name, dict(labels), value)
            yield metric

    def text(self) -> str:
        """The sums in Prometheus's text format."""
        return generate_latest(_Exposed(self)).decode()


class _Exposed(CollectorRegistry):
    """A registry that holds exactly these totals."""

    def __init__(self, totals: Totals) -> None:
        super().__init__(auto_describe=False)
        self._totals = totals

    def collect(self) -> Iterator[Metric]:
        return self._totals.collect()
