"""Where a row's time goes: the top functions of the worker while that row runs.

    python -m scripts.bench.profile "STORE one" LIST            py-spy where it is installed, else cProfile
    python -m scripts.bench.profile LIST --with cprofile        one row, with counts of calls for each operation

py-spy samples and changes little. It takes some waiting threads for busy ones: what waits by its name (WAITING) is
left out, but a sample within a system call (fsync, epoll) may be waiting too, so shares are of time, not of CPU.
cProfile, on each thread's CPU clock, counts calls exactly and makes small functions look dearer than they are. It is
brought into the worker by a sitecustomize in a folder of its own on PYTHONPATH, begins and ends at SIGUSR2, and
profiles the loop's thread and those of the gateway.
"""

from __future__ import annotations

import argparse
import marshal
import os
import pstats
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from scripts.bench import processes
from scripts.bench.population import populate
from scripts.bench.rows import Row, Rows
from scripts.bench.target import ROOT, TINY, Sizes, Target, own_server, raise_descriptors
from scripts.bench.wire import Fault, Line, drive

SAMPLES_PER_S = 500
START_S = 1.5
DUMP_S = 30.0
WAITING = ("Lane._sleep", "Condition.wait", "WorkerThread._work")

HOOK = """
import sys

if "wd_trio.ops.worker" in sys.orig_argv:
    import cProfile, marshal, os, signal, threading, time
    profiles, on = {}, []

    def enter(frame, event, argument):
        profile = profiles[threading.get_ident()] = cProfile.Profile(time.thread_time)
        profile.enable()

    def toggle(number, frame):
        if not on:
            on.append(True)
            for profile in list(profiles.values()):
                profile.clear()  # the gateway's threads have profiled the populating
            profiles[0] = cProfile.Profile(time.thread_time)
            profiles[0].enable()
            return
        for number, profile in list(profiles.items()):
            profile.snapshot_stats()  # not create_stats, which ends pending calls by another thread's clock
            with open(f"{os.environ['BENCH_PROFILE']}.{number}", "wb") as file:
                marshal.dump(profile.stats, file)
        open(os.environ["BENCH_PROFILE"], "w").close()

    threading.setprofile(enter)
    signal.signal(signal.SIGUSR2, toggle)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.profile", description="Profile one row.")
    parser.add_argument("rows", nargs="+", metavar="ROW", help="the row whose name holds this text")
    parser.add_argument("--with", dest="tool", choices=("py-spy", "cprofile"), help="the profiler")
    parser.add_argument("--py-spy", default=shutil.which("py-spy"), help="where py-spy is")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--connections", type=int, default=20)
    parser.add_argument("--top", type=int, default=40, help="functions to show")
    parser.add_argument("--lines", action="store_true", help="py-spy: lines instead of functions")
    parser.add_argument("--engine", choices=("embedded", "cluster"), default="embedded")
    parser.add_argument("--tiny", action="store_true", help="small mailboxes, to try it")
    options = parser.parse_args(arguments)
    tool = options.tool or ("py-spy" if options.py_spy else "cprofile")
    if tool == "cprofile" and len(options.rows) > 1:
        parser.error("cProfile takes one row: the worker's profile begins and ends once")
    raise_descriptors()
    sizes = replace(
        TINY if options.tiny else Sizes(), seconds=options.seconds, connections=(options.connections,)
    )
    with tempfile.TemporaryDirectory(prefix="profile") as name:
        folder = Path(name)
        environ = _hook(folder) if tool == "cprofile" else {}
        server = own_server(folder / "server", workers=1, sizes=sizes, environ=environ, engine=options.engine)
        with server as target:
            populate(target, sizes)
            for text in options.rows:
                run = _prepared(_find(Rows(target, sizes), text), sizes)
                if tool == "cprofile":
                    _cprofile(target, run, folder, options.top)
                else:
                    _py_spy(target, run, folder, options)
    return 0


def _find(rows: Rows, text: str) -> Row:
    found = [row for row in rows.all() if text.lower() in row.name.lower()]
    if not found:
        raise SystemExit(
            f"no row's name holds {text!r}; there are " + ", ".join(row.name for row in rows.all())
        )
    if not found[0].there():
        raise SystemExit(f"{found[0].name}: not there")
    return found[0]


def _prepared(row: Row, sizes: Sizes) -> Callable[[], int]:
    """Opens the row's connections; the function runs it and says how many commands it was."""
    lines = [Line(number) for number in range(sizes.connections[0])]
    for line in lines:
        row.ready(line)
    if row.warm:
        drive(lines, row.operation, seconds=sizes.seconds, most=row.warm)

    def run() -> int:
        timings = drive(lines, row.operation, seconds=sizes.seconds, most=row.most)
        for line in lines:
            line.close()
        count = len(timings.latencies_s) * row.each
        print(f"\n=== {row.name}: {count} operations in {timings.elapsed_s:.2f} s")
        return count

    return run


