"""Stores over the run's MongoDB, messages for them, and a process that appends.

As a program: `mongo_store_support.py URL USER THREADS COUNT` appends COUNT messages to the INBOX of USER in each of
THREADS threads, and prints a JSON object with the uids given and what the transactions came to.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict

from wd_trio.adapters.mongo_redis.mongo import Mongo
from wd_trio.adapters.mongo_redis.store import MongoStore
from wd_trio.mail.model import Content, NewMessage
from wd_trio.telemetry import tally_thread


def a_message(flags: int = 0, keywords: str = "", *, blobs: tuple[bytes, ...] = ()) -> NewMessage:
    """A message of 100 octets."""
    content = Content(
        size=100,
        header=b"Subject: x\r\n\r\n",
        envelope=b"()",
        envelope_utf8=None,
        bodystructure=b"()",
        bodystructure_utf8=None,
        body=b"()",
        parts=b"",
        preview="",
        rope=b"rope",
        blobs=blobs,
    )
    return NewMessage(content, 1_600_000_000, flags, keywords)


@contextmanager
def round_trips() -> Iterator[dict[str, int]]:
    """What this thread's calls in the block cost, by engine."""
    made: dict[str, int] = {"mongodb": 0}
    before = tally_thread(made)
    try:
        yield made
    finally:
        tally_thread(before)


def main(url: str, user_id: str, threads: int, count: int) -> None:
    mongo = Mongo(url)
    store = MongoStore(mongo)

    def append(_: int) -> list[int]:
        return [store.append(user_id, "INBOX", [a_message()], create=True).uids[0] for _ in range(count)]

    with ThreadPoolExecutor(threads) as pool:
        uids = [uid for part in pool.map(append, range(threads)) for uid in part]
    mongo.close()
    print(json.dumps({"uids": uids, **asdict(mongo.statistics)}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
