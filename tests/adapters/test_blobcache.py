"""The cache of blobs keeps what was asked for last, within its bytes."""

from __future__ import annotations

from wd_trio.adapters.blobcache import SHARE, BlobCache


def test_what_was_asked_for_last_stays() -> None:
    cache = BlobCache(10 * SHARE)
    for number in range(SHARE):
        cache.put(bytes([number]), bytes([number]) * 10)
    assert cache.get(b"\0") == b"\0" * 10
    cache.put(b"new", b"n" * 5)
    assert cache.get(b"\1") is None, "the one not asked for longest went"
    assert cache.get(b"\0") == b"\0" * 10
    assert cache.get(b"new") == b"n" * 5


def test_a_blob_put_twice_takes_its_room_once() -> None:
    cache = BlobCache(10 * SHARE)
    for _ in range(3 * SHARE):
        cache.put(b"same", b"s" * 10)
    cache.put(b"other", b"o" * 10)
    assert cache.get(b"same") == b"s" * 10
    assert cache.get(b"other") == b"o" * 10


def test_a_blob_too_large_is_not_kept() -> None:
    cache = BlobCache(10 * SHARE)
    cache.put(b"small", b"s")
    cache.put(b"large", b"l" * 11)
    assert cache.get(b"large") is None
    assert cache.get(b"small") == b"s"
