"""The supervisor: owns the listening sockets and the worker processes, and holds no mail.

Everything that can fail for want of a resource fails first, before a worker runs: addresses, the control socket.
Then workers start; when every one is ready, one line with the event `ready` is logged. The supervisor never opens
the store. Signals, each handled in one place:
- SIGTERM, SIGINT: nothing is accepted any more, every worker drains, exit 0; after HARD_EXIT_S what is left is
  killed and the status is 1. A second one ends everything at once.
- SIGHUP: the configuration is read again; with a fault in it nothing changes, else the workers are rolled.
"""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import structlog
import trio

from wd_trio import __version__, telemetry
from wd_trio.config import Config
from wd_trio.errors import Invalid, WdError
from wd_trio.ops import log as logging
from wd_trio.ops import metrics, notify
from wd_trio.ops.boot import clear_state, server_name
from wd_trio.ops.children import ChildOptions
from wd_trio.ops.connections import Connections
from wd_trio.ops.control import ControlSocket, control_path
from wd_trio.ops.door import Door
from wd_trio.ops.entrance import Entrance
from wd_trio.ops.listeners import BindFailed, Listener, bind_all
from wd_trio.ops.workers import Workers
from wd_trio.ports.bus import Hint
from wd_trio.service.sessions import KILL

log = structlog.get_logger()

DRAIN_S: Final = 8.0
HARD_EXIT_S: Final = 9.0
BACKSTOP_S: Final = 9.5
"""A thread ends the process then, whatever holds its loop; container runtimes kill after 10 s."""

EXIT_FAILED: Final = 1
EXIT_CANNOT_START: Final = 2

Reload = Callable[[], Config]
"""Reads the configuration afresh; raises errors.Invalid with all its faults, one a line."""


def serve(
    config: Config,
    *,
    config_path: Path | None = None,
    reload: Reload | None = None,
    on_ready: Callable[[list[str]], None] | None = None,
    child_options: ChildOptions | None = None,
) -> int:
    """Run the server until it is told to end; the exit status. Blocking, in the main thread.

    `on_ready` is called with the bound addresses (`imap://127.0.0.1:1143`, …) once all workers are ready. 2 means
    that it could not start, 1 that a worker had to be killed at the end.
    """
    logging.configure(config.log)
    _raise_descriptor_limit()
    control = ControlSocket(control_path(config))
    try:
        listeners = _bind(config, control)
        clear_state(config)
        connections = Connections()
    except (BindFailed, WdError, OSError) as error:
        log.critical("cannot start", error=str(error))
        return EXIT_CANNOT_START
    supervisor = Supervisor(
        config,
        listeners,
        control,
        connections,
        reload=reload,
        on_ready=on_ready,
        child_options=child_options,
    )
    log.info("starting", version=__version__, config=str(config_path) if config_path else None)
    try:
        return trio.run(supervisor.run)
    except* Exception:
        log.exception("supervisor failed")
    finally:
        control.close()
        for listener in listeners:
            listener.close()
        connections.close()
    return EXIT_FAILED


def _bind(config: Config, control: ControlSocket) -> list[Listener]:
    control_path(config).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    control.bind()
    try:
        return bind_all(config)
    except BaseException:
        control.close()
        raise


