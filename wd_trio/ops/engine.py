"""An engine as the composition root takes it: the ports it implements, its lanes, its bus and its upkeep.

`embedded.py` opens the one of SQLite, `cluster.py` that of MongoDB and Redis; boot.py composes the services over
either and knows no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

import trio

from wd_trio.adapters.lanes import LaneOptions
from wd_trio.ports.bus import Bus
from wd_trio.ports.documents import Documents
from wd_trio.ports.gateway import Gateway
from wd_trio.ports.limits import Limits
from wd_trio.ports.mail import MailStore
from wd_trio.ports.sessions import SessionStore

T = TypeVar("T")

UPKEEP: Final = "upkeep"
"""The janitor's lane: a slow checkpoint stands in nobody's way."""


class RunningBus(Bus, Protocol):
    """A bus with a task of its own."""

    async def run(self) -> None:
        """Send what is published, for ever. Unavailable when the bus is gone for good."""
        ...

    async def flush(self) -> None:
        """Wait until what was published is on its way, or dropped."""
        ...

    def close(self) -> None:
        """Leave. Idempotent."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """An engine, open. `lanes` are those that its methods are marked with; `lead` does the engine's own upkeep if
    this process leads or can take the lead, and says whether it does; `pings` touch each server of the engine,
    by the name that /health tells (they raise Unavailable)."""

    store: MailStore
    documents: Documents
    limits: Limits
    sessions: SessionStore
    lanes: tuple[LaneOptions, ...]
    lead: Callable[[], bool]
    pings: Mapping[str, Callable[[], None]]
    open_bus: Callable[[Gateway], RunningBus] = field(repr=False)


async def in_thread(call: Callable[[], T]) -> T:
    """Open or close something of an engine, outside of every lane."""
    return await trio.to_thread.run_sync(call, limiter=trio.CapacityLimiter(1))
