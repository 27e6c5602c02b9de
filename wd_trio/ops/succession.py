"""A supervisor leaves its server to a newer program in the same process: exec, with everything open kept open.

The process stays, so its children stay its children and a service manager sees nothing. What the new program has to
know goes through a file in memory (memfd_create(2)), named by its descriptor: listeners, the control socket, the
connections and their slots, the workers, what has been counted. It is written in one step of the loop, while nothing
is under way (ops/upgrade.py sees to that), and the exec comes in that same step.

Between the two programs signals wait: they are blocked before the step and unblocked when the successor's handlers
stand; one that another thread of ours still catches is raised again, for the thread that has them blocked.

The file is read by other versions than the one that wrote it: fields are only added, with defaults (see messages.py).
LAYOUT names what cannot be added to: the slots. A successor with another layout refuses, in its trial already.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

import msgspec

from wd_trio import __version__
from wd_trio.addresses import parse_listen
from wd_trio.config import Config
from wd_trio.errors import Invalid
from wd_trio.ops.connections import ConnectionsState
from wd_trio.ops.control import ControlSocket
from wd_trio.ops.listeners import Listener
from wd_trio.ops.messages import decode_other, encode_other
from wd_trio.ops.tls.holding import HoldingState
from wd_trio.ops.workers import WorkersState
from wd_trio.servers.slots import SLOT_BYTES

LAYOUT: Final = 1
"""Of slots (servers/slots.py); to be raised when a field there moves or means something else."""
OPTION: Final = "--succeed"
HEEDED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)


class ListenerState(msgspec.Struct, frozen=True, kw_only=True):
    """A bound socket and the address that it was bound to."""

    protocol: str
    address: str
    descriptor: int
    tls: bool = False


class ControlState(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    descriptor: int


class Succession(msgspec.Struct, frozen=True, kw_only=True):
    """What a supervisor leaves to its successor. `config` is what is being served, `server` the name under which this
    run of the server holds leases, `generation` the number of upgrades before."""

    layout: int = LAYOUT
    slot_bytes: int = SLOT_BYTES
    version: str = __version__
    generation: int
    config: Config
    server: str
    listeners: list[ListenerState]
    control: ControlState
    connections: ConnectionsState
    workers: WorkersState
    holder: HoldingState | None = None

    def descriptors(self) -> list[int]:
        """Everything that must stay open."""
        return [
            *(each.descriptor for each in self.listeners),
            self.control.descriptor,
            *self.connections.open_descriptors(),
            *(each.channel for each in self.workers.children),
            *(each.bus for each in self.workers.children),
            *(self.holder.descriptors if self.holder is not None else ()),
        ]

    def bound(self) -> list[Listener]:
        """The listeners, now ours."""
        return [
            Listener(
                each.protocol, parse_listen(each.address), socket.socket(fileno=each.descriptor), each.tls
            )
            for each in self.listeners
        ]

    def control_socket(self) -> ControlSocket:
        """The control socket, now ours."""
        return ControlSocket(Path(self.control.path), socket.socket(fileno=self.control.descriptor))


_encoder: Final = msgspec.msgpack.Encoder(enc_hook=encode_other)
_decoder: Final = msgspec.msgpack.Decoder(Succession, dec_hook=decode_other)


def write(state: Succession) -> int:
    """The descriptor of a new file in memory that holds the state. OSError when the machine has no room."""
    descriptor = os.memfd_create("wd-trio-succession", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(_encoder.encode(state))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read(descriptor: int) -> Succession:
    """The state in a file, which is closed. Invalid when this version cannot go on from there."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    with open(descriptor, "rb") as file:
        data = file.read()
    try:
        state = _decoder.decode(data)
    except (msgspec.DecodeError, ValueError) as error:
        raise Invalid(f"what the running version leaves cannot be read: {error}", what="upgrade") from error
    if (state.layout, state.slot_bytes) != (LAYOUT, SLOT_BYTES):
        raise Invalid("connections cannot be taken over from that version: restart instead", what="upgrade")
    return state


def succeed(descriptor: int) -> Succession:
    """What the predecessor of this program has left, its descriptors being ours from now on. Invalid as `read`."""
    state = read(descriptor)
    for each in state.descriptors():
        os.set_inheritable(each, False)
    return state


def become(command: Sequence[str], state: Succession) -> None:
    """Run `command` in this process in place of this program, told where the state is. Returns only by OSError, and
    then all is as before. Signals must be held (`signals_held`)."""
    handed = state.descriptors()
    file = write(state)
    try:
        for descriptor in (file, *handed):
            os.set_inheritable(descriptor, True)
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(command[0], [*command, OPTION, str(file)])
    finally:
        for descriptor in handed:
            os.set_inheritable(descriptor, False)
        os.close(file)


@contextmanager
def signals_held() -> Iterator[None]:
    """Within, no signal that we heed is delivered: it waits for the end, or for the program that an exec puts in our
    place. In the main thread."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, HEEDED)
    handlers = {number: signal.signal(number, _again) for number in HEEDED}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def release_signals() -> None:
    """Let those come that waited since the program before this one: handlers stand."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HEEDED)


def _again(number: int, _frame: FrameType | None) -> None:
    """Another thread has caught it, and an exec would forget it: let it wait where it is blocked."""
    signal.raise_signal(number)


def without_option(arguments: Sequence[str]) -> list[str]:
    """Arguments of a command line as they were before any succession."""
    kept = list(arguments)
    while OPTION in kept:
        at = kept.index(OPTION)
        del kept[at : at + 2]
    return kept
