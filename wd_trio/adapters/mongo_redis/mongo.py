"""One MongoDB of this process: the client, its deadlines, its transactions.

- Everything goes to the primary; reads see what a majority has (a uid once shown is never given again after a
  fail-over), writes are acknowledged by a majority's journals.
- One deadline holds for a whole call, retries included; it is shorter than the gateway's, so that an answer is
  known when the caller stops waiting. The driver retries single reads and writes within it by itself.
- A transaction that loses to another one is run again after a jittered pause that doubles: retried at once, 16
  writers on one document abort a dozen times for each commit. What a commit came to is asked for until it is known
  or the deadline has passed.
- A transaction that lost the server before it could be ended holds its documents there. It is remembered, and ended
  before the next one begins. That of a client that died holds them until the server ends it, by its
  transactionLifetimeLimitSeconds: to be set a little above the deadline (default 60).
- A server without a replica set can do no transactions and is refused.
"""

from __future__ import annotations

import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

import pymongo
import structlog
from bson.codec_options import CodecOptions, TypeDecoder, TypeRegistry
from bson.int64 import Int64
from pymongo import MongoClient, ReadPreference
from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.errors import ConfigurationError, ConnectionFailure, InvalidURI, OperationFailure, PyMongoError
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent
from pymongo.read_concern import ReadConcern
from pymongo.uri_parser import parse_uri
from pymongo.write_concern import WriteConcern

from wd_trio import errors
from wd_trio.adapters.mongo_redis import indexes
from wd_trio.adapters.mongo_redis.faults import UNKNOWN_COMMIT, engine_faults
from wd_trio.telemetry import commits_total, round_trip

log = structlog.get_logger()

BsonDocument: TypeAlias = dict[str, Any]
BsonMapping: TypeAlias = Mapping[str, Any]
MongoDatabase: TypeAlias = Database[BsonDocument]
T = TypeVar("T")

ENGINE: Final = "mongodb"
DEFAULT_DATABASE: Final = "wd_trio"
_AVERAGED: Final = 8  # transactions
_STRAYS: Final = 1000  # sessions
_NAMESPACE_EXISTS: Final = 48
_TRANSIENT: Final = "TransientTransactionError"
CALL_S: Final = 4.5
"""What a call of several steps may take altogether, of the 5 s after which nobody waits for it any more."""

_ends: ContextVar[float] = ContextVar("ends", default=math.inf)


@contextmanager
def bounded(seconds: float) -> Iterator[float]:
    """Have all that this block asks of a MongoDB be over in so many seconds (above 0), retries included; of blocks
    within each other the one that ends first binds. Gives the moment, by time.monotonic(). Decorates functions."""
    ends = min(_ends.get(), time.monotonic() + seconds)
    outer = _ends.set(ends)
    try:
        with pymongo.timeout(seconds):
            yield ends
    finally:
        _ends.reset(outer)


def remaining(seconds: float) -> float:
    """Of so many seconds what the blocks around this call leave; 0 or less for nothing."""
    return min(seconds, _ends.get() - time.monotonic())


class _PlainInt(TypeDecoder):
    bson_type = Int64

    def transform_bson(self, value: Int64) -> int:
        return int(value)


PLAIN: Final[CodecOptions[BsonDocument]] = CodecOptions(type_registry=TypeRegistry([_PlainInt()]))
"""Reads integers beyond 32 bits as int, not as the driver's own class, which JSON encoders refuse. It costs about
0.1 µs for each value of any type: where many documents come, DRIVERS and an int() for each integer cost less."""

