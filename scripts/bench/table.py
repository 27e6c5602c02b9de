"""The benchmarks: one table of server CPU per operation and operations per second.

    python -m scripts.bench.table                              wd-trio, one worker and two
    python -m scripts.bench.table --workers 1 --dovecot        and a private Dovecot in the same run
    python -m scripts.bench.table --workers 1 --engine embedded cluster
    python -m scripts.bench.table --only FETCH --seconds 5     the rows whose names hold the text
    python -m scripts.bench.table --peer 127.0.0.1:143 --peer-lmtp 127.0.0.1:24 --peer-pids 812 --peer-user 'u{n}'

It starts the servers itself (a process tree each, in a temporary folder, on ephemeral ports of loopback) and drives
them from this process with raw sockets. CPU is the server's user and system time, all of its processes. A peer
that runs already is given by address, user names ({n} is the account's number, from 0), password and root pids.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from scripts.bench.dovecot import dovecot
from scripts.bench.measure import Result, measured, stamp
from scripts.bench.target import TINY, Sizes, Target, own_server, raise_descriptors
from scripts.bench.wire import Place


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    sizes = _sizes(options)
    raise_descriptors()
    errors = Console(stderr=True)
    results: list[Result] = []
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="bench", dir=options.folder) as name:
        for server in _servers(options, sizes, Path(name)):
            with server as target:
                for result in measured(target, sizes, only=options.only, pipeline=options.pipeline):
                    errors.print(_progress(result), markup=False, highlight=False, soft_wrap=True)
                    results.append(result)
    about = {
        "date": stamp(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(load_before, 1),
        "load_after": round(os.getloadavg()[0], 1),
        "pipeline": options.pipeline,
    }
    if options.json:
        print(json.dumps({**about, "results": [result.plain() for result in results]}, indent=1))
    else:
        _print(results, about)
    return 1 if any(result.note.startswith("failed") for result in results) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.table", description="Measure the server.")
    add = parser.add_argument
    add(
        "--engine",
        choices=("embedded", "cluster"),
        nargs="+",
        default=["embedded"],
        help="what wd-trio stores in: SQLite, or a MongoDB and a Redis started for the run, whose CPU is told apart",
    )
    add(
        "--workers",
        type=int,
        nargs="*",
        default=[1, 2],
        help="wd-trio with so many workers, one run for each",
    )
    add("--dovecot", action="store_true", help="a private Dovecot too (Debian: dovecot-imapd dovecot-lmtpd)")
    add("--peer", metavar="HOST:PORT", help="an IMAP server that runs already")
    add("--peer-lmtp", metavar="HOST:PORT", help="its LMTP")
    add("--peer-pids", type=int, nargs="+", default=[], help="the roots of its process trees")
    add("--peer-user", default="bench{n}", help="its user names (default: %(default)s)")
    add("--peer-address", default="bench{n}@example.org", help="their addresses (default: %(default)s)")
    add("--peer-password", default="benchmark", help="everyone's password (default: %(default)s)")
    add("--only", nargs="+", default=[], metavar="TEXT", help="only rows whose names hold one of these")
    add("--seconds", type=float, help="how long each row runs at each number of connections")
    add("--connections", type=int, nargs="+", help="numbers of connections (at most 20; default: 1 20)")
    add("--pipeline", type=int, default=1, help="IMAP commands in one send, where a row allows it")
    add("--tiny", action="store_true", help="sizes that only show that everything works")
    add(
        "--folder",
        type=Path,
        help="where the servers' data goes: a local disk (default: the temporary folder)",
    )
    add("--json", action="store_true", help="JSON instead of a table")
    return parser


def _sizes(options: argparse.Namespace) -> Sizes:
    sizes = TINY if options.tiny else Sizes()
    if options.seconds is not None:
        sizes = replace(sizes, seconds=options.seconds)
    if options.connections:
        sizes = replace(sizes, connections=tuple(options.connections))
    return sizes


def _servers(
    options: argparse.Namespace, sizes: Sizes, folder: Path
) -> Iterator[AbstractContextManager[Target]]:
    for engine in options.engine:
        for workers in options.workers:
            yield own_server(folder / f"{engine}-{workers}", workers=workers, sizes=sizes, engine=engine)
    if options.dovecot:
        yield dovecot(folder / "dovecot")
    if options.peer:
        places = {"imap": _place(options.peer)}
        if options.peer_lmtp:
            places["lmtp"] = _place(options.peer_lmtp)
        yield nullcontext(
            Target(
                options.peer,
                places,
                options.peer_pids,
                user=options.peer_user,
                address=options.peer_address,
                password=options.peer_password,
            )
        )


def _place(text: str) -> Place:
    host, _, port = text.rpartition(":")
    return host, int(port)


def _progress(result: Result) -> str:
    figures = f"{result.per_second:.1f}/s {result.cpu_ms:.3f} ms" if result.operations else ""
    return f"{result.target}: {result.row} with {result.connections}: {figures}{result.note}"


def _print(results: Sequence[Result], about: dict[str, object]) -> None:
    targets = list(dict.fromkeys(result.target for result in results))
    head = ", ".join(f"{name} {value}" for name, value in about.items())
    print(
        f"CPU ms per operation (with MongoDB: server+mongodb+redis), operations per second, p50/p99 ms; {head}"
    )
    table = Table(box=box.MARKDOWN)
    table.add_column("row", no_wrap=True)
    table.add_column("conns", justify="right")
    for target in targets:
        for name in (f"{target}: CPU ms", "per s", "p50/p99"):
            table.add_column(name, justify="right")
    cells = {(result.row, result.connections, result.target): result for result in results}
    for row, connections in dict.fromkeys((result.row, result.connections) for result in results):
        texts = [text for target in targets for text in _cell(cells.get((row, connections, target)))]
        table.add_row(row, str(connections), *texts)
    Console(width=None if sys.stdout.isatty() else 70 + 70 * len(targets)).print(table)


def _cell(result: Result | None) -> tuple[str, str, str]:
    if result is None:
        return "", "", ""
    if not result.operations:
        return result.note, "", ""
    return (
        "+".join(f"{ms:.3f}" for ms in (result.cpu_ms, *result.engines_ms.values())),
        f"{result.per_second:.1f}",
        f"{result.p50_ms:.1f}/{result.p99_ms:.1f}",
    )


if __name__ == "__main__":
    sys.exit(main())
