"""A server from its first step to its exit status: what it owns is made, or taken over from the program before it,
and the supervisor runs on it.

Everything that can fail for want of a resource fails here, before a worker runs: addresses, the control socket.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import structlog
import trio

from wd_trio import __version__
from wd_trio.config import Config
from wd_trio.errors import WdError
from wd_trio.ops import log as logging
from wd_trio.ops import succession
from wd_trio.ops.boot import clear_state
from wd_trio.ops.children import ChildOptions
from wd_trio.ops.connections import Connections
from wd_trio.ops.control import ControlSocket, control_path
from wd_trio.ops.listeners import BindFailed, Listener, bind_all
from wd_trio.ops.supervisor import EXIT_CANNOT_START, EXIT_FAILED, Reload, Supervisor
from wd_trio.ops.upgrade import UpgradeOptions

log = structlog.get_logger()


def serve(
    config: Config,
    *,
    config_path: Path | None = None,
    reload: Reload | None = None,
    on_ready: Callable[[list[str]], None] | None = None,
    child_options: ChildOptions | None = None,
    upgrade_options: UpgradeOptions | None = None,
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
    log.info("starting", version=__version__, config=str(config_path) if config_path else None)
    root = Supervisor(
        config,
        listeners,
        control,
        connections,
        reload=reload,
        on_ready=on_ready,
        child_options=child_options,
        upgrade_options=upgrade_options,
    )
    return _run(root, listeners, control, connections)


def succeed(descriptor: int, *, reload: Reload, upgrade_options: UpgradeOptions) -> int:
    """Go on in place of the program that this process ran until now, which has left its state in the file behind the
    descriptor; otherwise as `serve`."""
    try:
        left = succession.succeed(descriptor)
        logging.configure(left.config.log)
        listeners, control = left.bound(), left.control_socket()
        connections = Connections.succeed(left.connections)
        log.info("succeeding", version=__version__, before=left.version, generation=left.generation + 1)
        root = Supervisor(
            left.config,
            listeners,
            control,
            connections,
            reload=reload,
            upgrade_options=upgrade_options,
            left=left,
        )
    except (WdError, OSError) as error:
        log.critical("cannot go on", error=str(error))
        return EXIT_FAILED
    return _run(root, listeners, control, connections)


def _run(
    root: Supervisor, listeners: list[Listener], control: ControlSocket, connections: Connections
) -> int:
    try:
        return trio.run(root.run)
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
