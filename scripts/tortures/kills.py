"""SIGKILL workers one after another while clients deliver; then read back whatever got a 250."""

from __future__ import annotations

import argparse
import contextlib
import imaplib
import os
import random
import signal
import smtplib
import threading
import time
from dataclasses import dataclass, field

from tortures.house import ADDRESS, PASSWORD, Server, progress, report, running_server


@dataclass
class Load:
    """Deliverers, each with its own connection; `acknowledged` holds the numbers that got a 250."""

    place: tuple[str, int]
    acknowledged: set[int] = field(default_factory=set)
    lost_connections: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    next_number: int = 0

    def run(self) -> None:
        while not self.stop.is_set():
            try:
                with smtplib.LMTP(*self.place, timeout=30) as client:
                    while not self.stop.is_set():
                        self._deliver(client)
            except (OSError, smtplib.SMTPException):
                with self.lock:
                    self.lost_connections += 1

    def _deliver(self, client: smtplib.LMTP) -> None:
        with self.lock:
            self.next_number += 1
            number = self.next_number
        client.sendmail(
            "load@example.org", [ADDRESS], f"X-Number: {number}\r\n\r\n{'x' * (number % 5000)}\r\n"
        )
        with self.lock:
            self.acknowledged.add(number)


def kills(arguments: argparse.Namespace) -> int:
    with running_server(arguments.workers, arguments.engine) as server:
        load = Load(server.lmtp)
        threads = [threading.Thread(target=load.run) for _ in range(arguments.clients)]
        for thread in threads:
            thread.start()
        begun = time.monotonic()
        done = 0
        with progress() as bar:
            task = bar.add_task("Killing workers", total=arguments.count)
            while done < arguments.count:
                time.sleep(random.uniform(0.02, 0.5))
                serving = server.workers("ready")
                if len(serving) < 2:  # one goes on serving: kills without load would prove little
                    continue
                with contextlib.suppress(ProcessLookupError):
                    os.kill(random.choice(serving), signal.SIGKILL)
                    done += 1
                    bar.advance(task)
        load.stop.set()
        for thread in threads:
            thread.join()
        stored = read_numbers(server)
        lost = load.acknowledged - set(stored)
        report(
            "kills",
            {
                "workers killed": done,
                "seconds": time.monotonic() - begun,
                "messages sent": load.next_number,
                "acknowledged": len(load.acknowledged),
                "stored": len(stored),
                "stored more than once": len(stored) - len(set(stored)),
                "connections lost": load.lost_connections,
                "acknowledged and lost": len(lost),
            },
        )
        return 1 if lost else 0


def read_numbers(server: Server) -> list[int]:
    """The numbers of all stored messages."""
    for attempt in range(10):
        try:
            with imaplib.IMAP4(*server.imap, timeout=60) as client:
                client.login("torture", PASSWORD)
                _, (count,) = client.select("INBOX", readonly=True)
                if count == b"0":
                    return []
                _, data = client.fetch("1:*", "(BODY.PEEK[HEADER.FIELDS (X-NUMBER)])")
                return [int(item[1].split()[1]) for item in data if isinstance(item, tuple)]
        except OSError:
            time.sleep(attempt * 0.2)
    raise SystemExit("the server does not come back")
