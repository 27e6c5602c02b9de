"""Where a connection that wants TLS goes: to the holder and from there to the door, or to a worker that ends TLS
itself.

    securing = Securing(config, door)
    nursery.start_soon(securing.holding.run)
    securing.come("imap", sock, ip, port)       # accepted on a TLS listener, any PROXY header being read
    securing.upgrade(number)                    # its client said STARTTLS, its worker has let go of it
    faults = await securing.reload(config)      # another certificate

With `[tls] hold` a connection comes to the door when its handshake is done: what is no TLS costs no worker
anything, and the limits count who is in. Behind the door its plaintext end is a connection like any other. One that
says STARTTLS keeps its slot; it goes on over the plaintext end, greeted already, with a worker that says nothing
first.
"""

from __future__ import annotations

import socket

import structlog

from wd_trio.config import Config
from wd_trio.ops import metrics, processes
from wd_trio.ops.connections import NOBODY
from wd_trio.ops.door import Arrival, Door
from wd_trio.ops.tls.channel import HolderOptions
from wd_trio.ops.tls.holding import NEW, Holding, HoldingOptions, Newcomer, TlsFacts
from wd_trio.servers.slots import Standing

log = structlog.get_logger()

FLUSH_MORE_S = 5.0
"""So much longer than a worker the holder waits for a client that takes nothing: the worker's goodbye comes first."""


class Securing:
    """The end of TLS as the supervisor's other parts see it."""

    def __init__(self, config: Config, door: Door, options: HoldingOptions | None = None) -> None:
        self._door = door
        self._hold = config.tls.hold
        holder = HolderOptions(flush_s=config.limits.flush_s + FLUSH_MORE_S, drain_s=config.server.drain_s)
        self.holding = Holding(
            *self._files(config),
            on_secured=self._secured,
            on_failed=self._failed,
            options=options or HoldingOptions(holder=holder),
        )

        metrics.tls_handshakes_unfinished.set_function(lambda: self.holding.statistics().unfinished)
        metrics.memory_bytes.labels("holder").set_function(
            lambda: processes.look(self.holding.statistics().pid).memory_bytes
        )

    def _files(self, config: Config) -> tuple[str, str]:
        return (config.tls.certificate, config.tls.key) if self._hold else ("", "")

    async def wait_wanted(self) -> None:
        """Wait until more clients had better be accepted on the ports that begin with TLS."""
        await self.holding.wait_room()
        await self._door.wait_wanted()

    def come(self, protocol: str, sock: socket.socket, ip: str, port: int) -> None:
        """Have TLS made with an accepted client, and let it in."""
        if self._hold:
            self.holding.come(Newcomer(protocol, ip, port), sock)
            return
        number = self._door.admit(protocol, sock, ip, port)
        if number is not None:
            self._door.connections.slots.at(number).standing |= Standing.INSIDE
            self._door.place(Arrival(number))

    def upgrade(self, number: int) -> None:
        """Have TLS made with the client of a connection that nobody has, and let that go on behind it."""
        connections = self._door.connections
        slot = connections.slots.at(number)
        newcomer = Newcomer(slot.protocol, slot.ip, slot.port, upgrades=number)
        try:
            sock = connections.take_descriptor(number)
        except OSError as error:  # no descriptor is left
            log.warning("TLS not begun", error=str(error))
            connections.end(number)
        else:
            self.holding.come(newcomer, sock)

    def _secured(self, newcomer: Newcomer, sock: socket.socket, facts: TlsFacts) -> None:
        log.debug(
            "tls", protocol=newcomer.protocol, ip=newcomer.ip, version=facts.version, cipher=facts.cipher
        )
        if newcomer.upgrades == NEW:
            self._door.come(newcomer.protocol, sock, newcomer.ip, newcomer.port, secure=True)
            return
        connections, number = self._door.connections, newcomer.upgrades
        if not connections.is_there(number) or connections.holder(number) != NOBODY:
            sock.close()  # it was ended meanwhile
            return
        connections.replace(number, sock)
        slot = connections.slots.at(number)
        slot.standing |= Standing.SECURE
        slot.progress = 0  # its worker let nobody go on with it in clear
        self._door.place(Arrival(number))

    def _failed(self, newcomer: Newcomer, reason: str) -> None:
        log.debug("no tls", protocol=newcomer.protocol, ip=newcomer.ip, reason=reason)
        if newcomer.upgrades != NEW:
            self._door.connections.end(newcomer.upgrades)

    async def reload(self, config: Config) -> list[str]:
        """Use this configuration's certificate from now on; its faults if it is no good: then the old one stays.
        Whether TLS is held takes a restart to change."""
        return await self.holding.reload(*self._files(config))
