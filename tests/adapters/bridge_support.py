"""What the tests of the gateway share: a group behind a gate, a call that writes, and what a lane tells."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from wd_trio.adapters.bridge import Gateway, LaneStatistics
from wd_trio.adapters.lanes import Outcome
from wd_trio.ports.gateway import writes

SHORT_WAIT_S = 0.01


class Group:
    """A group that runs `most` calls at once in turn and remembers how many it did; `gate` holds it at the start."""

    def __init__(self, most: int = 1000) -> None:
        self.most = most
        self.sizes: list[int] = []
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, calls: Sequence[Callable[[], object]]) -> list[Outcome]:
        self.entered.set()
        self.gate.wait()
        outcomes: list[Outcome] = []
        for call in calls[: self.most]:
            try:
                outcomes.append((call(), None))
            except Exception as error:
                outcomes.append((None, error))
        self.sizes.append(len(outcomes))
        return outcomes


@writes("store")
def echo_write(value: object) -> object:
    return value


def lane_named(gateway: Gateway, name: str) -> LaneStatistics:
    return next(lane for lane in gateway.statistics().lanes if lane.name == name)
