"""IMAP sessions over the real services: streaming, limits, drains, hostile clients."""

from __future__ import annotations

import base64
import math
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from imap_world import World, open_world
from trio.testing import MockClock, wait_all_tasks_blocked

from wd_trio.config import Limits
from wd_trio.errors import Unavailable, Uncertain
from wd_trio.mail.content import prepare
from wd_trio.mail.model import NewMessage
from wd_trio.servers.imap.options import ImapOptions


def crossings(world: World) -> dict[str, int]:
    """Calls that came back so far, by lane."""
    return {lane.name: sum(lane.results.values()) for lane in world.services.gateway.statistics().lanes}


async def test_a_second_login_costs_no_hash(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path) as world:
        await world.client(1).log_in("alice")
        before = crossings(world)
        await world.client(2).log_in("alice")
        cost = {lane: count - before[lane] for lane, count in crossings(world).items()}
        assert cost["hash"] == 0
        assert cost["store.read"] == 1


async def test_a_large_message_streams_byte_for_byte(tmp_path: Path) -> None:
    body = base64.encodebytes(bytes(range(256)) * 9000).replace(b"\n", b"\r\n")
    raw = b"Subject: big\r\nContent-Type: application/octet-stream\r\n\r\n" + body
    async with open_world("sqlite", tmp_path) as world:
        client = world.client(1)
        await client.log_in("alice")
        await client.send(b"a1 APPEND INBOX {%d+}\r\n" % len(raw))
        await client.send(raw + b"\r\n")
        assert (await client.read_line()).startswith("a1 OK [APPENDUID")
        await client.command("a2", "EXAMINE INBOX")
        await client.send(b"a3 FETCH 1 (RFC822.SIZE BODY[])\r\n")
        assert await client.read_line() == f"* 1 FETCH (RFC822.SIZE {len(raw)} BODY[] {{{len(raw)}}}"
        assert await client.read_exactly(len(raw)) == raw
        assert await client.read_line() == ")"
        assert await client.read_line() == "a3 OK FETCH completed"
        await client.send(b"a4 FETCH 1 BODY.PEEK[TEXT]<1000000.70000>\r\n")
        assert await client.read_line() == "* 1 FETCH (BODY[TEXT]<1000000> {70000}"
        assert await client.read_exactly(70000) == body[1000000:1070000]
        assert await client.read_line() == ")"


async def test_pages_of_large_messages_are_complete(tmp_path: Path) -> None:
    """A page that its byte budget cut short goes on where it stopped."""
    async with open_world("sqlite", tmp_path) as world:
        for number in range(12):
            await world.deliver("alice", raw=b"Subject: %d\r\n\r\n" % number + b"%d\r\n" % number * 100_000)
        client = world.client(1)
        await client.log_in("alice")
        await client.command("a1", "SELECT INBOX")
        await client.send(b"a2 UID FETCH 1:* BODY.PEEK[TEXT]\r\n")
        for number in range(12):
            line = await client.read_line()
            size = len(b"%d\r\n" % number) * 100_000
            assert line == f"* {number + 1} FETCH (UID {number + 1} BODY[TEXT] {{{size}}}"
            assert await client.read_exactly(size) == b"%d\r\n" % number * 100_000
            assert await client.read_line() == ")"
        assert await client.read_line() == "a2 OK FETCH completed"


async def test_a_client_that_never_reads_is_given_up(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path, flush_s=0.2) as world:
        await world.deliver("alice", raw=b"Subject: x\r\n\r\n" + b"x" * 78 * 200_000)
        client = world.client(1)
        await client.log_in("alice")
        await client.command("a1", "SELECT INBOX")
        await client.send(b"a2 FETCH 1 BODY[]\r\n")
        while len(world.host):
            await trio.sleep(0.01)
        other = world.client(2)
        await other.log_in("alice")
        assert (await other.command("b1", "NOOP"))[-1] == "b1 OK NOOP completed"


