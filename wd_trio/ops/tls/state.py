"""What the holder's keeper (holding.py) knows of clients on their way to TLS, and what a successor of it gets.

Plain values, all of them: a supervisor that replaces its own program writes them down. A `Waiting` is a client
whose descriptor is still ours; one that the holder has is a `Newcomer` under its number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

NEW: Final = -1


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A client that wants TLS, and what is known of it. `upgrades`: the number of the connection that said STARTTLS;
    NEW for one that begins with TLS."""

    protocol: str
    ip: str
    port: int
    upgrades: int = NEW


@dataclass(frozen=True, slots=True)
class TlsFacts:
    """How a client's TLS came out. `name` is what it asked for (SNI), "" if for none; there is no ALPN."""

    version: str
    cipher: str
    name: str


class Waiting(msgspec.Struct, array_like=True):
    id: int
    newcomer: Newcomer
    descriptor: int


class HoldingState(msgspec.Struct, kw_only=True):
    """What a successor of this process needs; its descriptors must stay open across the exec."""

    pid: int
    channel: int
    ready: bool
    last_id: int
    batch: int
    sent: bool
    on_the_way: list[Waiting]
    waiting: list[Waiting]
    unfinished: dict[int, Newcomer]

    @property
    def descriptors(self) -> list[int]:
        own = [self.channel] if self.channel >= 0 else []
        return [*own, *(each.descriptor for each in (*self.on_the_way, *self.waiting))]

    @property
    def upgrading(self) -> set[int]:
        """The numbers of connections that said STARTTLS and have no TLS yet."""
        newcomers = [each.newcomer for each in (*self.on_the_way, *self.waiting)]
        return {each.upgrades for each in (*newcomers, *self.unfinished.values()) if each.upgrades != NEW}
