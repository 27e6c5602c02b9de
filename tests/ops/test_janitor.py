"""The janitor over the real services: it ends what nobody vouches for, sets the records right
and removes what was deleted."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from wd_trio.adapters.sqlite.limits import open_state
from wd_trio.adapters.sqlite.sessions import SqliteSessions
from wd_trio.config import Config, Store
from wd_trio.mail.content import prepare
from wd_trio.mail.model import NewMessage
from wd_trio.ops import janitor
from wd_trio.ops.boot import open_services
from wd_trio.ops.janitor import Janitor
from wd_trio.ports.sessions import SessionDocument
from wd_trio.secret import Secret


async def test_what_was_in_deleted_mailboxes_is_removed_in_steps(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor, "SWEPT_A_STEP", 2)
    monkeypatch.setattr(janitor, "SWEEP_S", 3 * janitor.STEP_PAUSE_S)
    path = tmp_path / "mail.db"
    async with open_services(Config(store=Store(url=f"sqlite:{path}")), server="s", worker="s/1") as services:
        user = await services.users.create("anna", Secret("pw"))
        content = prepare(b"Subject: large\r\n\r\nbox\r\n").content()
        run, store = services.gateway.run, services.store
        await run(store.append, user.id, "INBOX", [NewMessage(content, 1)] * 20)
        await services.users.delete(user.id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Janitor(services).run)
            left = [20]
            while left[-1]:
                await trio.sleep(janitor.CHECKPOINT_S)
                left.append(messages_in(path))
            nursery.cancel_scope.cancel()
    assert len(left) > 3, "a checkpoint comes between"
    assert left == sorted(left, reverse=True)


def messages_in(path: Path) -> int:
    with closing(sqlite3.connect(path)) as file:
        count: int = file.execute("SELECT count(*) FROM messages").fetchone()[0]
    return count


async def test_sessions_of_a_dead_server_are_swept_and_their_tracking_is_repaired(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    config = Config(store=Store(url=f"sqlite:{tmp_path / 'mail.db'}"))
    state = open_state(tmp_path / "mail.db")
    store = SqliteSessions(state)
    async with open_services(config, server="s2", worker="s2/1.1") as services:
        user = await services.users.create("anna", Secret("pw"))
        for number, server in enumerate(("s1", "s2")):
            document = SessionDocument(
                id=f"sess_{number:032x}",
                user=user.id,
                protocol="imap",
                server=server,
                worker="1.1",
                created=1,
                last_activity=1,
            )
            store.put(document, most=9, lease_s=600)
        await services.tracking.refresh([user.id])
        assert (await services.tracking.get(user.id))["connectionCount"] == 2
        store.lease("s1", ttl_s=-1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Janitor(services).run)
            while (await services.tracking.get(user.id))["connectionCount"] != 1:
                await trio.sleep(1)
            nursery.cancel_scope.cancel()
        assert store.sweep(limit=9) == []
        entries = (await services.tracking.get(user.id))["sessions"]
        assert [(entry["id"][-1], entry["active"]) for entry in entries] == [("1", True), ("0", False)]
    state.close()
