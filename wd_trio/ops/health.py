"""Health: readiness touches the engine, liveness does not.

Readiness (`/health`) touches every server of the engine and answers within 2 s whatever they do, because a balancer
gives up after about that; it says `draining` on the way out. Liveness (`/health/live`) asks only whether this process
still works, so that an outage of an engine never makes an orchestrator restart every server. What goes wrong is told
in fixed words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

import structlog
import trio

from wd_trio import __version__, telemetry
from wd_trio.api.app import Verdict
from wd_trio.errors import WdError
from wd_trio.ports.gateway import Gateway

log = structlog.get_logger()

READY_S: Final = 1.5
LIVE_S: Final = 1.5


class Health:
    """Answers for one worker; `draining` is set when the whole server goes."""

    def __init__(self, *, gateway: Gateway, pings: Mapping[str, Callable[[], None]]) -> None:
        """`pings` touch what must answer, each by the name under which its trouble is told."""
        self._gateway = gateway
        self._pings = pings
        self.draining = False

    async def ready(self) -> Verdict:
        """200 when every part of the engine answers, else 503 and which does not, within READY_S."""
        fault = await self._fault()
        telemetry.health_total.labels(fault or "healthy").inc()
        return _unhealthy(fault) if fault else _healthy()

    async def _fault(self) -> str:
        if self.draining:
            await trio.lowlevel.checkpoint()
            return "draining"
        faults: dict[str, str] = {}
        async with trio.open_nursery() as nursery:
            for name, ping in self._pings.items():
                nursery.start_soon(self._touch, name, ping, faults)
        return ", ".join(faults[name] for name in sorted(faults))

    async def _touch(self, name: str, ping: Callable[[], None], faults: dict[str, str]) -> None:
        try:
            with trio.fail_after(READY_S):
                await self._gateway.run(ping)
        except trio.TooSlowError:
            faults[name] = f"{name} too slow"
        except WdError as error:
            log.warning("not ready", error=str(error), what=error.what)
            faults[name] = f"{name} unavailable"

    async def live(self) -> Verdict:
        """200 when the loop and the gateway's threads turn, else 503, within LIVE_S."""
        try:
            with trio.fail_after(LIVE_S):
                await self._gateway.run(_nothing)
        except (trio.TooSlowError, WdError):
            return _unhealthy("gateway stuck")
        return _healthy()


def _nothing() -> None:
    """Work that proves a thread is there to do it."""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _healthy() -> Verdict:
    return 200, {"status": "healthy", "timestamp": _now(), "success": True, "version": __version__}


def _unhealthy(error: str) -> Verdict:
    return 503, {
        "status": "unhealthy",
        "error": error,
        "timestamp": _now(),
        "success": False,
        "version": __version__,
    }
