"""Sessions whose connections are parked: kept up without an object for each.

A parked connection is a slot and a descriptor (servers/parking.py), so whoever keeps it, the *lot*, is asked for what
a document needs, a slice at a time. The documents of those that parked since the last batch are written with it; the
others are only renewed, all together, long before their hour runs out. Their users stay followed and they stay
counted: parking is no end of a session, and nobody but this worker knows of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

import structlog
import trio

from wd_trio import telemetry
from wd_trio.errors import WdError
from wd_trio.ports.documents import Json
from wd_trio.ports.gateway import Gateway
from wd_trio.ports.sessions import TTL_S, SessionDocument, SessionStore
from wd_trio.service.changes import ChangeHub
from wd_trio.service.tracking import Tracking

log = structlog.get_logger()

T = TypeVar("T")

RENEW_S: Final = TTL_S / 4
A_SLICE: Final = 100  # more at once would only raise the heap that is kept afterwards
MANY_DOCUMENTS: Final = 100
"""That are made at a time: a document is some thousand octets, and the heap keeps the size that it had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFacts:
    """What a connection carries of its session from one task or worker to the next. Times are in milliseconds since
    the epoch; `selected` and `state` as in the document."""

    id: str
    user_id: str
    protocol: str
    created_ms: int
    active_ms: int
    ip: str
    secure: bool
    capabilities: Sequence[str] = ()
    user_agent: str = ""
    selected: str = ""
    state: Json = field(default_factory=dict)


class Lot(Protocol):
    """Where connections are parked. What is asked about some ids may look at every connection."""

    def __len__(self) -> int: ...

    def take_changed(self) -> Iterator[SessionFacts]:
        """Those whose documents may be behind; each counts as written from then on."""
        ...

    def put_back(self, ids: Collection[str]) -> None:
        """The documents of these were not written after all."""
        ...

    def ids(self) -> Iterator[str]:
        """The ids of all sessions here."""
        ...

    def facts(self, ids: Collection[str]) -> Iterator[SessionFacts]:
        """Of those of these sessions that are here."""
        ...

    def kick(self, ids: Collection[str], reason: str) -> None:
        """End those of these sessions that are here, in the protocol's words."""
        ...


