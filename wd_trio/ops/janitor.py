"""The janitor: upkeep that one process does for all.

Whoever holds the leader's lock checkpoints the database every few seconds, ends sessions that nobody vouches for and
removes what was in deleted mailboxes; every few minutes, and at once when it begins to lead, it repairs the tracking
records that killed processes left behind; every hour it removes blobs that nothing refers to and journal entries that
nobody needs. Each worker keeps trying to lead, so that the next one takes over when the leader dies. Checkpoints run
in a lane of their own: a slow one holds up nothing else. An engine in trouble is logged and tried again; nothing here
is urgent.
"""

from __future__ import annotations

from typing import Final

import structlog
import trio

from wd_trio.errors import WdError
from wd_trio.ops.boot import Services

log = structlog.get_logger()

CHECKPOINT_S: Final = 5.0
COLLECT_S: Final = 3600.0
FIRST_COLLECT_S: Final = 60.0
REPAIR_S: Final = 300.0
SWEEP_S: Final = 5.0  # then a checkpoint is due
SWEPT_A_STEP: Final = 1000  # messages
BLOB_GRACE_S: Final = 24 * 3600
BLOBS_A_STEP: Final = 100
JOURNAL_KEPT_S: Final = 30 * 24 * 3600
MAILBOXES_A_STEP: Final = 100
STEP_PAUSE_S: Final = 0.05


class Janitor:
    """Runs in every worker; works in the one that leads."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def run(self) -> None:
        """Try to lead, and do what is due, for ever."""
        collect_at = trio.current_time() + FIRST_COLLECT_S
        repair_at = 0.0
        while True:
            await trio.sleep(CHECKPOINT_S)
            try:
                if not await self._services.gateway.run(self._services.engine.lead):
                    continue
                ended = await self._services.sessions.sweep()
                if ended:
                    log.info("sessions swept", count=ended)
                await self.sweep()
                if trio.current_time() >= repair_at:
                    repair_at = trio.current_time() + REPAIR_S
                    await self._services.tracking.repair()
                if trio.current_time() >= collect_at:
                    collect_at = trio.current_time() + COLLECT_S
                    await self.collect()
            except WdError as error:
                log.warning("upkeep failed", error=str(error), what=error.what)

    async def sweep(self) -> None:
        """Remove what was in deleted mailboxes, in small steps that let others write in between, for a while."""
        run, store = self._services.gateway.run, self._services.store
        ends = trio.current_time() + SWEEP_S
        while trio.current_time() < ends:
            if not await run(store.sweep_deleted, limit=SWEPT_A_STEP):
                return
            await trio.sleep(STEP_PAUSE_S)

    async def collect(self) -> None:
        """Remove what is unreferenced or outdated, in small steps that let others write in between."""
        run, store = self._services.gateway.run, self._services.store
        removed = trimmed = 0
        while step := await run(store.collect_blobs, unused_for_s=BLOB_GRACE_S, limit=BLOBS_A_STEP):
            removed += step
            await trio.sleep(STEP_PAUSE_S)
        while step := await run(store.trim_journal, older_than_s=JOURNAL_KEPT_S, limit=MAILBOXES_A_STEP):
            trimmed += step
            await trio.sleep(STEP_PAUSE_S)
        log.info("collected", blobs=removed, journals=trimmed)
