"""Content and rope: byte-exact, deduplicated, bounded."""

from __future__ import annotations

import mmap
import random
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imap_syntax import parse
from mail_samples import BY_HAND, generated
from test_mime_scan import MIMEISH

from wd_trio.errors import Invalid
from wd_trio.mail import content, rope
from wd_trio.mail.content import Prepared, prepare
from wd_trio.mail.model import Content
from wd_trio.mail.parts import PartTable
from wd_trio.mail.rope import BlobPiece, InlinePiece, Rope

PREFIX = b"Return-Path: <a@b>\r\nDelivered-To: c@d\r\n"
ATTACHMENT = random.Random(7).randbytes(20_000).replace(b"\n--", b"\n-x")


def message(body: bytes = ATTACHMENT, name: bytes = b"x") -> bytes:
    return (
        b"Subject: gr\xc3\xbc\xc3\x9fe\r\nContent-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\n\r\nhello "
        + name
        + b"\r\n"
        b"--a\r\nContent-Type: application/x; name=" + name + b"\r\n\r\n" + body + b"\r\n--a--\r\n"
    )


class Blobs:
    """What a store does with blobs, in a dictionary."""

    def __init__(self, *prepared: Prepared) -> None:
        self.whole: dict[bytes, bytes] = {}
        for one in prepared:
            for source in one.blob_sources:
                blob = one.blob(source)
                assert blob.digest not in self.whole or len(prepared) > 1
                self.whole[blob.digest] = b"".join(rope.chunk_bytes(*chunk) for chunk in blob.chunks)
                assert len(self.whole[blob.digest]) == blob.size == source.size
                assert rope.digest(self.whole[blob.digest]) == blob.digest

    def read(self, digest: bytes, start: int, stop: int) -> bytes:
        return self.whole[digest][start:stop]


def restored(stored: Content, blobs: Blobs) -> bytes:
    return rope.restore(Rope.decode(stored.rope), blobs.read)


def check(data: bytes, *, min_blob_bytes: int, shared: bool, prefix: bytes) -> None:
    prepared = prepare(data, min_blob_bytes=min_blob_bytes, shared=shared)
    stored = prepared.content(prefix)
    whole = prefix + data
    assert stored.size == len(whole)
    assert restored(stored, Blobs(prepared)) == whole
    assert set(stored.blobs) == {source.digest for source in prepared.blob_sources}
    table = PartTable.decode(stored.parts)
    assert table.size == len(whole)
    header = table.range("", "HEADER")
    assert header is not None
    assert whole[slice(*header)] == stored.header
    for value in (stored.envelope, stored.bodystructure, stored.body):
        parse(value)
    assert len(stored.preview) <= 200
    stored.preview.encode()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("data", [message(), *BY_HAND.values(), *generated(40)])
def test_the_samples_are_restored_exactly(data: bytes, shared: bool) -> None:
    check(data, min_blob_bytes=8192, shared=shared, prefix=PREFIX)
    check(data, min_blob_bytes=16, shared=shared, prefix=b"")


@settings(max_examples=300, deadline=None)
@given(MIMEISH | st.binary(max_size=200), st.integers(0, 40), st.booleans(), st.sampled_from([b"", PREFIX]))
def test_any_bytes_are_restored_exactly(
    data: bytes, min_blob_bytes: int, shared: bool, prefix: bytes
) -> None:
    check(data, min_blob_bytes=min_blob_bytes, shared=shared, prefix=prefix)


@settings(max_examples=100, deadline=None)
@given(st.integers(-5, 25_000), st.integers(-5, 25_000), st.booleans())
def test_any_range_is_restored_exactly(start: int, stop: int, shared: bool) -> None:
    data = message()
    prepared = prepare(data, shared=shared)
    whole = PREFIX + data
    cord = Rope.decode(prepared.content(PREFIX).rope)
    expected = whole[max(start, 0) : max(stop, 0)]
    assert rope.restore(cord, Blobs(prepared).read, start, stop) == expected


