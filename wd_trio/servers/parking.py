"""Parked IMAP connections: quiet ones, without a task, buffers or objects.

What is left of a connection is its slot (slots.py), a few integers (parked.py), and its descriptor in one epoll set,
which one task awaits. Whatever comes from the client, or cannot be told by a line that the slot alone suffices for,
*unparks* it: a task goes on from the slot, as it would in another worker. So this is an optimisation and no second
protocol: the three lines said here are EXISTS, the idler's keep-alive and BYE.

- A hint that joins on to what an idler was told, and brings new messages only, is told at once. Any other news unpark
  it. Who does not idle is told nothing; the task that serves the next command finds the news.
- Hints may be lost: with each resync and sweep of the hub the idlers' mailboxes are looked at, many in one crossing,
  and those unparked that are behind.
- One hand goes round over all parked connections every ROUND_TICKS ticks, and sees to those that are due.
- Few are unparked at a time: those with news wait for others to park again; when many have come by input, they park
  again as soon as they were answered, and the next ones are let in with some pauses. Else the heap would keep the
  size that it had when all of them had a task at once.
"""

from __future__ import annotations

import math
import os
import random
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import wraps
from itertools import islice
from typing import Concatenate, Final, ParamSpec

import structlog
import trio

from wd_trio import telemetry
from wd_trio.errors import WdError
from wd_trio.mail.model import Changes
from wd_trio.proto.imap import encode
from wd_trio.servers.driver import MOVED, ConnectionOver, Draining, IdleTooLong, Kicked
from wd_trio.servers.imap.options import PROTOCOL, ImapOptions, ImapServices
from wd_trio.servers.imap.resume import facts_of
from wd_trio.servers.imap.serve import last_words
from wd_trio.servers.imap.session import offered
from wd_trio.servers.parked import Chains, Parked
from wd_trio.servers.slots import MAILBOX_AT, USER_AT, Phase, Progress, Slot, Slots, Standing
from wd_trio.service.parked import SessionFacts

log = structlog.get_logger()

P = ParamSpec("P")

TICK_S: Final = 1.0
ROUND_TICKS: Final = 16
JITTER: Final = 0.25
STUCK_S: Final = 60
NEWS_S: Final = 2.0
BATCH: Final = 64
PATIENCE_S: Final = 0.05
CHECK_AGAIN_S: Final = 2.0
MANY_MAILBOXES: Final = 500
_NEVER_S: Final = (1 << 31) - 1

KEEP_ALIVE: Final = encode.ok("Still here")

_CHANGED: Final = 1  # the session's document may be behind
_IDLING: Final = 2
_WATCHING: Final = 4  # idling, with a mailbox selected: in both chains
_QUEUED: Final = 8  # waits to be unparked for news
_STUCK: Final = 16  # took no keep-alive


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkingOptions:
    """How many connections may be unparked at a time: for news; and by input before others have to wait a little."""

    for_news: int = 64
    by_input: int = 256


