"""The bus on Redis: who hears what, and what becomes of hints that could not be heard or sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
import trio
from redis_house import fresh_link, redis_gateway

from wd_trio.adapters.mongo_redis import bus as module
from wd_trio.adapters.mongo_redis.bus import RedisBus
from wd_trio.adapters.mongo_redis.pipeline import RedisLink
from wd_trio.errors import Unavailable
from wd_trio.mail.model import Changes, FlagRow
from wd_trio.ports.bus import Hint, Resync
from wd_trio.ports.gateway import Gateway, P, T


@pytest.fixture
def link() -> Iterator[RedisLink]:
    with fresh_link() as made:
        yield made


def numbered(number: int, user: str = "u1") -> Hint:
    rows = (FlagRow(number, number, 0, "$Keyword"),)
    return Hint("mailbox", user, "m1", number, number + 1, Changes(number, number + 1, 9, rows))


class Listener:
    """A bus whose words are kept until they are asked for."""

    def __init__(self, bus: RedisBus) -> None:
        self.bus = bus
        self.heard: list[Hint | Resync] = []
        self._news = trio.Event()

    async def listen(self) -> None:
        while True:
            self.heard += await self.bus.receive()
            self._news.set()
            self._news = trio.Event()

    async def hears(self, *wanted: Hint | Resync) -> None:
        """Wait until these were heard, and nothing else; forget them."""
        await self.until(lambda heard: len(heard) >= len(wanted))
        assert self.heard == list(wanted)
        self.heard.clear()

    async def until(self, enough: Callable[[list[Hint | Resync]], bool]) -> None:
        while not enough(self.heard):
            await self._news.wait()

    async def follows(self, user: str) -> None:
        self.bus.follow(user)
        await self.hears(Resync(user))


@asynccontextmanager
async def buses(link: RedisLink, count: int) -> AsyncIterator[list[Listener]]:
    """Buses of as many processes, all in this one."""
    async with redis_gateway(link) as gateway, trio.open_nursery() as nursery:
        made = [Listener(RedisBus(link, gateway)) for _ in range(count)]
        for one in made:
            nursery.start_soon(one.bus.run)
            nursery.start_soon(one.listen)
            await one.hears(Resync())
        yield made
        nursery.cancel_scope.cancel()


async def test_a_hint_goes_to_the_other_processes_that_follow_its_user(link: RedisLink) -> None:
    async with buses(link, 3) as (one, two, three):
        for listener in (one, two):
            await listener.follows("u1")
        await three.follows("u2")
        one.bus.publish_nowait(numbered(1))
        await two.hears(numbered(1))
        one.bus.publish_nowait(numbered(2, "u2"))
        await three.hears(numbered(2, "u2"))
        two.bus.publish_nowait(numbered(3))
        await one.hears(numbered(3))
        assert not two.heard
        assert not three.heard


async def test_what_caches_live_by_reaches_everybody(link: RedisLink) -> None:
    async with buses(link, 3) as (one, two, three):
        for kind in ("user", "folders", "kill"):
            one.bus.publish_nowait(Hint(kind, "u9"))
            for other in (two, three):
                await other.hears(Hint(kind, "u9"))


async def test_a_user_who_is_left_is_not_heard_of(link: RedisLink) -> None:
    async with buses(link, 2) as (one, two):
        await two.follows("u1")
        await two.follows("u2")
        two.bus.unfollow("u1")
        while link.exchange([("PUBSUB", "NUMSUB", "changes:{u1}")])[0][1]:
            await trio.sleep(0.01)
        one.bus.publish_nowait(numbered(1, "u1"))
        one.bus.publish_nowait(numbered(2, "u2"))
        await two.hears(numbered(2, "u2"))


async def test_leaving_and_following_at_once_is_followed(link: RedisLink) -> None:
    async with buses(link, 2) as (one, two):
        await two.follows("u1")
        for _ in range(50):
            two.bus.unfollow("u1")
            two.bus.follow("u1")
        two.bus.follow("u2")
        await two.until(lambda heard: Resync("u2") in heard)  # what came before has been done by now
        two.bus.unfollow("u1")
        two.bus.follow("u1")
        one.bus.publish_nowait(Hint("user", "u1"))
        await two.until(lambda heard: Hint("user", "u1") in heard)
        one.bus.publish_nowait(numbered(1))
        await two.until(lambda heard: numbered(1) in heard)
        assert Resync() not in two.heard, "it began anew"


async def test_a_burst_arrives_in_order(link: RedisLink) -> None:
    async with buses(link, 2) as (one, two):
        await two.follows("u1")
        hints = [numbered(number) for number in range(module.QUEUE_HINTS)]
        for hint in hints:
            one.bus.publish_nowait(hint)
        await two.hears(*hints)


async def test_an_overflow_becomes_a_resync_of_the_users_concerned(link: RedisLink) -> None:
    async with buses(link, 2) as (one, two):
        for user in ("u1", "u2", "u3"):
            await two.follows(user)
        for number in range(module.QUEUE_HINTS):
            one.bus.publish_nowait(numbered(number, f"u{1 + number % 2}"))
        last = numbered(0, "u3")
        one.bus.publish_nowait(last)
        await two.until(lambda heard: len(heard) >= 3)
        assert sorted(str(item) for item in two.heard) == sorted(map(str, (Resync("u1"), Resync("u2"), last)))


async def test_a_process_that_does_not_keep_up_asks_the_store(link: RedisLink) -> None:
    async with redis_gateway(link) as gateway, trio.open_nursery() as nursery:
        slow, quick = RedisBus(link, gateway), RedisBus(link, gateway)
        for bus in (slow, quick):
            nursery.start_soon(bus.run)
            assert await bus.receive() == [Resync()]
        for _ in range(module.INBOX_ITEMS // 1000 + 1):
            for _ in range(1000):
                quick.publish_nowait(Hint("user", "u1"))
            while quick._queue:
                await trio.sleep(0.01)
        quick.publish_nowait(Hint("folders", "end"))
        got: list[Hint | Resync] = []
        while Hint("folders", "end") not in got:
            got += await slow.receive()
        assert got[0] == Resync()
        assert len(got) <= module.INBOX_ITEMS
        nursery.cancel_scope.cancel()


async def test_a_lost_subscription_is_made_anew_with_all_users_and_an_order_to_resync(
    link: RedisLink,
) -> None:
    async with buses(link, 2) as (one, two):
        for user in ("u1", "u2"):
            await two.follows(user)
        await trio.to_thread.run_sync(link.exchange, [("CLIENT", "KILL", "TYPE", "pubsub")])
        await one.hears(Resync())
        await two.hears(Resync())
        for hint in (numbered(1, "u1"), numbered(2, "u2"), Hint("user", "u3")):
            one.bus.publish_nowait(hint)
            await two.hears(hint)


async def test_a_message_that_is_no_hint_means_resync(link: RedisLink) -> None:
    async with buses(link, 1) as (one,):
        await one.follows("u1")
        link.exchange(
            [("PUBLISH", "changes:{u1}", b"x" * 8 + b"\xc1nonsense"), ("PUBLISH", "accounts", b"short")]
        )
        await one.hears(Resync("u1"), Resync())


class Refusing:
    """A gateway that refuses some calls first."""

    def __init__(self, gateway: Gateway, refusals: int) -> None:
        self.gateway = gateway
        self.refusals = refusals

    async def run(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        if self.refusals:
            self.refusals -= 1
            await trio.lowlevel.checkpoint()
            raise Unavailable("refused", what="state")
        return await self.gateway.run(call, *args, **kwargs)


async def test_what_cannot_be_sent_waits(link: RedisLink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    async with buses(link, 1) as (two,), redis_gateway(link) as gateway, trio.open_nursery() as nursery:
        await two.follows("u1")
        one = RedisBus(link, Refusing(gateway, 3))
        nursery.start_soon(one.run)
        hints = [numbered(number) for number in range(5)]
        for hint in hints:
            one.publish_nowait(hint)
        await two.hears(*hints)
        nursery.cancel_scope.cancel()


async def test_a_bus_that_never_ran_leaves_nothing_open(link: RedisLink) -> None:
    async with redis_gateway(link) as gateway:
        bus = RedisBus(link, gateway)
        bus.follow("u1")
        bus.publish_nowait(numbered(1))
        bus.close()
        bus.close()
        bus.unfollow("u1")
