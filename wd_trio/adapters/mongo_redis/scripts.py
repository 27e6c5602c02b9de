"""The scripts that Redis runs, one file each in `lua/`, and for each a function that makes its command.

A script touches keys of one slot only, gets every key by name, and takes the time from the engine that runs it; the
caller adds `offset_ms`, which is 0 outside of tests. They go out by their hash; pipeline.py sends the source to a
server that has not seen it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Final

from wd_trio.adapters.mongo_redis.redis_routes import Command, make_ready

UNBOUNDED: Final = -1

_COUNTS: Final = tuple(map(str, range(5)))  # of keys

_sources: Final[dict[str, str]] = {}


def source_of(sha: str) -> str:
    """The source of the script with this hash."""
    return _sources[sha]


def _load(name: str) -> str:
    source = (files(__package__) / "lua" / f"{name}.lua").read_text("utf-8")
    sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
    _sources[sha] = source
    make_ready(sha)
    return sha


def _run(sha: str, keys: Sequence[str], *arguments: str | int) -> Command:
    return ("EVALSHA", sha, _COUNTS[len(keys)], *keys, *arguments)


_CLAIM: Final = _load("claim")
_DROP: Final = _load("drop")
_FORGET: Final = _load("forget")
_HOLD: Final = _load("hold")
_LEAD: Final = _load("lead")
_PLACE: Final = _load("place")
_RELEASE: Final = _load("release")
_RESIGN: Final = _load("resign")
_STRIKE: Final = _load("strike")
_STRIKES: Final = _load("strikes")
_UNNOTE: Final = _load("unnote")
_VOUCH: Final = _load("vouch")


def vouch(servers: str, *, offset_ms: int, server: str = "", ttl_ms: int = 0) -> Command:
    """Let a server's lease, if one is named, end no sooner than so long from now. Answers the time in ms, then each
    server known and when its lease ends."""
    return _run(_VOUCH, [servers], offset_ms, server, ttl_ms)


def forget(servers: str, *, offset_ms: int, server: str) -> Command:
    """Remove a server, unless its lease goes on."""
    return _run(_FORGET, [servers], offset_ms, server)


def place(
    key: str,
    *,
    offset_ms: int,
    session: str,
    ttl_ms: int,
    protocol: str,
    server: str,
    most: int = UNBOUNDED,
    live: Iterable[str] = (),
) -> Command:
    """Put a session among its user's, if fewer than `most` of its protocol are there on `live` servers. Answers 1
    when it was put there."""
    return _run(_PLACE, [key], offset_ms, session, ttl_ms, most, protocol, server, *live)


def hold(
    held: str, order: str, expiring: str, *, offset_ms: int, session: str, ttl_ms: int, about: bytes
) -> Command:
    """Put a session among its server's, for so long from now."""
    return _run(_HOLD, [held, order, expiring], offset_ms, session, ttl_ms, about.decode())


def drop(held: str, order: str, expiring: str, doomed: str, sessions: Sequence[str]) -> Command:
    """Take sessions from among their server's."""
    return _run(_DROP, [held, order, expiring, doomed], *sessions)


def claim(key: str, *, holder: str, owner: str, most: int, live: Iterable[str]) -> Command:
    """Take one of `most` places; those of servers that are not `live` end. Answers 1 when it is the holder's."""
    return _run(_CLAIM, [key], holder, owner, most, *live)


def release(key: str, *, holder: str, owner: str = "") -> Command:
    """Give a place back, if it is the owner's ("": whosever). Answers whose it was, None for nobody's."""
    return _run(_RELEASE, [key], holder, owner)


def unnote(notes: str, owners: Mapping[str, str]) -> Command:
    """Strike out a server's notes, but those that are another owner's by now."""
    return _run(_UNNOTE, [notes], *(part for note in owners.items() for part in note))


def strike(key: str, *, offset_ms: int, window_ms: int) -> Command:
    """Count one. Answers how many there are in the window that the first one began."""
    return _run(_STRIKE, [key], offset_ms, window_ms)


def strikes(key: str, *, offset_ms: int) -> Command:
    """Answers how many there are."""
    return _run(_STRIKES, [key], offset_ms)


def lead(key: str, *, holder: str, ttl_ms: int) -> Command:
    """Take or renew a leader's lease. Answers 1 when it is the holder's."""
    return _run(_LEAD, [key], holder, ttl_ms)


def resign(key: str, *, holder: str) -> Command:
    """End a leader's lease, if it is the holder's."""
    return _run(_RESIGN, [key], holder)
