"""The rope: a message as a sequence of inline bytes and references to blobs, restored byte for byte.

Inline segments are kept with zstd where that makes them smaller. A blob is known by the SHA-256 of its bytes;
it is stored in chunks of `CHUNK_BYTES`, each compressed where that shrinks it, so that any range can be read
without the rest. A rope encodes to msgpack: [[kind, size, bytes], …] with kind 0 inline, 1 inline zstd and
2 blob, whose bytes are the digest. Compressors are kept one per thread; they must not be shared.
"""

from __future__ import annotations

import hashlib
import mmap
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

import msgspec
import zstandard

from wd_trio.errors import Invalid
from wd_trio.mail.model import Buffer

CHUNK_BYTES: Final = 256 * 1024
DIGEST_BYTES: Final = 32
_ZSTD_LEVEL: Final = 3
_MIN_COMPRESSED_BYTES: Final = 128  # zstd's frame alone takes a dozen

_INLINE: Final = 0
_INLINE_ZSTD: Final = 1
_BLOB: Final = 2


class Segment(NamedTuple):
    """`size` bytes of the message. `data` is what is kept: the bytes, their zstd frame, or a digest."""

    kind: int
    size: int
    data: bytes


@dataclass(frozen=True, slots=True)
class InlinePiece:
    data: bytes


@dataclass(frozen=True, slots=True)
class BlobPiece:
    """Bytes [start, stop) of a blob."""

    digest: bytes
    start: int
    stop: int


Piece: TypeAlias = InlinePiece | BlobPiece


class _Zstd(threading.local):
    def __init__(self) -> None:
        self.compress = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress
        self.decompress = zstandard.ZstdDecompressor().decompress


_zstd: Final = _Zstd()
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(list[Segment])


def inline(data: bytes) -> Segment:
    """A segment that holds `data` itself."""
    if len(data) >= _MIN_COMPRESSED_BYTES:
        packed = _zstd.compress(data)
        if len(packed) < len(data):
            return Segment(_INLINE_ZSTD, len(data), packed)
    return Segment(_INLINE, len(data), data)


def reference(digest: bytes, size: int) -> Segment:
    """A segment that is a whole blob."""
    return Segment(_BLOB, size, digest)


class Rope:
    """A message's segments in order."""

    __slots__ = ("_plain", "segments", "size")

    def __init__(self, segments: Iterable[Segment]) -> None:
        self.segments = tuple(segments)
        self.size = sum(segment.size for segment in self.segments)
        self._plain: dict[int, bytes] = {}  # decompressed segments, by place

    def encode(self) -> bytes:
        return _ENCODER.encode(self.segments)

    @classmethod
    def decode(cls, data: bytes) -> Rope:
        """What `encode` gave. Invalid for anything else."""
        try:
            return cls(_DECODER.decode(data))
        except msgspec.DecodeError as error:
            raise Invalid(str(error), what="rope") from error

    @property
    def digests(self) -> tuple[bytes, ...]:
        """The blobs referred to, each once, in order of first use."""
        return tuple(dict.fromkeys(part.data for part in self.segments if part.kind == _BLOB))

    def pieces(self, start: int = 0, stop: int | None = None) -> list[Piece]:
        """What makes up the bytes [start, stop) of the message, in order; bounds beyond it are cut to it."""
        stop = self.size if stop is None else min(stop, self.size)
        start = max(start, 0)
        found: list[Piece] = []
        at = 0
        for place, (kind, size, data) in enumerate(self.segments):
            first, last = max(start - at, 0), min(stop - at, size)
            at += size
            if first >= last:
                continue
            if kind == _BLOB:
                found.append(BlobPiece(data, first, last))
            else:
                plain = self._bytes(place)
                found.append(InlinePiece(plain if last - first == size else plain[first:last]))
        return found

    def _bytes(self, place: int) -> bytes:
        kind, size, data = self.segments[place]
        if kind == _INLINE:
            return data
        plain = self._plain.get(place)
        if plain is None:
            try:
                plain = _zstd.decompress(data, max_output_size=size)
            except zstandard.ZstdError as error:
                raise Invalid(str(error), what="rope") from error
            self._plain[place] = plain
        return plain


def restore(
    rope: Rope, read_blob: Callable[[bytes, int, int], bytes], start: int = 0, stop: int | None = None
) -> bytes:
    """The message's bytes [start, stop) in one piece; `read_blob(digest, start, stop)` reads a blob's range
    and is asked for at most `CHUNK_BYTES` at a time."""
    out: list[bytes] = []
    for piece in rope.pieces(start, stop):
        if isinstance(piece, InlinePiece):
            out.append(piece.data)
        else:
            out.extend(
                read_blob(piece.digest, at, min(at + CHUNK_BYTES, piece.stop))
                for at in range(piece.start, piece.stop, CHUNK_BYTES)
            )
    return b"".join(out)


def digest(buffer: Buffer | mmap.mmap) -> bytes:
    """The 32 bytes by which a blob is known."""
    return hashlib.sha256(buffer).digest()


def blob_chunks(buffer: Buffer | mmap.mmap) -> Iterator[tuple[bool, bytes]]:
    """A blob's chunks as they are kept: (compressed with zstd?, bytes) for each `CHUNK_BYTES` of `buffer`.

    A `buffer` that is to be closed afterwards must outlive the iterator, which holds a view of it.
    """
    with memoryview(buffer) as whole, whole.cast("B") as view:
        for start in range(0, len(view), CHUNK_BYTES):
            chunk = bytes(view[start : start + CHUNK_BYTES])
            packed = _zstd.compress(chunk)
            yield (True, packed) if len(packed) < len(chunk) else (False, chunk)


def chunk_bytes(compressed: bool, data: bytes) -> bytes:
    """The bytes of one kept chunk. Invalid when they are damaged."""
    if not compressed:
        return data
    try:
        return _zstd.decompress(data, max_output_size=CHUNK_BYTES)
    except zstandard.ZstdError as error:
        raise Invalid(str(error), what="blob") from error
