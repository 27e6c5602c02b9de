"""The connections of a server as its supervisor keeps them: a slot, a duplicate of the descriptor, who has it.

What has been accepted stays here until its worker says that it has ended, so that it can be given to another worker
at any moment. There may be many and they say nothing most of the time, so a connection costs a few integers in
arrays and its slot (servers/slots.py), and no object. A slot for every descriptor that this process may open: the
table is never full before the descriptors are.

A worker is known here by its number. What left a worker is *on its way* until another has acknowledged it; what the
first one held in the store may be ended only after that (`in_flight`).
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from array import array
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Final

import msgspec

from wd_trio.servers.slots import Phase, Slot, Slots, Standing

MOST_SLOTS: Final = 1 << 20
NOBODY: Final = 0
UNIX: Final = "unix"


class ConnectionsState(msgspec.Struct, frozen=True, kw_only=True):
    """What a successor of this process needs; the descriptors must stay open across the exec. `slots` is the table's
    descriptor, `descriptors` and `holders` are arrays of C ints by number, -1 where no connection is. `in_flight`
    names the worker that each of those was of last, `longer` the workers before it."""

    slots: int
    descriptors: bytes
    holders: bytes
    in_flight: dict[int, str]
    last_id: int
    last_worker: int
    longer: list[tuple[int, str]] = []

    def open_descriptors(self) -> list[int]:
        return [self.slots, *(descriptor for descriptor in array("i", self.descriptors) if descriptor != -1)]


class Connections:
    """All connections, by the number of their slot."""

    def __init__(self, slots: Slots | None = None) -> None:
        """OSError when there is no memory for a table. The descriptor of `slots` is ours from now on."""
        self.slots = slots or Slots.create(min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], MOST_SLOTS))
        self._descriptors = array("i")
        self._holders = array("I")
        self._free = array("I")
        self._loads: Counter[int] = Counter()
        self._per_ip: Counter[str] = Counter()
        # Those in flight, with the owner names of the workers that they were of: more than one where the worker that
        # was to get one died or left before it had taken its session over.
        self._of_owners: dict[int, tuple[str, ...]] = {}
        self._in_flight: Counter[str] = Counter()
        self._last_id = int.from_bytes(os.urandom(3), "big") << 32
        self._last_worker = NOBODY

    @classmethod
    def succeed(cls, state: ConnectionsState) -> Connections:
        """The connections that a predecessor of this process had, whose descriptors are ours now."""
        made = cls(Slots(state.slots))
        made._descriptors.frombytes(state.descriptors)
        made._holders.frombytes(state.holders)
        made._last_id, made._last_worker = state.last_id, state.last_worker
        for number, descriptor in enumerate(made._descriptors):
            if descriptor == -1:
                made._free.append(number)
                continue
            if made._holders[number] != NOBODY:
                made._loads[made._holders[number]] += 1
            ip = made.slots.at(number).ip
            if ip != UNIX:
                made._per_ip[ip] += 1
        for number, owner in (*state.longer, *state.in_flight.items()):
            made._fly(number, owner)
        return made

    def state(self) -> ConnectionsState:
        """All that a successor needs, true at this moment."""
        return ConnectionsState(
            slots=self.slots.descriptor,
            descriptors=self._descriptors.tobytes(),
            holders=self._holders.tobytes(),
            in_flight={number: owners[-1] for number, owners in self._of_owners.items()},
            last_id=self._last_id,
            last_worker=self._last_worker,
            longer=[(number, owner) for number, owners in self._of_owners.items() for owner in owners[:-1]],
        )

    def new_worker(self) -> int:
        """A number by which a worker's connections are kept."""
        self._last_worker += 1
        return self._last_worker

    def __len__(self) -> int:
        return len(self._descriptors) - len(self._free)

    @property
    def full(self) -> bool:
        return not self._free and len(self._descriptors) >= len(self.slots)

    def of_ip(self, ip: str) -> int:
        """How many a client's address has; Unix sockets are not counted."""
        return self._per_ip[ip]

    # -- coming and going

    def enter(self, protocol: str, sock: socket.socket, ip: str, port: int, *, secure: bool = False) -> int:
        """Keep an accepted connection, to which nothing was said yet; its number. The descriptor is ours from now on.
        The table must not be full."""
        if self._free:
            number = self._free.pop()
        else:
            number = len(self._descriptors)
            self._descriptors.append(-1)
            self._holders.append(NOBODY)
        slot = self.slots.at(number)
        self._last_id += 1
        slot.id = self._last_id
        slot.protocol, slot.ip, slot.port = protocol, ip, port
        slot.standing = Standing.SECURE if secure else 0
        slot.phase = Phase.ARRIVED
        self._descriptors[number] = sock.detach()
        if ip != UNIX:
            self._per_ip[ip] += 1
        return number

    def leave(self, number: int) -> None:
        """The connection has ended: its worker has shut it down. Idempotent."""
        self._forget(number, shut=False)

    def end(self, number: int, last_words: bytes = b"") -> None:
        """End the connection here: nobody can go on with it. Idempotent."""
        self._forget(number, shut=True, last_words=last_words)

    def _forget(self, number: int, *, shut: bool, last_words: bytes = b"") -> None:
        if not self.is_there(number):
            return
        with socket.socket(fileno=self._descriptors[number]) as sock:
            if shut:
                with contextlib.suppress(OSError):  # one that is gone already needs no words
                    sock.setblocking(False)
                    if last_words:
                        sock.send(last_words)
                    sock.shutdown(socket.SHUT_RDWR)
        self._descriptors[number] = -1
        self.hold(number, NOBODY)
        self.arrived(number)
        slot = self.slots.at(number)
        ip = slot.ip
        slot.clear()
        if ip != UNIX:
            self._per_ip[ip] -= 1
            if not self._per_ip[ip]:
                del self._per_ip[ip]
        self._free.append(number)

    def is_there(self, number: int) -> bool:
        return number < len(self._descriptors) and self._descriptors[number] != -1

    def descriptor(self, number: int) -> int:
        """Our duplicate, which stays ours."""
        return self._descriptors[number]

    def take_descriptor(self, number: int) -> socket.socket:
        """Our duplicate, which is the caller's from now on, until `replace` gives another."""
        return socket.socket(fileno=os.dup(self._descriptors[number]))

    def replace(self, number: int, sock: socket.socket) -> None:
        """The connection goes on over another descriptor: TLS ends before it now."""
        os.close(self._descriptors[number])
        self._descriptors[number] = sock.detach()

    # -- who has them

    def hold(self, number: int, worker: int) -> None:
        """A worker has the connection, or is about to get it; NOBODY has."""
        before = self._holders[number]
        if before != NOBODY:
            self._loads[before] -= 1
            if not self._loads[before]:
                del self._loads[before]
        if worker != NOBODY:
            self._loads[worker] += 1
        self._holders[number] = worker

    def holder(self, number: int) -> int:
        """The worker that has a connection, NOBODY where it is nobody's or not there."""
        return self._holders[number] if self.is_there(number) else NOBODY

    def load(self, worker: int) -> int:
        """How many connections a worker has."""
        return self._loads[worker]

    def held_by(self, worker: int) -> list[int]:
        """The numbers of a worker's connections."""
        if not self._loads[worker]:
            return []
        return [number for number, holder in enumerate(self._holders) if holder == worker]

    def forgotten(self, workers: Collection[int], kept: Collection[int]) -> list[int]:
        """Connections that none of these workers has and that are not among those kept."""
        return [
            number
            for number, holder in enumerate(self._holders)
            if self._descriptors[number] != -1 and holder not in workers and number not in kept
        ]

    def depart(self, number: int, owner: str) -> None:
        """The connection leaves the worker of that owner name, and is in flight until it has arrived elsewhere; so it
        is for the worker before, where it was in flight already: its session may still be that one's."""
        self.hold(number, NOBODY)
        self._fly(number, owner)

    def _fly(self, number: int, owner: str) -> None:
        owners = self._of_owners.get(number, ())
        if owner not in owners:
            self._of_owners[number] = (*owners, owner)
            self._in_flight[owner] += 1

    def arrived(self, number: int) -> None:
        """Another worker has taken it over, or it has ended. Idempotent."""
        for owner in self._of_owners.pop(number, ()):
            self._in_flight[owner] -= 1
            if not self._in_flight[owner]:
                del self._in_flight[owner]

    def in_flight(self, owner: str) -> int:
        """How many of a worker's connections no other has taken over yet."""
        return self._in_flight[owner]

    def __iter__(self) -> Iterator[tuple[int, Slot]]:
        """Every connection's number and slot."""
        for number, descriptor in enumerate(self._descriptors):
            if descriptor != -1:
                yield number, self.slots.at(number)

    def count(self) -> Counter[tuple[str, Phase, Standing]]:
        """How many there are of each protocol, phase and standing."""
        return self.slots.count(
            number for number, descriptor in enumerate(self._descriptors) if descriptor != -1
        )

    @property
    def without_worker(self) -> int:
        """How many no worker has: they wait for one, are between two, or TLS is being begun."""
        return len(self) - self._loads.total()

    def close(self) -> None:
        """End whatever is left and give the table back."""
        for number in range(len(self._descriptors)):
            self.end(number)
        self.slots.close()
