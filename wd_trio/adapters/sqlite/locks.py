"""Locks between processes: the writer's turn, who leads, and who is there.

SQLite's own waiting polls and starves; flock(2) sleeps in the kernel and ends with its process, however that
dies. flock knows no timeout, so a wait is done by a helper thread, started when first needed: the writer waits
for the helper with a timeout. A helper whose writer gave up returns the lock as soon as it gets it.

flock also lets a process that has just let go barge in before those it woke. Hence the turnstile: two locks, and
only who holds the first queues for the second. The one that lets go must queue at the turnstile behind the next
one, which is already past it.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wd_trio import errors


class TurnLock:
    """One exclusive lock over all processes, with a turnstile before it. One holder per object: callers serialise
    the threads of a process by a mutex of their own."""

    def __init__(self, path: Path) -> None:
        """Opens (and makes) `path` and `path`.turn."""
        self._lock = _open(path)
        self._turn = _open(path.with_name(path.name + ".turn"))
        self._changed = threading.Condition()
        self._wanted = False
        self._granted = False
        self._helper: threading.Thread | None = None
        self._waiting = False  # the helper is inside flock, or about to be
        self._closed = False

    @contextmanager
    def held(self, timeout_s: float) -> Iterator[None]:
        """Hold the lock in this block. Unavailable when it was not to be had in `timeout_s`."""
        if not self._acquire(timeout_s):
            raise errors.Unavailable(f"no turn to write within {timeout_s:g} s", what="sqlite")
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _acquire(self, timeout_s: float) -> bool:
        with self._changed:
            if not self._waiting and self._acquire_nowait():
                return True
            self._wanted = True
            self._waiting = True
            self._start_helper()
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._granted, timeout_s)
            granted, self._granted, self._wanted = self._granted, False, False
            return granted

    def _acquire_nowait(self) -> bool:
        """Both locks at once, or neither."""
        if not _try_flock(self._turn):
            return False
        try:
            return _try_flock(self._lock)
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)

    def _start_helper(self) -> None:
        if self._helper is None:
            self._helper = threading.Thread(target=self._wait_for_turns, name="sqlite-turn", daemon=True)
            self._helper.start()

    def _wait_for_turns(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    self._close_files()
                    return
            fcntl.flock(self._turn, fcntl.LOCK_EX)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            fcntl.flock(self._turn, fcntl.LOCK_UN)
            with self._changed:
                self._waiting = False
                if self._wanted:
                    self._granted = True
                    self._changed.notify_all()
                else:
                    fcntl.flock(self._lock, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of everything. A helper that still waits in the kernel closes the files when it returns."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            if self._helper is None:
                self._close_files()
            self._changed.notify_all()
        if self._helper is not None:
            self._helper.join(1.0)

    def _close_files(self) -> None:
        os.close(self._lock)
        os.close(self._turn)


class LeaderLock:
    """Leadership among processes: whoever got it keeps it until it resigns or dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def try_lead(self) -> bool:
        """Become the leader if there is none; True while leading."""
        if self._file is not None:
            return True
        file = _open(self._path)
        if _try_flock(file):
            self._file = file
            return True
        os.close(file)
        return False

    def resign(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


class UsersLock:
    """Who has the file open: all who do share this lock, and who is to change its tables must have it alone, or
    programs of another version would go on with tables that they do not know."""

    def __init__(self, path: Path) -> None:
        self._file = _open(path)

    def join(self) -> None:
        """Be one of the users. Never waits under the writer's lock, where alone others are kept out."""
        fcntl.flock(self._file, fcntl.LOCK_SH)

    def try_alone(self) -> bool:
        """Keep all others out, until `join` or `leave`; False when there are some."""
        return _try_flock(self._file)

    def leave(self) -> None:
        os.close(self._file)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_flock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
