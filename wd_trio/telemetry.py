"""Counters and histograms of this process, and the names of log events that others rely on.

One registry per process; ops/metrics.py samples it. Labels are bounded: protocols, commands, results, lane
names; never a user, an address or anything a peer can choose.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY: Final = CollectorRegistry(auto_describe=False)
_FAST_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

connections_total: Final = Counter(
    "wildduck_connections", "Connections accepted", ["protocol"], registry=REGISTRY
)
connections_open: Final = Gauge(
    "wildduck_connections_open", "Connections open", ["protocol"], registry=REGISTRY
)
active_sessions: Final = Gauge(
    "wildduck_active_sessions_total", "Sessions of authenticated connections", ["protocol"], registry=REGISTRY
)
logins_total: Final = Counter(
    "wildduck_logins", "Log-ins by result", ["protocol", "result"], registry=REGISTRY
)
deliveries_total: Final = Counter(
    "wildduck_deliveries", "Recipients by result", ["result"], registry=REGISTRY
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
hints_total: Final = Counter("wildduck_bus_hints", "Hints by fate", ["fate"], registry=REGISTRY)
sessions_ended_total: Final = Counter(
    "wildduck_connections_ended", "Connections ended, by reason", ["protocol", "reason"], registry=REGISTRY
)

READY: Final = "ready"  # the log event of a server whose listeners are all up
