"""One LMTP connection (RFC 2033): events of the engine in, replies out.

- Replies gather while whole commands are buffered and go out in one send before the next read: a pipelined batch
  costs one write. A batch that produces much is flushed on the way and gives way to others, so that neither
  memory nor everybody else's wait grows with what one client pipelines.
- The message streams into a spool; awaiting the spool is the back-pressure. After the dot every accepted
  recipient gets its own reply, positive only after its durable commit. What goes wrong on our side is 451.
- A drain ends the session with 421 at the next read outside DATA; a message on its way is finished and answered
  first. A peer that vanishes before the dot has delivered nothing; one that vanishes after it may find the message
  delivered and send it again: LMTP knows no better.
- Where another worker can go on, the connection leaves between two transactions instead of being told 421: the slot
  (servers/slots.py) says whether LHLO was said, and by whom, and nothing else is to be known then. Within a
  transaction the connection is FIXED, and closed when its worker dies: the MTA sends the message again.
- The spool is closed on every way out.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from wd_trio import errors, telemetry
from wd_trio.proto.lmtp import replies
from wd_trio.proto.lmtp.commands import (
    PARSERS,
    Command,
    Data,
    Help,
    Lhlo,
    Mail,
    Noop,
    Quit,
    Rcpt,
    Rset,
    StartTls,
    Vrfy,
)
from wd_trio.proto.lmtp.engine import EngineOptions, LmtpEngine
from wd_trio.proto.lmtp.events import CommandEvent, Fatal, MessageData, NeedData, Reply
from wd_trio.servers.driver import MOVED, Connection, ConnectionOver, Draining, IdleTooLong, Moving
from wd_trio.servers.lmtp.errors import data_reply, error_reply
from wd_trio.servers.slots import TAG_BYTES, Phase, Progress, Standing
from wd_trio.service.delivery import Delivery
from wd_trio.service.recipients import Recipient
from wd_trio.service.spool import MEMORY_BYTES, Spool
from wd_trio.service.trace import Trace

FLUSH_BYTES: Final = 4 << 10  # some hundred replies

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class LmtpServices:
    delivery: Delivery


@dataclass(frozen=True, slots=True, kw_only=True)
class LmtpOptions:
    hostname: str = "localhost"
    idle_timeout_s: float = 300.0
    message_bytes: int = 64 << 20
    recipients: int = 1000
    spool_memory_bytes: int = MEMORY_BYTES
    starttls: bool = False
    """Whether there is a certificate to begin TLS with."""


async def serve_lmtp(connection: Connection, services: LmtpServices, options: LmtpOptions) -> str:
    """Serve one connection to its end; why it ended, in a fixed word. Errors: ConnectionOver."""
    return await _Session(connection, services, options).run()


_seconds: Final = {name: telemetry.request_seconds.labels("lmtp", name) for name in PARSERS}

_PLAIN: Final[dict[type[Command], bytes]] = {
    Rset: replies.OK,
    Noop: replies.OK,
    Vrfy: replies.CANNOT_VERIFY,
    Help: replies.HELP,
    Quit: replies.BYE,
    Data: replies.GO_AHEAD,
}


class _Session:
    def __init__(self, connection: Connection, services: LmtpServices, options: LmtpOptions) -> None:
        self._connection = connection
        self._services = services
        self._options = options
        self._engine = LmtpEngine(
            EngineOptions(max_message_bytes=options.message_bytes, max_recipients=options.recipients)
        )
        self._out = bytearray()
        self._capabilities = b""
        self._offer()
        slot = connection.slot
        self._lhlo = slot.tag
        if slot.phase == Phase.ARRIVED:
            self._out += replies.greeting(options.hostname)
        else:
            self._engine.resume(greeted=slot.has(Standing.HELLO))
        self._mail = Mail("")
        self._recipients: list[Recipient] = []
        self._tally = telemetry.open_tally("lmtp")

    async def run(self) -> str:
        try:
            return await self._serve()
        except Moving:
            return await self._move()
        except Draining:
            return await self._last_words(replies.DRAINING, "drain")
        except IdleTooLong:
            return await self._last_words(replies.IDLE, "idle")

    async def _serve(self) -> str:
        while True:
            self._heed_move()
            match self._engine.next_event():
                case NeedData():
                    if not await self._receive():
                        return "closed"
                case CommandEvent() as event:
                    begun = time.perf_counter()
                    await self._command(event.command)
                    self._tally.count(event.name)
                    if isinstance(event.command, Quit):
                        await self._flush()
                        return "quit"
                    if isinstance(event.command, StartTls) and not await self._upgrade():
                        return await self._last_words(replies.NOT_IN_CLEAR, "protocol")
                    if not isinstance(event.command, Data):
                        _seconds[event.name].observe(time.perf_counter() - begun)
                case Reply(data):
                    self._out += data
                case Fatal(data):
                    return await self._last_words(data, "refused")
                case MessageData():
                    raise RuntimeError("message data outside of DATA")
            if len(self._out) > FLUSH_BYTES:
                await self._flush()
                await trio.lowlevel.checkpoint()

    async def _receive(self, *, through_drain: bool = False) -> bool:
        """Send what is pending, then read more; False at the end of the stream."""
        await self._flush()
        self._settle()
        self._heed_move()
        connection, timeout_s = self._connection, self._options.idle_timeout_s
        through_drain = through_drain or connection.moving  # until the transaction is over
        try:
            data = await connection.receive(timeout_s=timeout_s, through_drain=through_drain)
        except Moving:
            return await self._receive()
        if not data:
            return False
        self._engine.receive(data)
        return True

    @property
    def _fits(self) -> bool:
        """Whether the slot has room for the client's name."""
        return len(self._lhlo.encode()) <= TAG_BYTES

    def _settle(self, *, upgrading: bool = False) -> None:
        """Everything that was read was dealt with, but for a line that has not ended or was brought along, and
        everything was said. `upgrading`: nobody may go on with it in clear."""
        slot, engine = self._connection.slot, self._engine
        slot.phase = Phase.GREETED
        if not engine.movable or not self._fits:
            slot.progress = Progress.FIXED
            return
        slot.tag = self._lhlo
        if self._lhlo:
            slot.standing |= Standing.HELLO
        left = Progress.READING if engine.buffered_bytes or self._connection.unread else 0
        slot.progress = Progress.FIXED if upgrading else left

    def _heed_move(self) -> None:
        """Between two transactions: Moving when the connection is to leave; Draining when the slot has no room for
        what it is."""
        if self._connection.moving and self._engine.movable:
            raise Moving if self._fits else Draining

    async def _move(self) -> str:
        await self._flush()
        self._settle()
        self._connection.leave(MOVED, self._engine.take_unread() + self._connection.unread)
        return MOVED

    async def _flush(self) -> None:
        if self._out:
            out, self._out = self._out, bytearray()
            await self._connection.send(out)

    async def _last_words(self, data: bytes, reason: str) -> str:
        self._out += data
        await self._flush()
        await self._connection.finish(reason)
        return reason

    async def _command(self, command: Command) -> None:
        match command:
            case Lhlo(name):
                self._lhlo = name
                self._recipients.clear()
                self._accept(self._capabilities)
            case Mail():
                self._mail = command
                self._recipients.clear()
                self._accept(replies.SENDER_OK)
            case Rcpt(address):
                await self._recipient(address)
            case Data():
                self._accept(replies.GO_AHEAD)
                await self._message()
            case StartTls():
                pass  # answered where it is done
            case _:
                self._accept(_PLAIN[type(command)])

    def _accept(self, data: bytes) -> None:
        self._engine.accepted()
        self._out += data

    @property
    def _offers_tls(self) -> bool:
        return self._options.starttls and self._connection.can_upgrade

    async def _upgrade(self) -> bool:
        """Begin TLS (RFC 3207): here, or the connection leaves for where it ends (ConnectionOver). False when
        something stands behind the command in clear, which must not be taken for what comes under TLS."""
        if self._engine.buffered_bytes or self._connection.unread:
            return False
        self._accept(replies.BEGIN_TLS)
        await self._flush()
        self._lhlo = ""  # it is to be said again
        self._connection.slot.standing &= ~Standing.HELLO
        self._settle(upgrading=True)
        await self._connection.upgrade()
        self._offer()
        return True

    def _offer(self) -> None:
        """What the engine takes and LHLO tells: not the same before TLS and under it."""
        starttls = self._engine.starttls = self._offers_tls
        options = self._options
        self._capabilities = replies.capabilities(options.hostname, options.message_bytes, starttls=starttls)

    async def _recipient(self, address: str) -> None:
        if "@" not in address:  # postmaster alone (RFC 5321 §4.1.1.3) is the one here
            address = f"{address}@{self._options.hostname}"
        try:
            recipient = await self._services.delivery.resolve(address, size_bytes=self._mail.size)
        except errors.WdError as error:
            self._out += error_reply(error)
            return
        self._recipients.append(recipient)
        self._accept(replies.RECIPIENT_OK)

    async def _message(self) -> None:
        """Take the message in, then answer once for each accepted recipient (RFC 2033 §4.2)."""
        recipients, self._recipients = self._recipients, []
        options = self._options
        with self._services.delivery.spool(
            most_bytes=options.message_bytes, memory_bytes=options.spool_memory_bytes
        ) as spool:
            trouble = await self._spool(spool)
            begun = time.perf_counter()
            if trouble is not None:
                self._out += data_reply(trouble) * len(recipients)
                telemetry.deliveries_total.labels("failed").inc(len(recipients))
            elif spool.over:
                self._out += replies.TOO_BIG * len(recipients)
                telemetry.deliveries_total.labels("too_big").inc(len(recipients))
            else:
                await self._deliver(recipients, spool)
        _seconds["DATA"].observe(time.perf_counter() - begun)

    async def _spool(self, spool: Spool) -> errors.WdError | None:
        """Read to the final dot, whatever happens to the spool; what happened to it."""
        trouble: errors.WdError | None = None
        while True:
            match self._engine.next_event():
                case NeedData():
                    if not await self._receive(through_drain=True):
                        raise ConnectionOver("closed")
                case MessageData(data, last):
                    if trouble is None and data:
                        try:
                            await spool.write(data)
                        except errors.WdError as error:
                            log.warning("message not spooled", error=str(error))
                            spool.close()
                            trouble = error
                    if last:
                        return trouble
                case event:
                    raise RuntimeError(f"event in DATA: {type(event).__name__}")

    async def _deliver(self, recipients: list[Recipient], spool: Spool) -> None:
        peer = self._connection.peer
        trace = Trace(lhlo=self._lhlo, ip=peer.ip, secure=peer.secure, utf8=self._mail.smtputf8)
        verdicts = await self._services.delivery.deliver(recipients, spool, self._mail.sender, trace)
        name = f", id {trace.id}"
        stored = replies.reply(250, "2.0.0", f"Stored{name}")
        for verdict in verdicts:
            self._out += stored if verdict.error is None else data_reply(verdict.error, name)
        log.info(
            "message taken",
            id=trace.id,
            connection=peer.id,
            size=spool.size,
            recipients=len(verdicts),
            stored=sum(verdict.error is None for verdict in verdicts),
        )
