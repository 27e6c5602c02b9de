"""Going on with a connection from its slot alone: one that another worker had, or that was parked.

Nothing is said but what the client is owed. Before log-in the slot has all; after it, the session is this worker's
again at once, and a selected mailbox is read anew: what lives in it and what changed since the client was last told
give back exactly what its message numbers stand for (mail/view.py), and what is still to be told. The client's input
waits meanwhile.

A command that was in progress when its worker died, and of which nothing was said, is answered with NO: it has not
been done. One that may have changed mail might have been done: where its last write has noted what it came to
(mail/outcome.py), that is the answer, beside the news that the mailbox has; else the connection ends: a NO that is
not true would make clients do it twice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import structlog
import trio

from wd_trio.errors import NotFound, Outdated, Unavailable
from wd_trio.mail.model import Changes, Opened
from wd_trio.mail.outcome import Origin, Outcome
from wd_trio.mail.view import Told, View
from wd_trio.proto.imap import encode
from wd_trio.servers.driver import ConnectionOver
from wd_trio.servers.imap.options import PROTOCOL
from wd_trio.servers.imap.selected import Selected
from wd_trio.servers.imap.session import ImapSession, MailboxLost
from wd_trio.servers.imap.standing import EXPUNGE, SELECT, STORE
from wd_trio.servers.slots import Phase, Progress, Slot, Standing
from wd_trio.service.auth import Login
from wd_trio.service.parked import SessionFacts

T = TypeVar("T")

log = structlog.get_logger()

PATIENCE_S: Final = 30.0
AGAIN_S: Final = 0.5


class EngineAway(ConnectionOver):
    """The store did not answer for long, so nobody can say what the client's numbers stand for."""

    def __init__(self) -> None:
        super().__init__("engine away")


class OutcomeUnknown(ConnectionOver):
    """A command that writes was in progress, and whether it was done is not known."""

    def __init__(self) -> None:
        super().__init__("outcome unknown")


async def resume(session: ImapSession) -> None:
    """Bring a new session object to where its connection's slot stands. MailboxLost, EngineAway, OutcomeUnknown; and
    whatever else ends or moves the connection meanwhile, which leaves the slot as it was."""
    slot = session.connection.slot
    session.failed_logins, session.user_agent = slot.attempts, slot.user_agent
    left_s = slot.until_s - session.options.clock() if slot.until_s else None
    if slot.phase != Phase.OPEN:
        if left_s is not None:
            session.login_until = trio.current_time() + left_s
    else:
        # Within a command the client has just been heard, whatever the slot tells.
        if left_s is not None and not slot.progress & Progress.BUSY:
            session.heard_at = trio.current_time() + left_s - session.options.idle_timeout_s
        session.waited = True
        _log_in_again(session, slot)
        outcome = await _outcome(session, slot) if slot.progress & Progress.WRITING else None
        await _go_on(session, slot)
        if outcome is not None:
            await _answer(session, slot, outcome)
            return
    if slot.progress & Progress.BUSY:
        session.no(slot.tag, "Interrupted, try again", "UNAVAILABLE")


def _log_in_again(session: ImapSession, slot: Slot) -> None:
    """The session is this worker's to end from now on, whatever comes."""
    sessions, connection, engine = session.services.sessions, session.connection, session.engine
    quota_bytes = slot.quota_bytes
    session.login = Login(slot.user, "", "", None if quota_bytes < 0 else quota_bytes)
    session.record = sessions.go_on(facts_of(slot, session.capabilities()), kick=connection.kick)
    session.record.describe = session.describe
    engine.authenticated()
    engine.utf8 = slot.has(Standing.UTF8)
    session.condstore, session.qresync = slot.has(Standing.CONDSTORE), slot.has(Standing.QRESYNC)


async def _go_on(session: ImapSession, slot: Slot) -> None:
    """The mailbox, and IDLE."""
    engine = session.engine
    interrupted = slot.command if slot.progress & Progress.BUSY else 0
    # A SELECT that fails leaves no mailbox selected (RFC 3501 §6.3.1).
    if slot.has(Standing.SELECTED) and interrupted != SELECT:
        session.selected = await _patiently(session, lambda: _select_again(session, slot))
        engine.selected()
        if slot.has(Standing.BEHIND):
            session.selected.be_behind()
    if slot.has(Standing.IDLE) and not interrupted:
        session.idle_tag = slot.tag
        engine.go_on_idling(slot.tag)


