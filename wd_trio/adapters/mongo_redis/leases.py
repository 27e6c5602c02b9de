"""Who is alive, and who leads: leases by Redis' own clock.

`servers` holds every server that has something here and the end of its lease. A call that counts what servers hold
reads it in its first step, so that what a dead server left takes nobody's place, whether it was swept or not.

A leader's lease is one key that expires. Leading is for work that is done twice without harm: a leader that hangs
beyond its lease learns of it when it next asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from wd_trio.adapters.mongo_redis import scripts
from wd_trio.adapters.mongo_redis.pipeline import RedisLink, Steps, steps
from wd_trio.adapters.mongo_redis.redis_routes import Command
from wd_trio.ports.gateway import reads, writes

SERVERS: Final = "servers"


@dataclass(frozen=True, slots=True)
class Standing:
    """The servers that there are, with the ends of their leases, and the time; all in ms of Redis' clock."""

    now_ms: int
    ends_ms: dict[str, int]

    @property
    def live(self) -> list[str]:
        return [server for server, ends_ms in self.ends_ms.items() if ends_ms > self.now_ms]

    @classmethod
    def of(cls, answer: Sequence[Any]) -> Standing:
        """What `scripts.vouch` answered."""
        names, ends = answer[1::2], answer[2::2]
        return cls(
            int(answer[0]), {name.decode(): int(float(end)) for name, end in zip(names, ends, strict=True)}
        )


def standing(link: RedisLink) -> Command:
    """The command that `Standing.of` reads."""
    return scripts.vouch(SERVERS, offset_ms=link.offset_ms)


def vouched(link: RedisLink, server: str, ttl_s: float) -> Command:
    """The same, after renewing a server's lease: it ends no sooner than `ttl_s` from now."""
    return scripts.vouch(SERVERS, offset_ms=link.offset_ms, server=server, ttl_ms=round(ttl_s * 1000))


class RedisLeases:
    """Leaders among all processes that share this Redis."""

    def __init__(self, link: RedisLink) -> None:
        self.link = link

    @writes("state")
    @steps
    def try_lead(self, name: str, holder: str, *, ttl_s: float) -> Steps[bool]:
        """Take the lead called `name`, or renew it, for so long from now; whether `holder` has it. Unavailable."""
        (led,) = yield [scripts.lead(f"lead:{name}", holder=holder, ttl_ms=round(ttl_s * 1000))]
        return bool(led)

    @writes("state")
    @steps
    def resign(self, name: str, holder: str) -> Steps[None]:
        """Give the lead up, if `holder` has it. Unavailable."""
        yield [scripts.resign(f"lead:{name}", holder=holder)]

    @reads("state")
    @steps
    def ping(self) -> Steps[None]:
        """Touch Redis; Unavailable when it does not answer."""
        yield [("PING",)]
