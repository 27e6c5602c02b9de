"""What is measured: a server's places, its accounts and the processes whose CPU counts.

`own_server` starts `wd-trio serve` on ephemeral ports with a folder of its own; dovecot.py starts a private Dovecot;
`peer` describes a server that runs already. Accounts are numbered: 0 reads, 1 to 20 write (one for each
connection), 21 to 40 are delivered to, those from 41 on log in once, so that nobody remembers their passwords.
"""

from __future__ import annotations

import http.client
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from scripts.bench import processes
from scripts.bench.wire import Fault, Place
from scripts.engine_processes import Engine, start_mongod, start_redis
from wd_trio.config_load import load
from wd_trio.ops import log
from wd_trio.ops.boot import open_services
from wd_trio.secret import Secret

ROOT = Path(__file__).parents[2]
START_S = 60.0
READER, WRITERS, SINKS, ONCE = 0, 1, 21, 41
TOKEN = "bench" * 8
DESCRIPTORS = 20_000


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything a run has."""

    connections: tuple[int, ...] = (1, 20)
    seconds: float = 2.0
    messages: int = 1_000
    big: int = 10_000
    piece: int = 100
    """Messages of one COPY and of one EXPUNGE."""
    pushes: int = 100
    idle: tuple[int, int] = (500, 2_500)
    once: int = 60
    argon2: tuple[int, int] = (3, 65_536)
    """argon2id's passes and KiB."""


TINY = Sizes(
    connections=(1, 2),
    seconds=0.02,
    messages=40,
    big=80,
    piece=2,
    pushes=2,
    idle=(2, 6),
    once=20,
    argon2=(1, 8),
)


@dataclass(slots=True)
class Target:
    """A server. `places` are by protocol; a protocol that is not there has its rows marked so."""

    name: str
    places: dict[str, Place]
    roots: list[int]
    engines: dict[str, list[int]] = field(default_factory=dict)
    """Root pids of the databases behind it, by name: their CPU is told apart."""
    user: str = "bench{n}"
    address: str = "bench{n}@example.org"
    password: str = "benchmark"
    token: str = ""
    hashes: bool = False
    """Are passwords hashed, so that the first log-in costs more than the next?"""
    once: Iterator[int] = field(default_factory=lambda: iter(()))
    """Accounts that have not logged in yet."""

    def login(self, number: int) -> bytes:
        return f'LOGIN {self.user.format(n=number)} "{self.password}"'.encode()

    def recipient(self, number: int) -> bytes:
        return self.address.format(n=number).encode()

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds so far of the server (by the name "") and of each engine."""
        return {name: processes.cpu_s(roots) for name, roots in {"": self.roots, **self.engines}.items()}

    def memory_bytes(self) -> int:
        return processes.memory_bytes(self.roots)


def raise_descriptors() -> None:
    """Room for thousands of connections, in this process and in those it starts."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, DESCRIPTORS), most))


@contextmanager
def own_server(
    folder: Path,
    *,
    workers: int,
    sizes: Sizes,
    environ: dict[str, str] | None = None,
    engine: str = "embedded",
) -> Iterator[Target]:
    """`wd-trio serve` in `folder` with the embedded engine, or with a MongoDB and a Redis of its own ("cluster");
    accounts made; stopped at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        engines = _cluster(folder, stack) if engine == "cluster" else []
        with _served(folder, engines, workers=workers, sizes=sizes, environ=environ or {}) as target:
            yield target


def _cluster(folder: Path, stack: ExitStack) -> list[Engine]:
    """A MongoDB and a Redis, until the stack closes."""
    started = []
    for start, name in ((start_mongod, "mongodb"), (start_redis, "redis")):
        started.append(start(folder / name))
        stack.callback(started[-1].stop)
    return started


@contextmanager
def _served(
    folder: Path, engines: list[Engine], *, workers: int, sizes: Sizes, environ: dict[str, str]
) -> Iterator[Target]:
    config_path = folder / "config.toml"
    config_path.write_text(_config(folder, engines, workers=workers, sizes=sizes))
    _make_accounts(config_path, ONCE + sizes.once)
    log_path = folder / "server.log"
    with log_path.open("wb") as log_file:
        process = subprocess.Popen(
            [sys.executable, "-m", "wd_trio", "serve", "--config", str(config_path)],
            cwd=folder,
            env=_environment() | environ,
            stdin=subprocess.DEVNULL,
            stderr=log_file,
        )
    try:
        places = _wait_ready(process, log_path)
        yield Target(
            f"wd-trio{' on MongoDB' if engines else ''}, {workers} worker{'s' if workers > 1 else ''}",
            places,
            [process.pid],
            engines={engine.folder.name: [engine.pid] for engine in engines},
            token=TOKEN,
            hashes=True,
            once=iter(range(ONCE, ONCE + sizes.once)),
        )
    finally:
        process.send_signal(signal.SIGTERM)
        if process.wait(START_S) != 0:
            print(
                f"the server ended with {process.returncode}:\n{log_path.read_text()[-3000:]}",
                file=sys.stderr,
            )


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WD_TRIO_")}
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))}


def _config(folder: Path, engines: list[Engine], *, workers: int, sizes: Sizes) -> str:
    anywhere = '["127.0.0.1:0"]'
    store, redis = [engine.url for engine in engines] or [f"sqlite:{folder}/data/mail.db", ""]
    passes, kib = sizes.argon2
    return "\n".join(
        (
            f'[server]\nworkers = {workers}\nhostname = "bench.example.org"',
            f"[store]\nurl = {json.dumps(store)}",
            f"[redis]\nurl = {json.dumps(redis)}",
            *(f"[{protocol}]\nlisten = {anywhere}" for protocol in ("imap", "pop3", "lmtp")),
            f"[api]\nlisten = {anywhere}\naccess_token = {json.dumps(TOKEN)}",
            "[limits]\nconnections_per_user = 10000\nconnections_per_ip = 15000",
            f"[auth]\nargon2_time_cost = {passes}\nargon2_memory_kib = {kib}",
            '[log]\nformat = "json"',
        )
    )


def _make_accounts(config_path: Path, count: int) -> None:
    config = load(config_path, {})
    log.configure(config.log)

    async def main() -> None:
        async with open_services(config, server="bench", worker="bench") as services:
            for number in range(count):
                await services.users.create(
                    f"bench{number}", Secret("benchmark"), address=f"bench{number}@example.org"
                )

    trio.run(main)


def _wait_ready(process: subprocess.Popen[bytes], log_path: Path) -> dict[str, Place]:
    """The addresses of the log's `ready` event."""
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        for line in log_path.read_text().splitlines():
            if '"ready"' in line:
                return dict(_place(address) for address in json.loads(line)["addresses"])
        time.sleep(0.05)
    raise Fault(f"the server does not start:\n{log_path.read_text()[-3000:]}")


def _place(address: str) -> tuple[str, Place]:
    protocol, _, place = address.partition("://")
    host, _, port = place.rpartition(":")
    return protocol, (host, int(port))


def get(target: Target, path: str) -> tuple[int, dict[str, object]]:
    """GET from the API: status and JSON body; 404 where there is no API."""
    if "api" not in target.places:
        return 404, {}
    connection = http.client.HTTPConnection(*target.places["api"], timeout=START_S)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {target.token}"})
        response = connection.getresponse()
        body = json.loads(response.read())
    finally:
        connection.close()
    return response.status, body
