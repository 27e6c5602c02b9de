"""The pipeline: many calls in few round trips, each with its own outcome."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
import redis
import trio
from redis_house import fresh_link, redis_gateway

from wd_trio import telemetry
from wd_trio.adapters.mongo_redis.leases import RedisLeases
from wd_trio.adapters.mongo_redis.limits import RedisLimits
from wd_trio.adapters.mongo_redis.pipeline import RedisLink, RedisOptions, Steps, steps
from wd_trio.errors import Unavailable
from wd_trio.ports.gateway import reads, writes


@pytest.fixture
def link() -> Iterator[RedisLink]:
    with fresh_link() as made:
        yield made


class Shelf:
    """A small port: values by key, and some ways to fail."""

    def __init__(self, link: RedisLink) -> None:
        self.link = link
        self.cleaned: list[str] = []

    @writes("state")
    @steps
    def put(self, key: str, value: str) -> Steps[None]:
        yield [("SET", key, value)]

    @reads("state")
    @steps
    def get(self, key: str) -> Steps[str | None]:
        (value,) = yield [("GET", key)]
        return None if value is None else value.decode()

    @writes("state")
    @steps
    def append(self, key: str, *parts: str) -> Steps[int]:
        length = 0
        for part in parts:
            (length,) = yield [("APPEND", key, part)]
        return length

    @writes("state")
    @steps
    def misuse(self, key: str) -> Steps[None]:
        try:
            yield [("GET", key), ("LPUSH", key, "x")]
        finally:
            self.cleaned.append(key)

    @writes("state")
    @steps
    def nothing(self) -> Steps[str]:
        yield []
        return "nothing"

    @writes("state")
    @steps
    def wrong(self) -> Steps[None]:
        raise KeyError("before the first step")
        yield []


@writes("state")
def both(shelf: Shelf, one: str, other: str) -> str:
    """A use case of two calls, which looks at what it got."""
    return f"{shelf.get(one)}+{shelf.get(other)}"


def round_trips(link: RedisLink, calls: list[partial[object]]) -> tuple[list[tuple[object, object]], int]:
    made: dict[str, int] = {}
    before = telemetry.tally_thread(made)
    try:
        return list(link.run_group(calls)), made.get("redis", 0)
    finally:
        telemetry.tally_thread(before)


def test_a_method_runs_alone_outside_of_a_group(link: RedisLink) -> None:
    shelf = Shelf(link)
    shelf.put("k", "v")
    assert shelf.get("k") == "v"
    assert shelf.append("k", "1", "2") == 3
    assert shelf.nothing() == "nothing"
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        shelf.misuse("k")


def test_a_group_costs_the_round_trips_of_its_longest_call(link: RedisLink) -> None:
    shelf = Shelf(link)
    calls: list[partial[object]] = [partial(shelf.append, f"k{n}", *"abc"[: 1 + n % 3]) for n in range(50)]
    calls.append(partial(shelf.nothing))
    outcomes, trips = round_trips(link, calls)
    assert trips == 3
    assert outcomes == [(1 + n % 3, None) for n in range(50)] + [("nothing", None)]
    assert [shelf.get(f"k{n}") for n in range(3)] == ["a", "ab", "abc"]


def test_a_fault_is_its_own_calls_only(link: RedisLink) -> None:
    shelf = Shelf(link)
    shelf.put("k", "v")
    calls: list[partial[object]] = [
        partial(shelf.get, "k"),
        partial(shelf.misuse, "k"),
        partial(shelf.wrong),
        partial(shelf.get, "k"),
    ]
    (first, misused, wrong, last), trips = round_trips(link, calls)
    assert trips == 1
    assert first == last == ("v", None)
    assert isinstance(misused[1], redis.ResponseError)
    assert isinstance(wrong[1], KeyError)
    assert shelf.cleaned == ["k"]


def test_a_use_case_of_several_calls_is_done_rightly_in_a_group(link: RedisLink) -> None:
    shelf = Shelf(link)
    shelf.put("a", "1")
    shelf.put("b", "2")
    calls: list[partial[object]] = [
        partial(both, shelf, "a", "b"),
        partial(shelf.get, "b"),
        partial(int, "7"),
        partial(both, shelf, "b", "none"),
    ]
    outcomes, trips = round_trips(link, calls)
    assert outcomes == [("1+2", None), ("2", None), (7, None), ("2+None", None)]
    assert trips == 5  # one for what can be brought forward, two for each of the others


def test_scripts_come_back_after_the_server_forgot_them(link: RedisLink) -> None:
    limits = RedisLimits(link)
    assert limits.strike("a", window_s=60) == 1
    link.exchange([("SCRIPT", "FLUSH")])
    calls = [partial(limits.strike, "a", window_s=60) for _ in range(3)]
    assert sorted(value for value, _ in link.run_group(calls)) == [2, 3, 4]


def test_without_a_server_each_call_is_unavailable_on_its_own() -> None:
    link = RedisLink("redis://127.0.0.1:1/0")
    shelf = Shelf(link)
    calls: list[partial[object]] = [
        partial(shelf.get, "a"),
        partial(shelf.get, "b"),
        partial(both, shelf, "a", "b"),
    ]
    faults = [error for _, error in link.run_group(calls)]
    assert all(isinstance(fault, Unavailable) and fault.what == "redis" for fault in faults)
    assert len({id(fault) for fault in faults}) == 3
    with pytest.raises(Unavailable):
        shelf.get("a")
    link.close()


def test_a_closed_link_is_unavailable(link: RedisLink) -> None:
    shelf = Shelf(link)
    shelf.put("a", "1")
    link.close()
    with pytest.raises(Unavailable):
        shelf.get("a")


def test_a_connection_that_ended_while_idle_is_made_anew(link: RedisLink) -> None:
    shelf = Shelf(link)
    shelf.put("a", "1")
    (mine,) = link.exchange([("CLIENT", "ID")])
    other = RedisLink(f"redis://127.0.0.1:{link.address.nodes[0][1]}/0")
    assert other.exchange([("CLIENT", "KILL", "ID", mine)]) == [1]
    other.close()
    assert shelf.get("a") == "1"


def test_an_engine_that_is_too_slow_ends_a_call_between_its_steps(link: RedisLink) -> None:
    slow = RedisLink(f"redis://127.0.0.1:{link.address.nodes[0][1]}/0", RedisOptions(call_s=0.0))
    with pytest.raises(Unavailable, match="too slow"):
        Shelf(slow).get("a")
    slow.close()


async def test_through_the_gateway_tasks_share_round_trips(link: RedisLink) -> None:
    shelf = Shelf(link)
    async with redis_gateway(link) as gateway:
        got: list[str | None] = []

        async def one(number: int) -> None:
            await gateway.run(shelf.put, f"k{number}", str(number))
            got.append(await gateway.run(shelf.get, f"k{number}"))

        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(one, number)
        groups = sum(lane.groups for lane in gateway.statistics().lanes)
        assert await gateway.run(both, shelf, "k1", "k2") == "1+2"
    assert sorted(got, key=lambda text: int(text or -1)) == [str(number) for number in range(200)]
    assert groups < 200  # of 400 calls


def test_one_leads_until_it_resigns_or_its_lease_ends(link: RedisLink) -> None:
    leases = RedisLeases(link)
    assert leases.try_lead("janitor", "a", ttl_s=60)
    assert leases.try_lead("janitor", "a", ttl_s=60)
    assert not leases.try_lead("janitor", "b", ttl_s=60)
    assert leases.try_lead("other", "b", ttl_s=60)
    leases.resign("janitor", "b")
    assert not leases.try_lead("janitor", "b", ttl_s=60)
    leases.resign("janitor", "a")
    assert leases.try_lead("janitor", "b", ttl_s=60)
    (left_ms,) = link.exchange([("PTTL", "lead:janitor")])
    assert 50_000 < left_ms <= 60_000
    link.exchange([("PEXPIRE", "lead:janitor", 0)])
    assert leases.try_lead("janitor", "a", ttl_s=60)
