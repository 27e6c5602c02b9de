"""Reads by the short way: commands of many calls on one connection of the driver's pool.

Through the driver a `find` costs 0.25 ms of this process' CPU, and twice that where sixteen threads take turns at the
interpreter: sessions, time-outs, events, a dozen system calls. Here the driver chooses the server and hands out a
connection, authenticated and encrypted as the URL says; commands are encoded, sent and answered, and no more.

`run_group` is the group of the gateway's lane "store.read". It begins all calls that are queued. One that asks for
what is not there yet is left there (`_Wanted`), what they all want goes out in one message and is answered in order,
and each is begun anew, to find the answers to what it asks. So a call may be begun once more than it has reads: all
that it does before the last of them must bear that, and what it reads twice is the same twice. A read outside of a
group is sent alone. Reads by the driver (sessions, blobs, the later batches of an answer) run where they are met, and
their call goes on alone from there.

A lost connection is tried once more, as the driver does with its own reads. An answer that is none (no primary any
more, a command that is wrong) is asked for in the driver's own way, which knows what it means, tells whoever watches
the servers and raises what there is to raise. Behind a load balancer, whose cursors belong to connections, all are.

Reads are commands as MongoDB's manual has them (find, aggregate), outside of sessions. They see what a majority has;
what must be seen at one moment is a single command whose read concern is SNAPSHOT.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Generator, Sequence
from itertools import count
from typing import Final, NamedTuple, TypeAlias

import bson
from bson.codec_options import CodecOptions
from pymongo import ReadPreference
from pymongo.command_cursor import CommandCursor
from pymongo.errors import AutoReconnect, NetworkTimeout, PyMongoError, ServerSelectionTimeoutError

from wd_trio.adapters.mongo_redis.faults import engine_faults
from wd_trio.adapters.mongo_redis.mongo import (
    DRIVERS,
    ENGINE,
    BsonDocument,
    BsonMapping,
    Mongo,
    bounded,
    go_alone,
    of_thread,
    remaining,
)
from wd_trio.errors import Unavailable
from wd_trio.telemetry import round_trip

MAJORITY: Final[BsonMapping] = {"level": "majority"}
SNAPSHOT: Final[BsonMapping] = {"level": "snapshot"}

Outcome: TypeAlias = tuple[object, BaseException | None]

_HEADER: Final = struct.Struct(
    "<iiiiIB"
)  # length, id, id answered, opcode, flags, kind of section: a command
_OP_MSG: Final = 2013
_MAX_ID: Final = (1 << 31) - 1
_AT_ONCE: Final = 16  # commands in one message
_AT_ONCE_BYTES: Final = 32 << 10  # what fits the sockets' buffers while the server answers already
_FIRST_BATCH: Final = 101  # documents, where a command does not say
_LEAST_S: Final = 0.001
_NO_TIME_LEFT: Final = (NetworkTimeout, ServerSelectionTimeoutError)


class Answer(NamedTuple):
    """What a server at an address said, or why nothing was said."""

    reply: bytes | memoryview
    address: tuple[str, int | None]
    fault: PyMongoError | None = None


class _Replay:
    """A call of a group: the answers that it has, by command, and the command that it wants answered next."""

    __slots__ = ("answers", "mongo", "wants")

    def __init__(self, mongo: Mongo) -> None:
        self.mongo = mongo
        self.answers: dict[bytes, Answer] = {}
        self.wants = b""


class _Wanted(BaseException):
    """Leaves a call whose answer is not there yet; no handler of errors is to hold it."""


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
    ) -> BsonDocument | None:
        """A document that `which` finds, None where it finds none."""
        command: BsonDocument = {"find": collection, "filter": which, "limit": 1, "singleBatch": True}
        if fields is not None:
            command["projection"] = fields
        found = self.ask(command, codec=codec)
        return found[0] if found else None

    def ask(
        self,
        command: BsonMapping,
        *,
        concern: BsonMapping = MAJORITY,
        codec: CodecOptions[BsonDocument] = DRIVERS,
    ) -> list[BsonDocument]:
        """All that a command finds."""
        with engine_faults():
            found, cursor = self._begun(command, concern, codec)
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
            found, cursor = self._begun(command, concern, codec)
            if cursor is None:
                yield found
                return
            with cursor:
                yield found
                while cursor.alive:
                    with bounded(self._mongo.options.deadline_s):
                        found = cursor.to_list(_batch_of(command))
                    yield found

    def _begun(
        self, command: BsonMapping, concern: BsonMapping, codec: CodecOptions[BsonDocument]
    ) -> tuple[list[BsonDocument], CommandCursor[BsonDocument] | None]:
        """The first batch, and the rest of the answer where there is more."""
        left_s = max(remaining(self._mongo.options.deadline_s), _LEAST_S)
        ends = time.monotonic() + left_s
        command = {**command, "readConcern": concern}
        if self._short:
            answer = self._answer(command, left_s)
            reply = bson.decode(answer.reply, codec)
            if reply["ok"]:
                self.answered += 1
                cursor = reply["cursor"]
                if not cursor["id"]:
                    return cursor["firstBatch"], None
                go_alone()  # begun anew, the call would find its cursor spent
                name = cursor["ns"].partition(".")[2]
                at = self._mongo.database.get_collection(name, codec_options=codec)
                return cursor["firstBatch"], CommandCursor(at, cursor | {"firstBatch": []}, answer.address)
        with bounded(max(ends - time.monotonic(), _LEAST_S)):
            rest = self._by_the_driver(command)
            found = rest.to_list(_batch_of(command))
        # The driver reads a command's answer without the codec's own types.
        return [bson.decode(bson.encode(one), codec) for one in found], rest if rest.alive else None

    def _by_the_driver(self, command: BsonDocument) -> CommandCursor[BsonDocument]:
        try:
            return self._mongo.database.cursor_command(command)
        except _NO_TIME_LEFT:
            raise
        except AutoReconnect:  # the driver knows now, and waits for a new primary
            return self._mongo.database.cursor_command(command)

    def _answer(self, command: BsonDocument, left_s: float) -> Answer:
        """The answer to a command; in a group, once it has come. Raises the driver's errors."""
        encoded = bson.encode(command | self._common)
        replay = of_thread.replay
        if not isinstance(replay, _Replay) or replay.mongo is not self._mongo:
            self._count()
            return self._exchanged([encoded], left_s)[0]
        answer = replay.answers.get(encoded)
        if answer is None:
            self._count()
            replay.wants = encoded
            raise _Wanted
        if answer.fault is not None:
            raise answer.fault
        return answer

    def _count(self) -> None:
        self.sent += 1
        round_trip(ENGINE)

    # -- the wire

    def _exchanged(self, commands: Sequence[bytes], left_s: float) -> list[Answer]:
        """The answers to commands, from one server. Raises the driver's errors."""
        ends = time.monotonic() + left_s
        try:
            return self._sent(commands, left_s)
        except _NO_TIME_LEFT:
            raise
        except AutoReconnect:
            return self._sent(commands, max(ends - time.monotonic(), _LEAST_S))

    def _sent(self, commands: Sequence[bytes], left_s: float) -> list[Answer]:
        numbers = [next(self._ids) & _MAX_ID for _ in commands]
        message = b"".join(
            _HEADER.pack(_HEADER.size + len(command), number, 0, _OP_MSG, 0, 0) + command
            for number, command in zip(numbers, commands, strict=True)
        )
        # Its pool is no part of the driver's public interface: tests/cluster/test_mongo_reader.py holds what is used.
        # What is raised in this block, the driver sees: it closes the connection, and looks at the server again.
        with self._mongo.client._conn_for_reads(ReadPreference.PRIMARY, None, "find") as (connection, _):
            connection.set_conn_timeout(left_s)
            connection.send_message(message, max(map(len, commands)))
            return [
                Answer(connection.receive_message(number).raw_command_response(), connection.address)
                for number in numbers
            ]

    # -- groups

    def run_group(self, calls: Sequence[Callable[[], object]]) -> list[Outcome]:
        """The outcomes of all calls; see the module's text."""
        outcomes: list[Outcome] = [(None, None)] * len(calls)
        ready = [(place, _Replay(self._mongo)) for place in range(len(calls))]
        while ready:
            waiting: list[tuple[int, _Replay]] = []
            down = False
            for place, replay in ready:
                if down:  # each would wait for its own time-out, one after the other
                    outcomes[place] = None, Unavailable("MongoDB failed a moment ago", what=ENGINE)
                elif (outcome := _outcome_of(calls[place], replay)) is None:
                    waiting.append((place, replay))
                else:
                    outcomes[place] = outcome
                    down = isinstance(outcome[1], Unavailable)
            self._serve([replay for _, replay in waiting])
            ready = waiting
        return outcomes

    def _serve(self, replays: Sequence[_Replay]) -> None:
        """Give each what it wants."""
        left = list(replays)
        while left:
            some = left[: _together([len(replay.wants) for replay in left])]
            try:
                answers = self._exchanged([replay.wants for replay in some], self._mongo.options.deadline_s)
            except PyMongoError as error:
                some, answers = left, [Answer(b"", ("", None), error)] * len(left)
            for replay, answer in zip(some, answers, strict=True):
                replay.answers[replay.wants] = answer
            del left[: len(some)]


def _together(sizes: Sequence[int]) -> int:
    """How many of these commands, by their sizes in bytes, make the first message: at least one."""
    number, total = 0, 0
    for size in sizes[:_AT_ONCE]:
        total += size
        if total > _AT_ONCE_BYTES and number:
            break
        number += 1
    return number


def _outcome_of(call: Callable[[], object], replay: _Replay) -> Outcome | None:
    """A call's outcome; None where it wants an answer first."""
    of_thread.replay = replay
    try:
        return call(), None
    except _Wanted:
        return None
    except Exception as error:
        return None, error
    finally:
        of_thread.replay = None


def _batch_of(command: BsonMapping) -> int:
    """How many documents of a command's answer make a batch."""
    size: int = command.get("cursor", command).get("batchSize", _FIRST_BATCH)
    return size
