"""The janitor over the real services: it ends what nobody vouches for and sets the records right."""

from __future__ import annotations

from pathlib import Path

import trio
from trio.testing import MockClock

from wd_trio.adapters.sqlite.limits import open_state
from wd_trio.adapters.sqlite.sessions import SqliteSessions
from wd_trio.config import Config, Store
from wd_trio.ops.boot import open_services
from wd_trio.ops.janitor import Janitor
from wd_trio.ports.sessions import SessionDocument
from wd_trio.secret import Secret


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
