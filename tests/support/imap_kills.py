"""Kill -9 for IMAP connections in tests, at every step of what a worker does with them.

`Killed` keeps what the slot and the client had at every step, a step being a write to the slot or to the socket. Each
of these moments can then be given to a successor, as the supervisor would.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from imap_client_model import Believer
from imap_world import Client, ImapWorld

from wd_trio.mail.numset import UidSet
from wd_trio.servers import parking
from wd_trio.servers import slots as slot_module
from wd_trio.servers.driver import Connection, peer_of
from wd_trio.servers.slots import SLOT_BYTES, Slot, why_lost
from wd_trio.service.messages import Place

Moment = tuple[bytes, bytes]
"""What the slot held, and what the client had been sent, from the beginning of the recording on."""


@dataclass
class Survivor:
    """A moment at which another worker can go on: a slot for it, what it holds, what the client had been sent."""

    slot: Slot
    said: bytes

    def __post_init__(self) -> None:
        self.tag, self.progress, self.standing = self.slot.tag, self.slot.progress, self.slot.standing
        self.phase, self.attempts = self.slot.phase, self.slot.attempts


class Killed:
    """Records the moments of the connection in slot 0."""

    def __init__(self, world: ImapWorld) -> None:
        self._world = world
        self.moments: list[Moment] = []
        self._said = bytearray()

    def note(self, slot: Slot) -> None:
        if slot.number == 0:
            start = slot.base
            moment = bytes(slot.memory[start : start + SLOT_BYTES]), bytes(self._said)
            if not self.moments or self.moments[-1] != moment:
                self.moments.append(moment)

    @contextmanager
    def recording(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for kind in (
                slot_module._Byte,
                slot_module._Number,
                slot_module._Octets,
                slot_module._Text,
            ):
                patch.setattr(kind, "__set__", self._watched(kind.__set__))
            for name in ("note_command", "note_view"):
                patch.setattr(Slot, name, self._noted(getattr(Slot, name)))
            real = Connection._write_nowait

            def write(connection: Connection, data: bytes) -> int:
                sent = 0
                for at in range(len(data)):  # octet by octet: the kernel may take as few
                    sent += real(connection, data[at : at + 1])
                    if connection.slot.number == 0:
                        self._said += data[at : at + 1]
                        self.note(connection.slot)
                return sent

            def write_parked(descriptor: int, data: bytes) -> int:
                sent = os.write(descriptor, data)
                if self._world.hosts[0].parking._parked.number(descriptor) == 0:
                    self._said += data[:sent]
                    self.note(self._world.slots.at(0))
                return sent

            patch.setattr(Connection, "_write_nowait", write)
            patch.setattr(parking, "os", SimpleNamespace(write=write_parked))
            yield

    def _watched(self, real: Callable[..., None]) -> Callable[..., None]:
        def write(field: Any, slot: Slot, value: Any) -> None:
            real(field, slot, value)
            self.note(slot)

        return write

    def _noted(self, real: Callable[..., None]) -> Callable[..., None]:
        def write(slot: Slot, *args: Any, **kwargs: Any) -> None:
            real(slot, *args, **kwargs)
            self.note(slot)

        return write

    def survivors(self) -> Iterator[Survivor]:
        """The moments at which another worker can go on, each in a slot of its own."""
        seen: set[Moment] = set()
        for moment in self.moments:
            if moment in seen:
                continue
            seen.add(moment)
            slot = self._world.slots.at(self._world.free.pop())
            slot.memory[slot.base : slot.base + SLOT_BYTES] = moment[0]
            if why_lost(slot):
                self._world.free.append(slot.number)
            else:
                yield Survivor(slot, moment[1])


def go_on(world: ImapWorld, survivor: Survivor) -> Client:
    slot = survivor.slot
    ours, theirs = socket.socketpair()
    slot.id = 1000 + len(world.clients)
    world.hosts[1].adopt(theirs, peer_of(slot), slot=slot)
    world.clients.append(Client(ours))
    return world.clients[-1]


async def place(world: ImapWorld, user: str = "alice") -> Place:
    owner = await world.services.users.by_username(user)
    return Place(owner.id, (await world.services.mailboxes.find(owner.id, "INBOX")).id)


async def expunge(world: ImapWorld, *uids: int) -> None:
    chosen = UidSet.of(uids)
    async for _ in world.services.messages.expunge(await place(world), chosen, marked_only=False):
        pass


async def whole(client: Client, believer: Believer) -> list[int | None]:
    """What the client knows once it has asked for everything."""
    believer.hear((await client.command("zn", "NOOP"))[:-1], "NOOP")
    believer.hear((await client.command("zf", "FETCH 1:* (UID FLAGS)"))[:-1], "FETCH")
    return believer.uids


async def opened(world: ImapWorld, count: int) -> tuple[Client, Believer]:
    for _ in range(count):
        await world.deliver("alice")
    client, believer = world.client(1), Believer()
    await client.log_in("alice")
    believer.hear(await client.command("s", "SELECT INBOX"), "SELECT")
    assert await whole(client, believer) == list(range(1, count + 1))
    return client, believer
