"""The document of an IMAP session follows the connection, and a kill ends it with a BYE."""

from __future__ import annotations

from pathlib import Path

import trio
from imap_world import World, open_world
from trio.testing import wait_all_tasks_blocked

from wd_trio.config import Limits
from wd_trio.ports.sessions import SessionDocument


async def documents(world: World, user: str = "alice") -> list[SessionDocument]:
    """The user's documents, as they are after the next batch."""
    await wait_all_tasks_blocked()
    await world.services.sessions.write()
    return await world.services.sessions.of_user((await world.services.users.by_username(user)).id)


async def test_the_document_follows_the_connection(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path) as world:
        client = world.client(1)
        await client.read_line()
        await client.command("a0", 'ID ("name" "Mutt" "os" NIL "version" "2.2")')
        assert await documents(world) == []
        await client.command("a1", 'LOGIN alice "secret of alice"')
        (begun,) = await documents(world)
        assert (begun.protocol, begun.ip, begun.user_agent) == ("imap", "127.0.0.1", "Mutt 2.2")
        assert (begun.server, begun.worker) == ("test", "1")
        assert "IDLE" in begun.capabilities
        assert begun.selected == ""
        assert "view" not in begun.state

        for _ in range(3):
            await world.deliver("alice")
        await client.command("a2", "EXAMINE INBOX")
        (examined,) = await documents(world)
        inbox = await world.services.mailboxes.find(begun.user, "INBOX")
        assert examined.selected == inbox.id
        assert examined.state["readOnly"] is True
        modseq = inbox.highest_modseq
        assert examined.state["view"] == [inbox.uid_validity, 4, modseq, modseq]

        await client.command("a3", "SELECT INBOX")
        await client.command("a4", "ENABLE QRESYNC")
        await client.send(b"a5 IDLE\r\n")
        assert await client.read_line() == "+ idling"
        await world.deliver("alice")
        assert await client.read_line() == "* 4 EXISTS"
        (idling,) = await documents(world)
        assert (idling.id, idling.created) == (begun.id, begun.created)
        assert idling.state["idle"] == "a5"
        assert idling.state["readOnly"] is False
        assert idling.state["enabled"] == ["CONDSTORE", "QRESYNC"]
        assert idling.state["view"][1] == 5, "what was told while it idled"

        await client.send(b"DONE\r\n")
        assert (await client.read_line()).startswith("a5 OK")
        await client.command("a6", "UNSELECT")
        (done,) = await documents(world)
        assert "idle" not in done.state
        assert "view" not in done.state
        assert done.selected == ""
        await client.command("a7", "LOGOUT")
        await client.aclose()
        assert await documents(world) == []


async def test_a_lost_connection_ends_its_session(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path) as world:
        await world.client(1).log_in("alice")
        await world.client(2).log_in("alice")
        assert len(await documents(world)) == 2
        await world.client(1).aclose()
        while len(world.host) > 1:
            await wait_all_tasks_blocked()
        assert len(await documents(world)) == 1


async def test_places_are_taken_by_sessions(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path) as world:
        for number in range(1, Limits().connections_per_user + 1):
            await world.client(number).log_in("alice")
        last = world.connect()
        await last.read_line()
        assert (await last.command("a", 'LOGIN alice "secret of alice"'))[-1].startswith("a NO [LIMIT]")
        assert (await last.command("b", 'LOGIN bob "secret of bob"'))[-1].startswith("b OK")


async def test_a_kill_says_bye_to_idle_and_waiting_clients_of_that_user(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path) as world, trio.open_nursery() as nursery:
        nursery.start_soon(world.services.sessions.run)
        for number in (1, 2):
            await world.client(number).log_in("alice")
        await world.client(1).command("a1", "SELECT INBOX")
        await world.client(1).send(b"a2 IDLE\r\n")
        assert await world.client(1).read_line() == "+ idling"
        await world.client(3).log_in("bob")
        await wait_all_tasks_blocked()
        user = await world.services.users.by_username("alice")
        assert len(await world.services.sessions.kill(user.id)) == 2
        for number in (1, 2):
            assert (await world.client(number).read_line()).startswith("* BYE ")
            assert await world.client(number).read_line() == ""
            await world.client(number).aclose()
        assert (await world.client(3).command("a", "NOOP"))[-1] == "a OK NOOP completed"
        while await documents(world):
            await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
