"""A real server for the tortures: on ephemeral ports and a folder of its own, and how results are shown."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine_processes import start_mongod, start_redis
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from wd_trio.config import Config
from wd_trio.config_load import load
from wd_trio.ops import control

PASSWORD = "torture-password"
ADDRESS = "torture@example.test"
console = Console()


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    config: Config
    imap: tuple[str, int]
    lmtp: tuple[str, int]
    pop3: tuple[str, int]

    def workers(self, state: str = "") -> list[int]:
        """Process ids of the workers (in `state`)."""
        found = control.request(self.config, "status")["workers"]
        return sorted(worker["pid"] for worker in found if state in ("", worker["state"]))

    def resident_mib(self) -> float:
        """The largest worker's memory."""
        sizes = [0]
        for pid in self.workers():
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{pid}/status").read_text()
                sizes += [int(size) for size in re.findall(r"VmRSS:\s+(\d+)", text)]
        return max(sizes) / 1024


@contextlib.contextmanager
def running_server(workers: int, engine: str = "embedded") -> Iterator[Server]:
    """A server with one account, stopped by SIGTERM at the end; "cluster": on a MongoDB and a Redis of its own."""
    with tempfile.TemporaryDirectory(prefix="wd-trio-torture-") as folder, contextlib.ExitStack() as stack:
        environ = {
            **os.environ,
            **_engine(engine, Path(folder), stack),
            "WD_TRIO_SERVER__WORKERS": str(workers),
            "WD_TRIO_IMAP__LISTEN": '["127.0.0.1:0"]',
            "WD_TRIO_POP3__LISTEN": '["127.0.0.1:0"]',
            "WD_TRIO_LMTP__LISTEN": '["127.0.0.1:0"]',
            "WD_TRIO_API__LISTEN": '["127.0.0.1:0"]',
            "WD_TRIO_LIMITS__CONNECTIONS_PER_IP": "15000",
            "WD_TRIO_AUTH__ARGON2_TIME_COST": "1",
            "WD_TRIO_AUTH__ARGON2_MEMORY_KIB": "8",
            "WD_TRIO_LOG__FORMAT": "json",
        }
        command = [sys.executable, "-m", "wd_trio"]
        subprocess.run(
            [*command, "user", "add", "torture", "--address", ADDRESS, "--password-stdin"],
            input=PASSWORD.encode(),
            env=environ,
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        with open(f"{folder}/log", "wb") as log:
            process = subprocess.Popen([*command, "serve"], env=environ, cwd=folder, stderr=log)
        try:
            places = _wait_ready(Path(folder, "log"), process)
            yield Server(process, load(None, environ), places["imap"], places["lmtp"], places["pop3"])
        finally:
            process.send_signal(signal.SIGTERM)
            if process.wait(30) != 0:
                console.print(f"[red]the server exited {process.returncode}")


def _engine(name: str, folder: Path, stack: contextlib.ExitStack) -> dict[str, str]:
    """The settings of an engine, which is started where it is no file."""
    if name == "embedded":
        return {"WD_TRIO_STORE__URL": f"sqlite:{folder}/mail.db"}
    mongod, redis = start_mongod(folder / "mongodb"), start_redis(folder / "redis")
    stack.callback(mongod.stop)
    stack.callback(redis.stop)
    return {
        "WD_TRIO_STORE__URL": mongod.url,
        "WD_TRIO_REDIS__URL": redis.url,
        "WD_TRIO_SERVER__CONTROL": f"{folder}/control",
    }


def _wait_ready(log: Path, process: subprocess.Popen[bytes]) -> dict[str, tuple[str, int]]:
    while process.poll() is None:
        for line in log.read_text().splitlines():
            if '"ready"' in line and '"addresses"' in line:
                addresses = json.loads(line)["addresses"]
                parts = [re.fullmatch(r"(\w+)://(.*):(\d+)", address) for address in addresses]
                return {part[1]: (part[2], int(part[3])) for part in parts if part}
        time.sleep(0.05)
    raise SystemExit(log.read_text())


def progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


def report(title: str, rows: dict[str, object]) -> None:
    table = Table("", "", title=title, show_header=False)
    for name, value in rows.items():
        table.add_row(name, f"{value:.1f}" if isinstance(value, float) else str(value))
    console.print(table)
