"""Values kept in this process while they are asked for, bounded in bytes: the ones asked for last stay.

A cache never decides what is true: whoever takes a value from one checks the modseq it carries, or keeps there only
what never changes, as the bytes that a digest names.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


BLOB_SHARE: Final = 8
"""Of a cache of blobs: one that takes more than an eighth of the room is not worth it."""


class BoundedCache(Generic[K, V]):
    """At most `limit_bytes`, as their keepers weigh them, and no value that takes more than 1/`share` of it.
    Thread-safe."""

    def __init__(self, limit_bytes: int, *, share: int = 4) -> None:
        self._limit_bytes = limit_bytes
        self._largest_bytes = limit_bytes // share
        self._used_bytes = 0
        self._kept: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._mutex = threading.Lock()

    def get(self, key: K) -> V | None:
        with self._mutex:
            found = self._kept.get(key)
            if found is None:
                return None
            self._kept.move_to_end(key)
            return found[0]

    def put(self, key: K, value: V, size_bytes: int) -> None:
        """Keep a value in place of the key's former one; one that is too large is not kept."""
        with self._mutex:
            self._drop(key)
            if size_bytes > self._largest_bytes:
                return
            self._kept[key] = value, size_bytes
            self._used_bytes += size_bytes
            while self._used_bytes > self._limit_bytes:
                self._drop(next(iter(self._kept)))

    def drop(self, key: K) -> None:
        with self._mutex:
            self._drop(key)

    def _drop(self, key: K) -> None:
        _, size_bytes = self._kept.pop(key, (None, 0))
        self._used_bytes -= size_bytes

    @property
    def used_bytes(self) -> int:
        return self._used_bytes
