"""Claims and strikes in Redis.

The claims of a key are one hash, and each server has another that tells which claims are its: whatever order the two
are written in, a process may die between them. So a claim is noted first and taken then, given back first and
struck out then; a note without a claim does no harm. A claim counts while its server has a lease, which claiming
renews: who claims is alive.
"""

from __future__ import annotations

import json
from typing import Final

from wd_trio.adapters.mongo_redis import scripts
from wd_trio.adapters.mongo_redis.leases import Standing, standing, vouched
from wd_trio.adapters.mongo_redis.pipeline import RedisLink, Steps, steps
from wd_trio.adapters.mongo_redis.redis_routes import Command
from wd_trio.ports.gateway import reads, writes

CLAIM_LEASE_S: Final = 30.0


class RedisLimits:
    """ports.limits.Limits. An owner is `<server>/<worker>`."""

    def __init__(self, link: RedisLink) -> None:
        self.link = link

    @writes("state")
    @steps
    def claim(self, key: str, holder: str, *, owner: str, most: int) -> Steps[bool]:
        server, note = _server_of(owner), _note(key, holder)
        answer, _ = yield [
            vouched(self.link, server, CLAIM_LEASE_S),
            ("HSET", _notes(server), note, owner),
        ]
        (taken,) = yield [
            scripts.claim(_claims(key), holder=holder, owner=owner, most=most, live=Standing.of(answer).live)
        ]
        if not taken:
            yield [("HDEL", _notes(server), note)]
        return bool(taken)

    @writes("state")
    @steps
    def release(self, key: str, holder: str) -> Steps[None]:
        (owner,) = yield [scripts.release(_claims(key), holder=holder)]
        if owner is not None:
            yield [("HDEL", _notes(_server_of(owner.decode())), _note(key, holder))]

    @writes("state")
    @steps
    def release_owner(self, owner: str) -> Steps[int]:
        return (yield from release_noted(_server_of(owner), owner))

    @reads("state")
    @steps
    def claims(self, key: str) -> Steps[int]:
        answer, holders = yield [standing(self.link), ("HVALS", _claims(key))]
        live = set(Standing.of(answer).live)
        return sum(_server_of(owner.decode()) in live for owner in holders)

    @writes("state")
    @steps
    def strike(self, key: str, *, window_s: float) -> Steps[int]:
        (count,) = yield [
            scripts.strike(_strikes(key), offset_ms=self.link.offset_ms, window_ms=round(window_s * 1000))
        ]
        return int(count)

    @reads("state")
    @steps
    def strikes(self, key: str) -> Steps[int]:
        (count,) = yield [scripts.strikes(_strikes(key), offset_ms=self.link.offset_ms)]
        return int(count)

    @writes("state")
    @steps
    def forgive(self, key: str) -> Steps[None]:
        yield [("DEL", _strikes(key))]


def release_noted(server: str, owner: str | None) -> Steps[int]:
    """End the claims that a server noted, of one owner or (None) of all; how many there were. One that another worker
    takes over meanwhile stays, with its note."""
    (noted,) = yield [("HGETALL", _notes(server))]
    mine = {
        note.decode(): whose.decode()
        for note, whose in zip(noted[::2], noted[1::2], strict=True)
        if owner is None or whose.decode() == owner
    }
    if not mine:
        return 0
    released = yield [_release(note, whose) for note, whose in mine.items()]
    yield [scripts.unnote(_notes(server), mine)]
    return sum(answer is not None for answer in released)


def _release(note: str, owner: str) -> Command:
    key, holder = json.loads(note)
    return scripts.release(_claims(key), holder=holder, owner=owner)


def _claims(key: str) -> str:
    return f"claims:{{{key}}}"


def _strikes(key: str) -> str:
    return f"strikes:{{{key}}}"


def _notes(server: str) -> str:
    return f"claimed:{{{server}}}"


def _note(key: str, holder: str) -> str:
    return json.dumps([key, holder])


def _server_of(owner: str) -> str:
    return owner.rpartition("/")[0] or owner