def _raise_descriptor_limit() -> None:
    """Use all the descriptors the machine grants; workers inherit the limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


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
    ) -> None:
        self._config = config
        self._listeners = listeners
        self._control = control
        self._reload = reload
        self._on_ready = on_ready
        self._child_options = child_options or ChildOptions()
        self._connections = connections
        self._door = Door(config.limits, connections)
        self._entrance = Entrance(self._door, config.server.proxy_networks)
        self._reloading = trio.Lock()
        self._accepting = trio.CancelScope()
        self._accept_ended = trio.Event()
        self._stop_wanted = trio.Event()
        self._serving = False
        self._at_once = False
        self._failure = ""

    async def run(self) -> int:
        """Serve until a signal ends it; the exit status."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async with trio.open_nursery() as tree:
                workers = self._workers(tree)
                tree.start_soon(self._obey, signals, workers, tree)
                tree.start_soon(self._accept)
                tree.start_soon(self._control.serve, lambda op, asked: self._answer(op, asked, workers))
                tree.start_soon(self._tell_ready, workers)
                workers.start()
                await self._stop_wanted.wait()
                clean = await self._stop(workers)
                tree.cancel_scope.cancel()
        if self._failure:
            return EXIT_CANNOT_START
        log.info("stopped", clean=clean)
        return 0 if clean else EXIT_FAILED

    def _workers(self, tree: trio.Nursery) -> Workers:
        return Workers(
            self._config,
            count=worker_count(self._config),
            server=server_name(self._config),
            door=self._door,
            api_descriptors=[each.sock.fileno() for each in self._listeners if each.protocol == "api"],
            options=self._child_options,
            nursery=tree,
            upgrade=self._connections.end,
        )

    # -- serving

    async def _accept(self) -> None:
        with self._accepting:
            async with trio.open_nursery() as nursery:
                for listener in self._listeners:
                    if listener.protocol != "api":  # hypercorn accepts for itself, in each worker
                        nursery.start_soon(self._entrance.serve, listener)
                await trio.sleep_forever()
        self._accept_ended.set()

    async def _tell_ready(self, workers: Workers) -> None:
        failure = await workers.wait_settled()
        if self._stop_wanted.is_set():
            return
        if failure:
            log.critical("cannot start", error=failure)
            self._failure = failure
            self._stop_wanted.set()
            return
        addresses = [str(listener) for listener in self._listeners]
        log.info(telemetry.READY, addresses=addresses, workers=len(workers.status()), version=__version__)
        self._serving = True
        notify.ready(self._in_words(workers))
        if self._on_ready is not None:
            self._on_ready(addresses)

    def _in_words(self, workers: Workers) -> str:
        return f"serving with {len(workers.status())} workers"

    async def _answer(self, op: str, asked: dict[str, Any], workers: Workers) -> dict[str, Any]:
        if op == "status":
            return {
                "ok": True,
                "pid": os.getpid(),
                "version": __version__,
                "addresses": [str(listener) for listener in self._listeners],
                "connections": len(self._door),
                "stopping": self._stop_wanted.is_set(),
                "workers": workers.status(),
            }
        if op == "reload":
            faults = await self.reload(workers)
            return {"ok": not faults, "faults": faults}
        if op == "kill":
            workers.publish(Hint(KILL, str(asked.get("user", ""))))
            return {"ok": True}
        return {"ok": False, "error": f"unknown op {op!r}"}

    # -- signals

    async def _obey(self, signals: AsyncIterator[int], workers: Workers, tree: trio.Nursery) -> None:
        async for number in signals:
            name = signal.Signals(number).name
            if number == signal.SIGHUP:
                tree.start_soon(self.reload, workers)
            elif self._stop_wanted.is_set():
                log.warning("stopping at once", signal=name)
                self._at_once = True
                workers.kill()
            else:
                log.info("stopping", signal=name)
                self._stop_wanted.set()

    async def reload(self, workers: Workers) -> list[str]:
        """Read the configuration again and roll the workers; the faults, each logged, if nothing came of it."""
        async with self._reloading:
            if self._reload is None or self._stop_wanted.is_set():
                faults = [
                    "the server is stopping" if self._reload else "this server has no configuration to reread"
                ]
            else:
                faults = await self._reread(self._reload, workers)
            metrics.reloads_total.labels("refused" if faults else "done").inc()
            for fault in faults:
                log.error("not reloaded", fault=fault)
            return faults

    async def _reread(self, read: Reload, workers: Workers) -> list[str]:
        announced = self._serving
        if announced:
            notify.reloading()
        try:
            config = await trio.to_thread.run_sync(read)
        except Invalid as error:
            return str(error).splitlines()
        else:
            return await self._take_over(config, workers)
        finally:
            if announced and not self._stop_wanted.is_set():
                notify.ready(self._in_words(workers))

    async def _take_over(self, config: Config, workers: Workers) -> list[str]:
        config = _keep_what_is_bound(config, self._config)
        faults = await workers.roll(config, count=worker_count(config))
        if not faults:
            self._config = config
            self._door.limits = config.limits
            self._entrance.trust(config.server.proxy_networks)
            logging.configure(config.log)
            log.info("reloaded", workers=worker_count(config))
        return faults

    # -- ending

    async def _stop(self, workers: Workers) -> bool:
        backstop = threading.Timer(BACKSTOP_S, os._exit, (EXIT_FAILED,))
        backstop.daemon = True
        backstop.start()
        notify.stopping()
        self._accepting.cancel()
        await self._accept_ended.wait()  # a socket closed while it is waited for would stay in epoll
        for listener in self._listeners:
            listener.close()
        deadline_s = min(self._config.server.drain_s, DRAIN_S)
        clean = await workers.stop(deadline_s=deadline_s, hard_s=HARD_EXIT_S)
        self._door.refuse_waiting()
        return clean and not self._at_once


def _keep_what_is_bound(new: Config, old: Config) -> Config:
    """The new configuration, with the old one's addresses and store: those take a restart, and it is said."""
    kept = replace(
        new,
        server=replace(new.server, control=old.server.control),
        store=old.store,
        redis=old.redis,
        imap=replace(new.imap, listen=old.imap.listen),
        pop3=replace(new.pop3, listen=old.pop3.listen),
        lmtp=replace(new.lmtp, listen=old.lmtp.listen),
        api=replace(new.api, listen=old.api.listen),
    )
    for section in ("server", "store", "redis", "imap", "pop3", "lmtp", "api"):
        if getattr(kept, section) != getattr(new, section):
            log.warning("takes a restart to change", section=section)
    return kept