def _worker(target: Target) -> int:
    """The pid of the only worker."""
    for pid in processes.tree(target.roots):
        if b"wd_trio.ops.worker" in (Path("/proc") / str(pid) / "cmdline").read_bytes():
            return pid
    raise Fault("there is no worker")


# --- py-spy -----------------------------------------------------------------------------------------------


def _py_spy(target: Target, run: Callable[[], int], folder: Path, options: argparse.Namespace) -> None:
    stacks = folder / "stacks"
    rate, pid = str(SAMPLES_PER_S), str(_worker(target))
    command = [options.py_spy, "record", "--format", "raw", "--rate", rate, "--threads", "-o", str(stacks)]
    if not options.lines:
        command.append("--function")
    spy = subprocess.Popen(
        [*command, "--pid", pid],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(START_S)  # it tells nobody when it is ready
    before_s = target.cpu_s()[""]
    count = run()
    spent_s = target.cpu_s()[""] - before_s
    spy.send_signal(signal.SIGINT)
    spy.wait(DUMP_S)
    _print_stacks(stacks.read_text(), options.top, spent_s / max(count, 1) * 1e3)


def _print_stacks(text: str, top: int, cpu_ms: float) -> None:
    """Shares of all samples: at the top of the stack, and anywhere in it."""
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    threads: Counter[str] = Counter()
    for row in text.splitlines():
        stack, _, samples = row.rpartition(" ")
        frames = [frame.replace(f"{ROOT}/", "") for frame in stack.split(";")]
        if frames[-1].startswith(WAITING):
            continue
        own[frames[-1]] += int(samples)
        threads[frames[0]] += int(samples)
        for frame in set(frames[1:]):
            total[frame] += int(samples)
    every = sum(own.values()) or 1
    print(f"{cpu_ms:.3f} ms of CPU an operation, py-spy's share included; {every} samples")
    print("threads: " + ", ".join(f"{name} {count / every:.0%}" for name, count in threads.most_common(6)))
    for head, counts in (("its own", own), ("with what it calls", total)):
        print(f"\n{head:>18}")
        for name, count in counts.most_common(top):
            print(f"{count / every:>17.1%}  {name}")


# --- cProfile ---------------------------------------------------------------------------------------------


def _hook(folder: Path) -> dict[str, str]:
    site = folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(HOOK)
    return {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}", "BENCH_PROFILE": str(folder / "stats")}


def _cprofile(target: Target, run: Callable[[], int], folder: Path, top: int) -> None:
    pid = _worker(target)
    os.kill(pid, signal.SIGUSR2)
    count = run()
    os.kill(pid, signal.SIGUSR2)
    until = time.monotonic() + DUMP_S
    while not (folder / "stats").exists():
        if time.monotonic() > until:
            raise Fault("the worker wrote no profile")
        time.sleep(0.05)
    dumps = [path for path in sorted(folder.glob("stats.*")) if marshal.loads(path.read_bytes())]
    _print_calls(pstats.Stats(*map(str, dumps)), top, max(count, 1))


def _print_calls(stats: pstats.Stats, top: int, count: int) -> None:
    """Calls and microseconds of each operation, by a function's own time and by all that it calls."""
    rows = []
    for (file, line, name), (_, calls, own_s, total_s, _) in stats.stats.items():  # type: ignore[attr-defined]  # typeshed lacks it
        place = (
            "" if file == "~" else f" ({file.replace(f'{ROOT}/', '').rpartition('site-packages/')[2]}:{line})"
        )
        rows.append((calls / count, own_s / count * 1e6, total_s / count * 1e6, name + place))
    for head, column in (("own time", 1), ("with what it calls", 2)):
        print(f"\n{'calls/op':>9} {'own µs':>9} {'all µs':>9}   by {head}")
        for calls, own_us, total_us, name in sorted(rows, key=lambda row: -row[column])[:top]:
            print(f"{calls:>9.2f} {own_us:>9.1f} {total_us:>9.1f}   {name}")


if __name__ == "__main__":
    sys.exit(main())
