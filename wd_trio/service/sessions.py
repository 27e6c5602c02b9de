"""Sessions of authenticated connections: who has a place, counted over all workers.

A place is a claim in the volatile engine, held by this worker; it ends with its connection, or with the worker
(the next worker in its slot releases what the last one left).
"""

from __future__ import annotations

from dataclasses import dataclass

import structlog
import trio

from wd_trio.errors import Limited, Unavailable
from wd_trio.ports.gateway import Gateway
from wd_trio.ports.limits import Limits

log = structlog.get_logger()
RELEASE_S = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    connections_per_user: int = 50


class Sessions:
    """Takes and gives back the places of a user's connections."""

    def __init__(self, *, gateway: Gateway, limits: Limits, owner: str, options: SessionOptions) -> None:
        """`owner` names this worker (`<server>/<slot>`)."""
        self._gateway = gateway
        self._limits = limits
        self._owner = owner
        self._options = options

    async def begin(self, user_id: str, protocol: str, connection_id: str) -> None:
        """Take one of the user's places for `protocol`; Limited when all are taken."""
        taken = await self._gateway.run(
            self._limits.claim,
            f"connections:{protocol}:{user_id}",
            connection_id,
            owner=self._owner,
            most=self._options.connections_per_user,
        )
        if not taken:
            raise Limited("every connection of this user is taken", what="connections")

    async def end(self, user_id: str, protocol: str, connection_id: str) -> None:
        """Give the place back, also on the way out of a cancelled connection (bounded). An engine that is down
        is logged only: the claim then ends with this worker."""
        with trio.move_on_after(RELEASE_S, shield=True):
            try:
                await self._gateway.run(
                    self._limits.release, f"connections:{protocol}:{user_id}", connection_id
                )
            except Unavailable as error:
                log.warning(
                    "place not given back", protocol=protocol, connection=connection_id, error=str(error)
                )
