"""What `wd-trio status` shows, and the gauges that belong to it.

How far connections are is read from their slots, which are true at any moment without asking a worker; what became
of those that are gone is read from the sums of all counters (metrics.py). Each thing that is shown is a metric, too;
`measure` fills the gauges that nobody keeps, when somebody asks.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from wd_trio.ops import metrics
from wd_trio.ops.connections import Connections
from wd_trio.ops.processes import Looks, look
from wd_trio.ops.tls.holding import HoldingStatistics
from wd_trio.servers.slots import PROTOCOLS, Phase, Standing

PARKED: Final = "wildduck_connections_parked"
STATES: Final = ("arrived", "greeted", "logged in", "idle")
"""How far a connection is; each is in one of these. Those of LMTP stay greeted."""
FATES: Final = {
    "moved": ("wildduck_connections_moved_total", "cause"),
    "lost": ("wildduck_connections_lost_total", "reason"),
    "ended": ("wildduck_connections_ended_total", "reason"),
    "refused": ("wildduck_connections_refused_total", "reason"),
}
"""What became of connections so far: the counter of each, and its label besides the protocol."""


def _state(phase: Phase, standing: Standing) -> str:
    if phase == Phase.OPEN:
        return "idle" if standing & Standing.IDLE else "logged in"
    return "greeted" if phase == Phase.GREETED else "arrived"


def states(connections: Connections) -> dict[str, dict[str, int]]:
    """By protocol, how many connections are in each of STATES, and how many of all are `secure` (on TLS)."""
    found = {protocol: dict.fromkeys((*STATES, "secure"), 0) for protocol in PROTOCOLS}
    for (protocol, phase, standing), count in connections.count().items():
        found[protocol][_state(phase, standing)] += count
        if standing & Standing.SECURE:
            found[protocol]["secure"] += count
    return found


def measure(connections: Connections, worker_pids: Sequence[int]) -> None:
    """Set the gauges of connections by state, and of memory, to what is so now."""
    for protocol, counts in states(connections).items():
        for state in STATES:
            metrics.connections_by_state.labels(protocol, state).set(counts[state])
        metrics.connections_secure.labels(protocol).set(counts["secure"])
    metrics.connections_waiting.set(connections.without_worker)
    own = look(os.getpid())
    if own == Looks():
        return  # without a descriptor to look with, what was so last is nearer the truth than 0
    metrics.start_seconds.set(time.time() - own.age_s)
    metrics.memory_bytes.labels("supervisor").set(own.memory_bytes)
    metrics.memory_bytes.labels("workers").set(sum(look(pid).memory_bytes for pid in worker_pids))


def report(
    known: dict[str, Any], totals: metrics.Totals, connections: Connections, holder: HoldingStatistics
) -> dict[str, Any]:
    """Everything about a server for people, JSON's types throughout. `known` is the shorter answer that this one
    contains; its workers get `ageS` and `memoryBytes` besides, counts are by protocol and then by state, cause or
    reason."""
    own = look(known["pid"])
    workers = [worker | _looks(worker["pid"]) for worker in known["workers"]]
    more: dict[str, Any] = {
        "uptimeS": own.age_s,
        "memoryBytes": own.memory_bytes,
        "workers": workers,
        "states": states(connections),
        "parked": sum(worker["parked"] for worker in workers),
        "withoutWorker": connections.without_worker,
        "holder": {
            "pid": holder.pid,
            "ready": holder.ready,
            "open": holder.open,
            "unfinished": holder.unfinished,
            "waiting": holder.waiting,
        }
        | _looks(holder.pid),
    }
    return known | more | {fate: _by_label(totals, *FATES[fate]) for fate in FATES}


def _looks(pid: int) -> dict[str, Any]:
    looks = look(pid)
    return {"ageS": looks.age_s, "memoryBytes": looks.memory_bytes}


def _by_label(totals: metrics.Totals, name: str, label: str) -> dict[str, dict[str, int]]:
    found: dict[str, Counter[str]] = {}
    for labels, value in totals.of(name):
        found.setdefault(labels["protocol"], Counter())[labels[label]] += int(value)
    return {protocol: dict(counts) for protocol, counts in sorted(found.items())}
