"""LMTP clients that are silent, deaf, greedy or mad: each costs its own connection at most."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from lmtp_sessions import GREETING, MESSAGE, OPTIONS, STORED, TROUBLE, Served, serving, stored_as, stuffed
from trio.testing import MockClock

from wd_trio import telemetry


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as pair:
        yield pair


async def test_a_silent_client_is_told_and_closed(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with serving(tmp_path) as (_, server):
        client = server.connect()
        assert await client.reply() == GREETING
        assert (await client.reply()).startswith(b"421 4.4.2 ")
        assert trio.current_time() >= OPTIONS.idle_timeout_s
        assert await client.reply() == b""
        await client.stream.aclose()
        await server.wait_empty()


async def test_a_client_that_never_reads(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with serving(tmp_path, flush_s=60) as (_, server):
        client = server.connect()
        with trio.move_on_after(10_000) as scope:
            with suppress(trio.BrokenResourceError):
                while True:
                    await client.stream.send_all(b"HELP\r\n" * 10_000)
        assert not scope.cancelled_caught
        await server.wait_empty()
        assert ended("flush deadline") >= 1


def ended(reason: str) -> float:
    labels = {"protocol": "lmtp", "reason": reason}
    return telemetry.REGISTRY.get_sample_value("wildduck_connections_ended_total", labels) or 0.0


async def test_garbage_ends_its_own_connection_only(served: Served) -> None:
    house, server = served
    await house.user("ann@y.example")
    good, bad = server.connect(), server.connect()
    assert await good.reply() == GREETING
    async with trio.open_nursery() as nursery:

        async def flood() -> None:
            with suppress(trio.BrokenResourceError):  # closed on us, as it should be
                await bad.stream.send_all(random.Random(3).randbytes(1 << 20))

        nursery.start_soon(flood)
        replies: list[bytes] = []
        while not replies or not replies[-1].startswith(b"421 "):
            replies.append(await bad.reply())
        assert len(replies) == 22
        assert replies[-1] == b"421 4.7.0 Too many errors\r\n"
        nursery.cancel_scope.cancel()
    await bad.stream.aclose()
    assert (await good.say(b"LHLO x\r\nNOOP\r\n", 2))[1] == b"250 2.0.0 OK\r\n"


async def test_thousands_of_recipients_cost_few_look_ups(served: Served) -> None:
    _, server = served
    client = server.connect()
    await client.say(b"LHLO x\r\nMAIL FROM:<>\r\n", 3)
    told: list[bytes] = []
    for _ in range(5):
        told += await client.say(b"RCPT TO:<nobody@y.example>\r\n" * 1000, 1000)
    assert told.count(b"550 5.1.1 No such mailbox here\r\n") == OPTIONS.recipients
    assert told.count(b"452 4.5.3 Too many recipients\r\n") == 5000 - OPTIONS.recipients
    assert (await client.say(b"RSET\r\nQUIT\r\n", 2))[1] == b"221 2.0.0 Bye\r\n"


async def test_a_long_batch_gives_way_to_others(served: Served) -> None:
    """While one client's thousands of commands are answered, another's single one is not kept waiting.

    Who is served first is chance: over twenty rounds the busy client is, at least once.
    """
    _, server = served
    busy, other = server.connect(), server.connect()
    await busy.reply()
    await other.reply()
    for _ in range(20):
        await busy.stream.send_all(b"NOOP\r\n" * 5000)
        assert await other.say(b"NOOP\r\n") == [b"250 2.0.0 OK\r\n"]
        before = len(await busy.stream.receive_some(1 << 20))
        assert before < 5000 * 14
        left = 5000 * 14 - before
        while left:
            left -= len(await busy.stream.receive_some(left))


async def test_bdat_and_http_end_the_connection(served: Served) -> None:
    _, server = served
    for line, reply in (
        (b"BDAT 9223372036854775808 LAST\r\nMAIL FROM:<>\r\n", b"502 5.5.1 "),
        (b"POST /x HTTP/1.1\r\nHost: y\r\n", b"421 4.7.0 "),
    ):
        client = server.connect()
        told = await client.say(line, 3)
        assert told[0] == GREETING
        assert told[1].startswith(reply)
        assert told[2] == b""
        await client.stream.aclose()


async def test_an_unexpected_failure_costs_one_connection(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    house, server = served
    user = await house.user("ann@y.example")

    async def fails(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError

    client = server.connect()
    await client.begin("ann@y.example")
    with monkeypatch.context() as patch:
        patch.setattr(house.intake, "scan", fails)
        (told,) = await client.say(stuffed(MESSAGE))
        assert TROUBLE.fullmatch(told)
    with monkeypatch.context() as patch:
        patch.setattr(house.users, "resolve", fails)
        assert await client.say(b"MAIL FROM:<>\r\nRCPT TO:<ann@y.example>\r\n", 1) == [b""]
    await server.wait_empty()
    again = server.connect()
    await again.begin("ann@y.example")
    assert STORED.fullmatch((await again.say(stuffed(MESSAGE)))[0])
    assert stored_as(house, user, MESSAGE, "ann@y.example")
