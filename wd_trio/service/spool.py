"""A message on its way in: memory first, then an unlinked temporary file.

Most messages are small and never leave memory. One that outgrows `memory_bytes` moves to a file that has no name
(a crash leaves nothing behind), written in batches through the gateway's lane "work"; awaiting `write` is the
back-pressure that keeps a fast sender from filling memory. What passes `most_bytes` is dropped: the spool only
counts on, so that the protocol can follow the message to its end before it refuses it.

The file is read back through a memory map, so that a scan of 64 MB copies nothing.
"""

from __future__ import annotations

import mmap
import tempfile
from contextlib import suppress
from io import FileIO
from types import TracebackType
from typing import Final, Self, TypeAlias

from wd_trio import errors
from wd_trio.ports.gateway import Gateway

MEMORY_BYTES: Final = 1 << 20
BATCH_BYTES: Final = 256 << 10

SpoolBuffer: TypeAlias = bytes | mmap.mmap


class Spool:
    """Bytes written in order, then read as one buffer. Closing frees everything; use it as a context manager."""

    __slots__ = (
        "_batch_bytes",
        "_buffer",
        "_file",
        "_gateway",
        "_memory_bytes",
        "_most_bytes",
        "_pieces",
        "size",
    )

    def __init__(self, gateway: Gateway, *, memory_bytes: int = MEMORY_BYTES, most_bytes: int) -> None:
        self._gateway = gateway
        self._memory_bytes = memory_bytes
        self._most_bytes = most_bytes
        self._pieces: list[bytes] = []
        self._batch_bytes = 0
        self._file: FileIO | None = None
        self._buffer: SpoolBuffer | None = None
        self.size = 0

    @property
    def over(self) -> bool:
        """More than `most_bytes` were written: nothing is kept, `buffer` is of no use."""
        return self.size > self._most_bytes

    async def write(self, chunk: bytes) -> None:
        """Add bytes. Errors: Unavailable when there is no room on disk; the spool is of no use then.

        Checkpoints only when it writes to the file: reading from the peer is where a session gives way.
        """
        self.size += len(chunk)
        if self.over:
            self.close()
            return
        self._pieces.append(chunk)
        self._batch_bytes += len(chunk)
        if self._batch_bytes >= (self._memory_bytes + 1 if self._file is None else BATCH_BYTES):
            await self._flush()

    async def buffer(self) -> SpoolBuffer:
        """All that was written, as one buffer that lives until `close`. Nothing is written after this."""
        if self._buffer is None:
            if self._file is None:
                self._buffer = b"".join(self._pieces)
                self._pieces.clear()
            else:
                await self._flush()
                self._buffer = await self._gateway.run(_map, self._file)
        return self._buffer

    async def _flush(self) -> None:
        pieces, self._pieces, self._batch_bytes = self._pieces, [], 0
        self._file = await self._gateway.run(_append, self._file, pieces)

    def close(self) -> None:
        """Free memory and disk; idempotent."""
        self._pieces.clear()
        self._batch_bytes = 0
        buffer, self._buffer = self._buffer, None
        if isinstance(buffer, mmap.mmap):
            with suppress(BufferError):  # a view that is still out keeps the map until it goes
                buffer.close()
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _append(file: FileIO | None, pieces: list[bytes]) -> FileIO:
    """Write the pieces at the end of `file`, or of a fresh one that is returned."""
    fresh = None
    try:
        if file is None:
            file = fresh = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # the spool closes it
        rest = memoryview(b"".join(pieces))
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        if fresh is not None:
            fresh.close()
        raise errors.Unavailable(f"the spool cannot be written: {error}", what="spool") from error
    return file


def _map(file: FileIO) -> mmap.mmap:
    try:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise errors.Unavailable(f"the spool cannot be read back: {error}", what="spool") from error