DRIVERS: Final[CodecOptions[BsonDocument]] = CodecOptions()
"""As the driver reads by itself: of integers stored in 64 bits come subclasses of int."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MongoOptions:
    """How a MongoDB is used.

    `deadline_s`: one call, retries included. `selection_s`: how long a call waits for there to be a primary.
    `connect_s`: for a connection to be made. `heartbeat_s`: how often each server is asked how it is; one that hangs
    is known after that and `connect_s`, one that said it was ending is tried again after that. `pool`: connections of
    this process at most, to be as many as the gateway's threads. A lost transaction waits a random part of
    `backoff_s`, or of twice what a transaction takes here at present if that is more, doubled each time up to
    `max_backoff_s`.
    """

    clock: Callable[[], float] = time.time
    deadline_s: float = 4.0
    selection_s: float = 2.0
    connect_s: float = 1.5
    heartbeat_s: float = 1.0
    pool: int = 32
    backoff_s: float = 0.004
    max_backoff_s: float = 0.128


@dataclass(slots=True)
class MongoStatistics:
    """What the transactions of this process came to, those apart that their work ended by an error of its own;
    counted without a lock, for tests and for the eye."""

    attempts: int = 0
    commits: int = 0
    aborts: int = 0


class Mongo:
    """A database of a MongoDB by its URL; the URL's path names it, else it is "wd_trio". Thread-safe.

    Nothing is connected before the first call. Invalid (what="url") for a URL that is none.
    """

    def __init__(self, url: str, options: MongoOptions | None = None) -> None:
        self.options = options or MongoOptions()
        self.statistics = MongoStatistics()
        self._commits = commits_total.labels(ENGINE)
        self._takes_s = 0.0  # a transaction, on average of the last ones
        self._strays: deque[ClientSession] = deque(maxlen=_STRAYS)
        """Sessions whose last transaction may be open in the server still."""
        try:
            name = parse_uri(url, warn=False)["database"] or DEFAULT_DATABASE
            self.client: MongoClient[BsonDocument] = MongoClient(
                url,
                appname="wd-trio",
                maxPoolSize=self.options.pool,
                connectTimeoutMS=_ms(self.options.connect_s),
                heartbeatFrequencyMS=_ms(self.options.heartbeat_s),
                serverSelectionTimeoutMS=_ms(self.options.selection_s),
                waitQueueTimeoutMS=_ms(self.options.selection_s),
                retryWrites=True,
                retryReads=True,
                event_listeners=[_RoundTrips()],
            )
        except (InvalidURI, ConfigurationError, ValueError) as error:
            raise errors.Invalid(f"no URL of a MongoDB: {error}", what="url") from error
        self.database: MongoDatabase = self.client.get_database(
            name,
            codec_options=PLAIN,
            read_concern=ReadConcern("majority"),
            write_concern=WriteConcern("majority", j=True),
            read_preference=ReadPreference.PRIMARY,
        )

    def now(self) -> int:
        """The time in whole seconds since the epoch."""
        return int(self.options.clock())

    def close(self) -> None:
        self.client.close()

    def ensure(self) -> None:
        """Make sure that this MongoDB will do and that it has the indexes; they are built beside the service.

        Invalid (what="mongodb") for one without a replica set; Unavailable.
        """
        with engine_faults():
            # What the deadline of a call is does not bind the building of an index.
            hello = self.client.admin.command("hello")
            if "setName" not in hello and hello.get("msg") != "isdbgrid":
                raise errors.Invalid(
                    "this mongod is standalone and can do no transactions: start it with --replSet rs0 and run"
                    " rs.initiate() in mongosh once",
                    what=ENGINE,
                )
            indexes.complete(self.database)
            here = set(self.database.list_collection_names())
            for collection, models in indexes.INDEXES.items():
                if models:
                    self.database[collection].create_indexes(list(models))
                elif collection not in here:
                    self._make(collection)

    def _make(self, collection: str) -> None:
        """A collection that comes to be in the middle of a transaction would disturb others."""
        try:
            self.database.create_collection(collection, check_exists=False)
        except OperationFailure as error:
            if error.code != _NAMESPACE_EXISTS:  # another process was first
                raise

    @contextmanager
    def reading(self) -> Iterator[MongoDatabase]:
        """The database, for calls without a transaction that shall be done by the deadline together."""
        with engine_faults(), bounded(self.options.deadline_s):
            yield self.database

    def transaction(self, work: Callable[[ClientSession], T]) -> T:
        """What `work` returned, once its transaction has been committed; it may be run several times.

        A WdError of `work` ends the transaction and passes. Unavailable when it cannot be committed by the deadline,
        Uncertain when it cannot be known whether it was.
        """
        with engine_faults(), bounded(self.options.deadline_s) as deadline:
            self._end_strays()
            session = self.client.start_session(causal_consistency=False)
            stray = False
            try:
                return self._until_committed(session, work, deadline)
            except BaseException as error:
                # Its end did not reach the server, or was not sent any more for want of time.
                stray = isinstance(error, ConnectionFailure) or time.monotonic() > deadline
                raise
            finally:
                if stray:
                    self._strays.append(
                        session
                    )  # ended later: until then the driver gives its id to nobody else
                else:
                    session.end_session()

    def _until_committed(
        self, session: ClientSession, work: Callable[[ClientSession], T], deadline: float
    ) -> T:
        pause_s = min(max(self.options.backoff_s, 2 * self._takes_s), self.options.max_backoff_s)
        while True:
            self.statistics.attempts += 1
            began = time.monotonic()
            try:
                value = self._attempt(session, work, deadline)
            except PyMongoError as error:
                self.statistics.aborts += 1
                wait_s = random.uniform(0, pause_s)
                if not error.has_error_label(_TRANSIENT) or time.monotonic() + wait_s > deadline:
                    raise
            else:
                self.statistics.commits += 1
                self._commits.inc()
                self._takes_s += (time.monotonic() - began - self._takes_s) / _AVERAGED
                return value
            time.sleep(wait_s)
            pause_s = min(2 * pause_s, self.options.max_backoff_s)

    def _end_strays(self) -> None:
        """End transactions that are open for nobody: others would wait in vain for what they hold."""
        sessions: list[ClientSession] = []
        with suppress(IndexError):
            while True:
                sessions.append(self._strays.popleft())
        if not sessions:
            return
        try:
            self.client.admin.command("killSessions", [session.session_id for session in sessions])
        except OperationFailure as error:  # the server's own limit for transactions is left
            log.warning("transactions not ended", error=str(error))
        except BaseException:
            self._strays.extend(sessions)
            raise
        for session in sessions:
            session.end_session()

    def _attempt(self, session: ClientSession, work: Callable[[ClientSession], T], deadline: float) -> T:
        session.start_transaction(
            read_concern=ReadConcern("snapshot"),
            write_concern=WriteConcern("majority", j=True),
            read_preference=ReadPreference.PRIMARY,
        )
        try:
            value = work(session)
        except BaseException:
            session.abort_transaction()
            raise
        self._commit(session, deadline)
        return value

    def _commit(self, session: ClientSession, deadline: float) -> None:
        """Commit, asking again for as long as the outcome is not known."""
        while True:
            try:
                session.commit_transaction()
            except PyMongoError as error:
                wait_s = random.uniform(0, self.options.max_backoff_s)
                if not error.has_error_label(UNKNOWN_COMMIT) or time.monotonic() + wait_s > deadline:
                    raise
            else:
                return
            time.sleep(wait_s)


class _RoundTrips(CommandListener):
    """Counts commands for the budgets, in the thread that sends them."""

    def started(self, event: CommandStartedEvent) -> None:
        round_trip(ENGINE)

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Counted when it was sent."""

    def failed(self, event: CommandFailedEvent) -> None:
        """Counted when it was sent."""


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
