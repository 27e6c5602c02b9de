"""The trial of a new version: what speaks against it reaches whoever asked, and silence has an end."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from wd_trio.config import Config
from wd_trio.errors import Invalid
from wd_trio.ops import succession, trial
from wd_trio.ops.children import ChildOptions
from wd_trio.ops.connections import ConnectionsState
from wd_trio.ops.succession import ControlState, Succession
from wd_trio.ops.workers import WorkersState

SMALL = str(Path(__file__).with_name("small_worker.py"))
LEFT = Succession(
    generation=0,
    config=Config(),
    server="server",
    listeners=[],
    control=ControlState(path="/c", descriptor=0),
    connections=ConnectionsState(
        slots=0, descriptors=b"", holders=b"", in_flight={}, last_id=0, last_worker=0
    ),
    workers=WorkersState(children=[], waiting=[], dead=[], last_number=0, unburied=[]),
)


async def trying(program: str, *, deadline_s: float = 60.0) -> list[str]:
    before = set(os.listdir("/proc/self/fd"))
    faults = await trial.try_out([sys.executable, "-c", program], LEFT, deadline_s=deadline_s)
    assert set(os.listdir("/proc/self/fd")) == before
    return faults


async def test_it_is_given_the_state_and_may_succeed() -> None:
    program = (
        "import sys; from wd_trio.ops import succession;"
        f"assert sys.argv[-2] == {trial.OPTION!r};"
        "assert succession.read(int(sys.argv[-1])).server == 'server'"
    )
    assert await trying(program) == []


@pytest.mark.parametrize(
    ("program", "faults"),
    [
        ("print('one'); print('two'); print('no', file=__import__('sys').stderr); exit(1)", ["one", "two"]),
        ("import no_such_thing", ["ModuleNotFoundError: No module named 'no_such_thing'"]),
        ("import sys; sys.stderr.write('last words\\n\\n'); exit(3)", ["last words"]),
        ("exit(3)", ["the new version ended with status 3"]),
        ("import os; os.kill(os.getpid(), 9)", ["the new version ended with status -9"]),
    ],
)
async def test_what_speaks_against_it_is_told(
    program: str, faults: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert await trying(program) == faults
    out, err = capfd.readouterr()
    assert out == ""
    assert (faults[0] in err) == ("last words" in program or "import no" in program), "it is in the log, too"


async def test_one_that_hangs_is_given_up() -> None:
    (fault,) = await trying("import time; time.sleep(600)", deadline_s=0.05)
    assert fault == "the new version was not ready within 0.05 s"


async def test_one_that_talks_without_end_is_cut() -> None:
    (fault,) = await trying(f"print('x' * {trial.SAID_BYTES * 3}); exit(1)")
    assert fault == "x" * trial.SAID_BYTES


async def test_a_line_without_end_is_cut(capfd: pytest.CaptureFixture[str]) -> None:
    program = f"import sys; sys.stderr.write('x' * {trial.LINE_BYTES * 20}); exit(1)"
    (fault,) = await trying(program)
    assert "status 1" in fault
    program = f"import sys; sys.stderr.write('x' * {trial.LINE_BYTES * 20} + '\\n'); exit(1)"
    (fault,) = await trying(program)
    assert set(fault) == {"x"}
    assert len(fault) < trial.LINE_BYTES * 10, "the beginning, and what came with the end"


async def test_a_child_of_it_that_lives_on_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "LAST_WORDS_S", 0.05)
    program = (
        "import subprocess, sys;"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        "print(child.pid); sys.stdout.flush(); __import__('os')._exit(1)"
    )
    (pid,) = await trying(program)
    os.kill(int(pid), 9)


async def test_no_process_is_an_error_and_costs_no_descriptor() -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        await trial.try_out(["/nowhere/at/all"], LEFT)
    assert set(os.listdir("/proc/self/fd")) == before


# --- the new program's side


@pytest.mark.parametrize(
    ("command", "faults"),
    [
        ((sys.executable, SMALL, "greets"), []),
        ((sys.executable, SMALL, "cannot"), ["no luck"]),
        ((sys.executable, "-c", "exit(5)"), ["a worker of the new version ended with status 5"]),
    ],
)
async def test_one_worker_is_started_and_ended(command: tuple[str, ...], faults: list[str]) -> None:
    assert await trial._one_worker(Config(), "server", ChildOptions(command=command)) == faults


async def test_a_worker_that_cannot_be_is_a_fault() -> None:
    (fault,) = await trial._one_worker(Config(), "server", ChildOptions(command=("/nowhere/at/all",)))
    assert "/nowhere/at/all" in fault


async def test_a_worker_that_hangs_before_it_is_ready_is_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By the trial itself: when that is killed, nobody knows of the worker any more."""
    monkeypatch.setattr(trial, "START_S", 1.0)
    file = tmp_path / "pid"
    program = f"import os, time; open({str(file)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    (fault,) = await trial._one_worker(
        Config(), "server", ChildOptions(command=(sys.executable, "-c", program))
    )
    assert fault == "a worker of the new version was not ready within 1 s"
    with pytest.raises(ProcessLookupError):
        os.kill(int(file.read_text("ascii")), 0)


def test_the_trial_ends_its_worker_before_it_is_ended_itself() -> None:
    assert trial.START_S + trial.HARD_S + trial.DRAIN_S < trial.TRIAL_S


async def test_a_worker_that_does_not_end_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "HARD_S", 0.05)
    deaf = ChildOptions(command=(sys.executable, SMALL, "deaf"))
    (fault,) = await trial._one_worker(Config(), "server", deaf)
    assert "did not end" in fault


def test_every_fault_of_the_configuration_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    def read() -> Config:
        raise Invalid("one: wrong\ntwo: wrong")

    assert trial.undergo(succession.write(LEFT), read) == 1
    assert capsys.readouterr().out == "one: wrong\ntwo: wrong\n"


def test_a_state_that_cannot_be_read_is_a_fault(capsys: pytest.CaptureFixture[str]) -> None:
    file = os.memfd_create("nonsense")
    os.write(file, b"\xc1")
    assert trial.undergo(file, Config) == 1
    assert capsys.readouterr().out.startswith("what the running version leaves cannot be read")
