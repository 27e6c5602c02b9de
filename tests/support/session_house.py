"""Sessions of several workers over one real engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from accounts import Accounts, open_accounts

from wd_trio.adapters.sqlite.bus import LocalBus
from wd_trio.adapters.sqlite.sessions import SqliteSessions
from wd_trio.ports.bus import Hint
from wd_trio.secret import Secret
from wd_trio.servers.driver import Peer
from wd_trio.service.auth import Login
from wd_trio.service.changes import ChangeHub
from wd_trio.service.sessions import Session, SessionOptions, Sessions
from wd_trio.service.tracking import Tracking

PEER = Peer("c1", "imap", "192.0.2.1", 4711, secure=True)


class RecordingBus(LocalBus):
    def __init__(self) -> None:
        self.hints: list[Hint] = []

    def publish_nowait(self, hint: Hint) -> None:
        self.hints.append(hint)


@dataclass
class Worker:
    """One worker's sessions; `kicked` are the reasons told to its connections, by session id at the time."""

    sessions: Sessions
    tracking: Tracking
    hub: ChangeHub
    bus: RecordingBus
    kicked: list[str] = field(default_factory=list)

    async def begin(self, login: Login, protocol: str = "imap") -> Session:
        return await self.sessions.begin(login, protocol=protocol, peer=PEER, kick=self.kicked.append)


@dataclass
class SessionHouse:
    accounts: Accounts
    store: SqliteSessions

    def worker(self, name: str, *, server: str = "s1", most: int = 50) -> Worker:
        bus = RecordingBus()
        hub = ChangeHub(bus)
        tracking = Tracking(
            gateway=self.accounts.gateway, documents=self.accounts.documents, sessions=self.store
        )
        sessions = Sessions(
            gateway=self.accounts.gateway,
            store=self.store,
            hub=hub,
            tracking=tracking,
            server=server,
            worker=name,
            options=SessionOptions(connections_per_user=most, clock=self.accounts.clock),
        )
        return Worker(sessions, tracking, hub, bus)

    async def login(self, name: str) -> Login:
        """A user, made for the purpose, as it comes from a log-in."""
        user = await self.accounts.users.create(name, Secret("pw"), address=f"{name}@example.org")
        return Login(user.id, user.username, user.address, None)


@asynccontextmanager
async def open_session_house(folder: Path) -> AsyncIterator[SessionHouse]:
    async with open_accounts(folder) as accounts:
        yield SessionHouse(accounts, SqliteSessions(accounts.state))
