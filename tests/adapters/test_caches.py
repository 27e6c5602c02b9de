"""A cache keeps what was asked for last, within its bytes."""

from __future__ import annotations

from wd_trio.adapters.caches import BoundedCache

SHARE = 8


def a_cache() -> BoundedCache[str, str]:
    return BoundedCache(10 * SHARE, share=SHARE)


def test_what_was_asked_for_last_stays() -> None:
    cache = a_cache()
    for number in range(SHARE):
        cache.put(str(number), "x", 10)
    assert cache.get("0") == "x"
    cache.put("new", "y", 5)
    assert cache.get("1") is None, "the one not asked for longest went"
    assert cache.get("0") == "x"
    assert cache.get("new") == "y"


def test_a_value_put_twice_takes_its_room_once() -> None:
    cache = a_cache()
    for number in range(3 * SHARE):
        cache.put("same", str(number), 10)
    cache.put("other", "y", 10)
    assert cache.get("same") == str(3 * SHARE - 1)
    assert cache.used_bytes == 20


def test_a_value_too_large_is_not_kept() -> None:
    cache = a_cache()
    cache.put("small", "s", 10)
    cache.put("large", "l", 11)
    assert cache.get("large") is None
    assert cache.get("small") == "s"
    cache.put("small", "t", 11)
    assert cache.get("small") is None, "its former value is no longer true"


def test_a_value_dropped_leaves_its_room() -> None:
    cache = a_cache()
    cache.put("gone", "x", 10)
    cache.drop("gone")
    cache.drop("never there")
    assert cache.get("gone") is None
    assert cache.used_bytes == 0
