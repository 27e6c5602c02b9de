"""status: everything about a running server on one page: rich tables on a terminal, else tab-separated lines that
each begin with the name of their part."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from rich.console import Console
from rich.table import Table

from wd_trio.cli.terminal import size_words

Rows: TypeAlias = list[list[str]]

PARTS: Final[dict[str, tuple[str, ...]]] = {
    "server": ("server", ""),
    "worker": ("worker", "pid", "state", "age", "connections", "parked", "memory"),
    "connections": ("connections", "arrived", "greeted", "logged in", "idle", "all", "on TLS"),
    "gone on": ("gone on with another worker", "", "connections"),
    "lost": ("ended with their worker", "", "connections"),
    "ended": ("ended", "", "connections"),
    "refused": ("refused", "", "connections"),
    "holder": ("TLS holder", "", "age", "open", "unfinished", "memory"),
}
"""The parts of the page in their order, with the headings of their columns."""
_CAUSES: Final = {"rolled": "reloads and upgrades", "died": "survived a worker's death"}


def print_page(about: dict[str, Any]) -> None:
    """Print a server's report (ops/status.py), with its `health` beside."""
    page = _page(about)
    if not sys.stdout.isatty():
        for part, rows in page.items():
            for row in rows:
                print("\t".join((part, *row)))
        return
    console = Console()
    for part, rows in page.items():
        if rows:
            console.print(_table(PARTS[part], rows), "")


def _table(headings: Sequence[str], rows: Rows) -> Table:
    table = Table(box=None, pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number < 2 else "right")
    for row in rows:
        table.add_row(*row)
    return table


def _page(about: dict[str, Any]) -> dict[str, Rows]:
    moved = {
        protocol: {_CAUSES.get(cause, cause): count for cause, count in counts.items()}
        for protocol, counts in about["moved"].items()
    }
    return {
        "server": _server(about),
        "worker": [
            [
                str(each["slot"]),
                str(each["pid"]),
                each["state"],
                age_words(each["ageS"]),
                str(each["connections"]),
                str(each["parked"]),
                size_words(each["memoryBytes"]),
            ]
            for each in about["workers"]
        ],
        "connections": [
            [
                protocol,
                *(str(counts[state]) for state in ("arrived", "greeted", "logged in", "idle")),
                str(sum(counts.values()) - counts["secure"]),
                str(counts["secure"]),
            ]
            for protocol, counts in about["states"].items()
        ],
        "gone on": _counts(moved),
        "lost": _counts(about["lost"]),
        "ended": _counts(about["ended"]),
        "refused": _counts(about["refused"]),
        "holder": _holder(about["holder"]),
    }


def _server(about: dict[str, Any]) -> Rows:
    upgrade, health = about["upgrade"], about["health"]
    state = "stopping" if about["stopping"] else "upgrading" if upgrade["underWay"] else "serving"
    return [
        ["version", about["version"]],
        ["state", f"{state}, pid {about['pid']}"],
        ["up", age_words(about["uptimeS"])],
        ["upgrades", str(upgrade["generation"])],
        ["health", health["status"] + (f": {health['error']}" if health.get("error") else "")],
        ["connections", str(about["connections"])],
        ["parked", str(about["parked"])],
        ["without a worker", str(about["withoutWorker"])],
        ["memory", size_words(about["memoryBytes"])],
    ]


def _counts(by_protocol: dict[str, dict[str, int]]) -> Rows:
    return [
        [protocol, what, str(count)]
        for protocol, counts in by_protocol.items()
        for what, count in sorted(counts.items(), key=lambda each: -each[1])
    ]


def _holder(holder: dict[str, Any]) -> Rows:
    if not holder["pid"]:
        return []
    return [
        [
            str(holder["pid"]),
            "ready" if holder["ready"] else "starting",
            age_words(holder["ageS"]),
            str(holder["open"]),
            str(holder["unfinished"]),
            size_words(holder["memoryBytes"]),
        ]
    ]


def age_words(age_s: float) -> str:
    """A time for people: its two greatest units, as in 3 d 4 h."""
    seconds = int(age_s)
    parts = [
        (seconds // 86400, "d"),
        (seconds // 3600 % 24, "h"),
        (seconds // 60 % 60, "min"),
        (seconds % 60, "s"),
    ]
    first = next((number for number, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2])
