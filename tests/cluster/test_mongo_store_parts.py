"""The parts of the MongoDB mail store that need no MongoDB: queues, what is known."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event, Lock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wd_trio import errors
from wd_trio.adapters.mongo_redis import layout, queues
from wd_trio.adapters.mongo_redis.known import Known
from wd_trio.adapters.mongo_redis.queues import Outcome, Queues
from wd_trio.mail.flagrows import FlagRows
from wd_trio.mail.model import SEEN, FlagRow
from wd_trio.mail.numset import MAX_UID, UidSet

# -- queues


@dataclass(frozen=True)
class Call:
    name: str
    alone: bool = False
    size_bytes: int = 1


class Goes:
    """Runs calls, keeps them go by go, and holds the first go up until told."""

    def __init__(self) -> None:
        self.goes: list[list[str]] = []
        self.began, self.may_go_on = Event(), Event()
        self._mutex = Lock()
        self.running = 0

    def __call__(self, user_id: str, calls: Sequence[Call], waited_s: float) -> list[Outcome]:
        assert waited_s >= 0
        with self._mutex:
            self.running += 1
            assert self.running == 1
            self.goes.append([call.name for call in calls])
        self.began.set()
        assert self.may_go_on.wait(10)
        with self._mutex:
            self.running -= 1
        return [
            Outcome(None, errors.NotFound(call.name)) if call.name == "bad" else Outcome(call.name, None)
            for call in calls
        ]


def queued(goes: Goes, calls: Sequence[Call], *, wait_s: float = 10.0) -> list[object]:
    """What a first call and then `calls`, which come in order while it runs, came to."""
    line: Queues[Call] = Queues(goes, wait_s=wait_s)

    def outcome(call: Call) -> object:
        try:
            return line.do("user", call)
        except errors.WdError as error:
            return type(error)

    with ThreadPoolExecutor(len(calls) + 1) as pool:
        futures = [pool.submit(outcome, Call("first"))]
        assert goes.began.wait(10)
        for count, call in enumerate(calls, 1):
            futures.append(pool.submit(outcome, call))
            while len(line._queues["user"]) < count:
                pass
        goes.may_go_on.set()
        found = [future.result() for future in futures]
    assert line._queues == {}
    return found


def test_what_waits_goes_together() -> None:
    goes = Goes()
    assert queued(goes, [Call("a"), Call("bad"), Call("c")]) == ["first", "a", errors.NotFound, "c"]
    assert goes.goes == [["first"], ["a", "bad", "c"]]


def test_some_go_alone_and_a_go_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "MAX_CALLS", 3)
    monkeypatch.setattr(queues, "MAX_BYTES", 10)
    calls = [Call("a"), Call("b", alone=True), *(Call(f"c{n}") for n in range(4)), Call("d", size_bytes=99)]
    goes = Goes()
    assert queued(goes, calls) == ["first", *(call.name for call in calls)]
    assert goes.goes == [["first"], ["a"], ["b"], ["c0", "c1", "c2"], ["c3"], ["d"]]


def test_what_has_not_begun_in_time_is_withdrawn() -> None:
    goes = Goes()
    line: Queues[Call] = Queues(goes, wait_s=0)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(line.do, "user", Call("first"))
        assert goes.began.wait(10)
        with pytest.raises(errors.Unavailable):
            line.do("user", Call("late"))
        goes.may_go_on.set()
        assert first.result() == "first"
    assert goes.goes == [["first"]]
    assert line.do("user", Call("next")) == "next"


def test_a_leader_that_breaks_down_leaves_nobody_waiting() -> None:
    def breaks(user_id: str, calls: Sequence[Call], waited_s: float) -> list[Outcome]:
        raise KeyboardInterrupt

    line: Queues[Call] = Queues(breaks, wait_s=1)
    with pytest.raises(KeyboardInterrupt):
        line.do("user", Call("a"))
    with pytest.raises(KeyboardInterrupt):
        line.do("user", Call("b"))


# -- what is known


def known_of(rows: Sequence[FlagRow], modseq: int) -> Known:
    return Known(modseq, FlagRows.of(list(rows)))


@given(st.integers(0, 1 << 32))
def test_what_is_known_follows_any_change(seed: int) -> None:
    rng = random.Random(seed)
    rows: dict[int, FlagRow] = {}
    known, next_uid = known_of([], 1), 1
    for modseq in range(2, 12):
        changed: dict[int, FlagRow] = {}
        for uid in rng.sample(sorted(rows), rng.randrange(len(rows) + 1)):
            changed[uid] = FlagRow(uid, modseq, rng.randrange(32), rng.choice(("", "a")))
        for _ in range(rng.randrange(5)):
            changed[next_uid] = FlagRow(next_uid, modseq, rng.randrange(32), rng.choice(("", "b")))
            next_uid += rng.randrange(1, 3)
        rows |= changed
        gone = UidSet.of(sorted(rng.sample(sorted(rows), rng.randrange(len(rows) // 2 + 1))))
        told: Sequence[FlagRow] = [changed[uid] for uid in sorted(changed)]
        known = known.changed(modseq, FlagRows.of(told) if rng.random() < 0.5 else told, gone)
        rows = {uid: row for uid, row in rows.items() if uid not in gone}
        expected = [rows[uid] for uid in sorted(rows)]
        assert (known.modseq, list(known.rows)) == (modseq, expected)
        assert known.first_unseen_uid == next((row.uid for row in expected if not row.flags & SEEN), 0)


def test_what_is_known_weighs_about_ten_bytes_a_message() -> None:
    rows = FlagRows(UidSet([(1, 100_000)]), bytes(100_000), {}, array("Q", bytes(800_000)))
    assert Known(1, rows).size_bytes < 1_000_000


# -- layout


@given(st.lists(st.tuples(st.integers(1, MAX_UID), st.integers(0, 30)), max_size=60))
def test_uids_are_packed_and_unpacked(pairs: list[tuple[int, int]]) -> None:
    uids = UidSet((first, min(first + more, MAX_UID)) for first, more in pairs)
    assert layout.unpacked(layout.packed(uids)) == uids


def matches(which: layout.Document, uid: int) -> bool:
    if "$or" in which:
        return any(matches(inner, uid) for inner in which["$or"])
    found: Callable[[int], bool] = {
        True: lambda n: n in which["uid"].get("$in", ()),
        False: lambda n: which["uid"]["$gte"] <= n <= which["uid"]["$lte"],
    }["$in" in which["uid"]]
    return found(uid)


@given(
    st.lists(st.tuples(st.integers(1, 60_000), st.sampled_from([0, 0, 0, 1, 30, 3000, 25_000])), max_size=80)
)
def test_filters_cover_just_their_uids_in_order(pairs: list[tuple[int, int]]) -> None:
    uids = UidSet((first, first + more) for first, more in pairs)
    filters = list(layout.among("u", "m", uids))
    edges = {edge + by for pair in uids.ranges() for edge in pair for by in (-1, 0, 1)}
    for uid in sorted(edges):
        assert any(matches(which, uid) for which in filters) is (uid in uids)
    if len(uids) <= 20_000 and uids:
        assert len(filters) == 1
    if not uids:
        assert filters == []
