"""The real program for end-to-end tests: `python -m wd_trio serve` on ephemeral ports, with a folder of its own.

Its log is read by a thread, line by line, so that a test can wait for an event instead of for time.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from wd_trio.config import Config
from wd_trio.config_load import load
from wd_trio.ops import admin, control
from wd_trio.secret import Secret

WAIT_S = 60.0
ANYWHERE = "127.0.0.1:0"
_numbers = itertools.count(1)
ROOT = Path(__file__).parents[2]
PROGRAM = ("-m", "wd_trio")


@dataclass(frozen=True)
class Place:
    """Where a protocol is served: an address and port, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""


@dataclass(frozen=True)
class Account:
    username: str
    address: str
    password: str


class ServerLog:
    """The events of a server's log so far; `wait` for one that is or will be there."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._events: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._over = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._stream:
            try:
                event = json.loads(line)
            except ValueError:
                event = {"event": "no event", "text": line}
            with self._changed:
                self._events.append(event)
                self._changed.notify_all()
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def join(self) -> None:
        self._thread.join()
        self._stream.close()

    def all(self, name: str = "") -> list[dict[str, Any]]:
        with self._changed:
            return [event for event in self._events if not name or event["event"] == name]

    def wait(
        self, name: str, *, count: int = 1, where: Callable[[dict[str, Any]], bool] = lambda _: True
    ) -> Any:
        """The `count`-th event of that name that fits; fails when the server ends before, showing its log."""

        def found() -> list[dict[str, Any]]:
            return [event for event in self._events if event["event"] == name and where(event)]

        with self._changed:
            self._changed.wait_for(lambda: self._over or len(found()) >= count, WAIT_S)
            assert len(found()) >= count, f"no {name!r} in " + json.dumps(self._events, indent=1)
            return found()[count - 1]


class Served:
    """A running server."""

    def __init__(
        self, folder: Path, config_path: Path, environ: Mapping[str, str], program: Sequence[str] = PROGRAM
    ) -> None:
        self.folder = folder
        self.config_path = config_path
        self._environ = dict(environ)
        self.process = subprocess.Popen(
            [sys.executable, *program, "serve", "--config", str(config_path)],
            cwd=folder,
            env={**_clean_environment(), **environ},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        self.log = ServerLog(self.process.stderr)
        self.places: dict[str, Place] = {}

    def wait_ready(self) -> Served:
        for text in self.log.wait("ready")["addresses"]:
            protocol, _, address = text.partition("://")
            if address.startswith("unix:"):
                self.places[protocol] = Place(path=address.removeprefix("unix:"))
            else:
                host, _, port = address.rpartition(":")
                self.places[protocol] = Place(host, int(port))
        return self

    @property
    def imap(self) -> Place:
        return self.places["imap"]

    @property
    def pop3(self) -> Place:
        return self.places["pop3"]

    @property
    def lmtp(self) -> Place:
        return self.places["lmtp"]

    @property
    def api(self) -> Place:
        return self.places["api"]

    def config(self) -> Config:
        return load(self.config_path, self._environ)

    def add_user(self, *, domain: str = "example.org", quota_bytes: int | None = None) -> Account:
        """A fresh account, made beside the running server as the command line makes it."""
        name = f"user{next(_numbers)}x{os.getpid()}"
        account = Account(name, f"{name}@{domain}", f"secret of {name}")
        admin.add_user(
            self.config(), name, Secret(account.password), address=account.address, quota_bytes=quota_bytes
        )
        return account

    def get(self, path: str) -> tuple[int, bytes]:
        """GET from the API: status and body."""
        try:
            with urllib.request.urlopen(
                f"http://{self.api.host}:{self.api.port}{path}", timeout=WAIT_S
            ) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def metrics(self) -> bytes:
        status, body = self.get("/metrics")
        assert status == 200
        return body

    def metric(self, line: str) -> float:
        """The value of one sample, named as in the text format; 0 when it is not there."""
        for found in self.metrics().decode().splitlines():
            name, _, value = found.rpartition(" ")
            if name == line:
                return float(value)
        return 0.0

    def ask(self, op: str) -> dict[str, Any]:
        return control.request(self.config(), op)

    def worker_pids(self) -> list[int]:
        return [worker["pid"] for worker in self.ask("status")["workers"]]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """The exit status, once the server has ended."""
        status = self.process.wait(WAIT_S)
        self.log.join()
        return status

    def stop(self) -> int:
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.wait()


def start(
    folder: Path,
    *,
    imap: str = ANYWHERE,
    lmtp: str = ANYWHERE,
    api: str = ANYWHERE,
    workers: int = 2,
    environ: Mapping[str, str] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    program: Sequence[str] = PROGRAM,
) -> Served:
    """Start a server in `folder`, which need not be ready yet; `program` are Python's arguments."""
    path = folder / "config.toml"
    write_config(path, settings_of(imap=imap, lmtp=lmtp, api=api, workers=workers, more=settings or {}))
    return Served(folder, path, environ or {}, program)


def _clean_environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WD_TRIO_")}
    return kept | {"PYTHONPATH": str(ROOT)}


def write_config(path: Path, settings: Mapping[str, Mapping[str, Any]]) -> None:
    """A configuration file; JSON's values are TOML's for all that is needed here."""
    lines: list[str] = []
    for section, keys in settings.items():
        lines.append(f"[{section}]")
        lines.extend(f"{key} = {json.dumps(value)}" for key, value in keys.items())
    path.write_text("\n".join(lines) + "\n")


def settings_of(
    *,
    imap: str,
    lmtp: str,
    api: str,
    pop3: str = "127.0.0.1:0",
    workers: int,
    more: Mapping[str, Mapping[str, Any]],
) -> dict[str, dict[str, Any]]:
    """The settings of a server for tests: cheap passwords, a log that can be read, and `more`."""
    made: dict[str, dict[str, Any]] = {
        "server": {"workers": workers, "hostname": "mail.example.org"},
        "store": {"url": "sqlite:data/mail.db"},
        "imap": {"listen": [imap]},
        "pop3": {"listen": [pop3]},
        "lmtp": {"listen": [lmtp]},
        "api": {"listen": [api]},
        "auth": {"argon2_time_cost": 1, "argon2_memory_kib": 8, "failure_delay_s": 0.01},
        "log": {"format": "json"},
    }
    for section, keys in more.items():
        made.setdefault(section, {}).update(keys)
    return made
