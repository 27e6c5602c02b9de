"""The contract of blobs."""

from __future__ import annotations

import pytest
from contract_make import CHUNK_BYTES, Clock, make_blob, make_message, sweep

from wd_trio import errors
from wd_trio.mail.model import DELETED, Mailbox
from wd_trio.mail.rope import blob_chunks, digest
from wd_trio.ports.mail import MailStore


def test_any_range_of_a_blob_reads_back(store: MailStore) -> None:
    data = bytes(range(256)) * (2 * CHUNK_BYTES // 256) + b"tail"
    blob = make_blob(data)
    store.put_blobs([blob])
    size = len(data)
    for start, stop in (
        (0, size),
        (0, 1),
        (size - 1, size),
        (CHUNK_BYTES - 3, CHUNK_BYTES + 3),
        (CHUNK_BYTES, 2 * CHUNK_BYTES),
        (5, 5),
        (size, size + 10),
        (size - 2, size + 10),
    ):
        assert store.read_blob(blob.digest, start, stop) == data[start:stop]


def test_compressed_chunks_read_back(store: MailStore) -> None:
    data = b"the same line again\r\n" * 30_000
    store.put_blob_chunks(digest(data), len(data), 0, list(blob_chunks(data)))
    assert store.read_blob(digest(data), CHUNK_BYTES - 5, CHUNK_BYTES + 5) == data[CHUNK_BYTES - 5 :][:10]
    assert store.read_blob(digest(data), 0, len(data)) == data


def test_a_blob_exists_once_its_last_chunk_is_kept(store: MailStore) -> None:
    blob = make_blob(b"a" * CHUNK_BYTES + b"b" * CHUNK_BYTES + b"c")
    store.put_blob_chunks(blob.digest, blob.size, 0, blob.chunks[:1])
    store.put_blob_chunks(blob.digest, blob.size, 1, blob.chunks[1:2])
    assert store.has_blobs([blob.digest]) == set()
    with pytest.raises(errors.NotFound):
        store.read_blob(blob.digest, 0, 1)
    store.put_blob_chunks(blob.digest, blob.size, 1, blob.chunks[1:2])  # another writer of the same
    assert store.has_blobs([blob.digest]) == set()
    store.put_blob_chunks(blob.digest, blob.size, 2, blob.chunks[2:])
    assert store.has_blobs([blob.digest, b"?" * 32]) == {blob.digest}
    assert store.read_blob(blob.digest, 2 * CHUNK_BYTES - 1, blob.size) == b"bc"


def test_chunks_beyond_the_size_are_invalid(store: MailStore) -> None:
    blob = make_blob(b"a" * CHUNK_BYTES)
    with pytest.raises(errors.Invalid):
        store.put_blob_chunks(blob.digest, blob.size, 1, blob.chunks)
    with pytest.raises(errors.Invalid):
        store.put_blob_chunks(blob.digest, 1 << 50, 0, blob.chunks)
    assert store.has_blobs([blob.digest]) == set()


def test_an_empty_blob_is_a_blob(store: MailStore) -> None:
    blob = make_blob(b"")
    store.put_blobs([blob])
    assert store.has_blobs([blob.digest]) == {blob.digest}
    assert store.read_blob(blob.digest, 0, 10) == b""


def test_an_unknown_blob_is_not_found(store: MailStore) -> None:
    with pytest.raises(errors.NotFound):
        store.read_blob(b"?" * 32, 0, 1)
    assert store.has_blobs([]) == set()
    many = [n.to_bytes(32, "big") for n in range(1200)]
    assert store.has_blobs(many) == set()


def test_unused_blobs_are_collected_after_their_grace(store: MailStore, clock: Clock) -> None:
    old, touched = make_blob(b"old"), make_blob(b"touched")
    store.put_blobs([old, touched])
    clock.move(50)
    assert store.has_blobs([touched.digest]) == {touched.digest}
    clock.move(50)
    assert store.collect_blobs(unused_for_s=101, limit=10) == 0
    assert store.collect_blobs(unused_for_s=100, limit=10) == 1
    assert store.has_blobs([old.digest, touched.digest]) == {touched.digest}
    store.put_blobs([old])
    assert store.read_blob(old.digest, 0, 3) == b"old"


def test_collecting_keeps_to_its_limit(store: MailStore) -> None:
    store.put_blobs([make_blob(bytes([n])) for n in range(5)])
    assert [store.collect_blobs(unused_for_s=0, limit=2) for _ in range(4)] == [2, 2, 1, 0]


def test_a_half_kept_blob_is_collected_and_can_be_kept_again(store: MailStore, clock: Clock) -> None:
    blob = make_blob(b"a" * CHUNK_BYTES + b"b")
    store.put_blob_chunks(blob.digest, blob.size, 0, blob.chunks[:1])
    clock.move(10)
    assert store.collect_blobs(unused_for_s=5, limit=10) == 1
    store.put_blob_chunks(blob.digest, blob.size, 1, blob.chunks[1:])
    assert store.has_blobs([blob.digest]) == set()
    store.put_blobs([blob])
    assert store.has_blobs([blob.digest]) == {blob.digest}


def test_what_a_message_refers_to_stays_until_the_last_one_goes(
    store: MailStore, user: str, inbox: Mailbox, clock: Clock
) -> None:
    blob = make_blob(b"shared")
    message = make_message(blobs=(blob.digest,), flags=DELETED)
    store.append(user, "INBOX", [message], blobs=[blob])
    trash = store.find_mailbox(user, "Trash")
    store.append(user, "Trash", [message])  # the blob is there already
    clock.move(1000)
    assert store.collect_blobs(unused_for_s=10, limit=10) == 0
    store.expunge(inbox.id)
    assert store.collect_blobs(unused_for_s=10, limit=10) == 0
    store.expunge(trash.id)
    assert store.collect_blobs(unused_for_s=10, limit=10) == 0  # its readers have the grace period to finish
    clock.move(10)
    assert store.collect_blobs(unused_for_s=10, limit=10) == 1


def test_a_removed_users_blobs_are_collected(
    store: MailStore, user: str, inbox: Mailbox, clock: Clock
) -> None:
    blob = make_blob(b"theirs")
    store.append(user, "INBOX", [make_message(blobs=(blob.digest,))] * 2, blobs=[blob])
    store.delete_user_mail(user)
    sweep(store)
    clock.move(10)
    assert store.collect_blobs(unused_for_s=10, limit=10) == 1
