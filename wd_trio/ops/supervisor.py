"""The supervisor: owns the listening sockets and the worker processes, and holds no mail.

What it owns, addresses and the control socket, is there before it (serving.py). Workers start; when every one is
ready, one line with the event `ready` is logged. The supervisor never opens the store. Signals, each handled in one
place:
- SIGTERM, SIGINT: health says `draining` for `[server] drain_delay_s`, while all else goes on; then nothing is
  accepted any more, every worker drains, exit 0; after HARD_EXIT_S what is left is killed and the status is 1. A
  second one ends everything at once.
- SIGHUP: the configuration is read again; with a fault in it nothing changes, else the workers are rolled.
- SIGUSR2: an upgrade (upgrade.py): this process goes on as the program that is installed now, and that rolls the
  workers.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final

import structlog
import trio

from wd_trio import __version__, telemetry
from wd_trio.config import Config
from wd_trio.errors import Invalid
from wd_trio.ops import log as logging
from wd_trio.ops import metrics, notify, status, succession
from wd_trio.ops.boot import server_name
from wd_trio.ops.children import ChildOptions
from wd_trio.ops.connections import Connections
from wd_trio.ops.control import ControlSocket
from wd_trio.ops.door import Door
from wd_trio.ops.entrance import Entrance
from wd_trio.ops.listeners import Listener
from wd_trio.ops.succession import ControlState, ListenerState, Succession
from wd_trio.ops.tls.securing import Securing
from wd_trio.ops.upgrade import Upgrade, UpgradeOptions
from wd_trio.ops.workers import Workers
from wd_trio.ports.bus import Hint
from wd_trio.service.sessions import KILL

log = structlog.get_logger()

DRAIN_S: Final = 8.0
HARD_EXIT_S: Final = 9.0
HOLDER_S: Final = 8.3
"""The holder of TLS connections is killed a second later."""
BACKSTOP_S: Final = 9.5
"""A thread ends the process then, whatever holds its loop; container runtimes kill after 10 s."""

EXIT_FAILED: Final = 1
EXIT_CANNOT_START: Final = 2

Reload = Callable[[], Config]
"""Reads the configuration afresh; raises errors.Invalid with all its faults, one a line."""


def worker_count(config: Config) -> int:
    """How many workers a configuration asks for: one per usable core where it says 0."""
    return config.server.workers or len(os.sched_getaffinity(0))


class Supervisor:
    """The process tree's root."""

    def __init__(
        self,
        config: Config,
        listeners: list[Listener],
        control: ControlSocket,
        connections: Connections,
        *,
        reload: Reload | None = None,
        on_ready: Callable[[list[str]], None] | None = None,
        child_options: ChildOptions | None = None,
        upgrade_options: UpgradeOptions | None = None,
        left: Succession | None = None,
    ) -> None:
        """`left` is what a predecessor of this program has left: the rest has been made from it."""
        self._config = config
        self._server = left.server if left is not None else server_name(config)
        self._listeners = listeners
        self._control = control
        self._reload = reload
        self._on_ready = on_ready
        self._child_options = child_options or ChildOptions()
        self._connections = connections
        self._left = left
        self._door = Door(config.limits, connections)
        self._securing = Securing(config, self._door)
        if left is not None and left.holder is not None:
            self._securing.holding.adopt_state(left.holder)
        self._entrance = Entrance(self._door, config.server.proxy_networks, self._securing)
        self._workers: Workers  # from `run` on
        self._upgrade = Upgrade(
            self._door,
            generation=left.generation + 1 if left is not None else 0,
            options=upgrade_options or UpgradeOptions(),
            state=self._leave_state,
            is_quiet=self._is_quiet,
            is_stopping=self._is_stopping,
        )
        if left is not None:
            self._upgrade.begin()  # by the one before us; it is over when we have replaced its workers
        self._reloading = trio.Lock()
        self._accepting = trio.CancelScope()
        self._accept_ended = trio.Event()
        self._stop_wanted = trio.Event()
        self._serving = left is not None
        self._lingering = trio.CancelScope()
        self._at_once = False
        self._failure = ""

    async def run(self) -> int:
        """Serve until a signal ends it; the exit status."""
        with trio.open_signal_receiver(*succession.HEEDED) as signals:
            succession.release_signals()
            async with trio.open_nursery() as tree:
                self._workers = workers = self._make_workers(tree)
                tree.start_soon(self._obey, signals, tree)
                tree.start_soon(self._securing.holding.run)
                tree.start_soon(self._accept)
                tree.start_soon(self._control.serve, partial(self._answer, tree))
                if self._left is not None:
                    holder = self._left.holder
                    workers.succeed(self._left.workers, elsewhere=holder.upgrading if holder else ())
                    tree.start_soon(self._come_to_power, self._left)
                else:
                    workers.start()
                    tree.start_soon(self._tell_ready)
                await self._stop_wanted.wait()
                clean = await self._stop()
                tree.cancel_scope.cancel()
        if self._failure:
            return EXIT_CANNOT_START
        log.info("stopped", clean=clean)
        return 0 if clean else EXIT_FAILED

    def _make_workers(self, tree: trio.Nursery) -> Workers:
        return Workers(
            self._config,
            count=worker_count(self._config),
            server=self._server,
            door=self._door,
            api_descriptors=[
                each.sock.fileno() for each in self._listeners if each.protocol == "api" and not each.tls
            ],
            api_tls_descriptors=[
                each.sock.fileno() for each in self._listeners if each.protocol == "api" and each.tls
            ],
            options=self._child_options,
            nursery=tree,
            upgrade=self._securing.upgrade,
        )

    # -- serving

    async def _accept(self) -> None:
        with self._accepting:
            async with trio.open_nursery() as nursery:
                for listener in self._listeners:
                    if listener.protocol != "api":  # each worker accepts those for itself
                        nursery.start_soon(self._entrance.serve, listener)
                await trio.sleep_forever()
        self._accept_ended.set()

    async def _tell_ready(self) -> None:
        failure = await self._workers.wait_settled()
        if self._stop_wanted.is_set():
            return
        if failure:
            log.critical("cannot start", error=failure)
            self._failure = failure
            self._stop_wanted.set()
            return
        addresses = [str(listener) for listener in self._listeners]
        log.info(
            telemetry.READY, addresses=addresses, workers=len(self._workers.status()), version=__version__
        )
        self._serving = True
        notify.ready(self._in_words())
        if self._on_ready is not None:
            self._on_ready(addresses)

    def _in_words(self) -> str:
        return f"serving with {len(self._workers.status())} workers"

    async def _answer(self, tree: trio.Nursery, op: str, asked: dict[str, Any]) -> dict[str, Any]:
        if op == "status":
            return self._status()
        if op == "report":
            totals = await self._workers.totals()
            return status.report(
                self._status(), totals, self._connections, self._securing.holding.statistics()
            )
        if op == "reload":
            faults = await self.reload()
            return {"ok": not faults, "faults": faults}
        if op == "upgrade":
            begun = self._begin_upgrade(tree)
            fault = {} if begun else {"error": "an upgrade is under way"}
            return {"ok": begun, "version": __version__, "generation": self._upgrade.generation} | fault
        if op == "kill":
            self._workers.publish(Hint(KILL, str(asked.get("user", ""))))
            return {"ok": True}
        return {"ok": False, "error": f"unknown op {op!r}"}

    def _status(self) -> dict[str, Any]:
        return {
            "ok": True,
            "pid": os.getpid(),
            "version": __version__,
            "addresses": [str(listener) for listener in self._listeners],
            "connections": len(self._door),
            "stopping": self._stop_wanted.is_set(),
            "workers": self._workers.status(),
            "upgrade": self._upgrade.status(),
        }

    # -- signals

    async def _obey(self, signals: AsyncIterator[int], tree: trio.Nursery) -> None:
        async for number in signals:
            name = signal.Signals(number).name
            if number == signal.SIGHUP:
                tree.start_soon(self.reload)
            elif number == signal.SIGUSR2:
                self._begin_upgrade(tree)
            elif self._stop_wanted.is_set():
                log.warning("stopping at once", signal=name)
                self._at_once = True
                self._lingering.cancel()
                self._workers.kill()
            else:
                log.info("stopping", signal=name)
                self._stop_wanted.set()

    async def reload(self) -> list[str]:
        """Read the configuration again and roll the workers; the faults, each logged, if nothing came of it."""
        async with self._reloading:
            if self._reload is None or self._stop_wanted.is_set():
                faults = [
                    "the server is stopping" if self._reload else "this server has no configuration to reread"
                ]
            else:
                with self._announced():
                    faults = await self._reread(self._reload)
            metrics.reloads_total.labels("refused" if faults else "done").inc()
            for fault in faults:
                log.error("not reloaded", fault=fault)
            return faults

    @contextmanager
    def _announced(self) -> Iterator[None]:
        """The service manager knows meanwhile that the server is at something."""
        announced = self._serving
        if announced:
            notify.reloading()
        try:
            yield
        finally:
            if announced and not self._stop_wanted.is_set():
                notify.ready(self._in_words())

    async def _reread(self, read: Reload) -> list[str]:
        try:
            config = await trio.to_thread.run_sync(read)
        except Invalid as error:
            return str(error).splitlines()
        return await self._take_over(config)

    async def _take_over(self, config: Config) -> list[str]:
        config = _keep_what_is_bound(config, self._config)
        faults = await self._workers.roll(config, count=worker_count(config))
        if not faults:
            self._config = config
            self._door.limits = config.limits
            self._entrance.trust(config.server.proxy_networks)
            faults = await self._securing.reload(config)
            logging.configure(config.log)
            log.info("reloaded", workers=worker_count(config))
        return faults

    # -- upgrades

    def _begin_upgrade(self, tree: trio.Nursery) -> bool:
        """Whether one begins: not where one is under way."""
        if self._upgrade.under_way:
            return False
        self._upgrade.begin()
        tree.start_soon(self._upgrade_now)
        return True

    async def _upgrade_now(self) -> None:
        """Returns only when nothing came of it, after telling why."""
        async with self._reloading:
            await self._workers.wait_rolled()
            faults = ["the server is not serving yet, or no more"]
            if self._serving and not self._stop_wanted.is_set():
                with self._announced():
                    faults = await self._unless_stopped(self._upgrade.run)
        self._upgrade.end(faults)

    def _is_stopping(self) -> bool:
        return self._stop_wanted.is_set()

    def _is_quiet(self) -> bool:
        return not self._entrance.unfinished and self._workers.quiet and self._securing.holding.quiet

    async def _unless_stopped(self, run: Callable[[], Awaitable[list[str]]]) -> list[str]:
        faults = ["the server is stopping"]
        async with trio.open_nursery() as nursery:

            async def until_stop() -> None:
                await self._stop_wanted.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(until_stop)
            faults = await run()
            nursery.cancel_scope.cancel()
        return faults

    async def _come_to_power(self, left: Succession) -> None:
        """What a successor does first: replace the workers, which run the program before it. With a configuration
        that has faults they go on by the one that they had."""
        async with self._reloading:
            with self._announced():
                faults, config = [], self._config
                try:
                    if self._reload is not None:
                        config = await trio.to_thread.run_sync(self._reload)
                except Invalid as error:
                    faults = str(error).splitlines()
                faults += await self._take_over(config)
                await self._workers.wait_rolled()
        self._upgrade.end(faults, succeeded=True)
        log.info("upgraded", version=__version__, before=left.version, generation=self._upgrade.generation)

    def _leave_state(self) -> Succession:
        return Succession(
            generation=self._upgrade.generation,
            config=self._config,
            server=self._server,
            listeners=[
                ListenerState(
                    protocol=each.protocol,
                    address=str(each.address),
                    descriptor=each.sock.fileno(),
                    tls=each.tls,
                )
                for each in self._listeners
            ],
            control=ControlState(path=str(self._control.path), descriptor=self._control.fileno()),
            connections=self._connections.state(),
            workers=self._workers.leave_state(),
            holder=self._securing.holding.export_state(),
        )

    # -- ending

    async def _stop(self) -> bool:
        notify.stopping()
        if self._serving and self._config.server.drain_delay_s:
            self._workers.announce_end()
            with self._lingering:
                await trio.sleep(self._config.server.drain_delay_s)
        backstop = threading.Timer(BACKSTOP_S, os._exit, (EXIT_FAILED,))
        backstop.daemon = True
        backstop.start()
        self._accepting.cancel()
        await self._accept_ended.wait()  # a socket closed while it is waited for would stay in epoll
        for listener in self._listeners:
            listener.close()
        deadline_s = min(self._config.server.drain_s, DRAIN_S)
        clean = False
        async with trio.open_nursery() as nursery:  # the holder ends with its last connection
            nursery.start_soon(partial(self._securing.holding.stop, deadline_s=HOLDER_S))
            clean = await self._workers.stop(deadline_s=deadline_s, hard_s=HARD_EXIT_S)
        self._door.refuse_waiting()
        return clean and not self._at_once


def _keep_what_is_bound(new: Config, old: Config) -> Config:
    """The new configuration, with the old one's addresses and store: those take a restart, and it is said."""
    kept = replace(
        new,
        server=replace(new.server, control=old.server.control),
        store=old.store,
        redis=old.redis,
        imap=replace(new.imap, listen=old.imap.listen, tls_listen=old.imap.tls_listen),
        pop3=replace(new.pop3, listen=old.pop3.listen, tls_listen=old.pop3.tls_listen),
        lmtp=replace(new.lmtp, listen=old.lmtp.listen, tls_listen=old.lmtp.tls_listen),
        api=replace(new.api, listen=old.api.listen, tls_listen=old.api.tls_listen),
        tls=replace(new.tls, hold=old.tls.hold),
    )
    for section in ("server", "store", "redis", "imap", "pop3", "lmtp", "api", "tls"):
        if getattr(kept, section) != getattr(new, section):
            log.warning("takes a restart to change", section=section)
    return kept