async def test_drain_says_bye_to_idle_selected_and_new(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path) as world:
        await world.client(1).log_in("alice")
        await world.client(1).command("a1", "SELECT INBOX")
        await world.client(1).send(b"a2 IDLE\r\n")
        assert await world.client(1).read_line() == "+ idling"
        await world.client(2).log_in("bob")
        await world.client(3).read_line()
        await wait_all_tasks_blocked()
        left: list[int] = []
        async with trio.open_nursery() as nursery:

            async def drain() -> None:
                left.append(await world.host.drain(deadline_s=8))

            nursery.start_soon(drain)
            for number in (1, 2, 3):
                assert (await world.client(number).read_line()).startswith("* BYE [UNAVAILABLE]")
                assert await world.client(number).read_line() == ""
                await world.client(number).aclose()
        assert left == [0]


async def test_a_message_half_sent_survives_a_drain(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path) as world:
        client = world.client(1)
        await client.log_in("alice")
        await client.send(b"a1 APPEND INBOX {20}\r\n")
        assert (await client.read_line()).startswith("+ ")
        await client.send(b"Subject: x")
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:

            async def drain() -> None:
                await world.host.drain(deadline_s=8)

            nursery.start_soon(drain)
            await wait_all_tasks_blocked()
            await client.send(b"\r\n\r\nbody\r\n\r\n")
            assert (await client.read_line()).startswith("a1 OK [APPENDUID")
            assert (await client.read_line()).startswith("* BYE [UNAVAILABLE]")
            await client.aclose()


async def test_silence_is_ended_with_bye(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path, options=quick(login_timeout_s=0.1)) as world:
        await world.client(1).read_line()
        assert (await world.client(1).read_line()).startswith("* BYE ")
        assert await world.client(1).read_line() == ""


async def test_a_log_in_that_drips_in_has_one_deadline(tmp_path: Path) -> None:
    """Octets of a command that never ends do not put the end of the log-in's time off."""
    async with open_world("sqlite", tmp_path, options=quick(login_timeout_s=0.3)) as world:
        client = world.client(1)
        await client.read_line()
        async with trio.open_nursery() as nursery:

            async def drip() -> None:
                with suppress(trio.BrokenResourceError):
                    while True:
                        await client.send(b"a")
                        await trio.sleep(0.02)

            nursery.start_soon(drip)
            assert (await client.read_line()).startswith("* BYE ")
            nursery.cancel_scope.cancel()


def quick(**changes: float) -> ImapOptions:
    from ipaddress import ip_network

    return replace(
        ImapOptions(
            hostname="mail.test", trusted_networks=(ip_network("127.0.0.0/8"),), park_after_s=math.inf
        ),
        **changes,  # type: ignore[arg-type]  # the caller names fields of the type they have
    )


async def test_idle_sends_keepalives_and_ends(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path, options=quick(keepalive_s=0.05, idle_timeout_s=0.3)) as world:
        await world.client(1).log_in("alice")
        await world.client(1).send(b"a1 IDLE\r\n")
        assert await world.client(1).read_line() == "+ idling"
        assert await world.client(1).read_line() == "* OK Still here"
        line = ""
        while not line.startswith("* BYE"):
            line = await world.client(1).read_line()
        assert await world.client(1).read_line() == ""


async def test_idle_begins_the_time_anew(tmp_path: Path, mock_clock: MockClock) -> None:
    options = quick(keepalive_s=1000.0, idle_timeout_s=400.0)
    async with open_world("sqlite", tmp_path, options=options) as world:
        client = world.client(1)
        await client.log_in("alice")
        mock_clock.jump(350)
        await client.send(b"i IDLE\r\n")
        assert await client.read_line() == "+ idling"
        mock_clock.jump(370)
        await wait_all_tasks_blocked()
        assert not client.readable()
        mock_clock.jump(31)
        assert await client.read_line() == "* OK Still here"
        assert await client.read_line() == "* BYE Disconnected for inactivity"


async def test_passwords_need_tls_from_outside(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path) as world:
        client = world.connect(ip="192.0.2.7")
        assert "LOGINDISABLED" in await client.read_line()
        lines = await client.command("a1", "LOGIN alice x")
        assert lines == ["a1 NO [PRIVACYREQUIRED] TLS is required before passwords are sent"]
        lines = await client.command("a2", "AUTHENTICATE PLAIN AGFsaWNlAHg=")
        assert lines[0].startswith("a2 NO [PRIVACYREQUIRED]")


