"""Upgrading a running server: trial, standing still, succession (docs/architecture.md, "Hand-over").

1. The installed program takes a trial (trial.py). Whatever speaks against it ends the upgrade; nothing has changed.
2. The door is paused: who comes waits in the backlog, PROXY headers under way get their time, batches of connections
   on their way to workers arrive. Workers go on serving what they have.
3. When nothing is under way any more, in one step of the loop, what there is is written down and the new program
   takes this process over (succession.py). Should the exec fail, the door opens again.

What the new program does first is the supervisor's to say: it leads the same workers on, then rolls them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
import trio

from wd_trio import __version__
from wd_trio.ops import metrics, succession, trial
from wd_trio.ops.door import Door
from wd_trio.ops.succession import Succession

log = structlog.get_logger()

SETTLE_S: Final = 6.0
"""PROXY headers get 3 s, an acknowledgement or a worker's last words rarely a moment."""
SETTLE_POLL_S: Final = 0.01
SIGNALS_S: Final = 0.01
"""For what was caught before signals were held to be dealt with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpgradeOptions:
    """`command` is this server's own command line, for the program as it is installed then; empty: none is known."""

    command: Sequence[str] = ()
    trial_s: float = trial.TRIAL_S
    settle_s: float = SETTLE_S


class Upgrade:
    """At most one upgrade at a time, and what came of the last one."""

    def __init__(
        self,
        door: Door,
        *,
        generation: int,
        options: UpgradeOptions,
        state: Callable[[], Succession],
        is_quiet: Callable[[], bool],
        is_stopping: Callable[[], bool],
    ) -> None:
        """`state` is all that a successor needs, true when it is called; `is_quiet` says whether nothing is under way
        that is not in it. `generation` counts the upgrades before."""
        self.generation = generation
        self.under_way = False
        self.faults: list[str] = []
        self._door = door
        self._options = options
        self._state = state
        self._is_quiet = is_quiet
        self._is_stopping = is_stopping

    def status(self) -> dict[str, Any]:
        return {"generation": self.generation, "underWay": self.under_way, "faults": self.faults}

    def begin(self) -> None:
        """Say that one is under way: before `run`, or because this program has just succeeded another."""
        self.under_way, self.faults = True, []

    def end(self, faults: list[str], *, succeeded: bool = False) -> None:
        """It is over, and what went wrong; `succeeded`: for the program that took over."""
        self.under_way, self.faults = False, faults
        metrics.upgrades_total.labels("done" if succeeded else "refused").inc()
        for fault in faults:
            log.error("upgraded with a fault" if succeeded else "not upgraded", fault=fault)

    async def run(self) -> list[str]:
        """Try and succeed. Returns only when nothing came of it: the faults."""
        options = self._options
        if not options.command:
            return ["this server does not know how it was started"]
        log.info("upgrading", version=__version__, generation=self.generation)
        try:
            faults = await trial.try_out(options.command, self._state(), deadline_s=options.trial_s)
            return faults or await self._give_way()
        except OSError as error:
            return [f"the machine is short of something: {error}"]
        except Exception:  # a defect of ours costs an upgrade, and not the server
            log.exception("upgrade failed")
            return ["the upgrade failed; the log says more"]

    async def _give_way(self) -> list[str]:
        self._door.pause()
        try:
            with trio.move_on_after(self._options.settle_s):
                while True:
                    while not self._is_quiet():  # noqa: ASYNC110 - many tell, at any moment, and for seconds only
                        await trio.sleep(SETTLE_POLL_S)
                    if await self._succeed():
                        return ["the server is stopping"]
            return ["connections on their way to workers did not arrive in time"]
        finally:
            self._door.resume()

    async def _succeed(self) -> bool:
        """Hand the process over. Returns when that cannot be now: because the server is stopping (True), or because
        something came under way. OSError when it cannot be at all."""
        with succession.signals_held():
            await trio.sleep(SIGNALS_S)
            if self._is_stopping():
                return True
            if self._is_quiet():
                log.info("handing over", version=__version__, generation=self.generation)
                succession.become(self._options.command, self._state())
            return False
