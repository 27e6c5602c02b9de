"""Ways to Redis: commands go in, answers come out in the same order, whatever stands behind the URL.

A route belongs to one thread and has one connection for each server. Everything goes out before anything is read,
so an exchange costs one round trip, with a cluster one for all of its nodes together. The driver connects and parses;
which command goes where is decided here, because its pipelines retry what must not be done twice and refuse
EVALSHA on a cluster.

An answer that is an error stays in its place as an exception. A lost connection fails the commands that were on it
and no others, and nothing is tried again that may have been done: only MOVED and ASK, where nothing was done, are
followed. The next exchange connects anew, asks the Sentinels again, or reads the cluster's slots again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias, cast

import redis
import structlog
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection
from redis.crc import key_slot
from redis.exceptions import AskError, MovedError, ReadOnlyError
from redis.retry import Retry
from redis.sentinel import Sentinel

from wd_trio.adapters.mongo_redis.redis_faults import translated
from wd_trio.adapters.mongo_redis.redis_url import Node, RedisAddress

log = structlog.get_logger()

Command: TypeAlias = tuple[str | bytes | int | float, ...]

SLOTS: Final = 16_384
REDIRECTIONS: Final = 4
CLIENT_NAME: Final = "wd-trio"
_SCRIPTS: Final = ("EVALSHA", "EVAL")
_FIRST_KEY_OF_SCRIPT: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteOptions:
    """`socket_timeout_s` is how long an answer may take before the connection is given up."""

    connect_timeout_s: float = 1.0
    socket_timeout_s: float = 2.0


class DriverConnection(Protocol):
    """What is used of the driver's connection, which has no annotations of its own."""

    def connect(self) -> None: ...
    def disconnect(self) -> None: ...
    def can_read(self, timeout: float) -> bool: ...
    def send_packed_command(self, packed: list[bytes]) -> None: ...
    def read_response(self) -> Any: ...


class Wire:
    """One connection to one server. `locate` says where it is, each time that it connects."""

    def __init__(self, address: RedisAddress, options: RouteOptions, locate: Callable[[], Node]) -> None:
        self._address = address
        self._options = options
        self._locate = locate
        self._connection: DriverConnection | None = None
        self._fault: Exception | None = None
        self._complained = False

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """The answers to `commands`, an exception in the place of each that failed."""
        self.send(commands)
        return self.receive(len(commands))

    def send(self, commands: Sequence[Command]) -> None:
        """Send without waiting; what goes wrong is told by `receive`, which has to follow."""
        self._fault = None
        try:
            self.connected().send_packed_command([packed(commands)])
        except (redis.RedisError, OSError) as error:
            self._fail(error)

    def receive(self, count: int) -> list[Any]:
        replies: list[Any] = []
        connection = self._connection
        while len(replies) < count and self._fault is None and connection is not None:
            try:
                replies.append(connection.read_response())
            except ReadOnlyError as error:  # it was the primary: the others of this exchange fail likewise
                self._fail(error)
            except redis.ResponseError as error:
                replies.append(_redirection(error) or error)
            except (redis.RedisError, OSError) as error:
                self._fail(error)
        if self._fault is None:
            self._complained = False
        else:
            replies += [translated(self._fault) for _ in range(count - len(replies))]
        return replies

    @property
    def lost(self) -> bool:
        """Whether the last exchange ended the connection."""
        return self._fault is not None

    def connected(self) -> DriverConnection:
        """The connection, made anew where it is gone. redis.RedisError or OSError."""
        connection = self._connection
        if connection is not None:
            try:
                if not connection.can_read(0):
                    return connection
            except (redis.RedisError, OSError) as error:
                log.debug("a connection to Redis ended while it was idle", error=str(error))
            self.close()  # what can be read before anything is asked is the other side's end
        self._connection = connect(self._address, self._options, self._locate())
        return self._connection

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()

    def _fail(self, error: Exception) -> None:
        self._fault = error
        self.close()
        if not self._complained:  # once for each outage: a busy server would fill the log
            self._complained = True
            log.warning("redis_unavailable", error=f"{type(error).__name__}: {error}"[:500])


def packed(commands: Sequence[Command]) -> bytes:
    """Commands as they go to Redis. The driver's own packing takes half of an operation's time."""
    parts: list[bytes] = []
    add, ready = parts.append, _ready.get
    for command in commands:
        add(b"*%d\r\n" % len(command))
        for item in command:
            add(ready(item) or _packed_item(item))
    return b"".join(parts)


def make_ready(item: str) -> None:
    """Keep a text, which stands in many commands, packed for ever."""
    _ready[item] = _packed_item(item)


def _packed_item(item: str | bytes | float) -> bytes:
    data = item if isinstance(item, bytes) else str(item).encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)


_ready: Final[dict[object, bytes]] = {}
for _name in ("EVALSHA", "GET", "SET", "DEL", "HGET", "HSET", "HDEL", "PUBLISH", "0", "1", "2"):
    make_ready(_name)


def connect(address: RedisAddress, options: RouteOptions, node: Node) -> DriverConnection:
    """A connection to one server, with nothing retried. redis.RedisError or OSError."""
    host, port = node
    kind = SSLConnection if address.tls else Connection
    made = kind(
        host=host,
        port=port,
        protocol=2,
        client_name=CLIENT_NAME,
        socket_timeout=options.socket_timeout_s,
        socket_connect_timeout=options.connect_timeout_s,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),
        **address.settings,
    )
    connection = cast(DriverConnection, made)
    connection.connect()
    return connection


class Route(Protocol):
    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """The answers to `commands` in their order; in the place of each that failed an exception of its own."""
        ...

    def close(self) -> None: ...


