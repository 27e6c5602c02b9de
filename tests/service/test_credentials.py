from __future__ import annotations

import pytest
from accounts import MEMORY_KIB, TIME_COST
from argon2 import extract_parameters

from wd_trio.ports.gateway import HASH, lane_of
from wd_trio.secret import Secret
from wd_trio.service.credentials import Hasher, Verified, VerifiedCache, is_plausible

HASHER = Hasher(time_cost=TIME_COST, memory_kib=MEMORY_KIB)


def test_hashing_runs_in_its_lane() -> None:
    assert lane_of(HASHER.hash) == lane_of(HASHER.verify) == HASH


@pytest.mark.parametrize("password", ["a word", "p\u00e4ss w\u00f6rd", "\U0001f40e" * 256])
def test_a_hash_verifies_its_password_only(password: str) -> None:
    stored = HASHER.hash(Secret(password))
    assert HASHER.verify(stored, Secret(password)) == Verified(True)
    assert HASHER.verify(stored, Secret(password + "x")) == Verified(False)
    assert password not in stored
    assert HASHER.hash(Secret(password)) != stored


@pytest.mark.parametrize(
    "stored", ["", "$2b$12$abcdefghijklmnopqrstuv", "plain", "$argon2", "é", "$argon2id$v=19$m=8,t=1,p=1$é$é"]
)
def test_what_is_no_hash_of_ours_matches_nothing(stored: str) -> None:
    for password in ("", "plain", "x"):
        assert not HASHER.verify(stored, Secret(password)).matches


def test_the_decoy_costs_what_a_hash_costs() -> None:
    assert extract_parameters(HASHER._decoy) == extract_parameters(HASHER.hash(Secret("x")))


def test_other_parameters_bring_a_new_hash() -> None:
    stored = HASHER.hash(Secret("x"))
    harder = Hasher(time_cost=TIME_COST + 1, memory_kib=MEMORY_KIB)
    verified = harder.verify(stored, Secret("x"))
    assert verified.matches
    assert verified.new_hash is not None
    assert harder.verify(verified.new_hash, Secret("x")) == Verified(True)
    assert harder.verify(stored, Secret("y")) == Verified(False)


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


def test_a_key_is_known_for_its_time() -> None:
    clock = Clock()
    cache = VerifiedCache(lives_s=300, clock=clock)
    key = cache.key("id:1", "hash", Secret("x"))
    assert not cache.knows(key)
    cache.add(key)
    clock.now += 299
    assert cache.knows(key)  # being asked for does not make it younger
    clock.now += 1
    assert not cache.knows(key)
    assert len(cache) == 0


def test_keys_tell_user_hash_and_password_apart() -> None:
    cache = VerifiedCache(clock=Clock())
    keys = {
        cache.key(who, stored, Secret(password))
        for who, stored, password in [
            ("id:1", "h", "x"),
            ("id:2", "h", "x"),
            ("id:1", "g", "x"),
            ("id:1", "h", "y"),
            ("id:1h", "", "x"),
            ("id:1", "hx", ""),
            ("id:1", "", "hx"),
        ]
    }
    assert len(keys) == 7
    assert VerifiedCache(clock=Clock()).key("id:1", "h", Secret("x")) not in keys


def test_the_cache_is_bounded_and_forgets_the_least_used() -> None:
    cache = VerifiedCache(most=3, clock=Clock())
    keys = [cache.key(f"id:{number}", "h", Secret("x")) for number in range(4)]
    for key in keys[:3]:
        cache.add(key)
    assert cache.knows(keys[0])
    cache.add(keys[3])
    assert len(cache) == 3
    assert [cache.knows(key) for key in keys] == [True, False, True, True]


@pytest.mark.parametrize(
    ("password", "plausible"),
    [
        ("x", True),
        ("x" * 1024, True),
        ("x" * 1025, False),
        ("é" * 513, False),
        ("", False),
        ("\udcff", False),
    ],
)
def test_plausible_passwords(password: str, plausible: bool) -> None:
    assert is_plausible(Secret(password)) is plausible
