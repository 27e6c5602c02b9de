"""Blobs: bytes by content hash, stored once; what nothing refers to and nobody used for a while is collected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from wd_trio.mail.model import BlobData


class Blobs(Protocol):
    def put_blobs(self, blobs: Sequence[BlobData]) -> None:
        """Keep blobs durably; one that is there already is only marked as used now. Idempotent."""
        ...

    def put_blob_chunks(
        self, digest: bytes, size: int, first_chunk: int, chunks: Sequence[tuple[bool, bytes]]
    ) -> None:
        """Keep some chunks of a large blob, in order, over several calls; it exists once its last chunk is kept."""
        ...

    def has_blobs(self, digests: Sequence[bytes]) -> set[bytes]:
        """Those of `digests` that are whole in the store, each marked as used now."""
        ...

    def read_blob(self, digest: bytes, start: int, stop: int) -> bytes:
        """The bytes start … stop - 1 (callers ask at most 1 MiB at a time). NotFound for an unknown digest."""
        ...

    def collect_blobs(self, *, unused_for_s: int, limit: int) -> int:
        """Remove up to `limit` blobs that nothing refers to and that were last used that long ago; how many."""
        ...
