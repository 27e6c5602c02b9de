"""The connections of one worker, as the supervisor gives them to it and takes them back.

They go over in batches, one on its way at a time, each acknowledged; the supervisor keeps its duplicates. What the
worker lets go of while it leaves, and what it had when it died, goes to others where its slot says that they can go
on (servers/slots.py); the rest is ended here, for nobody else would.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import count

import structlog
import trio

from wd_trio.ops import messages, metrics
from wd_trio.ops.connections import NOBODY
from wd_trio.ops.door import Arrival, Door
from wd_trio.ops.handoff import BATCH_DESCRIPTORS, Channel, ChannelOver
from wd_trio.servers.slots import why_lost

log = structlog.get_logger()


class Feed:
    """A taker for the door. `owner` is the name under which its worker holds sessions and claims; `arrived` is called
    when connections that another worker had were taken over or have ended, `upgrade` with the number of one that is
    to go on behind the end of TLS."""

    def __init__(
        self,
        door: Door,
        owner: str,
        *,
        arrived: Callable[[], None],
        upgrade: Callable[[int], None],
        number: int = NOBODY,
    ) -> None:
        """`number`: by which its connections are kept; a new one where none is given."""
        self._door = door
        self._connections = door.connections
        self._owner = owner
        self._arrived = arrived
        self._upgrade = upgrade
        self.number = number or door.connections.new_worker()
        self.quiet = True
        """No batch is on its way."""
        self._pending: deque[Arrival] = deque()
        self._some_pending = trio.Event()
        self._answer: messages.Adopted | None = None
        self._answered = trio.Event()
        self._batches = count(1)

    @property
    def load(self) -> int:
        return self._connections.load(self.number)

    @property
    def pending(self) -> tuple[Arrival, ...]:
        """Those that were not sent yet."""
        return tuple(self._pending)

    # -- to the worker

    def give(self, arrival: Arrival) -> None:
        self._connections.hold(arrival.number, self.number)
        self._pending.append(arrival)
        self._some_pending.set()

    async def run(self, channel: Channel) -> None:
        """Hand over what is given, until cancelled or the channel's end."""
        try:
            while True:
                await self._some_pending.wait()
                self._some_pending = trio.Event()
                while self._pending:
                    await self._door.wait_open()
                    if self._pending:
                        await self._hand_over(channel, self._next_batch())
        except ChannelOver:
            return  # `leave_to_others` finds others for them

    def _next_batch(self) -> list[Arrival]:
        batch: list[Arrival] = []
        unread_bytes = 0
        while self._pending and len(batch) < BATCH_DESCRIPTORS:
            unread_bytes += len(self._pending[0].unread)
            if batch and unread_bytes > messages.MANY_UNREAD_BYTES:
                break
            batch.append(self._pending.popleft())
        return batch

    async def _hand_over(self, channel: Channel, batch: list[Arrival]) -> None:
        self.quiet = False
        self._answered = trio.Event()
        slots = [arrival.number for arrival in batch]
        unread = {arrival.number: arrival.unread for arrival in batch if arrival.unread}
        message = messages.Adopt(next(self._batches), slots, unread)
        try:
            await channel.send(message, [self._connections.descriptor(slot) for slot in slots])
        except BaseException:  # a message is sent whole or not at all: the worker has seen none of them
            self._pending.extendleft(reversed(batch))
            raise
        await self._answered.wait()
        if self._answer is not None and self._answer.refused:
            log.warning("worker took no connections", owner=self._owner, count=len(batch))
            for slot in slots:
                self._connections.hold(slot, NOBODY)
            self._door.come_back(batch, self)
        else:
            for slot in filter(self._has, slots):  # others have ended by now, or have left again
                self._connections.arrived(slot)
        self.quiet = True
        self._arrived()

    # -- from the worker

    def hear(self, message: messages.Adopted | messages.Closed | messages.Moved | messages.Upgrade) -> None:
        """What the worker says of its connections."""
        match message:
            case messages.Adopted():
                self._answer = message
                self._answered.set()
            case messages.Closed(slots=slots):
                for number in filter(self._has, slots):
                    self._connections.leave(number)
                self._arrived()
            case messages.Moved(slots=slots, unread=unread):
                for number in filter(self._has, slots):
                    self._send_on(Arrival(number, unread.get(number, b"")), "rolled")
            case messages.Upgrade(slot=number):
                if self._has(number):
                    self._connections.hold(number, NOBODY)
                    self._upgrade(number)

    def _has(self, number: int) -> bool:
        return self._connections.holder(number) == self.number

    # -- its end

    def give_back_pending(self) -> None:
        """Those that were not sent yet go to others with what they bring along."""
        left = list(self._pending)
        self._pending.clear()
        for arrival in left:
            self._connections.hold(arrival.number, NOBODY)
            self._door.place(arrival)

    def leave_to_others(self) -> None:
        """The worker is gone: give what it had to others, or end what nobody can go on with."""
        self.quiet = True
        self.give_back_pending()
        for number in self._connections.held_by(self.number):
            slot = self._connections.slots.at(number)
            reason = why_lost(slot)
            if reason:
                metrics.connections_lost_total.labels(slot.protocol, reason).inc()
                self._connections.end(number)
            else:
                self._send_on(Arrival(number), "died")
        self._arrived()

    def _send_on(self, arrival: Arrival, cause: str) -> None:
        protocol = self._connections.slots.at(arrival.number).protocol
        metrics.connections_moved_total.labels(protocol, cause).inc()
        self._connections.depart(arrival.number, self._owner)
        self._door.place(arrival)
