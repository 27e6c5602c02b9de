"""The trial before an upgrade: the program as it is installed now shows that it can go on from here.

A process of the new program reads the configuration as `serve` would and what the running supervisor would leave it,
starts one worker with a table and a hub of its own and no listeners, and ends it when it is ready. What it says
against itself goes to standard output, a line for each reason; one that breaks before it can speak (a syntax error,
an import that fails) leaves the last line of its standard error. All that it writes there goes to the server's log,
too.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import structlog
import trio

from wd_trio.config import Config
from wd_trio.errors import Invalid, WdError
from wd_trio.ops import log as logging
from wd_trio.ops import messages, succession
from wd_trio.ops.children import Child, ChildOptions, Surroundings
from wd_trio.ops.connections import Connections
from wd_trio.ops.door import Door
from wd_trio.ops.hub import Hub
from wd_trio.ops.processes import Process
from wd_trio.ops.succession import Succession
from wd_trio.servers.slots import Slots

log = structlog.get_logger()

OPTION: Final = "--trial"
TRIAL_S: Final = 30.0
START_S: Final = 20.0
"""For the worker alone, so that the trial itself ends one that hangs: nobody else would."""
DRAIN_S: Final = 2.0
HARD_S: Final = 5.0
LAST_WORDS_S: Final = 1.0
SAID_BYTES: Final = 64_000
LAST_LINES: Final = 20
LINE_BYTES: Final = 16_000
SLOTS: Final = 64


# -- the running program's side


async def try_out(command: Sequence[str], state: Succession, *, deadline_s: float = TRIAL_S) -> list[str]:
    """Have the program that `command` names take the trial; what speaks against it, nothing when it may succeed us.
    OSError when there could be no process."""
    file = succession.write(state)
    said, said_theirs = os.pipe2(os.O_CLOEXEC)
    cried, cried_theirs = os.pipe2(os.O_CLOEXEC)
    try:
        process = Process.spawn(
            [*command, OPTION, str(file)],
            inherited=[file],
            environ=os.environ,
            stdout=said_theirs,
            stderr=cried_theirs,
        )
    except BaseException:
        os.close(said)
        os.close(cried)
        raise
    finally:
        for descriptor in (file, said_theirs, cried_theirs):
            os.close(descriptor)
    return await _watch(process, said, cried, deadline_s)


async def _watch(process: Process, said: int, cried: int, deadline_s: float) -> list[str]:
    reasons = bytearray()
    last_lines: deque[str] = deque(maxlen=LAST_LINES)
    in_time = False
    async with (
        trio.lowlevel.FdStream(said) as out,
        trio.lowlevel.FdStream(cried) as err,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(_collect, out, reasons)
        nursery.start_soon(_relay, err, last_lines)
        try:
            with trio.move_on_after(deadline_s):
                await process.wait()
                in_time = True
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
        # A worker of its own that is still ending may hold the other ends open.
        nursery.cancel_scope.deadline = trio.current_time() + LAST_WORDS_S
    if not in_time:
        return [f"the new version was not ready within {deadline_s:g} s"]
    if process.returncode == 0:
        return []
    spoken = reasons.decode("utf-8", "replace").splitlines()
    return spoken or [*last_lines][-1:] or [f"the new version ended with status {process.returncode}"]


async def _collect(stream: trio.lowlevel.FdStream, into: bytearray) -> None:
    while data := await stream.receive_some():
        into += data[: max(0, SAID_BYTES - len(into))]


async def _relay(stream: trio.lowlevel.FdStream, last: deque[str]) -> None:
    """Write what comes to our own standard error, and remember the last lines that say something. Of one that has no
    end it is the beginning."""
    rest = b""
    while data := await stream.receive_some():
        *lines, rest = (rest + data).split(b"\n")
        rest = rest[:LINE_BYTES]
        for line in lines:
            text = line.decode("utf-8", "replace")
            sys.stderr.write(text + "\n")
            if text.strip():
                last.append(text.strip())


# -- the new program's side


def undergo(descriptor: int, read_config: Callable[[], Config]) -> int:
    """Take the trial; the exit status of this process: 0, or 1 with the reasons on standard output. Blocking."""
    try:
        state = succession.read(descriptor)
        config = read_config()
        logging.configure(config.log, role="trial")
        reasons = trio.run(_one_worker, config, state.server)
    except Invalid as error:
        reasons = str(error).splitlines()
    except (WdError, OSError) as error:
        reasons = [str(error)]
    for reason in reasons:
        print(reason)
    return 1 if reasons else 0


async def _one_worker(config: Config, server: str, options: ChildOptions | None = None) -> list[str]:
    """Start a worker and end it; what went wrong."""
    connections = Connections(Slots.create(SLOTS))
    settled, over = trio.Event(), trio.Event()
    around = Surroundings(
        door=Door(config.limits, connections),
        hub=Hub(),
        api_descriptors=(),
        upgrade=connections.end,
        arrived=lambda: None,
        metrics_text=_no_metrics,
        buried=lambda owner: None,
        options=options or ChildOptions(),
    )
    owner = f"{server}/trial.{os.getpid()}"
    child = Child(messages.Boot(messages.VERSION, config, server, 0, owner), around, on_ready=settled.set)

    async def live() -> None:
        try:
            await child.run()
        except OSError as error:
            child.failure = str(error)
        over.set()
        settled.set()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(live)
            with trio.move_on_after(START_S):
                await settled.wait()
            if not settled.is_set():
                nursery.cancel_scope.cancel()  # which kills it
            elif not over.is_set():
                await child.drain(deadline_s=DRAIN_S, hard_s=HARD_S, stopping=False)
                await over.wait()
    finally:
        connections.close()
    if not settled.is_set():
        return [f"a worker of the new version was not ready within {START_S:g} s"]
    if child.failure:
        return [child.failure]
    if not child.was_ready:
        return [f"a worker of the new version ended with status {child.returncode}"]
    return [] if child.returncode == 0 else ["a worker of the new version did not end when it was asked to"]


async def _no_metrics() -> str:
    await trio.lowlevel.checkpoint()
    return ""