class ParkedSessions:
    """The parked sessions of one worker; part of its `Sessions`, which runs them."""

    def __init__(
        self,
        *,
        gateway: Gateway,
        store: SessionStore,
        hub: ChangeHub,
        tracking: Tracking,
        server: str,
        worker: str,
        clock: Callable[[], float],
    ) -> None:
        self._gateway = gateway
        self._store = store
        self._hub = hub
        self._tracking = tracking
        self._server = server
        self._worker = worker
        self._clock = clock
        self._lots: list[Lot] = []
        self._counted: set[str] = set()
        self._renewed_at = clock()
        self._unended: set[str] = set()
        self._untaken: set[str] = set()
        self._something = trio.Event()
        self.taking = trio.Lock()
        """Held while documents are taken over."""

    def __len__(self) -> int:
        return sum(len(lot) for lot in self._lots)

    def document(self, facts: SessionFacts) -> SessionDocument:
        """The document of a session that this worker has."""
        return SessionDocument(
            id=facts.id,
            user=facts.user_id,
            protocol=facts.protocol,
            server=self._server,
            worker=self._worker,
            created=facts.created_ms,
            last_activity=facts.active_ms,
            selected=facts.selected,
            capabilities=tuple(facts.capabilities),
            ip=facts.ip,
            user_agent=facts.user_agent,
            secure=facts.secure,
            state=facts.state,
        )

    # -- for whoever parks connections

    def keep(self, lot: Lot) -> None:
        """Look after the sessions of a lot from now on."""
        self._lots.append(lot)

    def enter(self, session_id: str, user_id: str, protocol: str) -> None:
        """A connection came from another worker and is parked."""
        self._hub.follow(user_id)
        telemetry.active_sessions.labels(protocol).inc()
        self.arrived(session_id)

    def leave(self, session_id: str, user_id: str, protocol: str) -> None:
        """A parked connection goes to another worker."""
        self.let_go(session_id)
        self._hub.unfollow(user_id)
        telemetry.active_sessions.labels(protocol).dec()

    def let_go(self, session_id: str) -> None:
        """Another worker has the session now, or soon: its document is not to be taken over any more."""
        self._untaken.discard(session_id)

    def unpark(self, session_id: str) -> None:
        """A connection is about to be served by a task again: its session is counted and its user followed."""
        self._counted.add(session_id)

    def claim(self, session_id: str) -> bool:
        """The task has begun; whether the session had been parked here."""
        if session_id not in self._counted:
            return False
        self._counted.discard(session_id)
        return True

    def end(self, facts: SessionFacts) -> None:
        """A parked connection is over. Its document goes soon."""
        self._counted.discard(facts.id)
        self.leave(facts.id, facts.user_id, facts.protocol)
        self._tracking.ended([self.document(facts)])
        self._unended.add(facts.id)
        self._something.set()

    def arrived(self, session_id: str) -> None:
        """A session was another worker's: its document is taken over soon."""
        self._untaken.add(session_id)
        self._something.set()

    async def take_over(self, ids: Sequence[str]) -> None:
        """Have the documents of sessions whose connections came from another worker, in one crossing for many: they
        do not end with that worker then. Those whose documents are gone are written again. An engine that is down is
        logged, and asked again later."""
        self._untaken.update(ids)
        try:
            await self._take_over()
        except WdError as error:
            log.warning("sessions not taken over yet", error=str(error), count=len(self._untaken))

    async def _take_over(self) -> None:
        async with self.taking:
            for ids in slices(list(self._untaken)):
                some = [id_ for id_ in ids if id_ in self._untaken]
                if not some:
                    continue  # they were let go of meanwhile
                gone = await self._gateway.run(self._store.move, some, self._server, self._worker)
                self._untaken.difference_update(some)
                await self._write_lost(gone)

    # -- for Sessions

    async def write(self) -> None:
        """Write what changed, renew the others in time. Unavailable."""
        if self._untaken:
            await self._take_over()
        for lot in self._lots:
            for some in slices(lot.take_changed(), MANY_DOCUMENTS):
                try:
                    await self._gateway.run(self._store.update, [self.document(facts) for facts in some])
                except BaseException:
                    lot.put_back({facts.id for facts in some})
                    raise
        if self._unended:
            await self.end_documents()
        now = self._clock()
        if self._renewed_at <= now - RENEW_S:
            self._renewed_at = now  # first: a doubt that comes in between counts
            try:
                for lot in self._lots:
                    for ids in slices(lot.ids()):
                        await self._write_lost(await self._gateway.run(self._store.touch, ids))
            except BaseException:
                self.doubt()
                raise

    async def _write_lost(self, gone: Collection[str]) -> None:
        """Connections outrank documents: write those again that are gone from the store."""
        for lot in self._lots if gone else ():
            lost = [self.document(facts) for facts in lot.facts(gone)]
            if lost:
                await self._gateway.run(self._store.update, lost)
                for document in lost:
                    self._tracking.began(document)

    def doubt(self) -> None:
        """The store may have lost its memory: look for every session with the next `write`."""
        self._renewed_at = float("-inf")

    def kick(self, ids: Collection[str], reason: str) -> None:
        for lot in self._lots if ids else ():
            lot.kick(ids, reason)

    async def run(self) -> None:
        """Take documents over, and end those of connections that are over, many at a time; until cancelled."""
        while True:
            await self._something.wait()
            self._something = trio.Event()
            await self.take_over(())
            await self.end_documents()

    async def end_documents(self) -> None:
        """End them now. An engine that is down is logged: they then go with the next batch that are over."""
        try:
            for some in slices(list(self._unended)):
                await self._gateway.run(self._store.end, some)
                self._unended.difference_update(some)
        except WdError as error:
            log.warning("sessions not ended in the store", error=str(error), count=len(self._unended))


def slices(items: Iterable[T], size: int = A_SLICE) -> Iterator[list[T]]:
    """The items, so many at a time."""
    left = iter(items)
    while some := list(itertools.islice(left, size)):
        yield some
