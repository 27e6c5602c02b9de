"""Three complete servers on one MongoDB and one Redis, and the balancers of deploy/ before them, without affinity."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balancers import Balancer, balancing
from served import Served, start

ROOT_TOKEN = "root" * 10
BALANCERS = ("nginx", "haproxy")


@dataclass
class Cluster:
    servers: list[Served]
    balancer: Balancer

    @property
    def imap(self) -> int:
        return self.balancer.ports["imap"]

    @property
    def pop3(self) -> int:
        return self.balancer.ports["pop3"]

    @property
    def lmtp(self) -> int:
        return self.balancer.ports["lmtp"]

    @property
    def api(self) -> int:
        return self.balancer.ports["api"]


def start_server(folder: Path, mongo_url: str, redis_url: str, **more: Any) -> Served:
    """A server of the cluster engine, which need not be ready yet; it believes what balancers on 127.0.0.1 say.
    `more` are settings of its [server]."""
    folder.mkdir(parents=True, exist_ok=True)
    return start(
        folder,
        workers=1,
        settings={
            "store": {"url": mongo_url},
            "redis": {"url": redis_url},
            "server": {"proxy_networks": ["127.0.0.1/32"], "hostname": ""} | more,
            "api": {"access_token": ROOT_TOKEN},
            "tls": {"trusted_networks": ["127.0.0.0/8"]},
        },
    )


@contextlib.contextmanager
def three_servers(folder: Path, mongo_url: str, redis_url: str, kind: str) -> Iterator[Cluster]:
    servers = [start_server(folder / f"server{number}", mongo_url, redis_url) for number in range(3)]
    try:
        places = [
            {name: place.port for name, place in server.wait_ready().places.items()} for server in servers
        ]
        with balancing(kind, folder / kind, places) as balancer:
            yield Cluster(servers, balancer)
    finally:
        for server in servers:
            if server.process.poll() is None:
                server.stop()


def lose(server: Served) -> None:
    """kill -9 of everything that the server is, as when its machine is lost."""
    pids = [server.process.pid, *server.worker_pids()]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    server.wait()
