"""The bus of the cluster engine: hints by Redis' pub/sub.

A hint about a mailbox goes to the channel of its user, `changes:{<user>}`, which a process subscribes to only while
it follows the user. The other kinds (an account, its folders, marks to end sessions) are few and small, and caches
of any process live by them: they go to `accounts`, which every process reads.

Publishing only queues. One task (`run`) takes what is queued and hands it to the gateway, where it joins the pipeline
of whatever else is written at the moment. What cannot be sent waits and is tried again. A full queue is dropped, and
what was dropped becomes an order to resync for the users concerned. Pub/sub gives a publisher its own messages too:
each begins with eight octets that say whose it is.
"""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Sequence
from typing import Final

import msgspec
import structlog
import trio

from wd_trio import telemetry
from wd_trio.adapters.hints import ENCODED_RESYNC, datagrams, decode_datagram, encode_hint
from wd_trio.adapters.mongo_redis.pipeline import RedisLink, Steps, steps
from wd_trio.adapters.mongo_redis.redis_reader import Reader
from wd_trio.errors import Unavailable
from wd_trio.ports.bus import Hint, Resync
from wd_trio.ports.gateway import Gateway, reads

log = structlog.get_logger()

ACCOUNTS: Final = "accounts"
QUEUE_HINTS: Final = 4000
INBOX_ITEMS: Final = 4000
RESYNCED_USERS: Final = 1000
HINTS_A_BATCH: Final = 500
RETRY_S: Final = 0.5
FLUSH_S: Final = 2.0
_SENDER_BYTES: Final = 8
_EVERYBODY: Final = ""


class RedisBus:
    """ports.bus.Bus; `run` has to run beside it. Its first word to its reader is Resync."""

    def __init__(self, link: RedisLink, gateway: Gateway) -> None:
        self.link = link
        self._gateway = gateway
        self._sender = secrets.token_bytes(_SENDER_BYTES)
        self._queue: deque[Hint] = deque()
        self._stale: set[str] = set()  # users to be told to resync, "" for everybody
        self._some = trio.Event()
        self._flushed = trio.Event()  # set while nothing that was published waits
        self._flushed.set()
        self._inbox: deque[Hint | Resync] = deque()
        self._inbox_lock = threading.Lock()
        self._arrived = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._publish = ""
        self._reader = Reader(link, self)
        self._reader.keep(ACCOUNTS)

    # -- for the loop

    def publish_nowait(self, hint: Hint) -> None:
        if len(self._queue) >= QUEUE_HINTS:
            telemetry.hints_total.labels("dropped").inc(len(self._queue))
            self._stale |= {queued.user_id for queued in self._queue}
            self._queue.clear()
            if len(self._stale) > RESYNCED_USERS:
                self._stale = {_EVERYBODY}
        self._queue.append(hint)
        if self._flushed.is_set():
            self._flushed = trio.Event()
        self._some.set()

    def follow(self, user_id: str) -> None:
        self._reader.keep(_channel(user_id))

    def unfollow(self, user_id: str) -> None:
        self._reader.leave(_channel(user_id))

    async def receive(self) -> Sequence[Hint | Resync]:
        """What came since the last call; at least one. Never raises: an engine that is gone comes back."""
        while True:
            await self._arrived.wait()
            self._arrived = trio.Event()
            with self._inbox_lock:
                items, self._inbox = self._inbox, deque()
            if items:
                return list(items)

    async def run(self) -> None:
        """Read the subscriptions and send what is published, until cancelled."""
        self._token = trio.lowlevel.current_trio_token()
        self._reader.start()
        try:
            while True:
                await self._some.wait()
                self._some = trio.Event()
                while self._queue or self._stale:
                    await self._send_some()
                self._flushed.set()
        finally:
            self._reader.close()

    async def flush(self) -> None:
        """Wait until what was published is sent, but not for long: an engine that is gone must hold up nobody."""
        with trio.move_on_after(FLUSH_S):
            await self._flushed.wait()

    def close(self) -> None:
        """End the subscriptions, for a bus whose `run` never ran. Idempotent."""
        self._reader.close()

    async def _send_some(self) -> None:
        stale, self._stale = self._stale, set()
        batch = [self._queue.popleft() for _ in range(min(len(self._queue), HINTS_A_BATCH))]
        try:
            await self._gateway.run(self.send, self._messages(stale, batch))
        except BaseException as error:
            self._stale |= stale
            self._queue.extendleft(reversed(batch))
            if not isinstance(error, Unavailable):
                raise
            log.debug("hints wait", hints=len(self._queue), error=str(error))
            await trio.sleep(RETRY_S)
        else:
            telemetry.hints_total.labels("sent").inc(len(batch))

    def _messages(self, stale: set[str], batch: Sequence[Hint]) -> list[tuple[str, bytes]]:
        """Channels and payloads; in each channel the hints stay in order."""
        encoded: dict[str, list[bytes]] = {}
        for user_id in stale:
            encoded[_channel(user_id) if user_id else ACCOUNTS] = [ENCODED_RESYNC]
        for hint in batch:
            channel = _channel(hint.user_id) if hint.kind == "mailbox" else ACCOUNTS
            encoded.setdefault(channel, []).append(encode_hint(hint))
        return [
            (channel, self._sender + datagram)
            for channel, items in encoded.items()
            for datagram in datagrams(items)
        ]

    # -- in the gateway's thread

    @reads("state")  # who leaves need not wait for it: a lost hint costs no more than time
    @steps
    def send(self, messages: Sequence[tuple[str, bytes]]) -> Steps[None]:
        """Publish payloads in their channels. Unavailable."""
        if not self._publish:
            self._publish = "PUBLISH"
            if self.link.address.kind == "cluster":
                (known,) = yield [("COMMAND", "INFO", "spublish")]
                self._publish = "SPUBLISH" if known and known[0] else "PUBLISH"
        yield [(self._publish, channel, payload) for channel, payload in messages]

    # -- in the reader's thread

    def message(self, channel: str, payload: bytes) -> None:
        sender, datagram = payload[:_SENDER_BYTES], payload[_SENDER_BYTES:]
        if sender == self._sender:
            return
        try:
            items = decode_datagram(datagram)
        except msgspec.DecodeError as error:
            log.warning("a message that is no hint", channel=channel, error=str(error))
            items = [Resync()]
        self._deliver([item if isinstance(item, Hint) else Resync(_user_of(channel)) for item in items])

    def confirmed(self, channel: str | None) -> None:
        self._deliver([Resync(_user_of(channel) if channel else _EVERYBODY)])

    def _deliver(self, items: Sequence[Hint | Resync]) -> None:
        with self._inbox_lock:
            self._inbox.extend(items)
            if len(self._inbox) > INBOX_ITEMS:  # the loop does not keep up: it asks the store instead
                self._inbox = deque([Resync()])
        assert self._token is not None
        try:
            self._token.run_sync_soon(self._tell_reader, idempotent=True)
        except trio.RunFinishedError:
            return  # the loop has ended: nobody reads any more

    def _tell_reader(self) -> None:
        self._arrived.set()


def _channel(user_id: str) -> str:
    return f"changes:{{{user_id}}}"


def _user_of(channel: str) -> str:
    """Whose channel it is; "" for that of all."""
    return "" if channel == ACCOUNTS else channel.removeprefix("changes:{").removesuffix("}")
