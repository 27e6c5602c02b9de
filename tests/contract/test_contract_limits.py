"""The contract of limits: claims and strikes."""

from __future__ import annotations

from contract_make import Clock

from wd_trio.ports.limits import Limits


def test_claims_are_given_up_to_the_limit(limits: Limits) -> None:
    given = [limits.claim("user:1", f"c{n}", owner="s/1", most=3) for n in range(5)]
    assert given == [True, True, True, False, False]
    assert limits.claims("user:1") == 3
    assert limits.claims("user:2") == 0
    assert limits.claim("user:2", "c9", owner="s/1", most=1)
    assert not limits.claim("user:3", "c9", owner="s/1", most=0)


def test_taking_twice_is_once_and_allowed_when_full(limits: Limits) -> None:
    assert limits.claim("k", "a", owner="s/1", most=1)
    assert limits.claim("k", "a", owner="s/1", most=1)
    assert limits.claims("k") == 1


def test_a_claim_taken_again_is_the_last_owners(limits: Limits) -> None:
    assert limits.claim("k", "a", owner="s/1", most=1)
    assert limits.claim("k", "a", owner="s/2", most=1)
    assert limits.release_owner("s/1") == 0
    assert limits.claims("k") == 1
    assert limits.release_owner("s/2") == 1
    assert limits.claims("k") == 0


def test_a_released_place_is_free(limits: Limits) -> None:
    assert limits.claim("k", "a", owner="s/1", most=1)
    limits.release("k", "b")
    limits.release("other", "a")
    assert not limits.claim("k", "b", owner="s/1", most=1)
    limits.release("k", "a")
    assert limits.claim("k", "b", owner="s/1", most=1)


def test_claims_of_a_dead_owner_end_together(limits: Limits) -> None:
    for n in range(4):
        limits.claim(f"k{n % 2}", f"h{n}", owner=f"s/{n % 2}", most=9)
    assert limits.release_owner("s/0") == 2
    assert limits.release_owner("s/0") == 0
    assert (limits.claims("k0"), limits.claims("k1")) == (0, 2)


def test_strikes_fade_after_the_window_of_the_first(limits: Limits, clock: Clock) -> None:
    assert limits.strikes("ip") == 0
    assert limits.strike("ip", window_s=10) == 1
    clock.move(9)
    assert limits.strike("ip", window_s=10) == 2
    assert limits.strikes("ip") == 2
    clock.move(1)
    assert limits.strikes("ip") == 0
    assert limits.strike("ip", window_s=10) == 1


def test_forgiven_strikes_are_gone(limits: Limits) -> None:
    limits.strike("a", window_s=10)
    limits.strike("b", window_s=10)
    limits.forgive("a")
    limits.forgive("absent")
    assert (limits.strikes("a"), limits.strikes("b")) == (0, 1)
