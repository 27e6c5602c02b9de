"""What sessions and limits are in Redis itself, and what becomes of what somebody left half done."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeVar

import pytest
from cluster_house import fresh_redis

from wd_trio.adapters.mongo_redis.limits import RedisLimits, release_noted
from wd_trio.adapters.mongo_redis.pipeline import RedisLink, Steps
from wd_trio.adapters.mongo_redis.sessions import RedisSessions
from wd_trio.ports.sessions import SessionDocument

T = TypeVar("T")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def link(clock: Clock) -> RedisLink:
    return fresh_redis(clock)


@pytest.fixture
def sessions(link: RedisLink) -> RedisSessions:
    return RedisSessions(link)


@pytest.fixture
def limits(link: RedisLink) -> RedisLimits:
    return RedisLimits(link)


def make(number: int, server: str = "s1", worker: str = "1") -> SessionDocument:
    return SessionDocument(
        id=f"sess_{number:032x}",
        user="u1",
        protocol="imap",
        server=server,
        worker=worker,
        created=1_700_000_000_000 + number,
        last_activity=1_700_000_000_500,
        ip="192.0.2.1",
        state={"view": [1, 2, 3, 4]},
    )


def put(sessions: RedisSessions, document: SessionDocument, most: int = 9) -> bool:
    return sessions.put(document, most=most, lease_s=30)


def keys(link: RedisLink) -> set[str]:
    (found,) = link.exchange([("KEYS", "*")])
    return {key.decode() for key in found}


def test_a_session_is_json_that_expires_in_an_hour(link: RedisLink, sessions: RedisSessions) -> None:
    document = make(1)
    put(sessions, document)
    text, left_s = link.exchange([("GET", f"session:{document.id}"), ("TTL", f"session:{document.id}")])
    assert json.loads(text) == document.as_json()
    assert 3590 < left_s <= 3600
    link.exchange([("EXPIRE", f"session:{document.id}", 5)])
    assert sessions.touch([document.id]) == set()
    (left_s,) = link.exchange([("TTL", f"session:{document.id}")])
    assert 3590 < left_s <= 3600


def test_nothing_is_left_of_a_session_that_ended(link: RedisLink, sessions: RedisSessions) -> None:
    documents = [make(number) for number in range(3)]
    for document in documents:
        put(sessions, document)
    sessions.doom([documents[0].id])
    assert not put(sessions, make(9), most=3)
    sessions.end([document.id for document in documents])
    assert keys(link) == {"servers"}


def test_what_is_left_alone_expires(link: RedisLink, sessions: RedisSessions, limits: RedisLimits) -> None:
    put(sessions, make(1))
    sessions.doom([make(1).id])
    limits.strike("k", window_s=60)
    lasting = {key for key in keys(link) if link.exchange([("TTL", key)]) == [-1]}
    assert lasting == {"servers"}


def test_a_document_that_expired_is_swept_by_what_its_server_knows(
    link: RedisLink, sessions: RedisSessions, clock: Clock
) -> None:
    document = make(1)
    put(sessions, document)
    clock.now += 3600
    sessions.lease("s1", ttl_s=30)
    link.exchange([("DEL", f"session:{document.id}")])
    (swept,) = sessions.sweep(limit=10)
    assert (swept.id, swept.user, swept.created) == (document.id, document.user, document.created)
    assert swept.last_activity == document.last_activity
    assert keys(link) == {"servers"}


def test_a_session_that_another_server_took_over_does_not_end_with_the_first(
    link: RedisLink, sessions: RedisSessions, clock: Clock
) -> None:
    document = make(1, server="s1")
    put(sessions, document)
    taken = make(1, server="s2")
    sessions.update([taken])
    sessions.lease("s2", ttl_s=1000)
    assert sessions.get(document.id) == taken
    clock.now += 31
    assert sessions.sweep(limit=10) == []
    assert sessions.get(document.id) == taken
    assert sessions.end_owner("s1") == []
    assert sessions.end_owner("s2") == [taken]


def test_half_a_log_in_takes_no_place_and_is_buried_with_its_worker(
    link: RedisLink, sessions: RedisSessions
) -> None:
    document = make(1)
    put(sessions, document)
    link.exchange([("HDEL", "sessions:{u1}", document.id)])  # as if the process died before this was written
    assert sessions.get(document.id) is None
    assert list(sessions.page().documents) == []
    assert put(sessions, make(2), most=1)
    assert [one.id for one in sessions.end_owner("s1", "1")] == [make(1).id, make(2).id]
    assert keys(link) == {"servers"}


def test_a_written_session_is_found_again_after_redis_lost_everything(
    link: RedisLink, sessions: RedisSessions
) -> None:
    document = make(1)
    put(sessions, document)
    link.exchange([("FLUSHDB",), ("SCRIPT", "FLUSH")])
    assert sessions.touch([document.id]) == {document.id}
    sessions.update([document])
    sessions.lease("s1", ttl_s=30)
    assert sessions.get(document.id) == document
    assert not put(sessions, make(2), most=1)


def test_a_dead_servers_sweep_takes_its_claims_and_forgets_it(
    link: RedisLink, sessions: RedisSessions, limits: RedisLimits, clock: Clock
) -> None:
    for number in range(3):
        put(sessions, make(number))
        limits.claim(f"k{number}", "h", owner="s1/1", most=1)
    sessions.lease("s2", ttl_s=1000)
    clock.now += 31
    assert len(sessions.sweep(limit=2)) == 2
    assert len(sessions.sweep(limit=2)) == 1
    assert keys(link) == {"servers"}
    assert link.exchange([("ZRANGE", "servers", 0, -1)]) == [[b"s2"]]


def test_claims_of_a_dead_server_take_no_place(limits: RedisLimits, clock: Clock) -> None:
    assert limits.claim("maildrop", "h1", owner="s1/1", most=1)
    assert not limits.claim("maildrop", "h2", owner="s2/1", most=1)
    clock.now += 31
    assert limits.claims("maildrop") == 0
    assert limits.claim("maildrop", "h2", owner="s2/1", most=1)
    limits.release("maildrop", "h1")
    assert limits.claims("maildrop") == 1
    assert limits.release_owner("s1/1") == 0


def step_by_step(link: RedisLink, call: Steps[T], meanwhile: Callable[[], object]) -> T:
    """Run a call, with something else behind its first step, as in another process."""
    answers = link.exchange(next(call))
    meanwhile()
    while True:
        try:
            commands = call.send(answers)
        except StopIteration as end:
            return end.value
        answers = link.exchange(commands)


def test_a_claim_taken_over_while_its_worker_is_buried_keeps_its_note(
    link: RedisLink, limits: RedisLimits
) -> None:
    """Else nobody would end it with the worker that took it over."""
    for key in ("mine", "others"):
        assert limits.claim(key, "h1", owner="s1/1", most=1)
    bury = release_noted("s1", "s1/1")
    assert step_by_step(link, bury, lambda: limits.claim("mine", "h1", owner="s1/2", most=1)) == 1
    assert (limits.claims("mine"), limits.claims("others")) == (1, 0)
    assert limits.release_owner("s1/2") == 1
    assert limits.claims("mine") == 0


def test_a_session_moved_while_its_worker_is_buried_goes_on(link: RedisLink, sessions: RedisSessions) -> None:
    moved, stays = make(1), make(2)
    for document in (moved, stays):
        assert put(sessions, document)
    bury = RedisSessions.end_owner.__wrapped__(sessions, "s1", "1")  # type: ignore[attr-defined]  # its steps
    ended = step_by_step(link, bury, lambda: sessions.move([moved.id], "s1", "2"))
    assert [document.id for document in ended] == [stays.id]
    assert [document.id for document in sessions.page().documents] == [moved.id]
    assert [document.id for document in sessions.end_owner("s1", "2")] == [moved.id]
    assert keys(link) == {"servers"}