def open_route(address: RedisAddress, options: RouteOptions) -> Route:
    """A route for one thread; it connects when it is first used."""
    if address.kind == "cluster":
        return ClusterRoute(address, options)
    return DirectRoute(Wire(address, options, locator(address, options)))


def locator(address: RedisAddress, options: RouteOptions) -> Callable[[], Node]:
    """What says where the primary is."""
    if address.kind == "single":
        return lambda: address.nodes[0]
    sentinel = Sentinel(  # type: ignore[no-untyped-call]  # the driver's, which has no annotations here
        address.nodes,
        sentinel_kwargs={
            "socket_timeout": options.connect_timeout_s,
            "socket_connect_timeout": options.connect_timeout_s,
            "retry": Retry(NoBackoff(), 0),
            "ssl": address.tls,
            **address.sentinel_settings,
        },
    )

    def ask() -> Node:
        host, port = sentinel.discover_master(address.service)  # type: ignore[no-untyped-call]  # as above
        return str(host), int(port)

    return ask


class DirectRoute:
    """One server that has every key."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        return [
            translated(reply) if isinstance(reply, Exception) else reply
            for reply in self._wire.exchange(commands)
        ]

    def close(self) -> None:
        self._wire.close()


class ClusterRoute:
    """A cluster: each command goes to the primary that has its first key."""

    def __init__(self, address: RedisAddress, options: RouteOptions) -> None:
        self._address = address
        self._options = options
        self._wires: dict[Node, Wire] = {}
        self._primaries: list[Node | None] = []  # by slot; empty: to be read

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        replies: list[Any] = [None] * len(commands)
        places: Sequence[int] = range(len(commands))
        for _ in range(REDIRECTIONS):
            for node, mine in self._by_node([(place, commands[place]) for place in places]).items():
                for place, reply in zip(mine, self._wires[node].receive(len(mine)), strict=True):
                    replies[place] = reply
                if self._wires[node].lost:
                    self._primaries = []
            # Only now that nothing is on its way on any wire: what is asked next is answered next.
            for place in places:
                replies[place] = self._asked(replies[place], commands[place])
            moved = [place for place in places if isinstance(replies[place], MovedError)]
            if not moved:
                break
            self._primaries = []
            places = moved
        return [translated(reply) if isinstance(reply, Exception) else reply for reply in replies]

    def primary_of(self, key: str) -> Node:
        """The primary that has a key. redis.RedisError when none can be found."""
        if not self._primaries:
            self._read_slots()
        node = self._primaries[key_slot(key.encode())]
        if node is None:
            self._primaries = []
            raise redis.exceptions.ClusterDownError(f"no primary has the slot of {key!r}")
        return node

    def close(self) -> None:
        for wire in self._wires.values():
            wire.close()
        self._wires.clear()
        self._primaries = []

    def _by_node(self, numbered: Sequence[tuple[int, Command]]) -> dict[Node, list[int]]:
        """Send each command where it belongs; what went to whom. What has nowhere to go is sent to the first
        seed, whose answer tells why."""
        places: dict[Node, list[int]] = {}
        sent: dict[Node, list[Command]] = {}
        homeless = False  # asked once for an exchange: each asking may cost a time-out
        for place, command in numbered:
            node = self._address.nodes[0]
            if not homeless:
                try:
                    node = self.primary_of(key_of(command))
                except (redis.RedisError, OSError) as error:
                    log.debug("a slot of the cluster has no primary", error=str(error))
                    homeless = True
            places.setdefault(node, []).append(place)
            sent.setdefault(node, []).append(command)
        for node, batch in sent.items():
            self._wire(node).send(batch)
        return places

    def _asked(self, reply: Any, command: Command) -> Any:
        """The reply, or where it says that the slot is on its way, that of the node where it goes."""
        if not isinstance(reply, AskError) or isinstance(reply, MovedError):
            return reply
        return self._wire((str(reply.host), int(reply.port))).exchange([("ASKING",), command])[1]

    def _wire(self, node: Node) -> Wire:
        if node not in self._wires:
            self._wires[node] = Wire(self._address, self._options, lambda: node)
        return self._wires[node]

    def _read_slots(self) -> None:
        """Ask the nodes in turn until one tells. redis.RedisError when none does."""
        fault: Exception = redis.ConnectionError("no node of the cluster answers")
        for node in dict.fromkeys((*self._wires, *self._address.nodes)):
            (reply,) = self._wire(node).exchange([("CLUSTER", "SLOTS")])
            if isinstance(reply, Exception):
                fault = reply
                continue
            primaries: list[Node | None] = [None] * SLOTS
            for first, last, (host, port, *_), *_replicas in reply:
                primary = host.decode() or node[0], int(port)
                primaries[first : last + 1] = [primary] * (last + 1 - first)
            self._primaries = primaries
            for gone in self._wires.keys() - {*primaries, *self._address.nodes}:
                self._wires.pop(gone).close()
            return
        raise redis.ConnectionError(f"no node of the cluster tells its slots: {fault}")


def _redirection(error: redis.ResponseError) -> AskError | None:
    """MOVED or ASK, which older drivers know only on connections of their cluster's client."""
    word, _, where = str(error).partition(" ")
    return {"MOVED": MovedError, "ASK": AskError}[word](where) if word in ("MOVED", "ASK") else None


def key_of(command: Command) -> str:
    """The key by which a command finds its node; "" for one that any node can do."""
    at = _FIRST_KEY_OF_SCRIPT if command[0] in _SCRIPTS else 1
    key = command[at] if len(command) > at else ""
    return key.decode() if isinstance(key, bytes) else str(key)
