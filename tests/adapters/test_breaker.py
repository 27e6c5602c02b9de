from __future__ import annotations

from wd_trio.adapters.breaker import Breaker


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock) -> Breaker:
    breaker = Breaker(threshold=3, retry_s=0.5, clock=clock)
    for _ in range(3):
        breaker.failed()
    return breaker


def test_only_failures_in_a_row_open_it() -> None:
    breaker = Breaker(threshold=3, retry_s=0.5, clock=Clock())
    for _ in range(5):
        breaker.failed()
        breaker.failed()
        breaker.answered()
    assert breaker.admits()
    assert not breaker.is_open


def test_open_it_lets_one_probe_through_each_time() -> None:
    clock = Clock()
    breaker = opened(clock)
    assert not breaker.admits()
    clock.now += 0.5
    assert [breaker.admits() for _ in range(3)] == [True, False, False]
    clock.now += 0.5  # that probe never came back
    assert [breaker.admits() for _ in range(3)] == [True, False, False]


def test_a_failed_probe_keeps_it_open_and_an_answer_closes_it() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 0.5
    assert breaker.admits()
    breaker.failed()
    assert breaker.is_open
    assert not breaker.admits()
    breaker.answered()
    assert all(breaker.admits() for _ in range(3))
    breaker.failed()
    assert breaker.admits()
