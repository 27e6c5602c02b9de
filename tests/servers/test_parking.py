"""Parked connections: what they are told without a task, what gives them one, and how they end."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from imap_world import ENGINES, Client, ImapWorld, fill, idler, open_world, parking, until_parked

from wd_trio import telemetry
from wd_trio.mail.numset import UidSet
from wd_trio.ports.bus import Hint
from wd_trio.ports.sessions import SessionDocument
from wd_trio.servers.parked import Chains, Parked
from wd_trio.servers.parking import NEWS_S
from wd_trio.servers.slots import MAILBOX_AT, Progress, Slot, Slots
from wd_trio.service.messages import Place
from wd_trio.service.parked import RENEW_S


def unparked(cause: str) -> float:
    return telemetry.unparked_total.labels(cause)._value.get()


async def done(client: Client) -> list[str]:
    await client.send(b"DONE\r\n")
    lines = [await client.read_line()]
    while not lines[-1].startswith("i "):
        lines.append(await client.read_line())
    return lines


async def documents(world: ImapWorld, user: str = "alice") -> list[SessionDocument]:
    await world.services.sessions.write()
    return await world.services.sessions.of_user((await world.services.users.by_username(user)).id)


@pytest.mark.parametrize("engine", ENGINES)
async def test_an_idler_is_told_without_a_task(engine: str, tmp_path: Path) -> None:
    async with open_world(engine, tmp_path, park_after_s=5.0) as world:
        client = await idler(world, 1)
        await until_parked(world, 1)
        before = unparked("news")
        await world.deliver("alice")
        assert await client.read_line() == "* 1 EXISTS"
        await world.deliver("alice")
        assert await client.read_line() == "* 2 EXISTS"
        assert unparked("news") == before
        slot = world.slots.at(0)
        assert (slot.exists, slot.uid_next, slot.progress) == (2, 3, 0)
        assert slot.expunges_told == slot.flags_told
        assert await done(client) == ["i OK IDLE completed"]
        assert (await client.command("f", "FETCH 1:* UID"))[:2] == [
            "* 1 FETCH (UID 1)",
            "* 2 FETCH (UID 2)",
        ]


async def test_other_news_give_an_idler_a_task_for_a_moment(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path, park_after_s=0.0) as world:
        await world.deliver("alice")
        await world.deliver("alice")
        client = await idler(world, 1)
        await until_parked(world, 1)
        before = unparked("news")
        user = await world.services.users.by_username("alice")
        inbox = await world.services.mailboxes.find(user.id, "INBOX")
        async for _ in world.services.messages.expunge(
            Place(user.id, inbox.id), UidSet([(1, 1)]), marked_only=False
        ):
            pass
        assert await client.read_line() == "* 1 EXPUNGE"
        await until_parked(world, 1)
        assert unparked("news") == before + 1
        await world.deliver("alice")
        assert await client.read_line() == "* 2 EXISTS"
        assert unparked("news") == before + 1


async def test_who_does_not_idle_is_told_with_its_next_command(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path, park_after_s=0.0) as world:
        client = world.client(1)
        await client.log_in("alice")
        await client.command("s", "SELECT INBOX")
        await until_parked(world, 1)
        await world.deliver("alice")
        await until_parked(world, 1)
        assert client.buffered() == b""
        assert await client.command("n", "NOOP") == ["* 1 EXISTS", "n OK NOOP completed"]


async def test_a_hint_with_a_gap_is_not_believed(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path, park_after_s=0.0) as world:
        client = await idler(world, 1)
        await until_parked(world, 1)
        hub, published = world.services.hub, []
        real, hub.publish = hub.publish, lambda hint, **_: published.append(hint)  # type: ignore[method-assign,misc]  # the bus loses hints
        await world.deliver("alice")
        await world.deliver("alice")
        hub.publish = real  # type: ignore[method-assign]  # as above
        hub.publish(published[1])
        assert await client.read_line() == "* 2 EXISTS"
        hub.publish(published[0])  # late
        hub.publish(published[1])  # twice
        await world.deliver("alice")
        assert await client.read_line() == "* 3 EXISTS"


@pytest.mark.parametrize("engine", ENGINES)
async def test_lost_hints_are_made_up_for(engine: str, tmp_path: Path) -> None:
    async with open_world(engine, tmp_path, park_after_s=0.0) as world:
        alice, bob = await idler(world, 1), await idler(world, 2, "bob")
        await until_parked(world, 2)
        hub = world.services.hub
        real, hub.publish = hub.publish, lambda hint, **_: None  # type: ignore[method-assign,misc]  # the bus loses hints
        await world.deliver("alice")
        await world.deliver("bob")
        hub.publish = real  # type: ignore[method-assign]  # as above
        before = unparked("news")
        hub.resync((await world.services.users.by_username("bob")).id)
        assert await bob.read_line() == "* 1 EXISTS"
        await until_parked(world, 2)
        hub.resync()
        assert await alice.read_line() == "* 1 EXISTS"
        await until_parked(world, 2)
        assert unparked("news") == before + 2, "one who is not behind needs no task"


async def test_lost_hints_are_made_up_for_behind_many_who_do_not_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wd_trio.servers.parking.MANY_MAILBOXES", 2)
    async with open_world("sqlite", tmp_path, park_after_s=0.0) as world:
        for number in (1, 2, 3):
            await world.client(number).log_in("bob")
        client = await idler(world, 4)
        await until_parked(world, 4)
        hub = world.services.hub
        real, hub.publish = hub.publish, lambda hint, **_: None  # type: ignore[method-assign,misc]  # the bus loses hints
        await world.deliver("alice")
        hub.publish = real  # type: ignore[method-assign]  # as above
        hub.resync()
        assert await client.read_line() == "* 1 EXISTS"
        await until_parked(world, 4)


async def test_what_fails_for_one_ends_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_world("sqlite", tmp_path, park_after_s=0.0) as world:
        clients = [await idler(world, number) for number in (1, 2, 3)]
        await until_parked(world, 3)
        lot = parking(world)
        real = lot._say

        def say(number: int, slot: Slot, data: bytes) -> bool:
            if number == 1:
                raise RuntimeError("a defect")
            return real(number, slot, data)

        monkeypatch.setattr(lot, "_say", say)
        await world.deliver("alice")
        assert [await client.read_line() for client in clients] == ["* 1 EXISTS", "", "* 1 EXISTS"]
        await until_parked(world, 2)
        assert len(await documents(world)) == 2


async def test_a_mailbox_that_is_deleted_ends_its_idlers(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path, park_after_s=0.0) as world:
        client = world.client(1)
        await client.log_in("alice")
        await client.command("c", "CREATE Doomed")
        await client.command("s", "SELECT Doomed")
        await client.send(b"i IDLE\r\n")
        await client.read_line()
        await until_parked(world, 1)
        user = await world.services.users.by_username("alice")
        await world.services.mailboxes.delete(user.id, "Doomed")
        assert await client.read_line() == "* BYE The selected mailbox is gone, connect again"


async def test_a_client_that_leaves_costs_no_task(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path, park_after_s=0.0) as world:
        client = await idler(world, 1)
        await until_parked(world, 1)
        before = unparked("input")
        (document,) = await documents(world)
        assert document.state["idle"] == "i"
        await client.aclose()
        await until_parked(world, 0)
        assert unparked("input") == before
        assert await documents(world) == []
        assert not world.services.hub.follows(document.user)


async def test_the_document_of_a_parked_session_is_kept(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path, park_after_s=0.0) as world:
        client = world.client(1)
        await client.read_line()
        await client.command("n", 'ID ("name" "Mutt")')
        await client.command("l", 'LOGIN alice "secret of alice"')
        (begun,) = await documents(world)
        await client.command("e", "ENABLE CONDSTORE")
        await client.command("s", "EXAMINE INBOX")
        await until_parked(world, 1)
        (parked,) = await documents(world)
        assert parked == replace(
            begun, state=parked.state, selected=parked.selected, last_activity=parked.last_activity
        )
        assert parked.last_activity >= begun.last_activity - 1000
        inbox = await world.services.mailboxes.find(begun.user, "INBOX")
        modseq = inbox.highest_modseq
        assert parked.selected == inbox.id
        assert parked.state == {
            "enabled": ["CONDSTORE"],
            "readOnly": True,
            "view": [inbox.uid_validity, inbox.uid_next, modseq, modseq],
        }
        # The engine loses its memory: the connection outranks the document.
        store = world.services.engine.sessions
        await world.services.gateway.run(store.end, [begun.id])
        assert await world.services.sessions.get(begun.id) is None
        world.services.sessions.parked.doubt()
        (again,) = await documents(world)
        assert replace(again, last_activity=parked.last_activity) == parked
        assert abs(again.last_activity - parked.last_activity) < 1000


async def test_silent_documents_are_renewed(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path, park_after_s=0.0) as world:
        await idler(world, 1)
        await until_parked(world, 1)
        await documents(world)
        sessions, touched = world.services.sessions.parked, []
        store = world.services.engine.sessions
        real = store.touch
        sessions._renewed_at -= RENEW_S
        store.touch = lambda ids: touched.append(list(ids)) or real(ids)  # type: ignore[method-assign,func-returns-value]  # seen on its way
        store.touch.__dict__.update(real.__func__.__dict__)
        await sessions.write()
        await sessions.write()
        store.touch = real  # type: ignore[method-assign]  # as it was
        assert touched == [[world.slots.at(0).session]]


async def test_a_kill_reaches_the_parked(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path, park_after_s=0.0) as world:
        client, other = await idler(world, 1), await idler(world, 2, "bob")
        await until_parked(world, 2)
        user = await world.services.users.by_username("alice")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.services.sessions.run)
            await world.services.sessions.kill(user.id)
            assert await client.read_line() == "* BYE Session ended by the administrator"
            assert await client.read_line() == ""
            await until_parked(world, 1)
            nursery.cancel_scope.cancel()
        await world.deliver("bob")
        assert await other.read_line() == "* 1 EXISTS"


async def test_a_server_that_stops_says_bye(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path, park_after_s=0.0) as world:
        clients = [await idler(world, number) for number in (1, 2)]
        await until_parked(world, 2)
        assert await world.host.drain(deadline_s=5) == 0
        for client in clients:
            assert (await client.read_line()).startswith("* BYE [UNAVAILABLE] ")
            assert await client.read_line() == ""
        assert len(world.host) == 0


@pytest.mark.parametrize("engine", ENGINES)
async def test_parked_connections_move_without_a_task(engine: str, tmp_path: Path) -> None:
    async with open_world(engine, tmp_path, park_after_s=0.0) as world:
        clients = [await idler(world, number) for number in (1, 2, 3)]
        await until_parked(world, 3)
        causes = [unparked(cause) for cause in ("input", "news")]
        await world.host.drain(deadline_s=5, moving=True)
        assert (len(world.host), len(world.hosts[1].parking)) == (0, 3)
        await world.deliver("alice")
        for client in clients:
            assert await client.read_line() == "* 1 EXISTS"
        assert [unparked(cause) for cause in ("input", "news")] == causes
        assert len(await documents(world)) == 3
        assert await done(clients[0]) == ["i OK IDLE completed"]


async def test_what_happened_during_a_move_is_told(tmp_path: Path) -> None:
    """The hint found nobody: neither had it the first worker any more, nor did the second one follow the user yet."""
    async with open_world("sqlite", tmp_path, park_after_s=0.0) as world:
        client = await idler(world, 1)
        await until_parked(world, 1)
        hub = world.services.hub
        real, hub.publish = hub.publish, lambda hint, **_: None  # type: ignore[method-assign,misc]  # the bus loses hints
        await world.deliver("alice")
        hub.publish = real  # type: ignore[method-assign]  # as above
        await world.host.drain(deadline_s=5, moving=True)
        assert await client.read_line() == "* 1 EXISTS"


async def test_few_have_a_task_at_a_time_for_news(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path, park_after_s=0.0) as world:
        lot = parking(world)
        lot._options = replace(lot._options, for_news=2)
        clients = [await idler(world, number) for number in range(1, 8)]
        await until_parked(world, 7)
        before = unparked("news")
        user = await world.services.users.by_username("alice")
        inbox = await world.services.mailboxes.find(user.id, "INBOX")
        world.services.hub.publish(Hint("mailbox", user.id, inbox.id))
        assert len(lot._awake_for_news) == 2
        world.services.hub.publish(Hint("mailbox", user.id, inbox.id))
        await until_parked(world, 7)
        assert unparked("news") == before + 7
        assert not lot._waiting
        for client in clients:
            assert await done(client) == ["i OK IDLE completed"]


async def test_who_is_busy_keeps_nobody_from_their_news(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path, park_after_s=3600.0) as world:
        lot = parking(world)
        lot._options = replace(lot._options, for_news=1)
        busy, waiting = await idler(world, 1), await idler(world, 2)
        await until_parked(world, 2)
        lot._unpark_for_news(0)
        assert await done(busy) == ["i OK IDLE completed"], "and it does not idle again"
        lot._unpark_for_news(1)
        assert list(lot._waiting) == [1]
        lot._awake_for_news[0] -= NEWS_S
        lot._wait_no_longer()
        assert not lot._waiting
        assert await done(waiting) == ["i OK IDLE completed"]


async def test_where_many_have_a_task_they_park_sooner(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path, park_after_s=3600.0) as world:
        lot = parking(world)
        lot._options = replace(lot._options, by_input=1)
        first, second = await idler(world, 1), await idler(world, 2)
        await until_parked(world, 2)
        assert await done(first) == ["i OK IDLE completed"]
        await until_parked(world, 2)  # one is as many as may: it parks as soon as it was answered
        assert await done(second) == ["i OK IDLE completed"]


async def test_a_push_that_does_not_fit_is_left_to_a_task(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path, park_after_s=0.0, flush_s=0.2) as world:
        await idler(world, 1)
        await until_parked(world, 1)
        fill(world, 0)
        before = unparked("news")
        await world.deliver("alice")
        assert unparked("news") == before + 1
        await until_parked(world, 0)


async def test_every_parked_connection_is_found_by_its_mailbox() -> None:
    slots = Slots.create(200)
    chains, parked = Chains(slots, MAILBOX_AT), Parked(slots)
    ends = []
    for number in range(200):
        ours, theirs = socket.socketpair()
        ends.append(theirs)
        slots.at(number).mailbox = f"{number % 7:024x}"
        parked.add(number, ours)
        chains.add(number)
    assert list(chains.find(f"{3:024x}")) == list(range(199 - (199 - 3) % 7, -1, -7))
    for number in range(0, 200, 2):
        chains.remove(number)
        parked.take(number).close()
    assert sorted(chains.find(f"{3:024x}")) == [n for n in range(200) if n % 7 == 3 and n % 2]
    assert list(chains.find("f" * 24)) == []
    assert list(parked.numbers()) == list(range(1, 200, 2))
    assert len(parked) == 100
    for number in list(parked.numbers()):
        parked.take(number).close()
    for sock in ends:
        sock.close()


async def test_a_slot_that_says_nothing_is_in_progress_can_be_parked(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path, park_after_s=0.0) as world:
        await idler(world, 1)
        await until_parked(world, 1)
        lot, slot = parking(world), world.slots.at(0)
        assert lot.fits(slot, b"")
        assert not lot.fits(slot, b"DONE\r\n")
        slot.progress = Progress.BUSY
        assert not lot.fits(slot, b"")
        slot.progress = 0
