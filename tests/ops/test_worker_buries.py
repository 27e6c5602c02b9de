"""What a worker does at its beginning for those that died before it."""

from __future__ import annotations

from typing import cast

from wd_trio.errors import Unavailable
from wd_trio.ops.boot import Services
from wd_trio.ops.worker import _bury_first


class Gravedigger:
    def __init__(self, *, works: bool) -> None:
        self.asked: list[str] = []
        self._works = works

    async def bury(self, owner: str) -> None:
        self.asked.append(owner)
        if not self._works:
            raise Unavailable("down", what="redis")


async def test_an_engine_that_is_away_keeps_no_worker_from_serving() -> None:
    """And is asked once, not for each of them: every asking may cost a time-out."""
    services = Gravedigger(works=False)
    assert await _bury_first(cast(Services, services), ["s/1", "s/2"]) == []
    assert services.asked == ["s/1"]


async def test_the_dead_are_buried_first() -> None:
    services = Gravedigger(works=True)
    assert await _bury_first(cast(Services, services), ["s/1", "s/2"]) == ["s/1", "s/2"]
    assert services.asked == ["s/1", "s/2"]
