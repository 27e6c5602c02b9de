"""Open and drop connections by the thousand; then see that the server still serves."""

from __future__ import annotations

import argparse
import socket
import time

from tortures.house import progress, report, running_server
from tortures.kills import read_numbers


def connect_drop(arguments: argparse.Namespace) -> int:
    with running_server(arguments.workers, arguments.engine) as server:
        workers, before = server.workers(), server.resident_mib()
        begun = time.monotonic()
        with progress() as bar:
            for place, name in ((server.imap, "IMAP"), (server.lmtp, "LMTP")):
                for n in bar.track(range(arguments.count), description=f"Dropping {name} connections"):
                    drop(place, n)
        seconds = time.monotonic() - begun
        after = server.resident_mib()
        read_numbers(server)
        same = server.workers() == workers
        report(
            "connect-drop",
            {
                "connections": 2 * arguments.count,
                "a second": 2 * arguments.count / seconds,
                "largest worker before, MiB": before,
                "largest worker after, MiB": after,
                "the same workers": same,
            },
        )
        return 0 if same and after - before < 64 else 1


def drop(place: tuple[str, int], n: int) -> None:
    """Connect and go: at once, after half a command, or after a byte of the greeting."""
    with socket.create_connection(place, timeout=30) as sock:
        if n % 3 == 1:
            sock.sendall(b"a NO")
        elif n % 3 == 2:
            sock.recv(1)
