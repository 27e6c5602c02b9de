"""A world for POP3 sessions that go from one worker to the next (hand_over.py), over a real engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import hand_over
import trio
from imap_world import world_config
from pop3_world import OPTIONS, Pop3Client, Pop3World

from wd_trio.config import Config
from wd_trio.ops.boot import Services, open_services
from wd_trio.secret import Secret
from wd_trio.servers.driver import Connection
from wd_trio.servers.listener import Handler
from wd_trio.servers.pop3.options import Pop3Options, Pop3Services
from wd_trio.servers.pop3.serve import serve_pop3
from wd_trio.servers.slots import Progress


class HandOver(Pop3World):
    """Users alice and bob. `services` are the present worker's."""

    def __init__(
        self, services: Services, server: hand_over.Server, config: Config, stack: AsyncExitStack
    ) -> None:
        self.server = server
        self._config = config
        self._stack = stack
        self._workers = 1
        self._idle: list[Services] = []  # workers without connections
        self._options = OPTIONS
        server.begin(self._handler(services))
        super().__init__(services, server.host, server.ended)

    def _handler(self, services: Services) -> Handler:
        made = Pop3Services(auth=services.auth, sessions=services.sessions, maildrops=services.maildrops)
        options: Pop3Options = self._options

        async def serve(connection: Connection) -> str:
            return await serve_pop3(connection, made, options)

        return serve

    def connect(self, ip: str = "127.0.0.1") -> Pop3Client:
        client = Pop3Client(self.server.connect(ip))
        self.clients.append(client)
        return client

    async def wait_ended(self, client: Pop3Client) -> None:
        while self.clients.index(client) not in self.server.ended:
            await trio.lowlevel.checkpoint()

    async def _next_worker(self) -> Services:
        if self._idle:
            return self._idle.pop()
        self._workers += 1
        return await self._stack.enter_async_context(
            open_services(self._config, server="test", worker=f"test/{self._workers}")
        )

    async def move(self) -> None:
        """All connections go on with another worker; the one before is buried."""
        services = await self._next_worker()
        await self.server.start_move()
        before, self.services = self.services, services

        self.server.finish_move(self._handler(services))
        await self._bury(before)
        self._idle.append(before)

    async def move_if_it_can(self) -> None:
        """`move`, unless a connection is in what it must finish first."""
        await self.server.wait_resumed()
        if not any(c.slot.progress & Progress.FIXED for c, _ in self.server.host._open.values()):
            await self.move()

    async def kill(self, *, bury: bool = True) -> None:
        """The present worker is killed; another goes on."""
        services, dead = await self._next_worker(), self.services

        async def nothing(*_: Any) -> None:
            """What a dead worker does."""

        dead.maildrops.close = nothing  # type: ignore[method-assign]  # nobody is left to do it
        dead.sessions.end = nothing  # type: ignore[method-assign]  # the same
        self.services = services
        await self.server.kill(self._handler(services))
        if bury:
            await self._bury(dead)

    async def _bury(self, dead: Services) -> None:
        """Once all that it had is the next one's."""
        await self.server.wait_resumed()
        await self.services.bury(dead.owner)


@asynccontextmanager
async def open_hand_over(engine: str, folder: Path) -> AsyncIterator[HandOver]:
    config = world_config(engine, folder)
    async with AsyncExitStack() as stack:
        services = await stack.enter_async_context(open_services(config, server="test", worker="test/1"))
        for user in ("alice", "bob"):
            await services.users.create(user, Secret(f"secret of {user}"), address=f"{user}@example.org")
        async with hand_over.open_server("pop3") as server:
            world = HandOver(services, server, config, stack)
            yield world
            for client in world.clients:
                await client.aclose()