async def _outcome(session: ImapSession, slot: Slot) -> Outcome:
    """What the command in progress came to. OutcomeUnknown when no write of it tells: one may still be on its way."""
    origin = Origin(slot.session, slot.serial)
    outcome = await _patiently(session, lambda: session.services.messages.outcome(origin))
    if outcome is None:
        raise OutcomeUnknown
    return outcome


async def _answer(session: ImapSession, slot: Slot, outcome: Outcome) -> None:
    """The rest of the reply to a command that was done: the news, its own among them, and the tagged OK."""
    code = ""
    if outcome.sources:
        code = encode.copyuid(outcome.uid_validity, outcome.sources, outcome.targets)
    elif outcome.targets:
        code = f"APPENDUID {outcome.uid_validity} {outcome.targets.first}"
    await session.sync(may_expunge=slot.command != STORE)
    if slot.command == EXPUNGE:
        code = session.removal_code()
    session.ok(slot.tag, "Completed", code)


async def _patiently(session: ImapSession, ask: Callable[[], Awaitable[T]]) -> T:
    """What the store tells, asked again and again while the engine is away."""
    until = trio.current_time() + PATIENCE_S
    while True:
        session.connection.heed()
        try:
            return await ask()
        except (NotFound, Outdated) as error:
            log.info("mailbox lost", connection=session.connection.peer.id, error=str(error))
            raise MailboxLost from error
        except Unavailable as error:
            if trio.current_time() >= until:
                raise EngineAway from error
        await trio.sleep(AGAIN_S)


async def _select_again(session: ImapSession, slot: Slot) -> Selected:
    """One crossing; another for each page of changes since the client was told. Outdated when its numbers cannot be
    kept."""
    services = session.services
    told = Told(slot.uid_validity, slot.uid_next, slot.expunges_told, slot.flags_told)
    opened, living = await services.mailboxes.reopen(slot.user, slot.mailbox)
    changes = await _changes(session, opened, told)
    view = View.rebuild(told, living, changes)
    if len(view) != slot.exists:
        raise Outdated(f"{len(view)} messages where the client knows of {slot.exists}", what="mailbox")
    return Selected(
        opened,
        living,
        read_only=slot.has(Standing.READ_ONLY),
        hub=services.hub,
        on_change=session.connection.wake,
        view=view,
    )


async def _changes(session: ImapSession, opened: Opened, told: Told) -> Changes:
    """Everything since the client was told."""
    mailbox, since = opened.mailbox, min(told.expunges_told, told.flags_told)
    if mailbox.uid_validity != told.uid_validity:
        raise Outdated("the mailbox is another one now", what="mailbox")
    if mailbox.highest_modseq == since:
        return Changes(since, since, told.uid_next, (), ())
    spans = [span async for span in session.services.messages.changes_since(mailbox.id, since)]
    return Changes(
        since,
        spans[-1].modseq,
        max(span.uid_next for span in spans),
        [row for span in spans for row in span.rows],
        [vanished for span in spans for vanished in span.vanished],
    )


def facts_of(slot: Slot, capabilities: Sequence[str], active_ms: int = 0) -> SessionFacts:
    """What a slot tells of its session."""
    standing = slot.standing
    switches = (
        (Standing.CONDSTORE, "CONDSTORE"),
        (Standing.QRESYNC, "QRESYNC"),
        (Standing.UTF8, "UTF8=ACCEPT"),
    )
    state: dict[str, object] = {"enabled": [name for flag, name in switches if standing & flag]}
    if standing & Standing.IDLE:
        state["idle"] = slot.tag
    if standing & Standing.SELECTED:
        state["readOnly"] = bool(standing & Standing.READ_ONLY)
        state["view"] = [slot.uid_validity, slot.uid_next, slot.expunges_told, slot.flags_told]
    return SessionFacts(
        id=slot.session,
        user_id=slot.user,
        protocol=PROTOCOL,
        created_ms=slot.created_ms,
        active_ms=active_ms,
        ip=slot.ip,
        secure=bool(standing & Standing.SECURE),
        capabilities=capabilities,
        user_agent=slot.user_agent,
        selected=slot.mailbox,
        state=state,
    )