async def test_places_of_a_user_are_counted_and_given_back(tmp_path: Path) -> None:
    most = Limits().connections_per_user
    async with open_world("sqlite", tmp_path) as world:
        for number in range(1, most + 1):
            await world.client(number).log_in("alice")
        refused = world.client(most + 1)
        await refused.read_line()
        lines = await refused.command("a1", 'LOGIN alice "secret of alice"')
        assert lines[0].startswith("a1 NO [LIMIT]")
        await world.client(1).command("a2", "LOGOUT")
        await wait_all_tasks_blocked()
        while (await refused.command("a3", 'LOGIN alice "secret of alice"'))[0].startswith("a3 NO"):
            await trio.sleep(0.01)


async def test_wrong_passwords_end_the_connection(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path) as world:
        client = world.client(1)
        await client.read_line()
        for number in range(4):
            assert (await client.command(f"a{number}", "LOGIN alice x"))[0].startswith(f"a{number} NO")
        assert (await client.command("a5", "LOGIN alice x"))[0].startswith("a5 NO [AUTHENTICATIONFAILED]")
        assert await client.read_line() == "* BYE Too many wrong passwords"
        assert await client.read_line() == ""


async def test_a_flood_of_bad_commands_ends_the_connection(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path) as world:
        client = world.client(1)
        await client.read_line()
        async with trio.open_nursery() as nursery:

            async def flood() -> None:
                with pytest.raises(trio.BrokenResourceError):
                    await client.send(b"\0garbage (((\r\n" * 80_000)

            nursery.start_soon(flood)
            bad = 0
            while (line := await client.read_line()).startswith(("* BAD", "* BAD")):
                bad += 1
            assert line == "* BYE Too many bad commands"
            assert bad == ImapOptions().bad_commands + 1
            nursery.cancel_scope.cancel()


async def test_an_engine_that_fails_says_unavailable(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path) as world:
        client = world.client(1)
        await client.log_in("alice")
        await client.command("a1", "SELECT INBOX")
        world.services.store._database.close()
        lines = await client.command("a2", "STATUS INBOX (MESSAGES)")
        assert lines == ["a2 NO [UNAVAILABLE] Temporarily unavailable, try again later"]
        await client.send(b"a3 APPEND INBOX {9+}\r\na9 LOGOUT\r\n")
        assert (await client.read_line()).startswith("a3 NO [UNAVAILABLE]")
        assert (await client.command("a4", "NOOP")) == ["a4 OK NOOP completed"], (
            "no literal was read as a command"
        )


async def test_a_mailbox_that_is_gone_ends_the_session(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path) as world:
        await world.deliver("alice")
        client = world.client(1)
        await client.log_in("alice")
        await client.command("a1", "SELECT INBOX")
        owner = await world.services.users.by_username("alice")
        await world.services.gateway.run(world.services.store.delete_user_mail, owner.id)
        world.services.hub.resync()
        await client.send(b"a2 NOOP\r\n")
        assert await client.read_line() == "a2 OK NOOP completed"
        assert (await client.read_line()).startswith("* BYE The selected mailbox is gone")


async def test_long_pipelines_give_way_to_others(tmp_path: Path) -> None:
    """Thousands of commands in one read do not hold the loop: another session is served in between."""
    async with open_world("sqlite", tmp_path) as world:
        flooder, other = world.client(1), world.client(2)
        await flooder.log_in("alice")
        await other.log_in("bob")
        order: list[str] = []

        async def flood() -> None:
            await flooder.send(b"a NOOP\r\n" * 4000)
            for _ in range(4000):
                assert await flooder.read_line() == "a OK NOOP completed"
            order.append("flood")

        async def ask() -> None:
            await other.command("b", "NOOP")
            order.append("other")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            nursery.start_soon(ask)
        assert order == ["other", "flood"]


