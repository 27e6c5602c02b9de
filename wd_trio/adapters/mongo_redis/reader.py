"""Reads by the short way: a command on a connection of the driver's pool, and no more around it.

Through the driver a `find` costs 0.25 ms of this process' CPU, and twice that where sixteen threads take turns at the
interpreter: sessions, time-outs, events, a dozen system calls. Here the driver chooses the server and hands out a
connection, authenticated and encrypted as the URL says; commands are encoded, sent and answered, and no more.

A lost connection is tried once more, as the driver does with its own reads. An answer that is none (no primary any
more, a command that is wrong) is asked for in the driver's own way, which knows what it means, tells whoever watches
the servers and raises what there is to raise. Behind a load balancer, whose cursors belong to connections, all are.

Reads are commands as MongoDB's manual has them (find, aggregate), outside of sessions. They see what a majority has;
what must be seen at one moment is a single command whose read concern is SNAPSHOT, or several that are asked of a
`Moment`: the first one's answer says at what time it was, and the others name that time.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import count
from typing import ClassVar, Final

import bson
import pymongo
from bson.codec_options import CodecOptions
from pymongo import ReadPreference
from pymongo.client_session import ClientSession
from pymongo.command_cursor import CommandCursor
from pymongo.errors import AutoReconnect, NetworkTimeout, ServerSelectionTimeoutError

from wd_trio.adapters.mongo_redis.faults import engine_faults
from wd_trio.adapters.mongo_redis.mongo import (
    DRIVERS,
    ENGINE,
    PLAIN,
    BsonDocument,
    BsonMapping,
    Mongo,
    bounded,
    remaining,
)
from wd_trio.telemetry import round_trip

MAJORITY: Final[BsonMapping] = {"level": "majority"}
SNAPSHOT: Final[BsonMapping] = {"level": "snapshot"}

_HEADER: Final = struct.Struct(
    "<iiiiIB"
)  # length, id, id answered, opcode, flags, kind of section: a command
_OP_MSG: Final = 2013
_CLOCK: Final = "$clusterTime"
_MAX_ID: Final = (1 << 31) - 1
_FIRST_BATCH: Final = 101  # documents, where a command does not say
_LEAST_S: Final = 0.001
# What the driver sets by itself while it waits for an answer, up to the deadline of `pymongo.timeout`: set before, it
# has no cause to set it four times for each answer.
_STEP_S: Final = 0.5
_NO_TIME_LEFT: Final = (NetworkTimeout, ServerSelectionTimeoutError)


class Reader:
    """Reads from the primary of a MongoDB. Thread-safe.

    `codec` decides what documents become; with DRIVERS, integers stored in 64 bits come as a subclass of int. Raises
    what faults.py makes of the driver's errors: Unavailable, Invalid. `sent` and `answered` count commands and
    those that needed no other way, without a lock, for tests and for the eye.
    """

    def __init__(self, mongo: Mongo) -> None:
        self._mongo = mongo
        self._short = not mongo.client.options.load_balanced
        self._common = {"maxTimeMS": round(mongo.options.deadline_s * 1000), "$db": mongo.database.name}
        self._ids = count(1)  # next() of it is atomic
        self.sent = 0
        self.answered = 0

    def find_one(
        self,
        collection: str,
        which: BsonMapping,
        fields: BsonMapping | None = None,
        *,
        codec: CodecOptions[BsonDocument] = DRIVERS,
        moment: Moment | None = None,
    ) -> BsonDocument | None:
        """A document that `which` finds, None where it finds none."""
        command: BsonDocument = {"find": collection, "filter": which, "limit": 1, "singleBatch": True}
        if fields is not None:
            command["projection"] = fields
        found = self.ask(command, codec=codec, moment=moment)
        return found[0] if found else None

    def ask(
        self,
        command: BsonMapping,
        *,
        concern: BsonMapping = MAJORITY,
        codec: CodecOptions[BsonDocument] = DRIVERS,
        moment: Moment | None = None,
    ) -> list[BsonDocument]:
        """All that a command finds; of a moment where one is given, whatever `concern`."""
        with engine_faults():
            found, cursor = self._begun(command, concern, codec, moment)
            if cursor is None:
                return found
            with bounded(self._mongo.options.deadline_s), cursor:
                return found + cursor.to_list()

    def batches(
        self,
        command: BsonMapping,
        *,
        concern: BsonMapping = MAJORITY,
        codec: CodecOptions[BsonDocument] = DRIVERS,
    ) -> Generator[list[BsonDocument], None, None]:
        """As `ask`, in the batches in which it comes, each within a call's deadline. Close it to want no more."""
        with engine_faults():
            found, cursor = self._begun(command, concern, codec, None)
            if cursor is None:
                yield found
                return
            with cursor:
                yield found
                while cursor.alive:
                    with bounded(self._mongo.options.deadline_s):
                        found = cursor.to_list(_batch_of(command))
                    yield found

    @contextmanager
    def one_moment(self) -> Iterator[Moment]:
        """Reads of this block that are given what this gives all see the moment of the first one."""
        moment = Moment(self)
        try:
            yield moment
        finally:
            if moment.session is not None:
                moment.session.end_session()

    def _begun(
        self,
        command: BsonMapping,
        concern: BsonMapping,
        codec: CodecOptions[BsonDocument],
        moment: Moment | None,
    ) -> tuple[list[BsonDocument], CommandCursor[BsonDocument] | None]:
        """The first batch, and the rest of the answer where there is more."""
        left_s = max(remaining(self._mongo.options.deadline_s), _LEAST_S)
        command = {**command, "readConcern": concern, **(moment.common if moment is not None else {})}
        with pymongo.timeout(left_s):
            if self._short and (moment is None or moment.session is None):
                reply, address = self._answer(command, codec)
                if reply["ok"]:
                    self.answered += 1
                    cursor = reply["cursor"]
                    if moment is not None:
                        moment.learn(reply)
                    if not cursor["id"]:
                        return list(cursor["firstBatch"]), None
                    name = cursor["ns"].partition(".")[2]
                    at = self._mongo.database.get_collection(name, codec_options=codec)
                    return cursor["firstBatch"], CommandCursor(at, cursor | {"firstBatch": []}, address)
            rest = self._by_the_driver(command, moment)
            found = rest.to_list(_batch_of(command))
        # The driver reads a command's answer without the codec's own types.
        return [bson.decode(bson.encode(one), codec) for one in found], rest if rest.alive else None

    def _by_the_driver(self, command: BsonDocument, moment: Moment | None) -> CommandCursor[BsonDocument]:
        session = None if moment is None else moment.drivers(self._mongo)
        try:
            return self._mongo.database.cursor_command(command, session=session)
        except _NO_TIME_LEFT:
            raise
        except AutoReconnect:  # the driver knows now, and waits for a new primary
            return self._mongo.database.cursor_command(command, session=session)

    # -- the wire

    def _answer(
        self, command: BsonDocument, codec: CodecOptions[BsonDocument]
    ) -> tuple[BsonDocument, tuple[str, int | None]]:
        """What a server says to a command, and the server's address. Raises the driver's errors."""
        encoded = bson.encode(command | self._common)
        self.sent += 1
        round_trip(ENGINE)
        try:
            reply, address = self._exchanged(encoded)
        except _NO_TIME_LEFT:
            raise
        except AutoReconnect:
            reply, address = self._exchanged(encoded)
        return bson.decode(reply, codec), address

    def _exchanged(self, command: bytes) -> tuple[bytes | memoryview, tuple[str, int | None]]:
        number = next(self._ids) & _MAX_ID
        message = _HEADER.pack(_HEADER.size + len(command), number, 0, _OP_MSG, 0, 0) + command
        # Its pool is no part of the driver's public interface: tests/cluster/test_mongo_reader.py holds what is used.
        # What is raised in this block, the driver sees: it closes the connection, and looks at the server again.
        with self._mongo.client._conn_for_reads(ReadPreference.PRIMARY, None, "find") as (connection, _):
            connection.set_conn_timeout(_STEP_S)
            connection.send_message(message, len(command))
            return connection.receive_message(number).raw_command_response(), connection.address


