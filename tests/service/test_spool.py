"""The spool: memory, file, cap, and a disk that has no room."""

from __future__ import annotations

import mmap
import os
import resource
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from wd_trio import errors
from wd_trio.adapters.bridge import Gateway, LaneOptions
from wd_trio.service.spool import BATCH_BYTES, Spool


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with Gateway([LaneOptions(name="work", threads=2)]) as opened:
        yield opened


def crossings(gateway: Gateway) -> int:
    return sum(sum(lane.results.values()) for lane in gateway.statistics().lanes)


async def test_a_small_message_stays_in_memory(gateway: Gateway) -> None:
    with Spool(gateway, memory_bytes=10, most_bytes=100) as spool:
        for piece in (b"01234", b"", b"56789"):
            await spool.write(piece)
        assert await spool.buffer() == b"0123456789"
        assert await spool.buffer() == b"0123456789"
        assert (spool.size, spool.over) == (10, False)
    assert crossings(gateway) == 0


async def test_an_empty_message(gateway: Gateway) -> None:
    with Spool(gateway, most_bytes=100) as spool:
        assert await spool.buffer() == b""


@pytest.mark.parametrize("size", [11, 12, BATCH_BYTES - 1, BATCH_BYTES + 11, 3 * BATCH_BYTES + 7])
async def test_a_large_message_moves_to_a_file(gateway: Gateway, size: int) -> None:
    data = bytes(i % 251 for i in range(size))
    with Spool(gateway, memory_bytes=10, most_bytes=size) as spool:
        for start in range(0, size, 60_000):
            await spool.write(data[start : start + 60_000])
        buffer = await spool.buffer()
        assert isinstance(buffer, mmap.mmap)
        assert buffer[:] == data
        assert not spool.over
    assert buffer.closed


async def test_the_file_is_written_in_batches(gateway: Gateway) -> None:
    with Spool(gateway, memory_bytes=BATCH_BYTES, most_bytes=1 << 30) as spool:
        for _ in range(4 * BATCH_BYTES // 1024):
            await spool.write(b"x" * 1024)
        buffer = await spool.buffer()
        assert len(buffer) == spool.size == 4 * BATCH_BYTES
    assert crossings(gateway) <= 5


async def test_the_file_has_no_name(gateway: Gateway, temporary_files: Path) -> None:
    with Spool(gateway, memory_bytes=10, most_bytes=100) as spool:
        await spool.write(b"more than ten bytes")
        assert crossings(gateway) == 1
        assert os.listdir(temporary_files) == []


@pytest.mark.parametrize("memory_bytes", [10, 1000])
async def test_beyond_the_cap_everything_is_dropped(gateway: Gateway, memory_bytes: int) -> None:
    with Spool(gateway, memory_bytes=memory_bytes, most_bytes=100) as spool:
        await spool.write(b"x" * 100)
        assert not spool.over
        before = crossings(gateway)
        for _ in range(50):
            await spool.write(b"x" * 1000)
        assert spool.over
        assert spool.size == 50_100
        assert crossings(gateway) == before


async def test_close_is_idempotent_and_frees_at_any_point(gateway: Gateway) -> None:
    for written in (0, 5, 50):
        spool = Spool(gateway, memory_bytes=10, most_bytes=100)
        await spool.write(b"x" * written)
        spool.close()
        spool.close()


async def test_a_view_that_is_still_out_survives_the_close(gateway: Gateway) -> None:
    with Spool(gateway, memory_bytes=10, most_bytes=100) as spool:
        await spool.write(b"more than ten bytes")
        view = memoryview(await spool.buffer())
    assert bytes(view) == b"more than ten bytes"


@pytest.fixture
def temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def small_files() -> Iterator[None]:
    """The kernel refuses files beyond 100,000 bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_no_room_on_disk_is_unavailable(gateway: Gateway, small_files: None) -> None:
    with Spool(gateway, memory_bytes=10, most_bytes=1 << 30) as spool:
        await spool.write(b"x" * 50_000)
        with pytest.raises(errors.Unavailable):
            await spool.write(b"x" * BATCH_BYTES)
    with Spool(gateway, memory_bytes=10, most_bytes=1 << 30) as spool:
        with pytest.raises(errors.Unavailable):
            await spool.write(b"x" * BATCH_BYTES)
        spool.close()


async def test_no_place_for_files_is_unavailable(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with Spool(gateway, memory_bytes=10, most_bytes=100) as spool, pytest.raises(errors.Unavailable):
        await spool.write(b"more than ten bytes")
