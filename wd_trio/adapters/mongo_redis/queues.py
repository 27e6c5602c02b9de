"""One queue for each user in this process: whatever waits there is done in one go.

Writers of the same mailbox would make each other's transactions fail and retry, and so would writers of one user's
mailboxes, who meet at the account. So the first thread that comes runs its call at once; what arrives meanwhile is
run together by the next one, in one transaction (flat combining). The thread that has its outcome leaves and lets
the first of those who wait lead; nobody works for others beyond one go.

A call that has not begun by the deadline is withdrawn: Unavailable. One that has begun is waited for.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from wd_trio import errors

MAX_CALLS = 64
MAX_BYTES = 8 << 20


class Call(Protocol):
    """What is queued. `alone`: not to be joined with others. `size_bytes` of what it writes, about."""

    @property
    def alone(self) -> bool: ...

    @property
    def size_bytes(self) -> int: ...


C = TypeVar("C", bound=Call)


class Outcome(NamedTuple):
    """`value` counts only where `error` is None."""

    value: object
    error: BaseException | None


class _Waiting(Generic[C]):
    __slots__ = ("call", "came_at", "gate", "leads", "outcome")

    def __init__(self, call: C) -> None:
        self.call = call
        self.came_at = time.monotonic()
        self.gate = threading.Event()
        self.leads = False
        self.outcome: Outcome | None = None


class Queues(Generic[C]):
    """`run(user, calls, waited_s)` gives an outcome for each call, of which the first has waited that long; it never
    raises an Exception."""

    def __init__(self, run: Callable[[str, Sequence[C], float], Sequence[Outcome]], *, wait_s: float) -> None:
        self._run = run
        self._wait_s = wait_s
        self._mutex = threading.Lock()
        self._queues: dict[str, deque[_Waiting[C]]] = {}

    def do(self, user_id: str, call: C) -> object:
        """The call's value; raises what it raised, Unavailable when it did not begin in time."""
        own = _Waiting(call)
        with self._mutex:
            queue = self._queues.get(user_id)
            if queue is None:
                queue = self._queues[user_id] = deque()
                own.leads = True
            queue.append(own)
        if not own.leads:
            self._wait(queue, own)
        if own.outcome is None:
            self._lead(user_id, queue)
        assert own.outcome is not None
        if own.outcome.error is not None:
            raise own.outcome.error
        return own.outcome.value

    def _wait(self, queue: deque[_Waiting[C]], own: _Waiting[C]) -> None:
        if own.gate.wait(self._wait_s):
            return
        with self._mutex:
            if not own.leads and own in queue:
                queue.remove(own)
                raise errors.Unavailable(f"not begun after {self._wait_s:g} s", what="mongodb")
        own.gate.wait()

    def _lead(self, user_id: str, queue: deque[_Waiting[C]]) -> None:
        with self._mutex:
            batch = _taken(queue)
        outcomes: Sequence[Outcome] = ()
        try:
            waited_s = time.monotonic() - batch[0].came_at
            outcomes = self._run(user_id, [waiting.call for waiting in batch], waited_s)
        finally:
            lost = Outcome(None, errors.Uncertain("its leader ended", what="mongodb"))
            with self._mutex:
                for place, waiting in enumerate(batch):
                    waiting.outcome = outcomes[place] if place < len(outcomes) else lost
                    waiting.gate.set()
                if queue:
                    queue[0].leads = True
                    queue[0].gate.set()
                else:
                    del self._queues[user_id]


def _taken(queue: deque[_Waiting[C]]) -> list[_Waiting[C]]:
    """Take the first calls, at least one, that may be run together."""
    batch = [queue.popleft()]
    size = batch[0].call.size_bytes
    while queue and not batch[0].call.alone and len(batch) < MAX_CALLS:
        size += queue[0].call.size_bytes
        if queue[0].call.alone or size > MAX_BYTES:
            break
        batch.append(queue.popleft())
    return batch