class Moment:
    """Reads that see the moment of the first one: `Reader.one_moment` makes it, for one thread.

    `common` is part of each command; it names the time once that is known, and with it what a server needs to believe
    it (another router may not have come so far yet). Once the driver had to read, `session` is the driver's.
    """

    union: ClassVar = True  # $unionWith is supported here

    __slots__ = ("_reader", "common", "session")

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.common: BsonMapping = {"readConcern": {**SNAPSHOT}}  # its own: a session adds to it
        self.session: ClientSession | None = None

    def learn(self, reply: BsonMapping) -> None:
        """The time is that of this answer, if it was not known; an answer from a collection that is not there tells
        of none."""
        if _CLOCK not in self.common and "atClusterTime" in reply["cursor"]:
            concern = {**SNAPSHOT, "atClusterTime": reply["cursor"]["atClusterTime"]}
            self.common = {"readConcern": concern, _CLOCK: reply[_CLOCK]}

    def drivers(self, mongo: Mongo) -> ClientSession:
        """The session in which the driver reads; it learns the time by itself where none is known."""
        if self.session is None:
            known = self.common.get(_CLOCK)
            self.session = mongo.client.start_session(causal_consistency=False, snapshot=known is None)
            if known is not None:
                self.session.advance_cluster_time(known)
        return self.session

    def ask(self, command: BsonMapping) -> list[BsonDocument]:
        """All that a command finds, its integers as the driver reads them."""
        return self._reader.ask(command, moment=self)

    def find_one(
        self, collection: str, which: BsonMapping, fields: BsonMapping | None = None
    ) -> BsonDocument | None:
        """A document that `which` finds, None where it finds none; its integers are plain."""
        return self._reader.find_one(collection, which, fields, codec=PLAIN, moment=self)


def _batch_of(command: BsonMapping) -> int:
    """How many documents of a command's answer make a batch."""
    size: int = command.get("cursor", command).get("batchSize", _FIRST_BATCH)
    return size
