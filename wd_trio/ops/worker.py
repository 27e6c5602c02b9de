"""A worker: the process that serves. Run by the supervisor as `python -m wd_trio.ops.worker`.

Its arguments are the numbers of inherited descriptors: the control channel, the bus, the table of slots, then the
API's listeners; all it is to know comes by the first control message. The tree:

    outer nursery         control from the first message on; the API, whose WebSockets may be stuck in a send that
    │                     nothing can cancel
    └ services            opened before anything is served, closed before the API is given up
      └ tree              signals, the dead and the gone, sessions, bus, change pump, janitor
        └ hosts           one nursery per protocol; a task per connection, one for all parked ones

What fails outside a connection's task ends the process where it stands (`_vital`): no connection is unwound, and
others go on with all of them as after a kill. Leaving, when the supervisor says so or is gone or on SIGTERM:
connections move to other workers, or end where the whole server goes, within their deadline; then the API ends, then
the services close; a thread's timer ends the process after HARD_EXIT_S whatever hangs. On the server's way out the
API serves to the end of the drain, so that /health can say `draining`; a worker that is replaced ends it at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from itertools import count
from typing import Final

import msgspec
import structlog
import trio

from wd_trio import telemetry
from wd_trio.api.app import create_app
from wd_trio.config import Config, Log
from wd_trio.errors import Unavailable, WdError
from wd_trio.ops import log as logging
from wd_trio.ops import messages, metrics
from wd_trio.ops.boot import Services, api_services, api_tls, open_services
from wd_trio.ops.handoff import Channel, ChannelOver, Received, close_all
from wd_trio.ops.health import Health
from wd_trio.ops.hosts import Host, HostMaker, hosts
from wd_trio.ops.http.serve import serve_http
from wd_trio.ops.janitor import Janitor
from wd_trio.ops.metered import metered
from wd_trio.servers.driver import UPGRADED, peer_of
from wd_trio.servers.slots import Phase, Slot, Slots

log = structlog.get_logger()

HARD_EXIT_S: Final = 9.0
API_GRACE_S: Final = 0.5
ABANDON_S: Final = 0.5
METRICS_S: Final = 2.0
GONE_S: Final = 1.0
BURY_AGAIN_S: Final = 1.0
TAKE_OVER_S: Final = 1.0

EXIT_FAILED: Final = 1
EXIT_CANNOT_START: Final = 2


class Worker:
    """One worker's life; `run` returns its exit status."""

    def __init__(
        self, control: socket.socket, bus: socket.socket, slots: Slots, api_descriptors: list[int]
    ) -> None:
        self._channel = Channel(control)
        self._bus = bus
        self._slots = slots
        self._api_descriptors = api_descriptors
        self._hosts: dict[str, Host] = {}
        self._health: Health | None = None
        self._end_streams: Callable[[], None] | None = None
        self._take_over: Callable[[Sequence[str]], Awaitable[None]] | None = None
        self._leaving = trio.Event()
        self._api_leaving = trio.Event()
        self._api_ended = trio.Event()
        self._deadline_s = 0.0
        self._closed: list[int] = []
        self._moved: dict[int, bytes] = {}
        self._upgrading: list[int] = []
        self._some_gone = trio.Event()
        self._moving = False
        self._dead: list[str] = []
        self._some_dead = trio.Event()
        self._numbers = count(1)
        self._asked: dict[int, tuple[list[str], trio.Event]] = {}
        self._sampling = trio.Lock()

    # -- its life

    async def run(self) -> int:
        """Boot, serve until told to leave, leave; the exit status."""
        try:
            boot = (await self._channel.receive()).message
        except ChannelOver:
            return EXIT_FAILED
        except msgspec.DecodeError as error:
            return await self._cannot_start(f"worker and supervisor are of different versions: {error}")
        if not isinstance(boot, messages.Boot) or boot.version != messages.VERSION:
            return await self._cannot_start("worker and supervisor are of different versions")
        logging.configure(boot.config.log, role=f"worker {boot.slot}")
        self._deadline_s = boot.config.server.drain_s
        try:
            return await self._serve(boot)
        except* WdError as group:
            log.critical("worker failed", error="; ".join(str(error) for error in _leaves(group)))
        except* Exception:
            log.exception("worker failed")
        return EXIT_FAILED

    async def _cannot_start(self, reason: str) -> int:
        log.error("cannot start", error=reason)
        await self._tell(messages.Failed(reason))
        return EXIT_CANNOT_START

    async def _serve(self, boot: messages.Boot) -> int:
        status = EXIT_FAILED
        async with trio.open_nursery() as outer:
            outer.start_soon(_vital, self._listen)  # at once: opening may take its time, but a pulse it has
            async with AsyncExitStack() as stack:
                stack.callback(lambda: _exit_after(ABANDON_S, status))  # a WebSocket may never end
                try:
                    services = await stack.enter_async_context(
                        open_services(boot.config, server=boot.server, worker=boot.owner, hub=self._bus)
                    )
                except WdError as error:
                    status = await self._cannot_start(str(error))
                    outer.cancel_scope.cancel()
                    return status
                for owner in await _bury_first(services, boot.dead):
                    await self._tell(messages.Buried(owner))
                self._end_streams = services.updates.end_all
                self._take_over = services.sessions.parked.take_over
                health = self._health = Health(gateway=services.gateway, pings=services.engine.pings)
                app = create_app(
                    ready=health.ready,
                    live=health.live,
                    metrics=self._metrics_text,
                    services=api_services(services, boot.config),
                )
                outer.start_soon(_vital, self._serve_api, metered(app), boot, api_tls(boot.config))
                await self._serve_tree(boot, services)
                status = 0
            outer.cancel_scope.cancel()
        return status

    async def _serve_tree(self, boot: messages.Boot, services: Services) -> None:
        async with trio.open_nursery() as tree:
            tree.start_soon(_vital, self._heed_signals)
            tree.start_soon(_vital, self._tell_leaving)
            tree.start_soon(_vital, self._report_gone)
            tree.start_soon(_vital, self._bury_dead, services)
            tree.start_soon(_vital, services.sessions.run)
            tree.start_soon(_vital, self._until_hub_ends, services.bus.run)
            tree.start_soon(_vital, self._until_hub_ends, services.hub.run)
            tree.start_soon(_vital, Janitor(services).run)
            async with trio.open_nursery() as nursery:
                for protocol, make in self._host_makers(services, boot.config).items():
                    await nursery.start(self._host, protocol, make, services.sessions.rest)
                await self._tell(messages.Ready(os.getpid()))
            self._api_leaving.set()
            with trio.move_on_after(API_GRACE_S):
                await self._api_ended.wait()
            await self._tell_last_words()
            tree.cancel_scope.cancel()

    def _host_makers(self, services: Services, config: Config) -> dict[str, HostMaker]:
        return hosts(
            services,
            config,
            slots=self._slots,
            on_end=self._connection_ended,
            on_leave=self._connection_left,
            vital=_vital,
        )

    async def _host(
        self,
        protocol: str,
        make: HostMaker,
        rest: Callable[[], Awaitable[None]],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve a protocol's connections until the worker leaves, then let them go; `rest` comes before they move."""
        async with trio.open_nursery() as nursery:
            host = make(nursery)
            self._hosts[protocol] = host
            task_status.started()
            await self._leaving.wait()
            if self._moving:
                await rest()
            left = await host.drain(deadline_s=self._deadline_s, moving=self._moving)
            if left:
                log.warning("sessions cut off", protocol=protocol, count=left)

    async def _serve_api(self, app: object, boot: messages.Boot, tls: ssl.SSLContext | None) -> None:
        try:
            await serve_http(
                app,
                [each for each in self._api_descriptors if each not in boot.api_tls],
                tls_descriptors=boot.api_tls,
                tls=tls,
                leave=self._api_leaving.wait,
                grace_s=API_GRACE_S,
                flush_s=boot.config.limits.flush_s,
            )
        finally:
            self._api_ended.set()

    # -- leaving

    def _leave(self, *, deadline_s: float, stopping: bool) -> None:
        if self._leaving.is_set():
            return
        log.info("leaving", stopping=stopping)
        _exit_after(HARD_EXIT_S, EXIT_FAILED)
        self._deadline_s = deadline_s
        self._moving = not stopping
        if self._end_streams is not None:
            self._end_streams()
        if not stopping:
            self._api_leaving.set()  # another worker answers on the same socket
        elif self._health is not None:
            self._health.draining = True
        self._leaving.set()

    async def _tell_leaving(self) -> None:
        """Where it was not the supervisor's idea: who came now would be refused."""
        await self._leaving.wait()
        await self._tell(messages.Leaving())

    async def _heed_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for number in signals:
                if number != signal.SIGHUP:  # a reload is the supervisor's to do
                    self._leave(deadline_s=self._deadline_s, stopping=False)

    async def _until_hub_ends(self, run: Callable[[], Awaitable[None]]) -> None:
        try:
            await run()
        except* Unavailable as group:
            with trio.move_on_after(GONE_S):  # the end of the supervisor is the end of both, in any order
                await self._leaving.wait()
            log.warning("bus ended", error="; ".join(str(error) for error in _leaves(group)))
            self._leave(deadline_s=self._deadline_s, stopping=False)

    # -- the supervisor's messages

    async def _listen(self) -> None:
        try:
            while True:
                await self._obey(await self._channel.receive())
        except ChannelOver:
            log.warning("the supervisor is gone")
            self._api_leaving.set()  # its successor, a server of its own, wants the address
            self._leave(deadline_s=self._deadline_s, stopping=True)

    async def _obey(self, received: Received) -> None:
        match received.message:
            case messages.Adopt():
                await self._adopt(received.message, received)
            case messages.Ping(number=number):
                await self._tell(messages.Pong(number))
            case messages.Died(owner=owner):
                self._dead.append(owner)
                self._some_dead.set()
            case messages.AskSamples(request=request):
                await self._tell_samples(request)
            case messages.Metrics():
                self._hear_metrics(received.message)
            case messages.Ending():
                if self._health is not None:
                    self._health.draining = True
            case messages.Drain(deadline_s=deadline_s, stopping=stopping):
                self._leave(deadline_s=deadline_s, stopping=stopping)
            case _:
                log.error("unexpected control message", message=type(received.message).__name__)

    async def _adopt(self, message: messages.Adopt, received: Received) -> None:
        whole = not received.truncated and len(received.descriptors) == len(message.slots)
        if not whole or self._leaving.is_set():
            close_all(received.descriptors)
            await self._tell(messages.Adopted(message.batch, refused=True))
            return
        # Nothing is awaited since the look at `_leaving`: once that is set, a host may end and adopt no more.
        for descriptor, number in zip(received.descriptors, message.slots, strict=True):
            slot = self._slots.at(number)
            sock = socket.socket(fileno=descriptor)
            unread = message.unread.get(number, b"")
            self._hosts[slot.protocol].adopt(sock, peer_of(slot), slot=slot, unread=unread)
        await self._take_sessions_over(message.slots)
        await self._tell(messages.Adopted(message.batch))

    async def _take_sessions_over(self, slots: Sequence[int]) -> None:
        """Before the supervisor hears that connections arrived: then what their old worker still holds is ended."""
        sessions = [slot.session for number in slots if (slot := self._slots.at(number)).phase == Phase.OPEN]
        if sessions and self._take_over is not None:
            with trio.move_on_after(TAKE_OVER_S):  # a hung engine must not keep the others waiting
                await self._take_over(sessions)

    async def _tell(self, message: messages.ToSupervisor) -> None:
        try:
            await self._channel.send(message)
        except ChannelOver:
            log.debug("nobody to tell", message=type(message).__name__)  # `_listen` sees to the rest

    def _connection_ended(self, slot: Slot) -> None:
        self._closed.append(slot.number)
        self._some_gone.set()

    def _connection_left(self, slot: Slot, why: str, sock: socket.socket, unread: bytes) -> None:
        if why == UPGRADED:
            self._upgrading.append(slot.number)
        elif len(unread) <= messages.MANY_UNREAD_BYTES:
            self._moved[slot.number] = unread
        else:  # no message takes so much
            log.warning("connection not moved", connection=f"{slot.id:x}", unread_bytes=len(unread))
            telemetry.sessions_ended_total.labels(slot.protocol, "not moved").inc()
            with contextlib.suppress(OSError):  # it may be gone already
                sock.shutdown(socket.SHUT_RDWR)
            self._closed.append(slot.number)
        sock.close()  # the supervisor has a duplicate
        self._some_gone.set()

    async def _report_gone(self) -> None:
        while True:
            await self._some_gone.wait()
            self._some_gone = trio.Event()
            await self._tell_gone()

    async def _tell_gone(self) -> None:
        while self._closed:
            slots, self._closed = self._closed[: messages.MANY_SLOTS], self._closed[messages.MANY_SLOTS :]
            await self._tell(messages.Closed(slots))
        while self._upgrading:
            await self._tell(messages.Upgrade(self._upgrading.pop()))
        while self._moved:
            await self._tell(_next_moved(self._moved))

    async def _bury_dead(self, services: Services) -> None:
        while True:
            await self._some_dead.wait()
            self._some_dead = trio.Event()
            while self._dead:
                owner = self._dead[0]
                try:
                    await services.bury(owner)
                except WdError as error:
                    log.warning("a dead worker's sessions not ended yet", owner=owner, error=str(error))
                    await trio.sleep(BURY_AGAIN_S)
                else:
                    self._dead.remove(owner)
                    await self._tell(messages.Buried(owner))

    # -- metrics

    async def _tell_samples(self, request: int) -> None:
        async with self._sampling:  # whole before the next, so that what comes last is newest
            parts = list(metrics.pieces(metrics.sample(telemetry.REGISTRY)))
            for number, part in enumerate(parts, 1):
                await self._tell(messages.Samples(request, part, number == len(parts)))

    async def _tell_last_words(self) -> None:
        with trio.move_on_after(ABANDON_S):
            await self._tell_gone()
            await self._tell_samples(0)

    async def _metrics_text(self) -> str:
        """The whole server's metrics, which only the supervisor knows. Unavailable when it does not answer."""
        request = next(self._numbers)
        parts, done = self._asked[request] = ([], trio.Event())
        try:
            with trio.move_on_after(METRICS_S):
                await self._tell(messages.AskMetrics(request))
                await done.wait()
                return "".join(parts)
        finally:
            del self._asked[request]
        raise Unavailable("the supervisor does not answer", what="metrics")

    def _hear_metrics(self, message: messages.Metrics) -> None:
        asked = self._asked.get(message.request)
        if asked is None:
            return  # its asker has given up
        parts, done = asked
        parts.append(message.text)
        if message.last:
            done.set()


def _next_moved(moved: dict[int, bytes]) -> messages.Moved:
    """A message about some of these connections, which are taken from the dictionary."""
    slots: list[int] = []
    unread: dict[int, bytes] = {}
    unread_bytes = 0
    while moved and len(slots) < messages.MANY_SLOTS:
        number, data = moved.popitem()
        unread_bytes += len(data)
        if slots and unread_bytes > messages.MANY_UNREAD_BYTES:
            moved[number] = data
            break
        slots.append(number)
        if data:
            unread[number] = data
    return messages.Moved(slots, unread)


async def _bury_first(services: Services, dead: Sequence[str]) -> list[str]:
    """End what dead workers held before anything is served; those of whom that is done. Where it cannot be done now,
    it does not keep this worker from serving: when it is ready the supervisor names the others again."""
    buried: list[str] = []
    try:
        for owner in dead:
            await services.bury(owner)
            buried.append(owner)
    except Unavailable as error:
        log.warning("dead workers' sessions not ended yet", owners=len(dead) - len(buried), error=str(error))
    return buried


async def _vital(run: Callable[..., Awaitable[None]], *arguments: object) -> None:
    """Run something that this worker cannot be without. Where that fails, the process ends as it stands: to unwind
    would shut every connection that others could go on with."""
    try:
        await run(*arguments)
    except Exception:
        log.exception("worker failed")
        os._exit(EXIT_FAILED)


def _exit_after(seconds: float, status: int) -> None:
    """End the process then, whatever its loop and its engines do, unless it has ended before."""
    timer = threading.Timer(seconds, os._exit, (status,))
    timer.daemon = True
    timer.start()


def _leaves(group: BaseExceptionGroup[WdError]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def main() -> int:
    """The process's entry: descriptors by number in the arguments; the exit status."""
    logging.configure(Log())  # until the configuration comes
    descriptors = [int(argument) for argument in sys.argv[1:]]
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    control, bus, slots, *api = descriptors
    worker = Worker(socket.socket(fileno=control), socket.socket(fileno=bus), Slots(slots), api)
    return trio.run(worker.run)


if __name__ == "__main__":
    sys.exit(main())
