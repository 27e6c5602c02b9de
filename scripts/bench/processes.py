"""What a tree of processes has used: CPU time and memory, read from the kernel.

CPU time is utime+stime of every process of the tree, read by its CPU clock (nanoseconds, ended threads included)
instead of /proc/PID/stat (hundredths of a second), and cutime+cstime for its children that have ended, so that a
server that makes a process for each connection is counted in full. Memory is PSS: what is shared counts by shares.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_CPU_CLOCK = 2  # CPUCLOCK_SCHED of a process: see clock_getcpuclockid(3)


def tree(roots: Iterable[int]) -> Iterator[int]:
    """The pids of these processes and of all that descend from them."""
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        yield pid
        try:
            for task in (Path("/proc") / str(pid) / "task").iterdir():
                waiting.extend(map(int, (task / "children").read_text().split()))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile: its parent's counters have it


def cpu_s(roots: Iterable[int]) -> float:
    """CPU seconds of the whole tree so far."""
    total = 0.0
    for pid in tree(roots):
        try:
            total += time.clock_gettime(((~pid) << 3) | _CPU_CLOCK)
            stat = (Path("/proc") / str(pid) / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError, OSError):
            continue
        fields = stat.rpartition(")")[2].split()
        total += (int(fields[13]) + int(fields[14])) / _TICKS_PER_S
    return total


def memory_bytes(roots: Iterable[int]) -> int:
    """Proportional set size of the whole tree."""
    total = 0
    for pid in tree(roots):
        try:
            text = (Path("/proc") / str(pid) / "smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(row.split()[1]) * 1024 for row in text.splitlines() if row.startswith("Pss:"))
    return total
