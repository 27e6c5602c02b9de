"""Session documents in Redis: `session:<id>` is the document as JSON, which expires when nobody writes it.

Beside the documents there are two indexes, each in one slot of a cluster:
- `sessions:{<user>}` tells of each session when it expires, its protocol and its server. It decides: what it does not
  call live is not, and places are counted and taken in it by one script.
- `held:{<server>}`, `order:{…}` and `expiring:{…}` are a server's sessions: with what is left to say of one whose
  document expired, in order of id for pages, by time for the sweep; `doomed:{…}` are the marks.

The three places of a session are not written as one. The document and its server's index come first, so that what a
process leaves half done is found when its worker is buried; the user's index comes last, and what is missing there
comes back with the next write. A session ends in the opposite order. What nobody sweeps expires.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from heapq import merge
from itertools import islice
from typing import Final

import msgspec

from wd_trio.adapters.mongo_redis import scripts
from wd_trio.adapters.mongo_redis.leases import SERVERS, Standing, standing, vouched
from wd_trio.adapters.mongo_redis.limits import release_noted
from wd_trio.adapters.mongo_redis.pipeline import RedisLink, Steps, steps
from wd_trio.adapters.mongo_redis.redis_routes import Command
from wd_trio.ports.gateway import reads, writes
from wd_trio.ports.sessions import TTL_S, SessionDocument, SessionPage

_DOCUMENTS_A_STEP: Final = 500


class _About(msgspec.Struct, array_like=True, frozen=True):
    """What the server's index says of a session; `worker` is first, because it is what is asked for."""

    worker: str
    user: str
    protocol: str
    created: int
    last_activity: int


_about: Final = msgspec.json.Decoder(_About)


