"""Redis for a test: a link to an empty database, the gateway over it, and servers in company."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import engines
import redis
from engine_processes import Engine, free_port, start_redis

from wd_trio.adapters.bridge import Gateway, LaneOptions
from wd_trio.adapters.mongo_redis.pipeline import RedisLink, RedisOptions
from wd_trio.adapters.mongo_redis.redis_routes import RouteOptions

SLOTS = 16_384
SERVICE = "mail"
_POLL_S = 0.02
QUICK = RedisOptions(route=RouteOptions(connect_timeout_s=0.3, socket_timeout_s=0.3))
"""For engines that are made to hang: no test need wait as long as a server may."""


@contextmanager
def fresh_link() -> Iterator[RedisLink]:
    """A link to the run's Redis, in an emptied database."""
    url = engines.redis_url()
    with redis.Redis.from_url(url) as client:
        engines.empty_redis(client)
    link = RedisLink(url)
    try:
        yield link
    finally:
        link.close()


def redis_gateway(link: RedisLink) -> Gateway:
    """The lanes of a server whose state is in this Redis."""
    return Gateway(
        [
            LaneOptions(name="state.write", group=link.run_group),
            LaneOptions(name="state.read", group=link.run_group, abandon=True),
        ]
    )


@contextmanager
def one_redis(folder: Path) -> Iterator[Engine]:
    """A Redis of the test's own, to do harm to."""
    engine = engines.or_no_engine(lambda: start_redis(folder))
    try:
        yield engine
    finally:
        engine.kill()


@contextmanager
def redis_cluster(folder: Path, nodes: int = 3) -> Iterator[list[Engine]]:
    """A cluster of primaries, each with its share of the slots."""
    with ExitStack() as stack:
        made: list[Engine] = []
        for number in range(nodes):
            made.append(engines.or_no_engine(lambda number=number: _member(folder / f"node{number}")))
            stack.callback(made[-1].kill)
        clients = [stack.enter_context(redis.Redis(port=engine.port)) for engine in made]
        for number, client in enumerate(clients):
            share = range(SLOTS * number // nodes, SLOTS * (number + 1) // nodes)
            client.execute_command("CLUSTER ADDSLOTS", *share)
            client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
        for engine in made[1:]:
            clients[0].execute_command("CLUSTER MEET", "127.0.0.1", engine.port)
        while not all(_knows_all(client, nodes) for client in clients):
            time.sleep(_POLL_S)
        yield made


def cluster_url(nodes: Sequence[Engine]) -> str:
    return "redis+cluster://" + ",".join(f"127.0.0.1:{engine.port}" for engine in nodes)


def _member(folder: Path) -> Engine:
    port = free_port()
    while port > 55_000:  # the port of its bus is 10,000 higher
        port = free_port()
    arguments = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000")
    return start_redis(folder, *arguments, port=port)


def _knows_all(client: redis.Redis, nodes: int) -> bool:
    ok = client.cluster("info")["cluster_state"] == "ok"
    return ok and len(client.execute_command("CLUSTER SLOTS")) == nodes


@contextmanager
def redis_with_sentinel(folder: Path) -> Iterator[tuple[Engine, Engine, str]]:
    """A primary, its replica, and the URL of a Sentinel that watches over them."""
    with ExitStack() as stack:
        primary = engines.or_no_engine(lambda: start_redis(folder / "primary"))
        stack.callback(primary.kill)
        replica = start_redis(
            folder / "replica",
            "--replicaof",
            "127.0.0.1",
            str(primary.port),
            "--repl-diskless-sync-delay",
            "0",
        )
        stack.callback(replica.kill)
        config = folder / "sentinel.conf"
        config.write_text(
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} 1\n"
            f"sentinel down-after-milliseconds {SERVICE} 300\n"
            f"sentinel failover-timeout {SERVICE} 2000\n"
        )
        sentinel = start_redis(folder / "sentinel", str(config), "--sentinel")
        stack.callback(sentinel.kill)
        client = stack.enter_context(redis.Redis(port=replica.port))
        watcher = stack.enter_context(redis.Redis(port=sentinel.port))
        while client.info("replication")["master_link_status"] != "up":
            time.sleep(_POLL_S)
        while not watcher.execute_command("SENTINEL REPLICAS", SERVICE):
            time.sleep(_POLL_S)
        yield primary, replica, f"redis+sentinel://127.0.0.1:{sentinel.port}/{SERVICE}"
