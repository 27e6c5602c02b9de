"""What a supervisor leaves to its successor: written, read by other versions, and handed over by a real exec."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from wd_trio import __version__
from wd_trio.config import Api, Config
from wd_trio.errors import Invalid
from wd_trio.ops import succession
from wd_trio.ops.children import ChildState
from wd_trio.ops.connections import NOBODY, Connections, ConnectionsState
from wd_trio.ops.messages import Family
from wd_trio.ops.succession import ControlState, ListenerState, Succession
from wd_trio.ops.tls.state import HoldingState, Newcomer, Waiting
from wd_trio.ops.workers import WorkersState
from wd_trio.secret import Secret
from wd_trio.servers.slots import SLOT_BYTES, Phase, Slots

SAMPLES = [Family("n", "counter", "h", [("n_total", (("k", "v"),), 1.5)])]


def some_state(**others: Any) -> Succession:
    child = ChildState(
        pid=4711,
        slot=1,
        owner="server/1.7",
        state="ready",
        number=3,
        channel=11,
        bus=12,
        request=9,
        samples=SAMPLES,
        last_words=[],
    )
    made: dict[str, Any] = {
        "generation": 2,
        "config": Config(api=replace(Api(), access_token=Secret("token"))),
        "server": "server",
        "listeners": [ListenerState(protocol="imap", address="[::1]:143", descriptor=13)],
        "control": ControlState(path="/a/control", descriptor=14),
        "connections": ConnectionsState(
            slots=15,
            descriptors=array("i", [16, -1]).tobytes(),
            holders=array("I", [3, 0]).tobytes(),
            in_flight={0: "server/1.6"},
            last_id=77,
            last_worker=3,
        ),
        "workers": WorkersState(
            children=[child],
            waiting=[(0, b"unread \xff", 1)],
            dead=SAMPLES,
            last_number=7,
            unburied=["server/1.6"],
        ),
    }
    return Succession(**made | others)


# --- the file


def test_a_state_survives_the_file() -> None:
    state = some_state()
    assert state.version == __version__
    found = succession.read(succession.write(state))
    assert found == state
    assert found.config.api.access_token.reveal() == "token"
    assert sorted(found.descriptors()) == [11, 12, 13, 14, 15, 16]


def rewritten(change: Any) -> int:
    """The file of a state that another version wrote."""
    descriptor = succession.write(some_state())
    fields = msgspec.msgpack.decode(Path(f"/proc/self/fd/{descriptor}").read_bytes())
    change(fields)
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, msgspec.msgpack.encode(fields))
    return descriptor


def test_fields_that_another_version_has_or_has_not_do_no_harm() -> None:
    def change(fields: dict[str, Any]) -> None:
        fields["more"] = {"from": "later"}
        fields["config"]["server"]["more"] = 7
        fields["workers"]["children"][0]["more"] = None
        del fields["workers"]["children"][0]["last_words"]
        del fields["config"]["limits"]["flush_s"]
        del fields["holder"]

    found = succession.read(rewritten(change))
    (child,) = found.workers.children
    assert child.last_words is None
    assert found.config.limits == Config().limits


@pytest.mark.parametrize(
    ("field", "value"), [("layout", succession.LAYOUT + 1), ("slot_bytes", SLOT_BYTES + 64)]
)
def test_slots_of_another_layout_are_refused(field: str, value: int) -> None:
    with pytest.raises(Invalid, match="restart instead"):
        succession.read(rewritten(lambda fields: fields.update({field: value})))


@pytest.mark.parametrize("change", [lambda fields: fields.pop("connections"), lambda fields: fields.clear()])
def test_what_lacks_too_much_is_refused(change: Any) -> None:
    with pytest.raises(Invalid, match="cannot be read"):
        succession.read(rewritten(change))


def test_the_command_line_is_the_same_after_any_number_of_successions() -> None:
    given = ["--config", "a", "serve", succession.OPTION, "5"]
    assert succession.without_option(given) == ["--config", "a", "serve"]
    assert succession.without_option([*given, succession.OPTION, "6"]) == ["--config", "a", "serve"]


# --- connections


@pytest.fixture
def ends() -> Iterator[list[socket.socket]]:
    made: list[socket.socket] = []
    yield made
    for end in made:
        end.close()


def test_connections_go_on_under_their_numbers(ends: list[socket.socket]) -> None:
    before = Connections(Slots.create(10))
    workers = before.new_worker(), before.new_worker()
    for number in range(5):
        ours, theirs = socket.socketpair()
        ends.append(ours)
        before.enter("imap", theirs, "unix" if number == 4 else "192.0.2.1", 4711)
    for number, worker in ((0, workers[0]), (1, workers[1]), (2, workers[1])):
        before.hold(number, worker)
    before.depart(2, "server/1.0")
    before.depart(2, "server/1.1")
    before.leave(3)
    state = before.state()
    last_id = before.slots.at(4).id

    after = Connections.succeed(state)
    assert len(after) == 4
    assert sorted(state.open_descriptors()) == sorted(
        [after.slots.descriptor, *(after.descriptor(number) for number in (0, 1, 2, 4))]
    )
    assert [after.holder(number) for number in range(5)] == [workers[0], workers[1], NOBODY, NOBODY, NOBODY]
    assert [after.load(worker) for worker in workers] == [1, 1]
    assert after.of_ip("192.0.2.1") == 3
    assert after.of_ip("unix") == 0
    assert [after.in_flight(owner) for owner in ("server/1.0", "server/1.1")] == [1, 1]
    after.arrived(2)
    assert [after.in_flight(owner) for owner in ("server/1.0", "server/1.1")] == [0, 0]
    assert after.new_worker() == workers[1] + 1
    assert after.forgotten({workers[0], workers[1]}, {2}) == [4]
    ours, theirs = socket.socketpair()
    ends.append(ours)
    number = after.enter("pop3", theirs, "192.0.2.1", 1)
    assert number == 3, "the free one"
    assert after.slots.at(number).id == last_id + 1
    assert after.slots.at(0).phase == Phase.ARRIVED
    after.close()


# --- the exec


SUCCESSOR = """
import os, signal, sys
from wd_trio.ops import succession
from wd_trio.ops.succession import Succession
left = succession.succeed(int(sys.argv[-1]))
got = []
for number in succession.HEEDED:
    signal.signal(number, lambda number, frame: got.append(signal.Signals(number).name))
