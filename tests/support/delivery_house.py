"""Everything a delivery needs, real: SQLite in a folder, the gateway, users, the hub."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from wd_trio.adapters.bridge import Gateway, LaneOptions
from wd_trio.adapters.sqlite.bus import LocalBus
from wd_trio.adapters.sqlite.database import SqliteDatabase
from wd_trio.adapters.sqlite.documents import SqliteDocuments
from wd_trio.adapters.sqlite.store import SqliteStore
from wd_trio.mail.model import Columns, MessageRow
from wd_trio.mail.rope import Rope, restore
from wd_trio.service.changes import ChangeHub
from wd_trio.service.credentials import Hasher
from wd_trio.service.delivery import Delivery, DeliveryOptions
from wd_trio.service.intake import Intake
from wd_trio.service.users import Users

NOW = 1893456000.5  # 2030-01-01 00:00:00 UTC


@dataclass
class House:
    database: SqliteDatabase
    store: SqliteStore
    gateway: Gateway
    users: Users
    hub: ChangeHub
    intake: Intake
    delivery: Delivery

    async def user(self, address: str, *, quota_bytes: int | None = None) -> str:
        """A new user's id."""
        return (await self.users.create(address, None, quota_bytes=quota_bytes)).id

    def rows(self, user_id: str, path: str = "INBOX") -> list[MessageRow]:
        opened = self.store.open_mailbox(user_id, path)
        assert opened.uids is not None
        return self.store.fetch(
            opened.mailbox.id, opened.uids, Columns.ROPE | Columns.HEADER | Columns.ENVELOPE, limit=10_000
        )

    def bodies(self, user_id: str, path: str = "INBOX") -> list[bytes]:
        """The bytes of every message of a mailbox, in order of uid."""
        ropes = [row.rope or b"" for row in self.rows(user_id, path)]
        return [restore(Rope.decode(rope), self.store.read_blob) for rope in ropes]

    def count(self, table: str) -> int:
        with self.database.reading() as connection:
            (number,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        return int(number)


@asynccontextmanager
async def open_house(folder: Path) -> AsyncIterator[House]:
    database = SqliteDatabase(folder / "mail.db")
    store = SqliteStore(database)
    lanes = [
        LaneOptions(name="store.write", group=database.group),
        LaneOptions(name="store.read", threads=2),
        LaneOptions(name="work", threads=2),
    ]
    try:
        async with Gateway(lanes) as gateway:
            users = Users(
                gateway=gateway,
                documents=SqliteDocuments(database),
                store=store,
                hasher=Hasher(time_cost=1, memory_kib=8),
            )
            hub = ChangeHub(LocalBus())
            intake = Intake(gateway=gateway, store=store)
            delivery = Delivery(
                gateway=gateway,
                store=store,
                users=users,
                intake=intake,
                hub=hub,
                options=DeliveryOptions(hostname="store.example"),
                now=lambda: NOW,
            )
            yield House(database, store, gateway, users, hub, intake, delivery)
    finally:
        database.close()
