"""Child processes by number and pidfd, so that a supervisor can replace its own program and keep them.

Nothing of a child is held in memory that an exec would lose: its number and the kernel's word for its end are enough.
It gets exactly the descriptors that it is to inherit (everything else of ours is close-on-exec), under the same
numbers, a process group of its own (a terminal's Ctrl-C is the supervisor's alone) and a clean slate of signals.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final

import trio

CONFIG_VARIABLES: Final = "WD_TRIO_"
_UNKNOWN: Final = 255
"""The exit status of a child that somebody else has waited for."""
_IGNORED_BY_PYTHON: Final = (signal.SIGPIPE, signal.SIGXFSZ)


@dataclass(frozen=True, slots=True)
class Looks:
    """A process from outside: its age, across execs, and its resident memory; all 0 when there is none, or nothing
    to look with."""

    age_s: float = 0.0
    memory_bytes: int = 0


def look(pid: int) -> Looks:
    """What the kernel says of a process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # from the third on: the name may hold anything
    except OSError:  # there is none; or no descriptor is left, which is no reason to fail whoever asks
        return Looks()
    born_s = int(fields[22 - 3]) / os.sysconf("SC_CLK_TCK")
    return Looks(
        time.clock_gettime(time.CLOCK_BOOTTIME) - born_s, int(fields[24 - 3]) * os.sysconf("SC_PAGE_SIZE")
    )


def environment(own: Mapping[str, str], *, arenas: int) -> dict[str, str]:
    """The environment of a child: no configuration, which may hold secrets; few malloc arenas, since every thread
    would else grow one of its own."""
    kept = {name: value for name, value in own.items() if not name.startswith(CONFIG_VARIABLES)}
    return {"MALLOC_ARENA_MAX": str(arenas)} | kept


async def wait_hung(
    heard: Callable[[], int],
    ask: Callable[[int], Awaitable[object]],
    *,
    ping_s: float,
    silence_s: Callable[[], float],
) -> None:
    """Returns when a child has said nothing for `silence_s`, asked for a word (with a number) every `ping_s`. `heard`
    counts its words."""
    before, silent_s = heard(), 0.0
    for number in count(1):
        await trio.sleep(ping_s)
        # Counted in steps that this process lives through: while it is held up itself, nobody is asked.
        silent_s = silent_s + ping_s if heard() == before else 0.0
        before = heard()
        if silent_s > silence_s():
            return
        with trio.move_on_after(ping_s) as asking:
            await ask(number)
        if asking.cancelled_caught:  # a full channel is silence too
            silent_s += ping_s


class Process:
    """A child of this process, one that an earlier program in this process has started among them."""

    def __init__(self, pid: int) -> None:
        """OSError when there is no such process; one that has ended and was not waited for is there."""
        self.pid = pid
        self.returncode: int | None = None
        """Negative for a signal; None until `wait` has returned."""
        self._pidfd = os.pidfd_open(pid)

    @classmethod
    def spawn(
        cls,
        command: Sequence[str],
        *,
        inherited: Sequence[int] = (),
        environ: Mapping[str, str],
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> Process:
        """Start a program, which reads nothing from its standard input. OSError when it cannot be."""
        actions: list[tuple[int, int, str, int, int] | tuple[int, int, int]] = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
        ]
        # A descriptor duplicated to itself stays open in the child (posix_spawn_file_actions_adddup2(3)).
        actions += [(os.POSIX_SPAWN_DUP2, descriptor, descriptor) for descriptor in inherited]
        actions += [
            (os.POSIX_SPAWN_DUP2, given, standard)
            for given, standard in ((stdout, 1), (stderr, 2))
            if given is not None
        ]
        pid = os.posix_spawn(
            command[0],
            list(command),
            dict(environ),
            file_actions=actions,
            setpgroup=0,
            setsigmask=(),
            setsigdef=_IGNORED_BY_PYTHON,
        )
        try:
            return cls(pid)
        except OSError:  # no descriptor is left to watch it by
            os.kill(pid, signal.SIGKILL)
            _reap(pid)
            raise

    async def wait(self) -> int:
        """Wait for its end; its exit status, negative for a signal. One task at a time."""
        if self.returncode is None:
            await trio.lowlevel.wait_readable(self._pidfd)
            self.returncode = _reap(self.pid)
            os.close(self._pidfd)
        return self.returncode

    def kill(self) -> None:
        """End it now. Idempotent."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)


def _reap(pid: int) -> int:
    """The exit status of a child that has ended."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return _UNKNOWN
