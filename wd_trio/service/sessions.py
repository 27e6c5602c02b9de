"""Sessions of authenticated connections: the worker's side of their documents (ports/sessions.py).

A protocol server begins a session at log-in, which takes one of the user's places and writes the document in one
crossing; says what it is at with `note`, which only remembers; and ends it with its connection. What was noted is
written every 30 s in one batch for all sessions of this worker that were active, and at once with `update`. Silent
ones are only renewed, long before their hour runs out.

A session ends with its connection, with its worker (`end_worker`, called by a sibling or the successor) or with
its server's lease, which every worker renews. To end one from elsewhere, it is marked in the store and a hint sent;
the worker that has it closes the connection. A lost hint costs the time to the next batch.

A connection outranks its document: when the engine was away, which may have cost its memory, the lease is renewed
and every session looked for at once, and what is missing is written again.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import structlog
import trio

from wd_trio import telemetry
from wd_trio.errors import Limited, Unavailable, WdError
from wd_trio.ports.bus import Hint
from wd_trio.ports.documents import Json
from wd_trio.ports.gateway import Gateway, writes
from wd_trio.ports.sessions import SessionDocument, SessionPage, SessionStore
from wd_trio.service.auth import Login
from wd_trio.service.changes import ChangeHub
from wd_trio.service.parked import A_SLICE, RENEW_S, ParkedSessions, SessionFacts, slices
from wd_trio.service.tracking import Tracking

log = structlog.get_logger()

RELEASE_S: Final = 6.0
REST_S: Final = 0.5
WRITE_S: Final = 30.0
LEASE_S: Final = 30.0
LEASE_RENEW_S: Final = 10.0
LEASE_AGAIN_S: Final = 1.0
USER_AGENT_CHARACTERS: Final = 200
KILL: Final = "kill"
"""The hint that some of a user's sessions are marked to be ended, and the word for why they ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    connections_per_user: int = 50
    clock: Callable[[], float] = time.time


class Peer(Protocol):
    """What a session tells of its connection."""

    @property
    def ip(self) -> str: ...

    @property
    def secure(self) -> bool: ...


class Session:
    """One session of this worker. Made by `Sessions.begin`.

    `describe`, where a protocol sets it, gives what is selected and the state when the document is written: a
    command then costs no more than a `touch`.
    """

    __slots__ = ("_active_at", "_clock", "_document", "changed", "describe", "kick", "written_at")

    def __init__(
        self, document: SessionDocument, kick: Callable[[str], None], clock: Callable[[], float]
    ) -> None:
        self._document = document
        self._clock = clock
        self._active_at = clock()
        self.kick = kick
        self.describe: Callable[[], tuple[str, Json]] | None = None
        self.changed = False
        self.written_at = clock()

    @property
    def id(self) -> str:
        return self._document.id

    @property
    def user_id(self) -> str:
        return self._document.user

    @property
    def protocol(self) -> str:
        return self._document.protocol

    @property
    def created_ms(self) -> int:
        return self._document.created

    @property
    def document(self) -> SessionDocument:
        """The document as it is to be written next."""
        news: dict[str, Any] = {"last_activity": int(self._active_at * 1000)}
        if self.describe is not None:
            news["selected"], state = self.describe()
            news["state"] = {key: value for key, value in state.items() if value is not None}
        return replace(self._document, **news)

    def touch(self) -> None:
        """The client was active."""
        self._active_at = self._clock()
        self.changed = True

    def note(
        self, *, selected: str | None = None, state: Json | None = None, user_agent: str | None = None
    ) -> None:
        """The client was active; and what of it is new. `state` is merged into what was noted before, where None
        takes a key away. Costs no crossing: it is written with the next batch, or with `Sessions.update`."""
        self.touch()
        news: dict[str, Any] = {}
        if selected is not None:
            news["selected"] = selected
        if user_agent is not None:
            news["user_agent"] = clean_user_agent(user_agent)
        if state is not None:
            merged = {**self._document.state, **state}
            news["state"] = {key: value for key, value in merged.items() if value is not None}
        self._document = replace(self._document, **news)


