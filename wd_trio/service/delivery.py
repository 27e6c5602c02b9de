"""Delivery: whom an address means, and one durable append for each recipient of a message.

- A message is scanned once and its large bodies are kept once; every recipient's append is a transaction of its
  own, many at a time, so that the engine commits them together. Each recipient gets its own verdict.
- The same address asked for twice is one copy and two equal verdicts: the sender counts replies, the reader
  wants one message. Two addresses of one user are two copies: their Delivered-To differ.
- After its commit, and never before, an append is hinted.
- Whatever goes wrong and is not the recipient's fault is Unavailable: the sending server keeps the message and
  tries again. A fault of our own must never bounce mail.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import structlog
import trio

from wd_trio import errors, telemetry
from wd_trio.mail.address import normalise
from wd_trio.mail.model import Appended, BlobData, Changes, Content, NewMessage
from wd_trio.ports.bus import Hint
from wd_trio.ports.gateway import Gateway, writes
from wd_trio.ports.mail import MailStore
from wd_trio.service.changes import ChangeHub
from wd_trio.service.intake import Intake, Scanned
from wd_trio.service.recipients import Recipient
from wd_trio.service.spool import MEMORY_BYTES, Spool
from wd_trio.service.trace import Trace, trace_headers
from wd_trio.service.users import Users

APPENDS_AT_ONCE: Final = 100

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryOptions:
    hostname: str = "localhost"
    mailbox: str = "INBOX"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the message for one recipient: `error` is None once it is durably stored."""

    recipient: Recipient
    error: errors.WdError | None


