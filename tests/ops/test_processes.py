"""Child processes by number and pidfd: what they inherit, how they end, that a second program can lead them on."""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path

import pytest
import trio

from wd_trio.ops.processes import Looks, Process, look


def python(program: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", program, *map(str, arguments)]


async def test_the_exit_status_is_told_once_and_for_all() -> None:
    process = Process.spawn(python("raise SystemExit(7)"), environ={})
    assert process.returncode is None
    assert await process.wait() == 7
    assert await process.wait() == process.returncode == 7
    process.kill()  # nobody: the number may be another's by now


async def test_a_killed_one_tells_its_signal() -> None:
    process = Process.spawn(python("import signal; signal.pause()"), environ={})
    process.kill()
    process.kill()
    assert await process.wait() == -signal.SIGKILL


async def test_a_program_that_is_not_there_is_an_error() -> None:
    with pytest.raises(FileNotFoundError, match="/nowhere/at/all"):
        Process.spawn(["/nowhere/at/all"], environ={})


async def test_it_inherits_what_it_is_given_and_nothing_else() -> None:
    """Descriptors under their numbers, standard output, the environment, no signal that is blocked or ignored."""
    program = (
        "import os, signal, sys; os.write(int(sys.argv[1]), b'here');"
        "print(sorted(os.environ), os.getpgid(0) == os.getpid(), os.read(0, 1),"
        "signal.pthread_sigmask(signal.SIG_BLOCK, ()), os.path.exists('/proc/self/fd/' + sys.argv[2]))"
    )
    given, given_theirs = os.pipe()
    out, out_theirs = os.pipe()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    try:
        process = Process.spawn(
            python(program, given_theirs, given),
            inherited=[given_theirs],
            environ={"LC_ALL": "C.UTF-8"},
            stdout=out_theirs,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert await process.wait() == 0
    assert os.read(given, 100) == b"here"
    assert os.read(out, 1000).decode() == "['LC_ALL'] True b'' set() False\n"
    for descriptor in (given, given_theirs, out, out_theirs):
        os.close(descriptor)


async def test_one_that_another_program_started_is_led_by_its_number(tmp_path: Path) -> None:
    first = Process.spawn(python("import signal; signal.pause()"), environ={})
    os.close(first._pidfd)  # all that an exec takes away
    second = Process(first.pid)
    with trio.move_on_after(0) as scope:
        await second.wait()
    assert scope.cancelled_caught
    second.kill()
    assert await second.wait() == -signal.SIGKILL


async def test_one_that_ended_in_between_still_tells_how() -> None:
    first = Process.spawn(python("raise SystemExit(5)"), environ={})
    await trio.lowlevel.wait_readable(first._pidfd)
    os.close(first._pidfd)
    assert await Process(first.pid).wait() == 5


async def test_one_that_somebody_else_waited_for_has_ended_all_the_same() -> None:
    process = Process.spawn(python("pass"), environ={})
    os.waitpid(process.pid, 0)  # noqa: ASYNC222 - it ends at once
    assert await process.wait() == 255


async def test_without_a_descriptor_to_watch_it_by_there_is_no_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pids: list[int] = []

    def none_left(pid: int) -> int:
        pids.append(pid)
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", none_left)
    with pytest.raises(OSError, match="Too many open files"):
        Process.spawn(python("import signal; signal.pause()"), environ={})
    with pytest.raises(ChildProcessError):
        os.waitpid(pids[0], 0)  # noqa: ASYNC222 - there is nothing to wait for


def test_without_a_descriptor_to_look_with_nothing_is_seen() -> None:
    spare = os.dup(0)
    os.close(spare)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert look(os.getpid()).memory_bytes
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare, hard))
    try:
        assert look(os.getpid()) == Looks()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
