"""A Redis Cluster of three nodes: every port over it, slots that move, a node that goes and comes back."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pytest
import redis
import trio
from engine_processes import Engine
from redis.crc import key_slot
from redis_house import QUICK, SLOTS, cluster_url, redis_cluster, redis_gateway

from wd_trio import telemetry
from wd_trio.adapters.hints import RESYNC_DATAGRAM
from wd_trio.adapters.mongo_redis.bus import RedisBus
from wd_trio.adapters.mongo_redis.leases import RedisLeases
from wd_trio.adapters.mongo_redis.limits import RedisLimits
from wd_trio.adapters.mongo_redis.pipeline import RedisLink
from wd_trio.adapters.mongo_redis.redis_routes import Command
from wd_trio.adapters.mongo_redis.sessions import RedisSessions
from wd_trio.errors import Unavailable
from wd_trio.ports.bus import Hint, Resync
from wd_trio.ports.sessions import SessionDocument


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Engine]]:
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture
def link(nodes: list[Engine]) -> Iterator[RedisLink]:
    for node in nodes:
        with redis.Redis(port=node.port) as client:
            client.flushdb()
    made = RedisLink(cluster_url(nodes[:1]), QUICK)
    yield made
    made.close()


def make(number: int, **changes: str) -> SessionDocument:
    fields = {"user": f"u{number % 7}", "server": "s1", "worker": "1", **changes}
    return SessionDocument(
        id=f"sess_{number:032x}", protocol="imap", created=number, last_activity=number, **fields
    )


def test_sessions_live_in_all_slots(link: RedisLink) -> None:
    sessions = RedisSessions(link)
    documents = [make(number, server=f"s{number % 3}") for number in range(40)]
    assert all(sessions.put(document, most=100, lease_s=30) for document in documents)
    assert len({key_slot(f"session:{document.id}".encode()) // 5462 for document in documents}) == 3
    assert not sessions.put(make(100, user="u1"), most=6, lease_s=30)
    first = sessions.page(limit=25)
    assert first.next is not None
    assert [*first.documents, *sessions.page(after=first.next).documents] == documents
    assert sessions.of_users(["u1", "u2"]) == [one for one in documents if one.user in ("u1", "u2")]
    assert sessions.doom([documents[0].id, documents[3].id]) == 2
    assert sessions.doomed("s0", "1") == [documents[0].id, documents[3].id]
    assert sessions.touch([one.id for one in documents] + ["sess_none"]) == {"sess_none"}
    ended = sessions.end_owner("s0", "1")
    assert sorted(one.id for one in ended) == [one.id for one in documents if one.server == "s0"]
    sessions.end([one.id for one in documents if one.server == "s1"])
    assert list(sessions.page().documents) == [one for one in documents if one.server == "s2"]


def test_an_end_that_a_node_missed_is_made_up_for(link: RedisLink, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node with the user's index fails alone: the place must not be lost with the document."""
    sessions = RedisSessions(link)
    session = make(1)
    assert sessions.put(session, most=1, lease_s=30)
    exchange = link.exchange

    def without_the_index(commands: Sequence[Command]) -> list[Any]:
        lost = Unavailable("no node", what="redis")
        return [lost if command[0] == "HDEL" else exchange([command])[0] for command in commands]

    with monkeypatch.context() as broken:
        broken.setattr(link, "exchange", without_the_index)
        with pytest.raises(Unavailable):
            sessions.end([session.id])
    sessions.end([session.id])
    assert sessions.put(make(2, user=session.user), most=1, lease_s=30)


def test_limits_and_leases_live_in_all_slots(link: RedisLink) -> None:
    limits, leases = RedisLimits(link), RedisLeases(link)
    leases.ping()
    assert leases.try_lead("janitor", "a", ttl_s=60)
    assert not leases.try_lead("janitor", "b", ttl_s=60)
    for number in range(20):
        assert limits.claim(f"k{number}", "h", owner="s1/1", most=1)
        assert not limits.claim(f"k{number}", "other", owner="s2/1", most=1)
        assert limits.strike(f"k{number}", window_s=60) == 1
    assert limits.release_owner("s1/1") == 20
    assert [limits.claims(f"k{number}") for number in range(20)] == [0] * 20


def test_a_group_goes_to_all_nodes_in_one_exchange(link: RedisLink) -> None:
    limits = RedisLimits(link)
    limits.strikes("warm")
    made: dict[str, int] = {}
    before = telemetry.tally_thread(made)
    outcomes = link.run_group([partial(limits.strike, f"key{n}", window_s=60) for n in range(60)])
    telemetry.tally_thread(before)
    assert outcomes == [(1, None)] * 60
    assert made == {"redis": 1}