assert not got
succession.release_signals()
(listener,) = left.bound()
sock, _ = listener.sock.accept()
closed = all(not os.get_inheritable(each) for each in left.descriptors())
sock.sendall(repr((left.generation, sorted(got), closed, sys.argv[1:-2])).encode())
"""

PREDECESSOR = """
import os, signal, socket, sys, threading, time
from wd_trio.ops import succession
from wd_trio.ops.connections import Connections
from wd_trio.ops.succession import ControlState, ListenerState, Succession
from wd_trio.ops.workers import WorkersState
from wd_trio.config import Config
from wd_trio.servers.slots import Slots
listener = socket.create_server(("127.0.0.1", 0))
control = socket.socket()
print(listener.getsockname()[1], flush=True)
for number in succession.HEEDED:
    signal.signal(number, lambda number, frame: print("too early", flush=True))
started, wanted = threading.Event(), threading.Event()
def other():  # a thread that has nothing blocked, as those of a pool
    started.set()
    wanted.wait()
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)
    time.sleep(0.01)
threading.Thread(target=other, daemon=True).start()
started.wait()
with succession.signals_held():
    os.kill(os.getpid(), signal.SIGTERM)
    wanted.set()
    time.sleep(0.2)
    succession.become([sys.executable, "-c", sys.argv[1], "given"], Succession(
        generation=4, config=Config(), server="s",
        listeners=[ListenerState(protocol="imap", address="127.0.0.1:1", descriptor=listener.fileno())],
        control=ControlState(path="/c", descriptor=control.fileno()),
        connections=Connections(Slots.create(4)).state(),
        workers=WorkersState(children=[], waiting=[], dead=[], last_number=0, unburied=[])))
"""


def test_a_program_gives_way_to_another_and_no_signal_is_lost() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PREDECESSOR, SUCCESSOR], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with socket.create_connection(("127.0.0.1", port), 60) as client:
            said = client.makefile().read()
        assert process.stdout.read() == "", "nothing is delivered to the one that goes"
        assert process.wait() == 0
    assert said == repr((4, ["SIGINT", "SIGTERM"], True, ["given"]))


def test_a_program_that_is_not_there_leaves_all_as_it_was() -> None:
    connections = Connections(Slots.create(4))
    with socket.socket() as listener, socket.socket() as control:
        state = some_state(
            listeners=[ListenerState(protocol="imap", address="127.0.0.1:1", descriptor=listener.fileno())],
            control=ControlState(path="/c", descriptor=control.fileno()),
            connections=connections.state(),
            workers=WorkersState(children=[], waiting=[], dead=[], last_number=0, unburied=[]),
        )
        before = set(os.listdir("/proc/self/fd"))
        with pytest.raises(FileNotFoundError):
            succession.become(["/nowhere/at/all"], state)
        assert set(os.listdir("/proc/self/fd")) == before
        assert not any(os.get_inheritable(descriptor) for descriptor in state.descriptors())
    connections.close()


def test_signals_wait_and_come_when_it_was_nothing() -> None:
    caught: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: caught.append(number))
    try:
        with succession.signals_held():
            os.kill(os.getpid(), signal.SIGUSR2)
            other = threading.Thread(target=signal.raise_signal, args=(signal.SIGUSR2,))
            other.start()
            other.join()
            assert not caught
        assert caught == [signal.SIGUSR2]
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_who_waits_for_tls_is_known_by_number() -> None:
    def waiting(number: int) -> Waiting:
        return Waiting(number, Newcomer("imap", "192.0.2.1", 4711, upgrades=number), 0)

    state = HoldingState(
        pid=0,
        channel=-1,
        ready=True,
        last_id=9,
        batch=1,
        sent=False,
        on_the_way=[waiting(1)],
        waiting=[waiting(2)],
        unfinished={3: waiting(3).newcomer, 4: Newcomer("imap", "192.0.2.1", 4711)},
    )
    assert state.upgrading == {1, 2, 3}
