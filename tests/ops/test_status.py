"""The page about a server: counts from slots and counters, gauges filled when they are asked for, and its print."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from wd_trio.cli.status import age_words, print_page
from wd_trio.ops import metrics, status
from wd_trio.ops.connections import Connections
from wd_trio.ops.messages import Family
from wd_trio.ops.processes import Looks, look
from wd_trio.ops.tls.holding import HoldingStatistics
from wd_trio.servers.slots import Phase, Slots, Standing

HOLDER = HoldingStatistics(pid=os.getpid(), ready=True, waiting=0, unfinished=2, open=3)
NO_HOLDER = HoldingStatistics(pid=0, ready=False, waiting=0, unfinished=0, open=0)


@pytest.fixture
def connections() -> Iterator[Connections]:
    """Two idle under TLS, one logged in, one that was only greeted, one of LMTP, one that nobody has."""
    made = Connections(Slots.create(20))
    clients: list[socket.socket] = []

    def enter(protocol: str, phase: Phase, standing: int = 0, worker: int = 1) -> int:
        ours, theirs = socket.socketpair()
        clients.append(ours)
        number = made.enter(protocol, theirs, "192.0.2.1", 1)
        slot = made.slots.at(number)
        slot.phase, slot.standing = phase, standing
        slot.attempts, slot.progress = len(clients), 1  # what does not matter here
        made.hold(number, worker)
        return number

    gone = enter("pop3", Phase.OPEN)
    enter("imap", Phase.OPEN, Standing.IDLE | Standing.SECURE | Standing.SELECTED)
    enter("imap", Phase.OPEN, Standing.IDLE | Standing.SECURE | Standing.SELECTED | Standing.BEHIND)
    enter("imap", Phase.OPEN, Standing.SELECTED)
    enter("imap", Phase.GREETED)
    enter("lmtp", Phase.GREETED, Standing.HELLO)
    enter("lmtp", Phase.ARRIVED, worker=0)
    made.end(gone)
    yield made
    made.close()
    for client in clients:
        client.close()


COUNTED = {
    "imap": {"arrived": 0, "greeted": 1, "logged in": 1, "idle": 2, "secure": 2},
    "pop3": {"arrived": 0, "greeted": 0, "logged in": 0, "idle": 0, "secure": 0},
    "lmtp": {"arrived": 1, "greeted": 1, "logged in": 0, "idle": 0, "secure": 0},
}


def test_connections_are_counted_by_what_their_slots_say(connections: Connections) -> None:
    assert status.states(connections) == COUNTED
    assert connections.without_worker == 1
    assert sum(counts[state] for counts in COUNTED.values() for state in status.STATES) == len(connections)


def gauge(name: str, **labels: str) -> float | None:
    return metrics.SUPERVISOR.get_sample_value(name, labels)


def test_gauges_are_filled_when_somebody_asks(connections: Connections) -> None:
    status.measure(connections, [os.getpid(), os.getpid()])
    assert gauge("wildduck_connections_by_state", protocol="imap", state="idle") == 2
    assert gauge("wildduck_connections_by_state", protocol="lmtp", state="arrived") == 1
    assert gauge("wildduck_connections_secure", protocol="imap") == 2
    assert gauge("wildduck_connections_without_worker") == 1
    assert (gauge("wildduck_memory_bytes", role="workers") or 0) > (
        gauge("wildduck_memory_bytes", role="supervisor") or 0
    )
    for number, _ in list(connections):
        connections.end(number)
    status.measure(connections, [])
    assert gauge("wildduck_connections_by_state", protocol="imap", state="idle") == 0
    assert gauge("wildduck_memory_bytes", role="workers") == 0


def test_what_cannot_be_looked_at_stays_as_it_was(
    connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No descriptor is left to look with."""
    status.measure(connections, [os.getpid()])
    before = gauge("wildduck_start_time_seconds"), gauge("wildduck_memory_bytes", role="workers")
    monkeypatch.setattr(status, "look", lambda pid: Looks())
    status.measure(connections, [os.getpid()])
    assert (gauge("wildduck_start_time_seconds"), gauge("wildduck_memory_bytes", role="workers")) == before
    assert all(before)