class RedisSessions:
    """ports.sessions.SessionStore."""

    def __init__(self, link: RedisLink) -> None:
        self.link = link

    @writes("state")
    @steps
    def put(self, document: SessionDocument, *, most: int, lease_s: float) -> Steps[bool]:
        answer, *_ = yield [vouched(self.link, document.server, lease_s), *self._written(document)]
        (placed,) = yield [self._placed(document, most=most, live=Standing.of(answer).live)]
        if not placed:
            yield [("DEL", _key(document.id)), _dropped(document.server, [document.id])]
        return bool(placed)

    @writes("state")
    @steps
    def update(self, documents: Sequence[SessionDocument]) -> Steps[None]:
        commands: list[Command] = []
        for document in documents:
            commands += [*self._written(document), self._placed(document)]
        # A server that is forgotten meanwhile is dead, but known to the sweep.
        commands += [("ZADD", SERVERS, "NX", 0, server) for server in {one.server for one in documents}]
        if commands:
            yield commands

    @writes("state")
    @steps
    def touch(self, ids: Sequence[str]) -> Steps[set[str]]:
        found = yield from _read(ids)
        commands: list[Command] = []
        for document in found:
            commands += [
                ("EXPIRE", _key(document.id), document.ttl),
                self._held(document),
                self._placed(document),
            ]
        if not commands:
            return set(ids)
        answers = yield commands
        renewed = {document.id for document, there in zip(found, answers[::3], strict=True) if there}
        return set(ids) - renewed

    @writes("state")
    @steps
    def move(self, ids: Sequence[str], server: str, worker: str) -> Steps[set[str]]:
        found = yield from _read(ids)
        for at in range(0, len(found), _DOCUMENTS_A_STEP):
            commands: list[Command] = []
            for document in found[at : at + _DOCUMENTS_A_STEP]:
                moved = replace(document, server=server, worker=worker)
                commands += [*self._written(moved), self._placed(moved)]
            yield commands
        return set(ids).difference(document.id for document in found)

    @reads("state")
    @steps
    def get(self, id: str) -> Steps[SessionDocument | None]:
        found = yield from self._live([id])
        return found[0] if found else None

    @reads("state")
    @steps
    def of_users(self, users: Sequence[str]) -> Steps[list[SessionDocument]]:
        answer, *indexes = yield [
            standing(self.link),
            *(("HGETALL", _of_user(user)) for user in dict.fromkeys(users)),
        ]
        now = Standing.of(answer)
        live = [
            id_.decode()
            for index in indexes
            for id_, entry in zip(index[::2], index[1::2], strict=True)
            if _is_live(entry, now)
        ]
        found = yield from _read(live)
        return sorted(found, key=lambda document: (document.created, document.id))

    @reads("state")
    @steps
    def page(self, *, after: str | None = None, limit: int = 100) -> Steps[SessionPage]:
        (answer,) = yield [standing(self.link)]
        servers = Standing.of(answer).live
        shown: list[SessionDocument] = []
        cursor = after or ""
        while servers and len(shown) <= limit:
            since = f"({cursor}" if cursor else "-"
            listed = yield [
                ("ZRANGEBYLEX", _order(server), since, "+", "LIMIT", 0, limit + 1) for server in servers
            ]
            ids = [id_.decode() for id_ in islice(merge(*listed), limit + 1)]
            shown += yield from self._live(ids)
            if len(ids) <= limit:
                break
            cursor = ids[-1]
        page = tuple(shown[:limit])
        return SessionPage(page, page[-1].id if len(shown) > limit else None)

    @writes("state")
    @steps
    def end(self, ids: Sequence[str]) -> Steps[None]:
        found = yield from _read(ids)
        yield from _remove(self.link, found)

    @writes("state")
    @steps
    def end_owner(self, server: str, worker: str | None = None) -> Steps[list[SessionDocument]]:
        (held,) = yield [("HGETALL", _held_by(server))]
        theirs = {
            id_.decode(): about
            for id_, text in zip(held[::2], held[1::2], strict=True)
            if (about := _about.decode(text)) and worker in (None, about.worker)
        }
        return (yield from _end_held(self.link, server, theirs, worker))

    @writes("state")
    @steps
    def doom(self, ids: Sequence[str]) -> Steps[int]:
        found = yield from self._live(ids)
        commands: list[Command] = []
        for document in found:
            key = _doomed(document.server)
            commands += [("SADD", key, document.id), ("EXPIRE", key, 2 * TTL_S)]
        if commands:
            yield commands
        return len(found)

    @reads("state")
    @steps
    def doomed(self, server: str, worker: str) -> Steps[list[str]]:
        (marked,) = yield [("SMEMBERS", _doomed(server))]
        if not marked:
            return []
        ids = sorted(marked)
        (abouts,) = yield [("HMGET", _held_by(server), *ids)]
        return [
            id_.decode()
            for id_, about in zip(ids, abouts, strict=True)
            if about is not None and _about.decode(about).worker == worker
        ]

    @reads("state")  # who leaves need not wait for it: a lease ends by itself
    @steps
    def lease(self, server: str, *, ttl_s: float) -> Steps[None]:
        yield [vouched(self.link, server, ttl_s)]

    @writes("state")
    @steps
    def sweep(self, *, limit: int) -> Steps[list[SessionDocument]]:
        (answer,) = yield [standing(self.link)]
        now = Standing.of(answer)
        live = set(now.live)
        servers = list(now.ends_ms)
        listed = yield [
            ("ZRANGEBYSCORE", _expiring(server), "-inf", now.now_ms, "LIMIT", 0, limit)
            if server in live
            else ("ZRANGE", _order(server), 0, limit - 1)
            for server in servers
        ]
        swept: list[SessionDocument] = []
        for server, ids in zip(servers, listed, strict=True):
            some = ids[: limit - len(swept)]
            if some:
                (abouts,) = yield [("HMGET", _held_by(server), *some)]
                theirs = {
                    id_.decode(): _about.decode(about) if about is not None else None
                    for id_, about in zip(some, abouts, strict=True)
                }
                swept += yield from _end_held(self.link, server, theirs)
            if server not in live and len(some) == len(ids) < limit:
                yield from release_noted(server, None)
                yield [scripts.forget(SERVERS, offset_ms=self.link.offset_ms, server=server)]
        return swept

    # -- commands

    def _written(self, document: SessionDocument) -> list[Command]:
        text = msgspec.json.encode(document.as_json())
        return [("SET", _key(document.id), text, "EX", document.ttl), self._held(document)]

    def _held(self, document: SessionDocument) -> Command:
        about = _About(
            document.worker, document.user, document.protocol, document.created, document.last_activity
        )
        server = document.server
        return scripts.hold(
            _held_by(server),
            _order(server),
            _expiring(server),
            offset_ms=self.link.offset_ms,
            session=document.id,
            ttl_ms=document.ttl * 1000,
            about=msgspec.json.encode(about),
        )

    def _placed(
        self, document: SessionDocument, *, most: int = scripts.UNBOUNDED, live: Iterable[str] = ()
    ) -> Command:
        return scripts.place(
            _of_user(document.user),
            offset_ms=self.link.offset_ms,
            session=document.id,
            ttl_ms=document.ttl * 1000,
            protocol=document.protocol,
            server=document.server,
            most=most,
            live=live,
        )

    def _live(self, ids: Sequence[str]) -> Steps[list[SessionDocument]]:
        """Those of these sessions that are live, in the order of `ids`."""
        found = yield from _read(ids)
        if not found:
            return []
        answer, *entries = yield [
            standing(self.link),
            *(("HGET", _of_user(document.user), document.id) for document in found),
        ]
        now = Standing.of(answer)
        return [
            document for document, entry in zip(found, entries, strict=True) if entry and _is_live(entry, now)
        ]


