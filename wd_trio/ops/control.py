"""The control socket: how the command line reaches a running server.

A Unix stream socket, mode 0600: one JSON object a line in, one out. With the embedded engine it lies beside the
store's file (`<store>.control`) and is also the proof that one server at most serves a store on this machine, whose
hints would not reach another's sessions. AF_UNIX paths hold about a hundred bytes, so the folder is opened and named
through /proc/self/fd: data folders may lie as deep as they like.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import structlog
import trio

from wd_trio.addresses import sqlite_path
from wd_trio.config import Config
from wd_trio.errors import Conflict, Unavailable
from wd_trio.ops.listeners import EXHAUSTED, EXHAUSTED_PAUSE_S

log = structlog.get_logger()

REQUEST_BYTES: Final = 4096
REPLY_BYTES: Final = 1 << 20
REQUEST_S: Final = 10.0
CLIENTS: Final = 8
UPGRADE_POLL_S: Final = 0.2


class WentAway(Unavailable):
    """The server closed the connection without an answer: it has ended, or another program has taken its place."""


Answer: TypeAlias = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""Does what an op names, with the whole request at hand, and returns the reply."""


def control_path(config: Config) -> Path:
    """Where the control socket of a configuration lies."""
    if config.server.control:
        return Path(config.server.control)
    path = sqlite_path(config.store.url)
    return path.with_name(path.name + ".control")


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name of at most a few dozen bytes for `path`, good while the context lasts."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def request(config: Config, op: str, *, timeout_s: float = 120.0, **arguments: str) -> dict[str, Any]:
    """Ask the running server; its reply. Blocking. Unavailable when none runs or it does not answer, WentAway when it
    went away meanwhile.

    Ops: "status" → {"ok", "workers": [{"slot", "pid", "state", "connections"}], "upgrade": {"generation",
    "underWay", "faults"}, …}; "report" → that and all else that
    ops/status.py tells; "reload" → {"ok", "faults"}; "upgrade" → {"ok", "version", "generation"}: one has
    begun, and "status" tells of it; "kill" with `user` (an id) → {"ok"}: some of that user's sessions have
    been marked to be ended.
    """
    path = control_path(config)
    try:
        with _short(path) as name, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout_s)
            sock.connect(name)
            sock.sendall(json.dumps({"op": op, **arguments}).encode() + b"\n")
            line = sock.makefile("rb").readline(REPLY_BYTES)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise Unavailable(f"no server is running on {path.parent}", what="server") from error
    except ConnectionResetError as error:
        raise WentAway("the server went away while answering", what="server") from error
    except OSError as error:
        raise Unavailable(f"the server does not answer: {error}", what="server") from error
    if not line.endswith(b"\n"):
        raise WentAway("the server went away while answering", what="server")
    reply: dict[str, Any] = json.loads(line)
    return reply


@dataclass(frozen=True, slots=True)
class Upgraded:
    """What came of an upgrade: version and generation before and after it, the same where it was refused."""

    before: tuple[str, int]
    after: tuple[str, int]
    faults: list[str]

    @property
    def ok(self) -> bool:
        return self.after[1] > self.before[1] and not self.faults


def upgrade(config: Config) -> Upgraded:
    """Upgrade the running server, and wait until the new program has replaced all workers. Blocking; Unavailable."""
    begun = request(config, "upgrade")
    before = (str(begun.get("version")), int(begun.get("generation", 0)))
    if not begun.get("ok"):
        return Upgraded(before, before, [str(begun.get("error"))])
    while True:
        time.sleep(UPGRADE_POLL_S)
        try:
            now = request(config, "status")
        except WentAway:  # while one program gave way to the other
            continue
        about = now["upgrade"]
        if not about["underWay"]:
            return Upgraded(before, (now["version"], about["generation"]), about["faults"])


class ControlSocket:
    """The server's end. `bind` before anything is served, `serve` in the tree, `close` at the end."""

    def __init__(self, path: Path, sock: socket.socket | None = None) -> None:
        """`sock` is bound already, by a predecessor of this process."""
        self.path = path
        self._sock = sock or socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._places = trio.CapacityLimiter(CLIENTS)

    def bind(self) -> None:
        """Take the path over from a server that is gone. Conflict when one answers; OSError as it comes."""
        with _short(self.path) as name:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(1.0)
                try:
                    probe.connect(name)
                except (FileNotFoundError, ConnectionRefusedError):
                    self.path.unlink(missing_ok=True)
                else:
                    raise Conflict(f"another server is running on {self.path.parent}", what="server")
            before = os.umask(0o177)
            try:
                self._sock.bind(name)
            finally:
                os.umask(before)
        self._sock.listen(CLIENTS)
        self._sock.setblocking(False)

    def fileno(self) -> int:
        return self._sock.fileno()

    async def serve(self, answer: Answer) -> None:
        """Answer requests for ever, each client in its own task; what fails in one ends that client only."""
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._sock))
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as error:
                    if error.errno not in EXHAUSTED:
                        raise
                    log.warning("cannot accept", address=str(self.path), error=error.strerror)
                    await trio.sleep(EXHAUSTED_PAUSE_S)
                else:
                    nursery.start_soon(self._serve_one, stream, answer)

    async def _serve_one(self, stream: trio.SocketStream, answer: Answer) -> None:
        try:
            async with stream, self._places:
                with trio.fail_after(REQUEST_S):
                    line = await _line(stream)
                reply = await self._answer(line, answer)
                with trio.fail_after(REQUEST_S):
                    await stream.send_all(json.dumps(reply).encode() + b"\n")
        except (trio.BrokenResourceError, trio.TooSlowError) as error:
            log.warning("control client lost", error=str(error))
        except Exception:  # a line nested too deep for the parser, say
            log.exception("control client failed")

    async def _answer(self, line: bytes, answer: Answer) -> dict[str, Any]:
        try:
            asked = json.loads(line)
            op = asked["op"]
        except (ValueError, KeyError, TypeError):
            return {"ok": False, "error": 'expected {"op": …} on one line'}
        try:
            return await answer(str(op), asked)
        except Exception:
            log.exception("control request failed", op=op)
            return {"ok": False, "error": "the server failed to do it; its log says more"}

    def close(self) -> None:
        """Stop, and remove the socket's file. Idempotent."""
        if self._sock.fileno() != -1:
            self.path.unlink(missing_ok=True)
            self._sock.close()


async def _line(stream: trio.SocketStream) -> bytes:
    data = b""
    while b"\n" not in data and len(data) < REQUEST_BYTES:
        more = await stream.receive_some(REQUEST_BYTES)
        if not more:
            break
        data += more
    return data