class Sessions:
    """The sessions of one worker. `run` has to run beside it."""

    def __init__(
        self,
        *,
        gateway: Gateway,
        store: SessionStore,
        hub: ChangeHub,
        tracking: Tracking,
        server: str,
        worker: str,
        options: SessionOptions,
    ) -> None:
        """`worker` names this process among those of `server`; no other ever had the name while the server ran."""
        self._gateway = gateway
        self._store = store
        self._hub = hub
        self._tracking = tracking
        self._server = server
        self._worker = worker
        self._options = options
        self._open: dict[str, Session] = {}
        self._unended: set[str] = set()
        self._leased_at = options.clock()
        self._doubted = False  # whether the store may lack what is open here
        self._doubts = 0  # what was written before one, and heard of after it, may be lost again
        self._engine_back = trio.Event()
        self._writing = trio.Lock()
        self._resting = False
        self._killing = trio.Event()
        self.parked = ParkedSessions(
            gateway=gateway,
            store=store,
            hub=hub,
            tracking=tracking,
            server=server,
            worker=worker,
            clock=options.clock,
        )
        hub.listen(self._hear)
        hub.on_new_beginning(self._engine_was_away)

    # -- for the protocol servers

    async def begin(
        self,
        login: Login,
        *,
        protocol: str,
        peer: Peer,
        kick: Callable[[str], None],
        capabilities: Sequence[str] = (),
        user_agent: str = "",
    ) -> Session:
        """Take one of the user's places for `protocol` and write the document, in one crossing.

        `kick` is called with a reason when somebody wants the session to end: it must make its connection end, in
        the protocol's words. Limited when every place is taken; Unavailable.
        """
        now_ms = int(self._options.clock() * 1000)
        document = SessionDocument(
            id="sess_" + secrets.token_hex(16),
            user=login.user_id,
            protocol=protocol,
            server=self._server,
            worker=self._worker,
            created=now_ms,
            last_activity=now_ms,
            capabilities=tuple(capabilities),
            ip=peer.ip,
            user_agent=clean_user_agent(user_agent),
            secure=peer.secure,
        )
        try:
            taken = await self._gateway.run(
                self._store.put, document, most=self._options.connections_per_user, lease_s=LEASE_S
            )
        except Unavailable:  # it may have been put for all that, and would take the place for an hour
            self._unended.add(document.id)
            raise
        if not taken:
            raise Limited("every connection of this user is taken", what="connections")
        self._tracking.began(document)
        return self._enter(document, kick)

    def _enter(self, document: SessionDocument, kick: Callable[[str], None]) -> Session:
        session = self._open[document.id] = Session(document, kick, self._options.clock)
        self._hub.follow(document.user)
        telemetry.active_sessions.labels(document.protocol).inc()
        return session

    def go_on(self, facts: SessionFacts, *, kick: Callable[[str], None]) -> Session:
        """Go on with a session whose connection was parked here, or came from another worker of this server together
        with all that a document needs: nobody is asked. `kick` as for `begin`."""
        document = self.parked.document(facts)
        if self.parked.claim(facts.id):
            session = self._open[facts.id] = Session(document, kick, self._options.clock)
        else:
            session = self._enter(document, kick)
            self.parked.arrived(facts.id)
        session.touch()
        return session

    def park(self, session: Session) -> None:
        """The connection parks: its session goes on with no object here. Whoever parks it keeps it in a lot, and what
        was noted is written from there."""
        self._open.pop(session.id, None)

    async def update(self, session: Session) -> None:
        """Write now what was noted. Unavailable."""
        await self._write([session])

    async def resume(self, session_id: str, *, kick: Callable[[str], None]) -> Session | None:
        """Go on with a session that another worker of this server had, in one crossing; None when its document is
        gone. `kick` as for `begin`. Unavailable."""
        document = await self._gateway.run(
            _take_over, self._store, session_id, server=self._server, worker=self._worker
        )
        return None if document is None else self._enter(document, kick)

    def let_go(self, session: Session) -> None:
        """Another worker goes on with it: forget it, ending nothing. What was noted since it was last written is
        lost with it."""
        if self._open.pop(session.id, None) is None:
            return
        self.parked.let_go(session.id)
        self._hub.unfollow(session.user_id)
        telemetry.active_sessions.labels(session.protocol).dec()

    def forsake(self, session_id: str) -> None:
        """The connection of a session that another worker had is over before it was gone on with: its document goes
        with the next batch."""
        self.parked.let_go(session_id)
        self._unended.add(session_id)

    async def end(self, session: Session) -> None:
        """The connection is over; idempotent, also on the way out of a cancelled one (bounded). An engine that is
        down is logged only: the document then goes with the next batch, or with this worker."""
        if session.id not in self._open:
            return
        self.let_go(session)
        self._tracking.ended([session.document])
        self._unended.add(session.id)
        with trio.move_on_after(RELEASE_S, shield=True):
            try:
                await self._end_ids([session.id])
            except Unavailable as error:
                log.warning("session not ended in the store", session=session.id, error=str(error))

    # -- for operators and the API

    async def page(self, *, after: str | None = None, limit: int = 100) -> SessionPage:
        """A page of all live sessions, of whatever server."""
        return await self._gateway.run(self._store.page, after=after, limit=limit)

    async def of_user(self, user_id: str) -> list[SessionDocument]:
        """A user's live sessions, oldest first."""
        return await self._gateway.run(self._store.of_users, [user_id])

    async def get(self, session_id: str) -> SessionDocument | None:
        """The live session of that id."""
        return await self._gateway.run(self._store.get, session_id)

    async def kill(self, user_id: str, session_ids: Sequence[str] | None = None) -> list[str]:
        """End sessions of a user, all of them or those of these ids, wherever their connections are; the ids of
        those that were live. Their workers close them soon after, or have done so before this returns. That all are
        to end is told even where there is none: some follow a user without a session."""
        live = [document.id for document in await self.of_user(user_id)]
        wanted = live if session_ids is None else [id_ for id_ in live if id_ in session_ids]
        if wanted:
            await self._gateway.run(self._store.doom, wanted)
        if wanted or session_ids is None:
            self._hub.publish(Hint(KILL, user_id))
        return wanted

    # -- for the process tree

    async def end_worker(self, worker: str) -> int:
        """End the sessions of a worker of this server that is gone; how many there were. Unavailable."""
        ended = await self._gateway.run(self._store.end_owner, self._server, worker)
        self._tracking.ended(ended)
        return len(ended)

    async def sweep(self) -> int:
        """End all sessions that nobody vouches for any more; how many there were. For the janitor. Unavailable."""
        count = 0
        while ended := await self._gateway.run(self._store.sweep, limit=A_SLICE):
            self._tracking.ended(ended)
            count += len(ended)
        return count

    async def run(self) -> None:
        """Renew the lease, write what was noted, end what is marked; until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tracking.run)
            nursery.start_soon(self._keep_lease)
            nursery.start_soon(self._write_now_and_then)
            nursery.start_soon(self._kill_marked)
            nursery.start_soon(self.parked.run)

    async def rest(self) -> None:
        """Write no more batches, and wait for what is being written or taken over, for a while: other workers take
        the sessions over now, and what came late would take them back."""
        self._resting = True
        with trio.move_on_after(REST_S):
            async with self._writing, self.parked.taking:
                pass

    async def _write_now_and_then(self) -> None:
        while not self._resting:
            try:
                async with self._writing:
                    await self.write()
            except WdError as error:
                log.warning("sessions not kept up", error=str(error), what=error.what)
            await trio.sleep(WRITE_S)

    async def _keep_lease(self) -> None:
        """Renew the lease in time; soon again where that failed, and at once when the engine is back."""
        complained = False
        while True:
            self._engine_back = trio.Event()
            pause_s = LEASE_RENEW_S
            try:
                await self._renew_lease()
                complained = False
            except WdError as error:
                if not complained:
                    log.warning("lease not renewed", error=str(error), what=error.what)
                complained, pause_s = True, LEASE_AGAIN_S
            with trio.move_on_after(pause_s):
                await self._engine_back.wait()

    async def _renew_lease(self) -> None:
        """Renew it, and write what the store may lack: never before, or it would be a dead server's."""
        await self._gateway.run(self._store.lease, self._server, ttl_s=LEASE_S)
        late = self._options.clock() - self._leased_at > LEASE_S
        self._leased_at = self._options.clock()
        if late:  # this process hung, or the engine: somebody may have swept what it has
            self._doubt()
        if self._doubted:
            self._doubted = False
            try:
                await self.write()
            except BaseException:
                self._doubted = True
                raise

    def _engine_was_away(self) -> None:
        self._doubt()
        self._engine_back.set()

    def _doubt(self) -> None:
        self._doubted = True
        self._doubts += 1
        self.parked.doubt()
        for session in self._open.values():
            session.written_at = 0.0

    # -- writing

    async def write(self) -> None:
        """Write all sessions that were active, renew the silent ones, end those that could not be ended before,
        and look for those that are marked. Unavailable."""
        if self._unended:
            await self._end_ids(list(self._unended))
        self._killing.set()
        for some in slices([session for session in self._open.values() if session.changed]):
            await self._write([session for session in some if session.id in self._open])
        renew = self._options.clock() - RENEW_S
        for some in slices([session for session in self._open.values() if session.written_at <= renew]):
            await self._renew([session for session in some if session.id in self._open])
        await self.parked.write()

    async def _write(self, sessions: Sequence[Session]) -> None:
        now, doubts = self._options.clock(), self._doubts
        for session in sessions:
            session.changed = False
        try:
            await self._gateway.run(self._store.update, [session.document for session in sessions])
        except BaseException:
            for session in sessions:
                session.changed = True
            raise
        self._note_written(sessions, now, doubts)

    async def _renew(self, sessions: Sequence[Session]) -> None:
        now, doubts = self._options.clock(), self._doubts
        gone = await self._gateway.run(self._store.touch, [session.id for session in sessions])
        self._note_written(sessions, now, doubts)
        # Swept while this worker hung, or lost with the engine's memory: the connections are still here.
        lost = [session for session in sessions if session.id in gone and session.id in self._open]
        if lost:
            await self._write(lost)
            for session in lost:
                self._tracking.began(session.document)

    def _note_written(self, sessions: Sequence[Session], now: float, doubts: int) -> None:
        if doubts == self._doubts:
            for session in sessions:
                session.written_at = now

    async def _end_ids(self, ids: Sequence[str]) -> None:
        await self._gateway.run(self._store.end, ids)
        self._unended.difference_update(ids)

    # -- killing

    def _hear(self, hint: Hint) -> None:
        if hint.kind == KILL and self._hub.follows(hint.user_id):
            self._killing.set()

    async def _kill_marked(self) -> None:
        while True:
            await self._killing.wait()
            self._killing = trio.Event()
            if not self._open and not len(self.parked):
                continue
            try:
                marked = await self._gateway.run(self._store.doomed, self._server, self._worker)
            except WdError as error:
                log.warning("marked sessions not read", error=str(error))
                continue
            for id_ in marked:
                session = self._open.get(id_)
                if session is not None:
                    log.info("session killed", session=id_, user=session.user_id)
                    session.kick(KILL)
            self.parked.kick({id_ for id_ in marked if id_ not in self._open}, KILL)


@writes("state")
def _take_over(store: SessionStore, session_id: str, *, server: str, worker: str) -> SessionDocument | None:
    """A session's document, which is this worker's from now on; None when it is gone. One crossing."""
    return None if store.move([session_id], server, worker) else store.get(session_id)


def clean_user_agent(text: str) -> str:
    """What a client says of itself, printable and bounded."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:USER_AGENT_CHARACTERS])