def counter(name: str, *samples: tuple[str, str, str, float]) -> Family:
    return Family(
        name.removesuffix("_total"),
        "counter",
        "",
        [
            (name, tuple(sorted({"protocol": protocol, label: value}.items())), count)
            for protocol, label, value, count in samples
        ],
    )


def report(connections: Connections, holder: HoldingStatistics = HOLDER) -> dict[str, Any]:
    totals = metrics.Totals()
    totals.add(
        [
            counter(
                "wildduck_connections_moved_total",
                ("imap", "cause", "died", 3),
                ("imap", "cause", "rolled", 40),
            ),
            counter("wildduck_connections_lost_total", ("imap", "reason", "reply cut", 1)),
            counter("wildduck_connections_ended_total", ("pop3", "reason", "quit", 7)),
        ]
    )
    totals.add([counter("wildduck_connections_ended_total", ("pop3", "reason", "quit", 2))])
    worker = {"slot": 1, "pid": os.getpid(), "state": "ready", "connections": 5, "parked": 2}
    known = {
        "ok": True,
        "pid": os.getpid(),
        "version": "1.2.3",
        "connections": len(connections),
        "stopping": False,
        "upgrade": {"generation": 4, "underWay": False, "faults": []},
        "workers": [worker, worker | {"slot": 2, "pid": 0, "state": "starting", "parked": 0}],
    }
    return status.report(known, totals, connections, holder)


def test_the_report_says_it_all(connections: Connections) -> None:
    about = report(connections)
    assert about["states"] == COUNTED
    assert about["connections"] == 6
    assert (about["parked"], about["withoutWorker"]) == (2, 1)
    assert about["moved"] == {"imap": {"died": 3, "rolled": 40}}
    assert about["lost"] == {"imap": {"reply cut": 1}}
    assert about["ended"] == {"pop3": {"quit": 9}}
    assert about["refused"] == {}
    assert about["uptimeS"] > 0
    living, starting = about["workers"]
    assert living["memoryBytes"] == pytest.approx(about["memoryBytes"], rel=0.5)
    assert (starting["ageS"], starting["memoryBytes"]) == (0, 0)
    assert about["holder"]["pid"] == os.getpid()
    assert (about["holder"]["open"], about["holder"]["unfinished"]) == (3, 2)


def test_the_page_is_lines_where_there_is_no_terminal(
    connections: Connections, capsys: pytest.CaptureFixture[str]
) -> None:
    print_page(report(connections) | {"health": {"status": "unhealthy", "error": "redis unavailable"}})
    lines = capsys.readouterr().out.splitlines()
    for line in (
        "server\tversion\t1.2.3",
        f"server\tstate\tserving, pid {os.getpid()}",
        "server\tupgrades\t4",
        "server\thealth\tunhealthy: redis unavailable",
        "server\tparked\t2",
        "connections\timap\t0\t1\t1\t2\t4\t2",
        "connections\tlmtp\t1\t1\t0\t0\t2\t0",
        "gone on\timap\treloads and upgrades\t40",
        "gone on\timap\tsurvived a worker's death\t3",
        "lost\timap\treply cut\t1",
        "ended\tpop3\tquit\t9",
    ):
        assert line in lines
    assert len([line for line in lines if line.startswith("worker\t")]) == 2
    assert len([line for line in lines if line.startswith("holder\t")]) == 1


def test_the_page_is_tables_on_a_terminal(
    connections: Connections, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "dumb")
    print_page(report(connections, NO_HOLDER) | {"health": {"status": "healthy"}})
    out = capsys.readouterr().out
    assert "\t" not in out
    for heading in ("server", "worker", "logged in", "on TLS", "gone on with another worker", "reply cut"):
        assert heading in out
    assert "TLS holder" not in out
    assert "refused" not in out


def test_a_process_is_looked_at_from_outside() -> None:
    mine = look(os.getpid())
    assert mine.age_s > 0
    assert mine.memory_bytes > 1_000_000
    assert look(0) == Looks()


@pytest.mark.parametrize(
    ("age_s", "words"),
    [(0, "0 s"), (59.9, "59 s"), (61, "1 min 1 s"), (7200, "2 h 0 min"), (90061, "1 d 1 h")],
)
def test_ages_have_two_units(age_s: float, words: str) -> None:
    assert age_words(age_s) == words
