"""From the bytes of a message to what the store takes: scanned once, large bodies kept beforehand.

- A small message is scanned on the loop (a hand-over would cost more); a larger one in the lane "work".
- Small blobs travel inside the append's own transaction: one commit for all. What is larger is kept beforehand,
  in pieces of at most CROSSING_BYTES, and only what the store does not have whole already. Blobs that stay
  behind when the append fails are the collector's: nothing refers to them.
- A message for many has its contents made in slices (`Scanned` is kept, `contents` called as needed), so that a
  thousand recipients never have a thousand copies of a header in memory at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from wd_trio.mail import rope
from wd_trio.mail.content import BlobSource, Prepared, prepare
from wd_trio.mail.model import BlobData, Content
from wd_trio.ports.gateway import Gateway
from wd_trio.ports.mail import MailStore
from wd_trio.service.spool import Spool, SpoolBuffer

INLINE_BYTES: Final = 64 << 10
BROUGHT_BYTES: Final = 1 << 20
CROSSING_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Scanned:
    """A message scanned once. `blobs` are those that its appends must bring along; the others are kept already.
    It lives no longer than its spool."""

    prepared: Prepared
    blobs: tuple[BlobData, ...]
    size: int


@dataclass(frozen=True, slots=True)
class Intaken:
    """`contents[i]` is the message behind the i-th prefix; each append brings `blobs` along."""

    contents: list[Content]
    blobs: tuple[BlobData, ...]


class Intake:
    """Prepares spooled messages for MailStore.append. Errors: Unavailable."""

    def __init__(self, *, gateway: Gateway, store: MailStore) -> None:
        self._gateway = gateway
        self._store = store

    async def prepare(self, spool: Spool, prefixes: Sequence[bytes]) -> Intaken:
        """Scan the message and make one content for each prefix (b"" for none)."""
        scanned = await self.scan(spool, copies=len(prefixes))
        return Intaken(await self.contents(scanned, prefixes), scanned.blobs)

    async def scan(self, spool: Spool, *, copies: int) -> Scanned:
        """Scan the message for `copies` appends, and keep the blobs that are too large to travel with them."""
        data = await spool.buffer()
        budget = BROUGHT_BYTES // max(copies, 1)
        if spool.size <= INLINE_BYTES:
            prepared, brought, large = _scan(data, copies > 1, budget)
        else:
            prepared, brought, large = await self._gateway.run(_scan, data, copies > 1, budget)
        await self._keep(data, prepared, large)
        return Scanned(prepared, brought, spool.size)

    async def contents(self, scanned: Scanned, prefixes: Sequence[bytes]) -> list[Content]:
        """The contents for some of the recipients."""
        if scanned.size <= INLINE_BYTES:
            return _contents(scanned.prepared, prefixes)
        return await self._gateway.run(_contents, scanned.prepared, prefixes)

    async def _keep(self, data: SpoolBuffer, prepared: Prepared, sources: Sequence[BlobSource]) -> None:
        if not sources:
            return
        whole = await self._gateway.run(self._store.has_blobs, [source.digest for source in sources])
        for batch in _batches([source for source in sources if source.digest not in whole]):
            if _size(batch[0]) > CROSSING_BYTES:
                await self._keep_large(data, batch[0])
            else:
                await self._gateway.run(
                    self._store.put_blobs, await self._gateway.run(_blobs, prepared, batch)
                )

    async def _keep_large(self, data: SpoolBuffer, source: BlobSource) -> None:
        first = 0
        for start in range(source.start, source.stop, CROSSING_BYTES):
            chunks = await self._gateway.run(_chunks, data, start, min(start + CROSSING_BYTES, source.stop))
            await self._gateway.run(self._store.put_blob_chunks, source.digest, _size(source), first, chunks)
            first += len(chunks)


def _scan(
    data: SpoolBuffer, shared: bool, budget: int
) -> tuple[Prepared, tuple[BlobData, ...], list[BlobSource]]:
    """The scan, the blobs that fit `budget` (smallest first), and the sources of the others."""
    prepared = prepare(data, shared=shared)
    brought: list[BlobData] = []
    large: list[BlobSource] = []
    for source in sorted(prepared.blob_sources, key=_size):
        budget -= _size(source)
        if budget >= 0:
            brought.append(prepared.blob(source))
        else:
            large.append(source)
    return prepared, tuple(brought), large


def _contents(prepared: Prepared, prefixes: Sequence[bytes]) -> list[Content]:
    return [prepared.content(prefix) for prefix in prefixes]


def _size(source: BlobSource) -> int:
    return source.stop - source.start


def _batches(sources: Sequence[BlobSource]) -> Iterator[list[BlobSource]]:
    """The sources, those of rising size together while one crossing may carry them; a larger one alone."""
    batch: list[BlobSource] = []
    total = 0
    for source in sources:
        if batch and total + _size(source) > CROSSING_BYTES:
            yield batch
            batch, total = [], 0
        batch.append(source)
        total += _size(source)
    if batch:
        yield batch


def _blobs(prepared: Prepared, sources: Sequence[BlobSource]) -> list[BlobData]:
    return [prepared.blob(source) for source in sources]


def _chunks(data: SpoolBuffer, start: int, stop: int) -> list[tuple[bool, bytes]]:
    """The chunks of a piece of a blob; it begins at a chunk's edge, for CROSSING_BYTES is a multiple."""
    return list(rope.blob_chunks(data[start:stop]))
