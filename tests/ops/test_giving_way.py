"""An upgrade of the supervisor's: it stands still first, and goes on as before when nothing comes of it.

The exec itself is in test_succession.py; here its place is taken by what the test says.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from wd_trio.config import Config
from wd_trio.ops import succession, trial
from wd_trio.ops.connections import Connections
from wd_trio.ops.door import Door
from wd_trio.ops.succession import Succession
from wd_trio.ops.upgrade import SETTLE_S, Upgrade, UpgradeOptions
from wd_trio.servers.slots import Slots


class Gone(BaseException):
    """In place of an exec: nothing of this program runs on."""


@dataclass
class Stage:
    """What an upgrade finds."""

    door: Door
    faults: list[str] = field(default_factory=list)
    quiet: bool = True
    looks: list[bool] = field(default_factory=list)
    """What is seen first, before `quiet`."""
    stopping: bool = False
    exec_error: OSError | None = None
    handed: list[Any] = field(default_factory=list)

    def upgrade(self, *, command: tuple[str, ...] = ("/new",)) -> Upgrade:
        return Upgrade(
            self.door,
            generation=3,
            options=UpgradeOptions(command=command),
            state=lambda: self.handed,  # type: ignore[arg-type, return-value]  # nobody here reads it
            is_quiet=lambda: self.looks.pop(0) if self.looks else self.quiet,
            is_stopping=lambda: self.stopping,
        )

    @property
    def is_open(self) -> bool:
        return self.door._open.is_set()


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    connections = Connections(Slots.create(4))
    made = Stage(Door(Config().limits, connections))

    async def try_out(command: tuple[str, ...], state: Any, *, deadline_s: float) -> list[str]:
        assert made.is_open, "the trial holds nobody up"
        await trio.sleep(1)
        return made.faults

    def become(command: tuple[str, ...], state: Succession) -> None:
        assert signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        assert not made.is_open
        assert made.quiet
        assert not made.looks
        assert command == ("/new",)
        if made.exec_error is not None:
            raise made.exec_error
        raise Gone

    monkeypatch.setattr(trial, "try_out", try_out)
    monkeypatch.setattr(succession, "become", become)
    yield made
    assert made.is_open
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    connections.close()


async def test_a_good_version_takes_over(stage: Stage, autojump_clock: MockClock) -> None:
    with pytest.raises(Gone):
        await stage.upgrade().run()


async def test_a_version_that_fails_its_trial_does_not(stage: Stage, autojump_clock: MockClock) -> None:
    stage.faults = ["broken"]
    assert await stage.upgrade().run() == ["broken"]


async def test_what_is_under_way_is_waited_for(
    stage: Stage, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    stage.quiet = False

    async def arrive() -> None:
        await trio.sleep(1 + SETTLE_S / 2)
        assert not stage.is_open
        stage.quiet = True

    nursery.start_soon(arrive)
    with pytest.raises(Gone):
        await stage.upgrade().run()


async def test_what_comes_under_way_in_the_last_moment_is_waited_for(
    stage: Stage, autojump_clock: MockClock
) -> None:
    stage.looks = [True, False, False, True]
    with pytest.raises(Gone):
        await stage.upgrade().run()
    assert not stage.looks


async def test_not_for_ever(stage: Stage, autojump_clock: MockClock) -> None:
    stage.quiet = False
    (fault,) = await stage.upgrade().run()
    assert "did not arrive in time" in fault


async def test_a_server_that_stops_does_not_go_on_as_another(stage: Stage, autojump_clock: MockClock) -> None:
    stage.stopping = True
    assert await stage.upgrade().run() == ["the server is stopping"]


async def test_an_exec_that_fails_is_told(stage: Stage, autojump_clock: MockClock) -> None:
    stage.exec_error = OSError(7, "Argument list too long")
    (fault,) = await stage.upgrade().run()
    assert "Argument list too long" in fault


async def test_without_a_command_there_is_nothing_to_become(stage: Stage, autojump_clock: MockClock) -> None:
    (fault,) = await stage.upgrade(command=()).run()
    assert "how it was started" in fault


def test_the_status_tells_of_the_last_one(stage: Stage) -> None:
    upgrade = stage.upgrade()
    assert upgrade.status() == {"generation": 3, "underWay": False, "faults": []}
    upgrade.begin()
    assert upgrade.status() == {"generation": 3, "underWay": True, "faults": []}
    upgrade.end(["broken"])
    assert upgrade.status() == {"generation": 3, "underWay": False, "faults": ["broken"]}
    upgrade.begin()
    assert upgrade.faults == []


async def test_a_defect_of_ours_costs_the_upgrade_alone(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async def breaks(command: tuple[str, ...], state: Any, *, deadline_s: float) -> list[str]:
        raise RuntimeError("broken")

    monkeypatch.setattr(trial, "try_out", breaks)
    assert await stage.upgrade().run() == ["the upgrade failed; the log says more"]