async def test_twenty_thousand_messages_go_page_by_page(tmp_path: Path) -> None:
    """A client that reads slowly holds one page in the server, not the mailbox; others are served meanwhile."""
    count = 20_000
    async with open_world("sqlite", tmp_path) as world:
        owner = await world.services.users.by_username("alice")
        message = NewMessage(prepare(b"Subject: x\r\n\r\nbody\r\n").content(), 0)
        await world.services.gateway.run(
            world.services.store.append, owner.id, "INBOX", [message] * count, create=True
        )
        slow, other = world.client(1), world.client(2)
        await slow.log_in("alice")
        await other.log_in("alice")
        await slow.command("a1", "SELECT INBOX")
        before = crossings(world)["store.read"]
        await slow.send(b"a2 FETCH 1:* (UID FLAGS INTERNALDATE RFC822.SIZE)\r\n")
        await slow.read_line()
        assert (await other.command("b1", "SELECT INBOX"))[-1].startswith("b1 OK")
        assert crossings(world)["store.read"] - before < 40, "the rest is not read before it can be sent"
        heard = 1
        while not (line := await slow.read_line()).startswith("a2 "):
            heard += 1
        assert (heard, line) == (count, "a2 OK FETCH completed")
        lines = await slow.command("a3", "STORE 1:* +FLAGS.SILENT (\\Seen)")
        assert lines == ["a3 OK STORE completed"]
        assert (await other.command("b2", "STATUS INBOX (UNSEEN)"))[0].endswith("(UNSEEN 0)")


async def test_news_that_cannot_be_read_fail_no_command_and_keep(tmp_path: Path) -> None:
    """The engine of readers is down for a moment: what was committed is answered OK, and told once it is back."""
    async with open_world("sqlite", tmp_path) as world:
        client = world.client(1)
        await client.log_in("alice")
        await client.command("a1", "SELECT INBOX")
        store = world.services.messages._store
        await world.deliver("alice")
        world.services.hub.resync()

        class NoReader:
            """The real store, but for the one read that fails."""

            def __getattr__(self, name: str) -> object:
                return getattr(store, name)

            def changes_since(self, *_: object, **__: object) -> None:
                raise Unavailable("no reader", what="store")

        world.services.messages._store = NoReader()  # type: ignore[assignment]  # a fault put into the real store
        lines = await client.command("a2", "STORE 1:* +FLAGS (\\Seen)")
        assert lines == ["a2 OK STORE completed"]
        world.services.messages._store = store
        assert await client.command("a3", "NOOP") == ["* 1 EXISTS", "a3 OK NOOP completed"]


async def test_who_says_more_than_starttls_in_clear_hears_why_it_ends(tmp_path: Path) -> None:
    """Whatever is still unread must not turn the last words into a reset."""
    async with open_world("sqlite", tmp_path, options=replace(quick(), starttls=True)) as world:
        client = world.client(1)
        await client.read_line()
        await client.send(b"a STARTTLS\r\n" + b"x" * (100 << 10))
        assert await client.read_line() == "a BAD Nothing may follow STARTTLS in clear"
        assert await client.read_line() == ""


async def test_what_may_have_been_written_is_not_denied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world("sqlite", tmp_path) as world:
        await world.deliver("alice")
        writer, reader = world.client(1), world.client(2)
        for client in (writer, reader):
            await client.log_in("alice")
            await client.command("s", "SELECT INBOX")

        async def uncertain(*_: object, **__: object) -> None:
            await trio.lowlevel.checkpoint()
            raise Uncertain("no answer to the commit")

        async def uncertain_steps(*_: object, **__: object) -> AsyncIterator[None]:
            await uncertain()
            yield

        monkeypatch.setattr(world.services.messages, "append", uncertain)
        monkeypatch.setattr(world.services.messages, "store_flags", uncertain_steps)
        lines = await reader.command("f", "FETCH 1 BODY[TEXT]")
        assert lines == ["f NO [UNAVAILABLE] Temporarily unavailable, try again later"]
        await writer.send(b"a APPEND INBOX {3+}\r\nA:b\r\n")
        assert (await writer.read_line()).startswith("* BYE [UNAVAILABLE] What became of the last command")
        assert await writer.read_line() == ""