def test_a_large_leaf_becomes_a_blob_and_the_rest_stays_inline() -> None:
    data = message()
    prepared = prepare(data)
    (source,) = prepared.blob_sources
    assert data[source.start : source.stop] == ATTACHMENT
    pieces = Rope.decode(prepared.content(PREFIX).rope).pieces()
    assert [type(piece) for piece in pieces] == [InlinePiece, InlinePiece, BlobPiece, InlinePiece]
    assert pieces[0] == InlinePiece(PREFIX)
    assert pieces[2] == BlobPiece(source.digest, 0, len(ATTACHMENT))


def test_an_attachment_has_the_same_digest_in_every_message() -> None:
    one, two = prepare(message(name=b"one")), prepare(message(name=b"two"))
    assert [s.digest for s in one.blob_sources] == [s.digest for s in two.blob_sources]


def test_the_same_attachment_twice_is_one_source() -> None:
    data = (
        b"Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\n\r\n"
        + ATTACHMENT
        + b"\r\n--a\r\n\r\n"
        + ATTACHMENT
        + b"\r\n--a--\r\n"
    )
    prepared = prepare(data)
    assert len(prepared.blob_sources) == 1
    stored = prepared.content()
    assert len(stored.blobs) == 1
    assert restored(stored, Blobs(prepared)) == data


def test_shared_leaves_only_the_prefix_inline() -> None:
    data = b"Subject: x\r\n" + b"X-Long: y\r\n" * 200 + b"\r\nshort body\r\n"
    assert prepare(data).blob_sources == ()
    prepared = prepare(data, shared=True)
    (source,) = prepared.blob_sources
    assert (source.start, source.stop) == (0, len(data))
    pieces = Rope.decode(prepared.content(PREFIX).rope).pieces()
    assert pieces == [InlinePiece(PREFIX), BlobPiece(source.digest, 0, len(data))]


def test_shared_keeps_leaf_blobs_as_they_are_cut_otherwise() -> None:
    data = b"X-Long: y\r\n" * 200 + message()
    alone = {source.digest for source in prepare(data).blob_sources}
    assert alone < {source.digest for source in prepare(data, shared=True).blob_sources}


def test_much_that_belongs_to_no_leaf_is_a_blob_too() -> None:
    data = b"Content-Type: multipart/mixed; boundary=a\n\n" + b"preamble\n" * 50_000 + b"--a\n\nx\n--a--\n"
    prepared = prepare(data)
    (source,) = prepared.blob_sources
    assert source.size > 400_000
    assert restored(prepared.content(), Blobs(prepared)) == data


def test_what_is_inline_is_bounded_however_many_parts_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "MAX_ALL_INLINE_BYTES", 30_000)
    small = b"--a\r\nContent-Type: text/plain\r\n\r\n" + b"s" * 9000 + b"\r\n"
    large = b"--a\r\nContent-Type: application/x\r\n\r\n" + ATTACHMENT + b"\r\n"
    raw = b"Content-Type: multipart/mixed; boundary=a\r\n\r\n" + (small + large) * 8 + b"--a--\r\n"
    prepared = prepare(raw)
    pieces = Rope.decode(prepared.content().rope).pieces()
    inline = sum(len(piece.data) for piece in pieces if isinstance(piece, InlinePiece))
    assert 20_000 < inline <= 30_000
    assert restored(prepared.content(), Blobs(prepared)) == raw


def test_prefix_changes_neither_envelope_nor_structure() -> None:
    prepared = prepare(message())
    with_prefix, without = prepared.content(PREFIX), prepared.content()
    assert with_prefix.header == PREFIX + without.header
    assert (with_prefix.envelope, with_prefix.bodystructure) == (without.envelope, without.bodystructure)


def test_utf8_forms_are_kept_only_where_they_differ() -> None:
    plain = prepare(b"Subject: x\r\n\r\n").content()
    assert (plain.envelope_utf8, plain.bodystructure_utf8) == (None, None)
    eight_bit = prepare(message(name="ü".encode())).content()
    assert eight_bit.envelope_utf8 is not None
    assert '"grüße"'.encode() in eight_bit.envelope_utf8
    assert b"{7}\r\n" in eight_bit.envelope
    assert eight_bit.bodystructure_utf8 is not None
    assert '"name" "ü"'.encode() in eight_bit.bodystructure_utf8
    inside = prepare(b"Content-Type: message/global\r\n\r\nSubject: x\r\n\r\n").content()
    assert inside.bodystructure_utf8 is not None


