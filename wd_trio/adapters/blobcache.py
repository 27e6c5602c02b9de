"""Blobs read of late, decompressed, so that a message that several clients ask for is not decompressed for each.

A digest names its bytes, so nothing here can be out of date; whether the blob still exists is for the caller to know.
Bounded by bytes; what was not asked for longest goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import Final

SHARE: Final = 8  # no blob takes more than this part of the room


class BlobCache:
    """Whole blobs by digest, `most_bytes` of them. Thread-safe."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._blobs: OrderedDict[bytes, bytes] = OrderedDict()
        self._lock = Lock()

    def get(self, digest: bytes) -> bytes | None:
        with self._lock:
            blob = self._blobs.get(digest)
            if blob is not None:
                self._blobs.move_to_end(digest)
            return blob

    def put(self, digest: bytes, blob: bytes) -> None:
        """Remember a blob, unless it is too large to be worth its room."""
        if len(blob) * SHARE > self._most_bytes:
            return
        with self._lock:
            self._bytes += len(blob) - len(self._blobs.pop(digest, b""))
            self._blobs[digest] = blob
            while self._bytes > self._most_bytes:
                self._bytes -= len(self._blobs.popitem(last=False)[1])