def test_a_slot_on_its_way_is_followed(link: RedisLink, nodes: list[Engine]) -> None:
    limits = RedisLimits(link)
    key = "strikes:{moving}"
    assert limits.strike("moving", window_s=60) == 1
    slot = key_slot(key.encode())
    clients = [redis.Redis(port=node.port) for node in nodes]
    ids = [client.execute_command("CLUSTER MYID").decode() for client in clients]
    at = next(place for place, client in enumerate(clients) if client.dbsize())
    to = (at + 1) % len(nodes)
    clients[to].execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[at])
    clients[at].execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[to])
    clients[at].execute_command("MIGRATE", "127.0.0.1", nodes[to].port, key, 0, 1000)
    assert limits.strike("moving", window_s=60) == 2, "ASK"
    shares = [SLOTS * place // len(nodes) for place in range(len(nodes) + 1)]
    there = next(
        name
        for name in map("k{}".format, itertools.count())
        if shares[to] <= key_slot(f"strikes:{{{name}}}".encode()) < shares[to + 1]
    )
    for _ in range(5):
        limits.strike(there, window_s=60)
    both = [partial(limits.strike, name, window_s=60) for name in ("moving", there)]
    assert link.run_group(both) == [(3, None), (6, None)], "ASK, with answers of that node still to come"
    for client in (clients[to], clients[at], *clients):
        client.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[to])
    assert limits.strike("moving", window_s=60) == 4, "MOVED"
    assert limits.strikes("moving") == 4
    assert clients[to].exists(key)
    for client in clients:
        client.close()


async def test_hints_pass_through_the_cluster(nodes: list[Engine], link: RedisLink) -> None:
    others = RedisLink(cluster_url(nodes[1:]), QUICK)
    async with redis_gateway(link) as here, redis_gateway(others) as there, trio.open_nursery() as nursery:
        one, two = RedisBus(link, here), RedisBus(others, there)
        for bus in (one, two):
            nursery.start_soon(bus.run)
            assert await bus.receive() == [Resync()]
        for number in range(12):  # in slots of every node
            user = f"user{number}"
            two.follow(user)
            assert await two.receive() == [Resync(user)]
            hint = Hint("mailbox", user, "m1", 1, 2)
            one.publish_nowait(hint)
            assert await two.receive() == [hint]
        two.publish_nowait(Hint("user", "u1"))
        assert await one.receive() == [Hint("user", "u1")]
        nursery.cancel_scope.cancel()
    others.close()


async def test_channels_are_sharded_where_the_cluster_offers_that(
    nodes: list[Engine], link: RedisLink
) -> None:
    (known,) = link.exchange([("COMMAND", "INFO", "ssubscribe")])
    asked, publish = ("SHARDCHANNELS", "SPUBLISH") if known and known[0] else ("CHANNELS", "PUBLISH")
    clients = [redis.Redis(port=node.port) for node in nodes]
    async with redis_gateway(link) as gateway, trio.open_nursery() as nursery:
        bus = RedisBus(link, gateway)
        bus.follow("u1")
        nursery.start_soon(bus.run)
        assert await bus.receive() == [Resync()]
        channels = {channel for client in clients for channel in client.execute_command("PUBSUB", asked)}
        assert channels == {b"accounts", b"changes:{u1}"}
        link.exchange([(publish, "changes:{u1}", b"another:" + RESYNC_DATAGRAM)])
        assert await bus.receive() == [Resync("u1")]
        nursery.cancel_scope.cancel()
    for client in clients:
        client.close()


async def test_a_node_that_comes_back_is_used_again(link: RedisLink, nodes: list[Engine]) -> None:
    limits = RedisLimits(link)
    keys = [f"k{number}" for number in range(30)]
    assert all(outcome == (1, None) for outcome in strike_all(link, limits, keys))
    nodes[2].kill()
    outcomes = strike_all(link, limits, keys)
    assert {type(error) for _, error in outcomes} == {type(None), Unavailable}, (
        "only what was on that node fails"
    )
    nodes[2].start()
    while not all(error is None for _, error in strike_all(link, limits, keys)):
        await trio.sleep(0.05)


def strike_all(
    link: RedisLink, limits: RedisLimits, keys: list[str]
) -> list[tuple[object, BaseException | None]]:
    return list(link.run_group([partial(limits.strike, key, window_s=60) for key in keys]))
