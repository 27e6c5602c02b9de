"""Health and metrics of the running server, through restarts and on the way out."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator

import pytest
from served import Served


def totals(server: Served) -> dict[str, float]:
    """Every counter of the server."""
    kinds: dict[str, str] = {}
    found: dict[str, float] = {}
    for line in server.metrics().decode().splitlines():
        if line.startswith("# TYPE"):
            _, _, family, kind = line.split()
            kinds[family] = kind
        elif not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            family = name.partition("{")[0]
            owner = next(each for each in sorted(kinds, key=len, reverse=True) if family.startswith(each))
            if kinds[owner] in ("counter", "histogram"):
                found[name] = float(value)
    return found


def test_health_live_and_errors(server: Served) -> None:
    for path in ("/health", "/health/live"):
        status, body = server.get(path)
        assert status == 200
        told = json.loads(body)
        assert told["status"] == "healthy"
        assert told["timestamp"]
    status, body = server.get("/nothing/here")
    assert status == 404
    assert json.loads(body) == {"error": "Not Found", "code": "NotFound"}


def greet(server: Served) -> None:
    """One LMTP session with a few commands."""
    with socket.create_connection((server.lmtp.host, server.lmtp.port), 60) as client:
        client.sendall(b"LHLO me\r\nNOOP\r\nQUIT\r\n")
        with client.makefile("rb") as replies:
            assert b"221 2.0.0" in replies.read()


def test_metrics_are_the_sum_over_the_workers(server: Served) -> None:
    for _ in range(6):
        greet(server)
    assert server.metric('wildduck_connections_total{protocol="lmtp"}') == 6
    assert server.metric('wildduck_connections_open{protocol="lmtp"}') == 0
    assert server.metric("wildduck_workers_ready") == 2


def test_counters_never_go_down_when_workers_die(start_server: Callable[..., Served]) -> None:
    server = start_server()
    for _ in range(4):
        greet(server)
    before = totals(server)
    assert before['wildduck_connections_total{protocol="lmtp"}'] == 4
    for number, pid in enumerate(server.worker_pids(), 1):
        os.kill(pid, signal.SIGKILL)
        server.log.wait("worker ready", count=2 + number)
    after = totals(server)
    assert {name: value for name, value in before.items() if after.get(name, 0) < value} == {}
    assert after["wildduck_worker_deaths_total"] == 2
    assert server.metric('wildduck_connections_open{protocol="lmtp"}') == 0


def test_a_client_that_never_reads_its_answers_holds_nothing_up(start_server: Callable[..., Served]) -> None:
    server = start_server(workers=1)
    with socket.create_connection((server.api.host, server.api.port), 60) as client:
        client.setblocking(False)
        asked = 0
        ask = b"GET /metrics HTTP/1.1\r\nHost: me\r\n\r\n" * 100
        while asked < 400 and client.send(ask) == len(ask):
            asked += 100
        while not server.metric("wildduck_workers_ready"):
            pass  # others are served meanwhile
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


@pytest.fixture
def held_back(start_server: Callable[..., Served]) -> Iterator[tuple[Served, socket.socket]]:
    """A server that cannot end yet: a message is on its way in, which a drain waits for."""
    server = start_server(workers=1)
    user = server.add_user()
    with socket.create_connection((server.lmtp.host, server.lmtp.port), 60) as client:
        said = f"LHLO me\r\nMAIL FROM:<>\r\nRCPT TO:<{user.address}>\r\nDATA\r\n"
        client.sendall(said.encode())
        with client.makefile("rb") as replies:
            while not replies.readline().startswith(b"354"):
                pass
        client.sendall(b"Subject: late\r\n\r\n")
        yield server, client


def test_on_the_way_out_health_says_draining(held_back: tuple[Served, socket.socket]) -> None:
    server, client = held_back
    server.signal(signal.SIGTERM)
    server.log.wait("leaving")
    status, body = server.get("/health")
    assert (status, json.loads(body)["error"]) == (503, "draining")
    assert server.get("/health/live")[0] == 200
    client.sendall(b"late\r\n.\r\n")
    with client.makefile("rb") as replies:
        answer = replies.read()
    assert b"250 2." in answer
    assert b"421 4.3.2" in answer
    assert server.wait() == 0


def test_a_second_signal_ends_it_at_once(held_back: tuple[Served, socket.socket]) -> None:
    server, _ = held_back
    server.signal(signal.SIGTERM)
    server.log.wait("leaving")
    server.signal(signal.SIGTERM)
    assert server.wait() == 1
    assert server.log.all("stopping at once")
