"""Writes: calls on a user's mail, queued, and each go of a queue made one transaction.

A call that fails before it has written anything fails alone. Where one fails later, the transaction is undone and
its calls are run again one by one, so that none suffers for another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar, cast

from pymongo.client_session import ClientSession

from wd_trio import errors
from wd_trio.adapters.mongo_redis.known import KnownMailboxes
from wd_trio.adapters.mongo_redis.mongo import CALL_S, Mongo, bounded
from wd_trio.adapters.mongo_redis.queues import Outcome, Queues
from wd_trio.adapters.mongo_redis.work import Guess, Unit
from wd_trio.mail.outcome import Origin

T = TypeVar("T")

_WAIT_S: Final = 3.0  # of CALL_S, in the queue
_LEAST_S: Final = 0.5  # where a starved thread has used it all up


@dataclass(frozen=True, slots=True, kw_only=True)
class Change(Generic[T]):
    """A call on a user's mail. `run` may be run several times, each time in a unit of its own that starts from what
    is committed."""

    run: Callable[[Unit], T]
    guess: Guess | None = None
    origin: Origin | None = None
    size_bytes: int = 0
    alone: bool = False


class _Spoiled(errors.WdError):
    """A call failed after it had written: the unit cannot be committed."""


class _Unchanged(errors.WdError):
    """The unit has changed nothing: there is nothing to commit."""

    def __init__(self, outcomes: list[Outcome]) -> None:
        super().__init__("nothing to commit")
        self.outcomes = outcomes


class Writer:
    """Does changes of users' mail, for all threads of this process."""

    def __init__(self, mongo: Mongo, known: KnownMailboxes) -> None:
        self._mongo = mongo
        self._known = known
        self._queues: Queues[Change[object]] = Queues(self._run, wait_s=_WAIT_S)

    def do(self, user_id: str, change: Change[T]) -> T:
        """What the change came to, committed. Unavailable, Uncertain; whatever the change raises."""
        return cast(T, self._queues.do(user_id, cast("Change[object]", change)))

    def _run(
        self, user_id: str, changes: Sequence[Change[object]], waited_s: float = 0.0
    ) -> Sequence[Outcome]:
        left_s = max(CALL_S - waited_s, _LEAST_S)
        ends = time.monotonic() + left_s
        try:
            with bounded(left_s):
                return self._together(user_id, changes)
        except errors.Unavailable as error:
            return [Outcome(None, type(error)(str(error), what=error.what)) for _ in changes]
        except Exception as error:
            if len(changes) == 1:
                return [Outcome(None, error)]
        outcomes: list[Outcome] = []
        for change in changes:
            left_s = ends - time.monotonic()
            if left_s > 0:
                outcomes.extend(self._run(user_id, [change], CALL_S - left_s))
            else:
                outcomes.append(Outcome(None, errors.Unavailable("no time left", what="mongodb")))
        return outcomes

    def _together(self, user_id: str, changes: Sequence[Change[object]]) -> Sequence[Outcome]:
        guesses = [change.guess for change in changes if change.guess is not None]

        def attempt(session: ClientSession) -> tuple[Unit, list[Outcome]]:
            unit = Unit(self._mongo, session, user_id, self._known, guesses)
            outcomes = [_outcome(unit, change, alone=len(changes) == 1) for change in changes]
            unit.flush()
            if not unit.changed:
                raise _Unchanged(outcomes)
            return unit, outcomes

        try:
            unit, outcomes = self._mongo.transaction(attempt)
        except _Unchanged as unchanged:
            return unchanged.outcomes
        unit.keep_learnt()
        return outcomes


def _outcome(unit: Unit, change: Change[object], *, alone: bool) -> Outcome:
    before = unit.writes
    try:
        result = change.run(unit)
        if change.origin is not None:
            unit.come_to(change.origin, result)
        return Outcome(result, None)
    except errors.WdError as error:
        if alone:
            raise
        if unit.writes != before:
            raise _Spoiled("a call failed half done") from error
        return Outcome(None, error)