class Delivery:
    def __init__(
        self,
        *,
        gateway: Gateway,
        store: MailStore,
        users: Users,
        intake: Intake,
        hub: ChangeHub,
        options: DeliveryOptions | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._gateway = gateway
        self._store = store
        self._users = users
        self._intake = intake
        self._hub = hub
        self._options = options or DeliveryOptions()
        self._now = now

    def spool(self, *, most_bytes: int, memory_bytes: int = MEMORY_BYTES) -> Spool:
        """A place for a message that comes in; the caller closes it."""
        return Spool(self._gateway, most_bytes=most_bytes, memory_bytes=memory_bytes)

    async def resolve(self, address: str, *, size_bytes: int = 0) -> Recipient:
        """Whom `address` means, as a Recipient of this very address (normalised, its +detail included).

        NotFound; Denied when disabled; Invalid; Unavailable; OverQuota when there is no room for `size_bytes`
        more (the append has the last word: this only spares the sender the message). A refusal is counted.
        """
        try:
            return await self._resolve(address, size_bytes)
        except errors.WdError as error:
            telemetry.deliveries_total.labels(_result(error)).inc()
            raise

    async def _resolve(self, address: str, size_bytes: int) -> Recipient:
        recipient = replace(await self._users.resolve(address), address=normalise(address))
        if recipient.quota_bytes is not None:
            usage = await self._gateway.run(self._store.usage, recipient.user_id)
            if usage.size_bytes + max(size_bytes, 1) > recipient.quota_bytes:
                raise errors.OverQuota("no room", what="mailbox")
        return recipient

    async def deliver(
        self, recipients: Sequence[Recipient], spool: Spool, sender: str, trace: Trace
    ) -> list[Verdict]:
        """Store the spooled message for every recipient; one verdict each, in order. Raises nothing expected."""
        once = {_key(recipient): recipient for recipient in recipients}
        job = _Job(self, tuple(once.values()), sender, trace, self._now())
        failure: errors.WdError = errors.Unavailable("not attempted", what="delivery")
        try:
            await job.run(self._intake, spool)
        except errors.WdError as error:
            log.warning("message not stored", id=trace.id, error=str(error))
            failure = error
        except Exception:
            log.exception("message not stored", id=trace.id)
            failure = errors.Unavailable("unexpected failure", what="delivery")
        verdicts: list[Verdict] = []
        for recipient in recipients:
            outcome = job.outcomes.get(_key(recipient), failure)
            telemetry.deliveries_total.labels(_result(outcome)).inc()
            verdicts.append(Verdict(recipient, outcome))
        return verdicts

    async def append(self, recipient: Recipient, content: Content, scanned: Scanned, date: int) -> None:
        """One recipient's transaction and its hint. Errors: NotFound for a user who is gone since RCPT, OverQuota,
        Unavailable, Conflict."""
        message = NewMessage(content, date)
        appended = await self._gateway.run(self._append_in_thread, recipient, message, scanned.blobs)
        try:
            self._hub.publish(_hint(appended))
        except Exception:  # the message is stored: a hint that fails costs others time, not this verdict
            log.exception("hint failed", mailbox=appended.mailbox_id)

    @writes("store")
    def _append_in_thread(
        self, recipient: Recipient, message: NewMessage, blobs: Sequence[BlobData]
    ) -> Appended:
        """A mailbox goes with its user, so one that is there says that the user is; none is ever made for nobody."""
        append = partial(
            self._store.append,
            recipient.user_id,
            self._options.mailbox,
            [message],
            blobs=blobs,
            quota_bytes=recipient.quota_bytes,
        )
        try:
            return append()
        except errors.NotFound:
            self._users.require(recipient.user_id)
            return append(create=True)

    def prefix(self, recipient: Recipient, sender: str, trace: Trace, date: float) -> bytes:
        return trace_headers(
            sender=sender,
            recipient=recipient.address,
            hostname=self._options.hostname,
            trace=trace,
            date=date,
        )


class _Job:
    """One message on its way to its recipients; `outcomes` fills as they are done."""

    def __init__(
        self, delivery: Delivery, recipients: Sequence[Recipient], sender: str, trace: Trace, date: float
    ) -> None:
        self._delivery = delivery
        self._recipients = recipients
        self._sender = sender
        self._trace = trace
        self._date = date
        self.outcomes: dict[tuple[str, str], errors.WdError | None] = {}

    async def run(self, intake: Intake, spool: Spool) -> None:
        """Scan, then append in waves, so that a message for thousands holds only a wave's contents."""
        scanned = await intake.scan(spool, copies=len(self._recipients))
        for start in range(0, len(self._recipients), APPENDS_AT_ONCE):
            wave = self._recipients[start : start + APPENDS_AT_ONCE]
            contents = await intake.contents(scanned, self._prefixes(wave))
            async with trio.open_nursery() as nursery:
                for recipient, content in zip(wave, contents, strict=True):
                    nursery.start_soon(self._append, recipient, content, scanned)

    def _prefixes(self, wave: Iterable[Recipient]) -> list[bytes]:
        return [self._delivery.prefix(r, self._sender, self._trace, self._date) for r in wave]

    async def _append(self, recipient: Recipient, content: Content, scanned: Scanned) -> None:
        outcome: errors.WdError | None = None
        try:
            await self._delivery.append(recipient, content, scanned, int(self._date))
        except errors.OverQuota as error:
            outcome = error
        except errors.WdError as error:
            log.warning("delivery failed", id=self._trace.id, user=recipient.user_id, error=str(error))
            outcome = error
        except Exception:
            log.exception("delivery failed", id=self._trace.id, user=recipient.user_id)
            outcome = errors.Unavailable("unexpected failure", what="delivery")
        self.outcomes[_key(recipient)] = outcome


def _key(recipient: Recipient) -> tuple[str, str]:
    return recipient.user_id, recipient.address


def _hint(appended: Appended) -> Hint:
    changes = Changes(
        since=appended.previous_modseq,
        modseq=appended.modseq,
        uid_next=appended.uids[-1] + 1,
        rows=appended.rows,
    )
    return Hint(
        "mailbox",
        appended.user_id,
        appended.mailbox_id,
        appended.previous_modseq,
        appended.modseq,
        changes,
    )


def _result(error: errors.WdError | None) -> str:
    if error is None:
        return "delivered"
    if isinstance(error, errors.OverQuota):
        return "over_quota"
    return "refused" if isinstance(error, errors.NotFound | errors.Denied | errors.Invalid) else "failed"