def _read(ids: Sequence[str]) -> Steps[list[SessionDocument]]:
    """Those of these documents that there are."""
    found: list[SessionDocument] = []
    for at in range(0, len(ids), _DOCUMENTS_A_STEP):
        texts = yield [("GET", _key(id_)) for id_ in ids[at : at + _DOCUMENTS_A_STEP]]
        found += [SessionDocument.from_json(msgspec.json.decode(text)) for text in texts if text is not None]
    return found


def _remove(link: RedisLink, documents: Sequence[SessionDocument]) -> Steps[None]:
    """The users' indexes first, so that while any of this fails enough is left to try it again."""
    if not documents:
        return
    unplaced: list[Command] = [("HDEL", _of_user(document.user), document.id) for document in documents]
    rest: list[Command] = []
    for document in documents:
        rest += [("DEL", _key(document.id)), _dropped(document.server, [document.id])]
    if link.address.kind == "cluster":  # whose nodes fail one by one
        yield unplaced
        yield rest
    else:
        yield unplaced + rest


def _end_held(
    link: RedisLink, server: str, held: Mapping[str, _About | None], worker: str | None = None
) -> Steps[list[SessionDocument]]:
    """End sessions that a server's index tells of; what they were. Those that another server has by now are only
    struck from the index; those that another than the one `worker` has are left alone. Of one whose document expired,
    the index tells the rest."""
    found = yield from _read(list(held))
    left = {one.id for one in found if one.server == server and worker not in (None, one.worker)}
    theirs = {one.id: one for one in found if one.server == server and one.id not in left}
    expired = held.keys() - {document.id for document in found}
    rest = {
        id_: SessionDocument(
            id=id_,
            user=about.user,
            protocol=about.protocol,
            server=server,
            worker=about.worker,
            created=about.created,
            last_activity=about.last_activity,
        )
        for id_ in expired
        if (about := held[id_]) is not None
    }
    ended = theirs | rest
    yield from _remove(link, list(ended.values()))
    if strays := [id_ for id_ in held if id_ not in ended and id_ not in left]:
        yield [_dropped(server, strays)]
    return [ended[id_] for id_ in held if id_ in ended]


def _is_live(entry: bytes, now: Standing) -> bool:
    """Whether an entry of a user's index is of a live session."""
    expires, _, server = entry.decode().split(" ", 2)
    return int(expires) > now.now_ms and now.ends_ms.get(server, 0) > now.now_ms


def _dropped(server: str, ids: Sequence[str]) -> Command:
    return scripts.drop(_held_by(server), _order(server), _expiring(server), _doomed(server), ids)


def _key(id_: str) -> str:
    return f"session:{id_}"


def _of_user(user: str) -> str:
    return f"sessions:{{{user}}}"


def _held_by(server: str) -> str:
    return f"held:{{{server}}}"


def _order(server: str) -> str:
    return f"order:{{{server}}}"


def _expiring(server: str) -> str:
    return f"expiring:{{{server}}}"


def _doomed(server: str) -> str:
    return f"doomed:{{{server}}}"