def _alone(
    look: Callable[Concatenate[Parking, int, P], None],
) -> Callable[Concatenate[Parking, int, P], None]:
    """What fails for one connection ends that one and no other."""

    @wraps(look)
    def guarded(lot: Parking, number: int, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            look(lot, number, *args, **kwargs)
        except Exception:
            log.exception("parked connection failed", slot=number)
            if number in lot._parked:
                lot._end(number, "error")

    return guarded


class Parking:
    """The parked connections of one worker; `run` has to run beside it. It is the `Lot` of session.py and of
    service/parked.py."""

    def __init__(
        self,
        slots: Slots,
        *,
        services: ImapServices,
        imap: ImapOptions,
        adopt: Callable[[socket.socket, Slot], None],
        on_end: Callable[[Slot], None],
        on_leave: Callable[[Slot, str, socket.socket, bytes], None],
        options: ParkingOptions,
    ) -> None:
        """`adopt` serves a connection from where its slot stands; `on_end` and `on_leave` are told as by a
        ConnectionHost."""
        self._slots = slots
        self._parked = Parked(slots)
        self._by_mailbox = Chains(slots, MAILBOX_AT)
        self._by_user = Chains(slots, USER_AT)
        self._epoll = select.epoll()
        self._services = services
        self._imap = imap
        self._capabilities = offered(imap)
        self._adopt = adopt
        self._on_end = on_end
        self._on_leave = on_leave
        self._options = options
        self._awake: set[int] = set()
        self._awake_for_news: dict[int, float] = {}  # and since when
        self._room = trio.Event()
        self._waiting: deque[int] = deque()
        self._to_check: deque[int] = deque()
        self._check_from = _NEVER_S  # the number from which on all idlers are to be checked
        self._some_to_check = trio.Event()
        self._moving: bool | None = None
        self._scope = trio.CancelScope()
        self._random = random.Random()
        services.sessions.parked.keep(self)
        services.hub.watch(self._hear)
        services.hub.on_resync(self._check_those_of)

    def __len__(self) -> int:
        return len(self._parked)

    async def run(self) -> None:
        """Watch, keep alive, check; until `stop`."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._watch)
                    nursery.start_soon(self._turn)
                    nursery.start_soon(self._check)
        finally:
            self._epoll.close()

    def stop(self) -> None:
        """After `drain`."""
        self._scope.cancel()

    # -- coming and going

    def quiet_s(self, *, idling: bool) -> float:
        """How long a quiet connection is to keep its task: less where many have one."""
        after_s = self._imap.park_after_s
        return 0.0 if after_s < math.inf and (idling or self._crowded) else after_s

    def fits(self, slot: Slot, unread: bytes) -> bool:
        """Whether a connection that comes from another worker need not get a task first."""
        return (
            slot.phase == Phase.OPEN
            and slot.progress == 0
            and not unread
            and self._imap.park_after_s < math.inf
            and self._moving is None
        )

    def park(self, slot: Slot, sock: socket.socket) -> None:
        """A task has left its connection, settled, its `until_s` in the slot."""
        self.came_back(slot)
        self._enter(slot, sock)
        if self._moving is not None:
            self._depart(slot.number)

    def take(self, slot: Slot, sock: socket.socket) -> None:
        """A connection that `fits` comes from another worker."""
        sock.setblocking(False)
        self._services.sessions.parked.enter(slot.session, slot.user, PROTOCOL)
        if not slot.until_s:
            slot.until_s = math.ceil(self._imap.clock() + self._imap.idle_timeout_s)
        self._enter(slot, sock)
        self._check_soon(slot.number)

    def came_back(self, slot: Slot) -> None:
        """A task that served the connection is over, whatever became of it."""
        self._awake.discard(slot.number)
        self._awake_for_news.pop(slot.number, None)
        if not self._crowded:
            self._room.set()
        self._let_in()

    def _let_in(self) -> None:
        """Unpark those that wait for others with news to park again."""
        while self._waiting and len(self._awake_for_news) < self._options.for_news:
            number = self._waiting.popleft()
            if number in self._parked and self._parked.marked(number, _QUEUED):
                self._unpark(number, "news")

    @property
    def _crowded(self) -> bool:
        return len(self._awake) >= self._options.by_input

    def _enter(self, slot: Slot, sock: socket.socket) -> None:
        parked, number = self._parked, slot.number
        descriptor = parked.add(number, sock)
        self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLRDHUP)
        parked.mark(number, _CHANGED)
        parked.due[number] = min(slot.until_s, _NEVER_S)
        if slot.has(Standing.IDLE):
            parked.mark(number, _IDLING)
            self._keep_alive_later(number)
            if slot.has(Standing.SELECTED):
                parked.mark(number, _WATCHING)
                self._by_mailbox.add(number)
                self._by_user.add(number)
        telemetry.connections_parked.inc()
        telemetry.connections_open.labels(PROTOCOL).inc()

    def _remove(self, number: int) -> socket.socket:
        parked = self._parked
        self._epoll.unregister(parked.descriptor(number))
        if parked.marked(number, _WATCHING):
            self._by_mailbox.remove(number)
            self._by_user.remove(number)
        telemetry.connections_parked.dec()
        telemetry.connections_open.labels(PROTOCOL).dec()
        return parked.take(number)

    def _unpark(self, number: int, cause: str) -> None:
        slot = self._slots.at(number)
        self._awake.add(number)
        if cause == "news":
            self._awake_for_news[number] = trio.current_time()
        telemetry.unparked_total.labels(cause).inc()
        sock = self._remove(number)
        self._services.sessions.parked.unpark(slot.session)
        self._adopt(sock, slot)

    def _end(self, number: int, reason: str) -> None:
        slot = self._slots.at(number)
        facts = self._facts(slot)
        sock = self._remove(number)
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError as error:  # the peer may be gone already: there is nobody left to tell
            log.debug("shut down already", connection=slot.id, error=str(error))
        sock.close()
        self._services.sessions.parked.end(facts)
        telemetry.sessions_ended_total.labels(PROTOCOL, reason).inc()
        self._on_end(slot)

    # -- input

    async def _watch(self) -> None:
        while self._moving is None:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            if self._crowded:
                self._room = trio.Event()
                with trio.move_on_after(PATIENCE_S):
                    await self._room.wait()
            for descriptor, events in self._epoll.poll(0, BATCH):
                self._stirred(self._parked.number(descriptor), events)

    @_alone
    def _stirred(self, number: int, events: int) -> None:
        """Something came from a client, or its end."""
        if events & ~select.EPOLLIN and self._has_ended(number):
            self._end(number, "closed")
        else:
            self._unpark(number, "input")

    def _has_ended(self, number: int) -> bool:
        """Whether nothing but the end is to be read."""
        sock = socket.socket(fileno=self._parked.descriptor(number))
        try:
            return not sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            sock.detach()

    # -- what may be said without a task

    def _say(self, number: int, slot: Slot, data: bytes) -> bool:
        """Whether all of it was taken: then the slot says SAYING until the caller has settled it. Else nothing was,
        or the connection has ended."""
        slot.progress = Progress.SAYING
        try:
            sent = os.write(self._parked.descriptor(number), data)
        except BlockingIOError:
            slot.progress = 0
            return False
        except OSError:
            self._end(number, "reset")
            return False
        telemetry.bytes_total.add((PROTOCOL, "out"), sent)
        if sent < len(data):
            self._end(number, "reply cut")
            return False
        return True

    def _part(self, number: int, over: ConnectionOver) -> None:
        """Say goodbye, and end."""
        self._say(number, self._slots.at(number), last_words(over))
        if number in self._parked:
            self._end(number, over.reason)

    def _hear(self, mailbox_id: str, previous_modseq: int, modseq: int, changes: Changes | None) -> None:
        for number in list(self._by_mailbox.find(mailbox_id)):
            self._tell(number, previous_modseq, modseq, changes)

    @_alone
    def _tell(self, number: int, previous_modseq: int, modseq: int, changes: Changes | None) -> None:
        """An idler's mailbox changed."""
        slot = self._slots.at(number)
        told = slot.expunges_told
        if self._parked.marked(number, _QUEUED) or 0 < modseq <= min(told, slot.flags_told):
            return
        uid_next = slot.uid_next
        if (
            changes is None
            or changes.vanished
            or not changes.rows
            or not previous_modseq == told == slot.flags_told
            or any(row.uid < uid_next for row in changes.rows)
        ):
            self._unpark_for_news(number)
            return
        exists = slot.exists + len(changes.rows)
        if self._say(number, slot, encode.exists(exists)):
            slot.note_view(slot.uid_validity, max(uid_next, changes.uid_next), exists, modseq, modseq)
            slot.progress = 0
            self._parked.mark(number, _CHANGED)
        elif number in self._parked:
            self._unpark_for_news(number)

    def _unpark_for_news(self, number: int) -> None:
        if len(self._awake_for_news) < self._options.for_news:
            self._unpark(number, "news")
        elif not self._parked.marked(number, _QUEUED):
            self._parked.mark(number, _QUEUED)
            self._waiting.append(number)

    # -- time

    async def _turn(self) -> None:
        at = 0
        while True:
            await trio.sleep(TICK_S)
            parked, now_s = self._parked, int(self._imap.clock())
            stop = at + math.ceil(parked.beyond / ROUND_TICKS)
            for number in parked.numbers(at, stop):
                if parked.due[number] <= now_s:
                    self._look(number, now_s)
            at = stop if stop < parked.beyond else 0
            self._wait_no_longer()

    def _wait_no_longer(self) -> None:
        """Who was told its news and is busy since, maybe for hours, keeps nobody from theirs."""
        begun = trio.current_time() - NEWS_S
        self._awake_for_news = {number: at for number, at in self._awake_for_news.items() if at > begun}
        self._let_in()

    @_alone
    def _look(self, number: int, now_s: int) -> None:
        parked, slot = self._parked, self._slots.at(number)
        if now_s >= slot.until_s:
            self._part(number, IdleTooLong())
        elif not parked.marked(number, _IDLING):
            parked.due[number] = min(slot.until_s, _NEVER_S)
        elif self._say(number, slot, KEEP_ALIVE):
            slot.progress = 0
            parked.unmark(number, _STUCK)
            self._keep_alive_later(number)
        elif number not in parked:
            return  # it was the end
        elif parked.marked(number, _STUCK):
            self._end(number, "flush deadline")
        else:
            parked.mark(number, _STUCK)
            parked.due[number] = now_s + STUCK_S

    def _keep_alive_later(self, number: int) -> None:
        most_s = max(TICK_S, self._imap.keepalive_s - ROUND_TICKS * TICK_S)
        then_s = int(self._imap.clock() + most_s * self._random.uniform(1 - JITTER, 1))
        self._parked.due[number] = min(then_s, self._slots.at(number).until_s)

    # -- hints that may have been lost

    def _check_those_of(self, user_id: str) -> None:
        if not user_id:
            self._check_from = 0
            self._some_to_check.set()
        for number in list(self._by_user.find(user_id)) if user_id else ():
            self._check_soon(number)

    def _check_soon(self, number: int) -> None:
        self._to_check.append(number)
        self._some_to_check.set()

    async def _check(self) -> None:
        while True:
            await self._some_to_check.wait()
            self._some_to_check = trio.Event()
            while numbers := list(islice(self._yet_to_check(), MANY_MAILBOXES)):
                await self._check_some(numbers)

    def _yet_to_check(self) -> Iterator[int]:
        """Those with a mailbox to look at; what was taken from here does not come again."""
        while self._to_check or self._check_from < self._parked.beyond:
            if self._to_check:
                number = self._to_check.popleft()
            else:
                number, self._check_from = self._check_from, self._check_from + 1
            if number in self._parked and self._parked.marked(number, _WATCHING):
                yield number

    async def _check_some(self, numbers: Collection[int]) -> None:
        """Unpark those whose mailboxes do not stand where they were told."""
        asked = {number: (slot.mailbox, slot.expunges_told) for number, slot in self._those(numbers)}
        mailboxes = {mailbox for mailbox, _ in asked.values()}
        try:
            highest = await self._services.mailboxes.highest_modseqs(list(mailboxes))
        except WdError as error:
            log.warning("mailboxes of parked connections not looked at", error=str(error))
            await trio.sleep(CHECK_AGAIN_S)
            self._check_those_of("")
            return
        for number, slot in self._those(asked):
            mailbox, told = asked[number]
            if number not in self._parked or not self._parked.marked(number, _WATCHING):
                continue
            if slot.mailbox == mailbox and slot.expunges_told == told and highest.get(mailbox) != told:
                self._unpark_for_news(number)

    def _those(self, numbers: Iterable[int]) -> Iterator[tuple[int, Slot]]:
        return ((number, self._slots.at(number)) for number in numbers)

    # -- the sessions' documents

    def _facts(self, slot: Slot) -> SessionFacts:
        quiet_s = self._imap.clock() - (slot.until_s - self._imap.idle_timeout_s)
        return facts_of(slot, self._capabilities, int((time.time() - max(0.0, quiet_s)) * 1000))

    def take_changed(self) -> Iterator[SessionFacts]:
        """Of those whose documents may be behind."""
        for number in self._parked.numbers():
            if self._parked.marked(number, _CHANGED):
                self._parked.unmark(number, _CHANGED)
                yield self._facts(self._slots.at(number))

    def put_back(self, ids: Collection[str]) -> None:
        for slot in self._having(ids):
            self._parked.mark(slot.number, _CHANGED)

    def ids(self) -> Iterator[str]:
        """Of all sessions here."""
        for number in self._parked.numbers():
            yield self._slots.at(number).session

    def facts(self, ids: Collection[str]) -> Iterator[SessionFacts]:
        """Of those of these sessions that are here."""
        return (self._facts(slot) for slot in self._having(ids))

    def kick(self, ids: Collection[str], reason: str) -> None:
        """End those of these sessions that are here, in the protocol's words."""
        for slot in list(self._having(ids)):
            self._part(slot.number, Kicked(reason))

    def _having(self, ids: Collection[str]) -> Iterator[Slot]:
        return (slot for _, slot in self._those(self._parked.numbers()) if slot.session in ids)

    # -- leaving

    async def drain(self, *, moving: bool) -> None:
        """Let every connection go: to another worker as it is, or with BYE."""
        self._moving = moving
        for number in self._parked.numbers():
            self._depart(number)
            if number % BATCH == 0:
                await trio.lowlevel.checkpoint()

    def _depart(self, number: int) -> None:
        if not self._moving:
            self._part(number, Draining())
            return
        slot = self._slots.at(number)
        self._services.sessions.parked.leave(slot.session, slot.user, PROTOCOL)
        self._on_leave(slot, MOVED, self._remove(number), b"")
