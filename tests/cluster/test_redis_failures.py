"""A Redis that dies, hangs or fails over: calls fail soon and on their own, and all is well again when it is back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from redis_house import QUICK, one_redis, redis_gateway, redis_with_sentinel

from wd_trio.adapters.bridge import Gateway
from wd_trio.adapters.mongo_redis import redis_reader
from wd_trio.adapters.mongo_redis.bus import RedisBus
from wd_trio.adapters.mongo_redis.limits import RedisLimits
from wd_trio.adapters.mongo_redis.pipeline import RedisLink
from wd_trio.errors import Unavailable
from wd_trio.ports.bus import Hint, Resync

HINT = Hint("mailbox", "u1", "m1", 1, 2)


class World:
    """Two processes' buses and a gateway, all on one link."""

    def __init__(self, link: RedisLink, gateway: Gateway) -> None:
        self.gateway = gateway
        self.limits = RedisLimits(link)
        self.one, self.two = RedisBus(link, gateway), RedisBus(link, gateway)

    async def strike(self, key: str = "k") -> int:
        return await self.gateway.run(self.limits.strike, key, window_s=60)

    async def until_it_works(self) -> None:
        while True:
            try:
                await self.strike("probe")
            except Unavailable:
                await trio.sleep(0.05)
            else:
                return

    async def hints_pass(self) -> None:
        self.one.publish_nowait(HINT)
        assert list(await self.two.receive()) == [HINT]

    async def until_hints_pass(self) -> None:
        """After an outage the reader is told to resync; then hints pass again."""
        got = list(await self.two.receive())
        assert got[0] == Resync(), "it began anew"
        self.one.publish_nowait(HINT)
        while HINT not in got:
            got += await self.two.receive()


@asynccontextmanager
async def open_world(url: str) -> AsyncIterator[World]:
    link = RedisLink(url, QUICK)
    async with redis_gateway(link) as gateway, trio.open_nursery() as nursery:
        world = World(link, gateway)
        world.two.follow("u1")
        for bus in (world.one, world.two):
            nursery.start_soon(bus.run)
            assert await bus.receive() == [Resync()]
        yield world
        nursery.cancel_scope.cancel()
    link.close()


async def test_a_redis_that_died_is_used_again_when_it_is_back(tmp_path: Path) -> None:
    with one_redis(tmp_path) as engine:
        async with open_world(engine.url) as world:
            assert await world.strike() == 1
            engine.kill()
            for _ in range(20):
                with pytest.raises(Unavailable):
                    await world.strike()
            world.one.publish_nowait(HINT)
            engine.start()
            await world.until_it_works()
            assert await world.strike() == 1, "it forgot all, scripts too"
            await world.until_hints_pass()


async def test_a_redis_that_hangs_fails_calls_and_goes_on_afterwards(tmp_path: Path) -> None:
    with one_redis(tmp_path) as engine:
        async with open_world(engine.url) as world:
            assert await world.strike() == 1
            engine.pause()
            failed = 0

            async def fails(number: int) -> None:
                nonlocal failed
                with pytest.raises(Unavailable):
                    await world.strike(f"k{number}")
                failed += 1

            for _ in range(3):
                async with trio.open_nursery() as nursery:
                    for number in range(50):
                        nursery.start_soon(fails, number)
            assert failed == 150
            assert any(lane.breaker_open for lane in world.gateway.statistics().lanes)
            engine.resume()
            await world.until_it_works()
            await world.hints_pass()  # it kept its subscriptions


async def test_sentinels_lead_to_the_new_primary(tmp_path: Path) -> None:
    with redis_with_sentinel(tmp_path) as (primary, _, url):
        async with open_world(url) as world:
            assert await world.strike() == 1
            primary.kill()
            await world.until_it_works()
            assert await world.strike("new") == 1
            await world.until_hints_pass()


async def test_a_primary_that_hangs_is_left_for_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_reader, "PING_S", 0.2)
    monkeypatch.setattr(redis_reader, "ANSWER_S", 0.3)
    with redis_with_sentinel(tmp_path) as (primary, _, url):
        async with open_world(url) as world:
            assert await world.strike() == 1
            primary.pause()
            await world.until_it_works()
            await world.until_hints_pass()
            primary.resume()
            assert await world.strike("after") == 1