def test_a_charset_that_spells_a_surrogate_is_stored() -> None:
    data = b'Content-Type: text/plain; charset="=?utf-7?q?+2AA-?="\r\n\r\n+2AA-'
    check(data, min_blob_bytes=1, shared=False, prefix=b"")


def test_a_structure_that_would_be_huge_is_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "MAX_STRUCTURE_BYTES", 20_000)
    data = b"Content-Type: multipart/mixed; boundary=a\r\n\r\n" + b"--a\r\n\r\nx\r\n" * 900 + b"--a--\r\n"
    stored = prepare(data).content()
    assert stored.bodystructure.startswith(b'("application" "octet-stream" NIL')
    table = PartTable.decode(stored.parts)
    assert table.range("1", "") == (table.range("", "TEXT"))
    assert table.range("2", "") is None


def test_a_mapped_file_is_not_copied_whole(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    size = 16 << 20
    with path.open("wb") as file:
        file.write(b"Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\nContent-Type: image/x\r\n\r\n")
        file.write((b"x" * 76 + b"\r\n") * (size // 78))
        file.write(b"\r\n--a--\r\n")
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        tracemalloc.start()
        try:
            prepared = prepare(mapped, shared=True)
            (source,) = prepared.blob_sources
            chunks = 0
            for _ in prepared.chunks(source):
                chunks += 1
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert chunks == -(-source.size // rope.CHUNK_BYTES)
    assert peak_bytes < 3_000_000


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_kind_of_buffer_gives_the_same_content(kind: type) -> None:
    data = message()
    assert prepare(kind(data)).content(PREFIX) == prepare(data).content(PREFIX)


# The rope alone.


def cord_of(parts: Sequence[tuple[bool, bytes]]) -> tuple[Rope, dict[bytes, bytes]]:
    blobs = {rope.digest(data): data for is_blob, data in parts if is_blob}
    segments = [
        rope.reference(rope.digest(data), len(data)) if is_blob else rope.inline(data)
        for is_blob, data in parts
    ]
    return Rope(segments), blobs


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.booleans(), st.binary(max_size=30) | st.integers(0, 400).map(lambda n: b"ab" * n)),
        max_size=6,
    ),
    st.integers(0, 900),
    st.integers(0, 900),
)
def test_a_rope_gives_any_range_of_its_segments(
    parts: list[tuple[bool, bytes]], start: int, stop: int
) -> None:
    cord, blobs = cord_of(parts)
    whole = b"".join(data for _, data in parts)
    again = Rope.decode(cord.encode())
    assert again.segments == cord.segments
    assert again.size == len(whole)
    assert set(again.digests) == set(blobs)
    assert rope.restore(again, lambda digest, a, b: blobs[digest][a:b], start, stop) == whole[start:stop]
    for piece in again.pieces(start, stop):
        assert piece.data if isinstance(piece, InlinePiece) else piece.start < piece.stop


def test_inline_segments_shrink_where_they_can() -> None:
    assert len(rope.inline(b"ab" * 500).data) < 100
    noise = random.Random(1).randbytes(1000)
    assert rope.inline(noise).data == noise
    assert rope.inline(b"short").data == b"short"


def test_chunks_are_compressed_where_that_shrinks_them() -> None:
    noise = random.Random(1).randbytes(rope.CHUNK_BYTES)
    data = b"a" * rope.CHUNK_BYTES + noise + b"tail"
    chunks = list(rope.blob_chunks(data))
    assert [compressed for compressed, _ in chunks] == [True, False, False]
    assert [rope.chunk_bytes(*chunk) for chunk in chunks] == [b"a" * rope.CHUNK_BYTES, noise, b"tail"]
    assert list(rope.blob_chunks(b"")) == []


def test_damage_is_told() -> None:
    for wrong in (b"", b"\xc1", b"\x91\x01"):
        with pytest.raises(Invalid):
            Rope.decode(wrong)
    with pytest.raises(Invalid):
        Rope([rope.Segment(1, 10, b"no zstd")]).pieces()
    with pytest.raises(Invalid):
        rope.chunk_bytes(True, b"no zstd")
