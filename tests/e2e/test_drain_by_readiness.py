"""A server goes while a balancer sends clients: readiness goes first, then they come to the others, and none is
refused.

HAProxy asks for readiness and takes the server out before its end. nginx (without its commercial checks) learns of
the end from a refused connection and tries the next server; what it brought a moment before is told BYE.
"""

from __future__ import annotations

import contextlib
import http.client
import imaplib
import json
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from balancers import CLIENT, Balancer, Imap, balancing
from peers import wait_until
from served import Account, Served
from three_servers import ROOT_TOKEN, start_server

DELAY_S = 4.0


@pytest.fixture(scope="module")
def servers(
    tmp_path_factory: pytest.TempPathFactory, mongo_url: str, redis_url: str
) -> Iterator[list[Served]]:
    """Three servers on the same engines; each test ends one of them."""
    folder = tmp_path_factory.mktemp("servers")
    made = [
        start_server(folder / str(number), mongo_url, redis_url, drain_delay_s=DELAY_S) for number in range(3)
    ]
    try:
        yield [server.wait_ready() for server in made]
    finally:
        for server in made:
            server.stop()


@dataclass
class Stream:
    """Clients that come through a balancer one after the other, until `stop`: what became of each."""

    balancer: Balancer
    greeted: int = 0
    refused: list[str] = field(default_factory=list)
    answers: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._more = threading.Condition()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self._mail()
                self.answers.add(self._api())
            except (OSError, http.client.HTTPException) as error:
                self.refused.append(repr(error))
            with self._more:
                self._more.notify_all()

    def _mail(self) -> None:
        with (
            socket.create_connection(
                ("127.0.0.1", self.balancer.ports["imap"]), 60, source_address=(CLIENT, 0)
            ) as sock,
            sock.makefile("rb") as lines,
        ):
            line = lines.readline()
            if line.startswith(b"* OK"):
                self.greeted += 1
            else:
                self.refused.append(repr(line))

    def _api(self) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.balancer.ports["api"], timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", "/users?limit=1", headers={"Authorization": f"Bearer {ROOT_TOKEN}"})
            response = connection.getresponse()
            response.read()
            return response.status

    def wait_more(self, count: int) -> None:
        """Wait until so many more have been greeted."""
        wanted = self.greeted + count
        with self._more:
            self._more.wait_for(lambda: self.greeted >= wanted)

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


def came(server: Served) -> float:
    """How many IMAP connections a server has had."""
    return server.metric('wildduck_connections_total{protocol="imap"}')


def health(server: Served) -> tuple[int, str]:
    status, body = server.get("/health")
    return status, json.loads(body).get("error", "")


@contextlib.contextmanager
def stream(kind: str, folder: Path, servers: list[Served]) -> Iterator[Stream]:
    places = [{name: place.port for name, place in server.places.items()} for server in servers]
    with balancing(kind, folder / kind, places) as balancer:
        clients = Stream(balancer)
        try:
            yield clients
        finally:
            clients.stop()


def connected_to(server: Served, user: Account) -> imaplib.IMAP4:
    """A client of that very server, logged in."""
    imap = Imap(server.imap.port)
    imap.login(user.username, user.password)
    imap.select()
    return imap


def test_a_second_signal_does_not_wait(start_server: Callable[..., Served]) -> None:
    server = start_server(workers=1, settings={"server": {"drain_delay_s": 300}})
    held = Imap(server.imap.port)
    server.signal(signal.SIGTERM)
    wait_until(lambda: health(server) == (503, "draining"), "readiness to go")
    assert held.noop()[0] == "OK"
    with Imap(server.imap.port) as late:
        assert late.noop()[0] == "OK"
    assert not server.ask("reload")["ok"]
    server.signal(signal.SIGTERM)
    assert server.wait() == 1
    held.shutdown()


def test_haproxy_takes_a_draining_server_out_before_its_end(servers: list[Served], tmp_path: Path) -> None:
    leaving = servers[0]
    user = leaving.add_user()
    with stream("haproxy", tmp_path, servers) as clients:
        clients.wait_more(12)
        held = connected_to(leaving, user)
        leaving.signal(signal.SIGTERM)
        wait_until(lambda: health(leaving) == (503, "draining"), "readiness to go")
        assert leaving.get("/health/live")[0] == 200
        assert held.noop()[0] == "OK", "nothing else has changed"
        down = "Server imap/mail-1 is DOWN"
        log = tmp_path / "haproxy" / "balancer.log"
        wait_until(lambda: down in log.read_text(), "the balancer to notice")
        before = came(leaving)
        clients.wait_more(20)
        assert came(leaving) == before, "they go elsewhere"
        assert held.noop()[0] == "OK", "and all that while it serves"
        assert leaving.wait() == 0
        clients.wait_more(12)
        held.shutdown()
    assert clients.refused == []
    assert clients.answers == {200}


def test_nginx_goes_on_with_the_others(servers: list[Served], tmp_path: Path) -> None:
    leaving = servers[1]
    with stream("nginx", tmp_path, servers) as clients:
        clients.wait_more(12)
        leaving.signal(signal.SIGTERM)
        wait_until(lambda: health(leaving) == (503, "draining"), "readiness to go")
        assert leaving.wait() == 0
        clients.wait_more(20)
    assert len(clients.refused) <= 1, (
        clients.refused
    )  # the one that was under way when the server closed its port
    assert 200 in clients.answers
