"""The writer's turn and leadership. Two lock objects in one process exclude each other as two processes do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import pytest

from wd_trio import errors
from wd_trio.adapters.sqlite.locks import LeaderLock, TurnLock


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[TurnLock, TurnLock]]:
    locks = TurnLock(tmp_path / "lock"), TurnLock(tmp_path / "lock")
    yield locks
    for lock in locks:
        lock.close()


def test_one_holds_and_the_other_waits_its_turn(pair: tuple[TurnLock, TurnLock]) -> None:
    first, second = pair
    order: list[str] = []
    waiting = Event()

    def wait_for_turn() -> None:
        waiting.set()
        with second.held(60):
            order.append("second")

    with first.held(0):
        thread = Thread(target=wait_for_turn)
        thread.start()
        waiting.wait()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    with first.held(0), pytest.raises(errors.Unavailable), second.held(0):
        pass


def test_who_gave_up_waiting_does_not_keep_the_lock(pair: tuple[TurnLock, TurnLock]) -> None:
    first, second = pair
    for _ in range(3):
        with first.held(60):
            for _ in range(3):
                with pytest.raises(errors.Unavailable, match="no turn"), second.held(0.001):
                    pass
    for _ in range(20):  # the helper that still waited has returned what it got, and both go on
        with second.held(60):
            pass
        with first.held(60):
            pass


def test_the_lock_is_free_after_an_exception(pair: tuple[TurnLock, TurnLock]) -> None:
    first, second = pair
    with pytest.raises(ValueError, match="inside"), first.held(0):
        raise ValueError("inside")
    with second.held(60):
        pass


def test_many_threads_of_many_holders_are_never_inside_together(tmp_path: Path) -> None:
    inside = 0
    most = 0
    entered = 0

    def work() -> None:
        nonlocal inside, most, entered
        lock = TurnLock(tmp_path / "lock")
        for _ in range(30):
            with lock.held(60):
                inside += 1
                most = max(most, inside)
                entered += 1
                os.sched_yield()
                inside -= 1
        lock.close()

    threads = [Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, entered) == (1, 150)


def test_closing_gives_back_every_descriptor(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    first, second = TurnLock(tmp_path / "lock"), TurnLock(tmp_path / "lock")
    with first.held(0), pytest.raises(errors.Unavailable), second.held(0.001):
        pass
    second.close()
    second.close()
    first.close()
    assert set(os.listdir("/proc/self/fd")) <= before


def test_there_is_one_leader_until_it_resigns(tmp_path: Path) -> None:
    first, second = LeaderLock(tmp_path / "leader"), LeaderLock(tmp_path / "leader")
    assert [first.try_lead(), first.try_lead(), second.try_lead()] == [True, True, False]
    first.resign()
    assert [second.try_lead(), first.try_lead()] == [True, False]
    second.resign()
    second.resign()
