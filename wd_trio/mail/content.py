"""Content: all that is stored of a message, made from its bytes once, for however many recipients.

`prepare` scans, renders and hashes; `Prepared.content(prefix)` then costs only what the recipient's own trace
headers change: size, header, offsets and the first segment of the rope. Leaf bodies of `min_blob_bytes` and more
are cut out as blobs, so that the same attachment is stored once wherever it comes from. What stands between
them is inline, unless it is too much for a row (`MAX_INLINE_BYTES`, `MAX_ALL_INLINE_BYTES`) or `shared`: then it is
a blob too.

The bytes are not copied: an mmap of a spooled message serves, and must stay open while its Prepared is used.
A structure that would render to more than `MAX_STRUCTURE_BYTES` (only an attack does) is scanned again as one
flat part, so that structure and part table always agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from wd_trio.mail import rope
from wd_trio.mail.bodystructure import render_bodystructure
from wd_trio.mail.envelope import render_envelope
from wd_trio.mail.mime import FLAT, Data, Part, scan
from wd_trio.mail.model import BlobData, Content
from wd_trio.mail.parts import PartTable
from wd_trio.mail.preview import preview

MIN_BLOB_BYTES: Final = 16 * 1024
MIN_SHARED_BYTES: Final = 1024
MAX_INLINE_BYTES: Final = 64 * 1024
MAX_ALL_INLINE_BYTES: Final = (
    2 << 20
)  # of one message: an engine's rows have their limits too (MongoDB's 16 MB)
MAX_STRUCTURE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class BlobSource:
    """A blob that the store must have before the message: data[start:stop], known by `digest`."""

    digest: bytes
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


class Prepared:
    """One message's bytes, scanned and rendered. `blob_sources` has each digest once.

    `data`, `root` (the scan) and `blob_sources` are for reading.
    """

    __slots__ = (
        "_body",
        "_envelope",
        "_envelope_utf8",
        "_header",
        "_preview",
        "_segments",
        "_structure",
        "_structure_utf8",
        "blob_sources",
        "data",
        "root",
    )

    def __init__(self, data: Data, *, min_blob_bytes: int, shared: bool) -> None:
        self.data = data
        self.root = scan(data)
        structure = render_bodystructure(self.root, True, False)
        if len(structure) > MAX_STRUCTURE_BYTES:
            self.root = scan(data, limits=FLAT)
            structure = render_bodystructure(self.root, True, False)
        fields = self.root.fields or {}
        self._structure = structure
        self._structure_utf8 = None
        if not structure.isascii() or b'"message" "global"' in structure:
            self._structure_utf8 = _if_other(structure, render_bodystructure(self.root, True, True))
        self._body = render_bodystructure(self.root, False, False)
        self._envelope = render_envelope(fields, False)
        self._envelope_utf8 = None
        if not self._envelope.isascii():
            self._envelope_utf8 = _if_other(self._envelope, render_envelope(fields, True))
        self._preview = preview(data, self.root)
        with memoryview(data) as whole, whole.cast("B") as view:
            self._header = bytes(view[: self.root.body_start])
            self._cut(view, min_blob_bytes, shared)

    def _cut(self, view: memoryview, min_blob_bytes: int, shared: bool) -> None:
        """Lay the rope's segments and note the blobs' sources."""
        gap_bytes = MIN_SHARED_BYTES if shared else max(min_blob_bytes, MAX_INLINE_BYTES)
        sources: dict[bytes, BlobSource] = {}
        segments: list[rope.Segment] = []
        inline_left = MAX_ALL_INLINE_BYTES

        def take(start: int, stop: int, min_bytes: int) -> None:
            nonlocal inline_left
            if start == stop:
                return
            with view[start:stop] as piece:
                if stop - start < min_bytes and stop - start <= inline_left:
                    inline_left -= stop - start
                    segments.append(rope.inline(bytes(piece)))
                    return
                digest = rope.digest(piece)
            sources.setdefault(digest, BlobSource(digest, start, stop))
            segments.append(rope.reference(digest, stop - start))

        at = 0
        for part in _leaves(self.root):
            if part.size >= min_blob_bytes:
                take(at, part.body_start, gap_bytes)
                take(part.body_start, part.body_end, min_blob_bytes)
                at = part.body_end
        take(at, len(view), gap_bytes)
        self._segments = tuple(segments)
        self.blob_sources = tuple(sources.values())

    def content(self, prefix: bytes = b"") -> Content:
        """What to store for one recipient: `prefix` holds whole header lines to stand before the message.
        Envelope and structure are those of the message without them."""
        start = (rope.inline(prefix),) if prefix else ()
        whole = rope.Rope(start + self._segments)
        return Content(
            size=whole.size,
            header=prefix + self._header,
            envelope=self._envelope,
            envelope_utf8=self._envelope_utf8,
            bodystructure=self._structure,
            bodystructure_utf8=self._structure_utf8,
            body=self._body,
            parts=PartTable.of(self.root, len(prefix)).encode(),
            preview=self._preview,
            rope=whole.encode(),
            blobs=whole.digests,
        )

    def blob(self, source: BlobSource) -> BlobData:
        """A blob with all its chunks, for those that are small enough to hold."""
        return BlobData(source.digest, source.size, tuple(self.chunks(source)))

    def chunks(self, source: BlobSource) -> Iterator[tuple[bool, bytes]]:
        """A blob's chunks one by one, as `rope.blob_chunks` makes them."""
        with (
            memoryview(self.data) as whole,
            whole.cast("B") as view,
            view[source.start : source.stop] as piece,
        ):
            yield from rope.blob_chunks(piece)


def prepare(data: Data, *, min_blob_bytes: int = MIN_BLOB_BYTES, shared: bool = False) -> Prepared:
    """Scan one message. `shared` when several recipients will store it: then everything of `MIN_SHARED_BYTES`
    and more is a blob that they share. Never raises for any content."""
    return Prepared(data, min_blob_bytes=max(min_blob_bytes, 1), shared=shared)


def _leaves(root: Part) -> Iterator[Part]:
    """Parts with bodies of their own, in order of their bytes."""
    stack = [root]
    while stack:
        part = stack.pop()
        if part.message is not None:
            stack.append(part.message)
        elif part.children:
            stack.extend(reversed(part.children))
        else:
            yield part


def _if_other(one: bytes, other: bytes) -> bytes | None:
    return None if one == other else other
