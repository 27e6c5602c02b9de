"""Counters and histograms of this process, and the names of log events that others rely on.

One registry per process; ops/metrics.py samples it. Labels are bounded: protocols, commands, results, lane
names; never a user, an address or anything a peer can choose.

What a command costs is tallied where it is spent and counted once, when the command is done. A session opens a
`Tally` for its task, and whatever the task and its children do adds to it: the gateway each crossing, an adapter
each round trip to its engine (`round_trip`, called in a lane's thread; the crossing carries them back). So a
command that asks no engine costs one look at an empty dict. What belongs to no command (leases, batches of
sessions, the janitor) is in the counts by lane only.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

REGISTRY: Final = CollectorRegistry(auto_describe=False)
_FAST_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class LoopCounter(Collector):
    """A counter that only the loop's thread counts in, at the price of a dict's item; its labels are a tuple."""

    def __init__(
        self, name: str, help_text: str, labels: tuple[str, ...], *, registry: CollectorRegistry = REGISTRY
    ) -> None:
        self._name = name
        self._help = help_text
        self._labels = labels
        self._values: dict[tuple[str, ...], int] = {}
        registry.register(self)

    def add(self, labels: tuple[str, ...], count: int) -> None:
        values = self._values
        values[labels] = values.get(labels, 0) + count

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(self._name, self._help, labels=self._labels)
        for labels, value in self._values.items():
            family.add_metric(labels, value)
        yield family


connections_total: Final = Counter(
    "wildduck_connections", "Connections accepted", ["protocol"], registry=REGISTRY
)
connections_open: Final = Gauge(
    "wildduck_connections_open", "Connections open", ["protocol"], registry=REGISTRY
)
connections_parked: Final = Gauge(
    "wildduck_connections_parked", "Open connections without a task of their own", registry=REGISTRY
)
unparked_total: Final = Counter(
    "wildduck_connections_unparked",
    "Parked connections that got a task again: by input, or news that it must tell",
    ["cause"],
    registry=REGISTRY,
)
active_sessions: Final = Gauge(
    "wildduck_active_sessions_total", "Sessions of authenticated connections", ["protocol"], registry=REGISTRY
)
logins_total: Final = Counter(
    "wildduck_logins", "Log-ins by result", ["protocol", "result"], registry=REGISTRY
)
deliveries_total: Final = Counter(
    "wildduck_deliveries",
    "Recipients by result: delivered; over_quota, refused (at RCPT or later), too_big; failed, for now",
    ["result"],
    registry=REGISTRY,
)
request_seconds: Final = Histogram(
    "wildduck_request_duration_seconds",
    "Time from a whole command to its last reply byte",
    ["protocol", "command"],
    buckets=_FAST_S,
    registry=REGISTRY,
)
crossings_total: Final = Counter(
    "wildduck_gateway_crossings", "Calls that crossed the gateway", ["lane", "result"], registry=REGISTRY
)
gateway_waiting: Final = Gauge(
    "wildduck_gateway_waiting", "Calls that wait in their lane", ["lane"], registry=REGISTRY
)
gateway_wait_seconds: Final = Histogram(
    "wildduck_gateway_wait_seconds",
    "Time a call waited in its lane",
    ["lane"],
    buckets=_FAST_S,
    registry=REGISTRY,
)
gateway_run_seconds: Final = Histogram(
    "wildduck_gateway_run_seconds", "Time a call ran", ["lane"], buckets=_FAST_S, registry=REGISTRY
)
commits_total: Final = Counter(
    "wildduck_engine_commits", "Transactions committed", ["engine"], registry=REGISTRY
)
health_total: Final = Counter(
    "wildduck_health_answers",
    "Answers to /health: healthy, draining, or which engine was unavailable or too slow",
    ["answer"],
    registry=REGISTRY,
)
hints_total: Final = Counter("wildduck_bus_hints", "Hints by fate", ["fate"], registry=REGISTRY)
sessions_ended_total: Final = Counter(
    "wildduck_connections_ended", "Connections ended, by reason", ["protocol", "reason"], registry=REGISTRY
)

bytes_total: Final = LoopCounter(
    "wildduck_bytes", "Octets over connections: in from clients, out to them", ("protocol", "direction")
)
command_crossings_total: Final = LoopCounter(
    "wildduck_command_crossings", "Calls across the gateway for a command", ("protocol", "command", "lane")
)
round_trips_total: Final = LoopCounter(
    "wildduck_engine_round_trips",
    "Round trips to an engine for a command: a transaction or lone read of SQLite, a command of MongoDB, a pipeline"
    " of Redis",
    ("protocol", "command", "engine"),
)


class Tally:
    """What a task's work has cost since it was last counted. For the loop's thread."""

    __slots__ = ("_crossings", "_protocol", "_round_trips")

    def __init__(self, protocol: str) -> None:
        self._protocol = protocol
        self._crossings: dict[str, int] = {}
        self._round_trips: dict[str, int] = {}

    def crossed(self, lane: str) -> None:
        """One call went to `lane`."""
        self._crossings[lane] = self._crossings.get(lane, 0) + 1

    def made(self, round_trips: Mapping[str, int]) -> None:
        """A call made these round trips, by engine."""
        for engine, count in round_trips.items():
            self._round_trips[engine] = self._round_trips.get(engine, 0) + count

    def count(self, command: str) -> None:
        """Put everything since the last call on the account of `command`, which is one of a bounded set."""
        if not self._crossings:
            return
        for lane, count in self._crossings.items():
            command_crossings_total.add((self._protocol, command, lane), count)
        self._crossings.clear()
        for engine, count in self._round_trips.items():
            round_trips_total.add((self._protocol, command, engine), count)
        self._round_trips.clear()


tally: Final[ContextVar[Tally | None]] = ContextVar("tally", default=None)
"""The tally of the present task, inherited by the tasks that it starts."""


def open_tally(protocol: str) -> Tally:
    """A tally for the present task and its children to come."""
    opened = Tally(protocol)
    tally.set(opened)
    return opened


class _Thread(threading.local):
    round_trips: dict[str, int] | None = None


_thread: Final = _Thread()


def round_trip(engine: str, count: int = 1) -> None:
    """An adapter went to its engine and back, on behalf of the call that this thread is in. What a group's thread
    does outside of its calls is done for each of them."""
    made = _thread.round_trips
    if made is not None:
        made[engine] = made.get(engine, 0) + count


def tally_thread(round_trips: dict[str, int] | None) -> dict[str, int] | None:
    """Have this thread's round trips added to this from now on (None: nowhere); what they were added to before."""
    before = _thread.round_trips
    _thread.round_trips = round_trips
    return before


ENDING: Final = "end"
"""The account for what ending a session costs, beside the commands, whose names are in capitals."""
RESUMING: Final = "resume"
"""Likewise for going on with a session that was parked, or another worker's."""
READY: Final = "ready"  # the log event of a server whose listeners are all up
