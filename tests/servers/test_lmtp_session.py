"""LMTP sessions over real sockets with the real store: replies, stored bytes, trouble, drains."""

from __future__ import annotations

import random
import smtplib
import socket
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from lmtp_sessions import (
    GREETING,
    MESSAGE,
    STORED,
    TROUBLE,
    Served,
    is_stored_form,
    serving,
    stored_as,
    stuffed,
)
from trio.testing import wait_all_tasks_blocked

from wd_trio import errors, telemetry
from wd_trio.servers.driver import Peer
from wd_trio.servers.lmtp.session import LmtpOptions


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as pair:
        yield pair


async def test_a_delivery_step_by_step(served: Served) -> None:
    house, server = served
    user = await house.user("ann@y.example")
    client = server.connect()
    assert await client.reply() == GREETING
    assert await client.say(b"LHLO mx.example\r\n") == [
        b"250-store.example\r\n250-PIPELINING\r\n250-ENHANCEDSTATUSCODES\r\n250-8BITMIME\r\n"
        b"250-SMTPUTF8\r\n250 SIZE 1048576\r\n"
    ]
    assert await client.say(b"MAIL FROM:<s@x.example> BODY=8BITMIME\r\n") == [b"250 2.1.0 Sender OK\r\n"]
    assert await client.say(b"RCPT TO:<ann@y.example>\r\n") == [b"250 2.1.5 Recipient OK\r\n"]
    assert (await client.say(b"DATA\r\n"))[0].startswith(b"354 ")
    (told,) = await client.say(stuffed(MESSAGE))
    assert STORED.fullmatch(told)
    assert stored_as(house, user, MESSAGE, "ann@y.example")
    assert told[-26:-2] in house.bodies(user)[0]  # the id of the reply is the id in Received
    assert await client.say(b"NOOP\r\nVRFY x\r\nHELP\r\nRSET\r\n", 4) == [
        b"250 2.0.0 OK\r\n",
        b"252 2.0.0 RCPT will tell\r\n",
        b"214 2.0.0 LHLO MAIL RCPT DATA RSET NOOP VRFY HELP QUIT\r\n",
        b"250 2.0.0 OK\r\n",
    ]
    assert await client.say(b"QUIT\r\n", 2) == [b"221 2.0.0 Bye\r\n", b""]
    await server.wait_empty()


async def test_a_pipelined_batch_is_answered_in_one_piece(served: Served) -> None:
    house, server = served
    user = await house.user("ann@y.example")
    client = server.connect()
    await client.stream.send_all(
        b"LHLO mx.example\r\nMAIL FROM:<>\r\nRCPT TO:<ann@y.example>\r\nRCPT TO:<no@y.example>\r\nDATA\r\n"
    )
    pieces = b""
    reads = 0
    while b"354 " not in pieces:
        pieces += await client.stream.receive_some()
        reads += 1
    assert reads <= 2  # the greeting may come alone
    assert [line[:9] for line in pieces.split(b"\r\n")[-5:-1]] == [
        b"250 2.1.0",
        b"250 2.1.5",
        b"550 5.1.1",
        b"354 Send ",
    ]
    batch = stuffed(MESSAGE) + b"MAIL FROM:<>\r\nRCPT TO:<ann@y.example>\r\nDATA\r\n" + stuffed(b"2\r\n")
    told = await client.say(batch + b"QUIT\r\n", 6)
    assert [reply[:3] for reply in told] == [b"250", b"250", b"250", b"354", b"250", b"221"]
    one, two = house.bodies(user)
    assert is_stored_form(one, MESSAGE, "ann@y.example", sender="")
    assert is_stored_form(two, b"2\r\n", "ann@y.example", sender="")


async def test_each_recipient_has_its_reply(served: Served) -> None:
    house, server = served
    ann = await house.user("ann@y.example")
    bob = await house.user("bob@y.example")
    full = await house.user("full@y.example", quota_bytes=100)
    off = await house.user("off@y.example")
    await house.users.set_disabled(off, True)
    client = server.connect()
    told = await client.begin(
        "ann@y.example",
        "nobody@y.example",
        "full@y.example",
        "off@y.example",
        "bob+x@y.example",
        '""@y.example',
    )
    assert [reply[:9] for reply in told] == [
        b"250 2.1.5",
        b"550 5.1.1",
        b"250 2.1.5",
        b"550 5.2.1",
        b"250 2.1.5",
        b"553 5.1.3",
    ]
    message = b"Subject: x\r\n\r\n" + random.Random(1).randbytes(9000).replace(b"\r\n", b"") + b"\r\n"
    told = await client.say(stuffed(message), 3)
    assert [reply[:9] for reply in told] == [b"250 2.0.0", b"552 5.2.2", b"250 2.0.0"]
    assert stored_as(house, ann, message, "ann@y.example")
    assert stored_as(house, bob, message, "bob+x@y.example")
    assert house.bodies(full) == []
    assert house.count("blobs") == 1


async def test_a_declared_size_counts_against_the_quota_at_rcpt(served: Served) -> None:
    house, server = served
    await house.user("ann@y.example", quota_bytes=1000)
    client = server.connect()
    told = await client.say(b"LHLO x\r\nMAIL FROM:<> SIZE=1001\r\nRCPT TO:<ann@y.example>\r\nDATA\r\n", 5)
    assert told[3:] == [b"552 5.2.2 The mailbox is full\r\n", b"503 5.5.1 No valid recipients\r\n"]
    told = await client.say(b"RSET\r\nMAIL FROM:<> SIZE=1048577\r\n", 2)
    assert told[1] == b"552 5.3.4 The message is too big\r\n"


async def test_the_size_cap_is_real(served: Served) -> None:
    house, server = served
    user = await house.user("ann@y.example")
    client = server.connect()
    await client.begin("ann@y.example", "ann+two@y.example")
    for _ in range(64):
        await client.stream.send_all(b"x" * 65534 + b"\r\n")
    assert await client.say(b".\r\n", 2) == [b"552 5.3.4 The message is too big\r\n"] * 2
    lines = b"MAIL FROM:<s@x.example>\r\nRCPT TO:<ann@y.example>\r\nDATA\r\n"
    told = await client.say(lines + b"x" * ((1 << 20) - 2) + b"\r\n.\r\n", 4)
    assert STORED.fullmatch(told[3])
    assert len(house.bodies(user)) == 1


SMUGGLED = b"MAIL FROM:<evil@x>\r\nRCPT TO:<bob@y.example>\r\nDATA\r\nevil\r\n"


@pytest.mark.parametrize("end", [b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r.\r\n", b"\r\n.\n", b"\r\n.\r"])
async def test_nothing_is_smuggled(served: Served, end: bytes) -> None:
    house, server = served
    ann, bob = await house.user("ann@y.example"), await house.user("bob@y.example")
    client = server.connect()
    await client.begin("ann@y.example")
    told = await client.say(b"good" + end + SMUGGLED + b".\r\nNOOP\r\n", 2)
    assert STORED.fullmatch(told[0])
    assert told[1] == b"250 2.0.0 OK\r\n"
    kept = b"good" + end.replace(b"\r\n.", b"\r\n") + SMUGGLED
    assert stored_as(house, ann, kept, "ann@y.example")
    assert house.bodies(bob) == []


async def test_a_large_message_goes_through_the_file(tmp_path: Path) -> None:
    options = LmtpOptions(hostname="store.example", message_bytes=8 << 20, spool_memory_bytes=1000)
    async with serving(tmp_path, options) as (house, server):
        user = await house.user("ann@y.example")
        client = server.connect()
        await client.begin("ann@y.example")
        body = random.Random(2).randbytes(3_000_000) + b"\r\n"
        (told,) = await client.say(stuffed(body))
        assert STORED.fullmatch(told)
        assert stored_as(house, user, body, "ann@y.example")


async def test_engine_trouble_at_rcpt_and_after_the_dot(served: Served) -> None:
    house, server = served
    await house.user("ann@y.example")
    await house.user("bob@y.example")
    client = server.connect()
    await client.begin("ann@y.example", "bob@y.example")
    house.database.close()
    told = await client.say(stuffed(MESSAGE), 2)
    assert all(TROUBLE.fullmatch(reply) for reply in told)
    told = await client.say(b"MAIL FROM:<>\r\nRCPT TO:<ann@y.example>\r\nNOOP\r\n", 3)
    assert TROUBLE.fullmatch(told[1])
    assert told[2] == b"250 2.0.0 OK\r\n"


@pytest.mark.parametrize(
    ("error", "begins"),
    [
        (errors.OverQuota("full", what="quota"), b"552 5.2.2 "),
        (errors.NotFound("went", what="user"), b"550 5.1.1 "),
        (errors.Denied("disabled", what="user"), b"550 5.2.1 "),
        (errors.NotFound("no blob", what="blob"), b"451 4.3.0 "),
        (errors.Denied("INBOX stays", what="mailbox"), b"451 4.3.0 "),
        (errors.Invalid("cannot be stored", what="value"), b"451 4.3.0 "),
        (errors.Conflict("again", what="version"), b"451 4.3.0 "),
        (errors.Limited("later", what="delivery"), b"451 4.3.0 "),
        (errors.Unavailable("down", what="sqlite"), b"451 4.3.0 "),
    ],
)
async def test_after_the_dot_only_what_the_recipient_is_to_blame_for_is_permanent(
    served: Served, monkeypatch: pytest.MonkeyPatch, error: errors.WdError, begins: bytes
) -> None:
    house, server = served
    await house.user("ann@y.example")

    async def fails(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(house.delivery, "append", fails)
    client = server.connect()
    await client.begin("ann@y.example")
    (told,) = await client.say(stuffed(MESSAGE))
    assert told.startswith(begins)


async def test_every_recipient_is_counted_by_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def counts() -> list[float]:
        return [
            telemetry.REGISTRY.get_sample_value("wildduck_deliveries_total", {"result": result}) or 0.0
            for result in ("delivered", "refused", "over_quota", "too_big", "failed")
        ]

    options = LmtpOptions(hostname="store.example", spool_memory_bytes=1000, message_bytes=300_000)
    before = counts()
    async with serving(tmp_path, options) as (house, server):
        await house.user("ann@y.example")
        await house.user("full@y.example", quota_bytes=5)
        client = server.connect()
        await client.begin("ann@y.example", "nobody@y.example", "full@y.example", "ann+two@y.example")
        told = await client.say(stuffed(MESSAGE), 3)
        assert [reply[:3] for reply in told] == [b"250", b"552", b"250"]
        lines = b"MAIL FROM:<s@x.example>\r\nRCPT TO:<ann@y.example>\r\nDATA\r\n"
        assert (await client.say(lines + b"x" * 400_000 + b"\r\n.\r\n", 4))[3].startswith(b"552")
        with monkeypatch.context() as patch:
            patch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
            assert (await client.say(lines + b"x" * 200_000 + b"\r\n.\r\n", 4))[3].startswith(b"451")
    assert [new - old for old, new in zip(before, counts(), strict=True)] == [2, 1, 1, 1, 1]


async def test_no_room_to_spool_is_passing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = LmtpOptions(hostname="store.example", spool_memory_bytes=1000)
    async with serving(tmp_path, options) as (house, server):
        user = await house.user("ann@y.example")
        client = server.connect()
        with monkeypatch.context() as patch:
            patch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
            await client.begin("ann@y.example", "ann+two@y.example")
            told = await client.say(b"x" * 200_000 + b"\r\n.\r\n", 2)
        assert all(TROUBLE.fullmatch(reply) for reply in told)
        lines = b"MAIL FROM:<s@x.example>\r\nRCPT TO:<ann@y.example>\r\nDATA\r\n"
        assert STORED.fullmatch((await client.say(lines + stuffed(MESSAGE), 4))[3])
        assert stored_as(house, user, MESSAGE, "ann@y.example")


async def test_a_client_that_vanishes_before_the_dot(served: Served) -> None:
    house, server = served
    user = await house.user("ann@y.example")
    client = server.connect()
    await client.begin("ann@y.example")
    await client.stream.send_all(MESSAGE)
    await client.stream.aclose()
    await server.wait_empty()
    assert house.bodies(user) == []


async def test_drain_outside_of_data(served: Served) -> None:
    house, server = served
    await house.user("ann@y.example")
    idle, open_ = server.connect(), server.connect()
    await idle.reply()
    await open_.reply()
    await open_.say(b"LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<ann@y.example>\r\n", 3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: server.host.drain(deadline_s=8))
        for client in (idle, open_):
            assert (await client.reply()).startswith(b"421 4.3.2 ")
            assert await client.reply() == b""
            await client.stream.aclose()


@pytest.mark.parametrize("waiting", [True, False], ids=["while waiting", "while data is there"])
async def test_drain_inside_data_finishes_the_message(served: Served, waiting: bool) -> None:
    house, server = served
    user = await house.user("ann@y.example")
    client = server.connect()
    await client.begin("ann@y.example")
    await client.stream.send_all(MESSAGE[:20])
    if waiting:
        await wait_all_tasks_blocked()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: server.host.drain(deadline_s=8))
        await wait_all_tasks_blocked()
        assert len(server.host) == 1
        (told,) = await client.say(stuffed(MESSAGE)[20:])
        assert STORED.fullmatch(told)
        assert (await client.reply()).startswith(b"421 4.3.2 ")
        assert await client.reply() == b""
        await client.stream.aclose()
    assert stored_as(house, user, MESSAGE, "ann@y.example")


class Lmtp(smtplib.LMTP):
    """smtplib reads one reply after the dot; LMTP sends one for each accepted recipient."""

    def deliver(self, recipients: list[str], message: bytes) -> list[tuple[int, bytes]]:
        self.ehlo_or_helo_if_needed()
        self.mail("s@x.example", [f"size={len(message)}"])
        accepted = sum(self.rcpt(recipient)[0] == 250 for recipient in recipients)
        first = self.data(message)
        return [first] + [self.getreply() for _ in range(accepted - 1)]


async def test_smtplib_delivers(served: Served) -> None:
    house, server = served
    ann, bob = await house.user("ann@y.example"), await house.user("bob@y.example")
    listener = trio.socket.socket()
    await listener.bind(("127.0.0.1", 0))
    listener.listen()
    port = listener.getsockname()[1]

    def talk() -> list[tuple[int, bytes]]:
        with Lmtp("127.0.0.1", port, local_hostname="mx.example") as client:
            one = client.sendmail("s@x.example", ["ann@y.example"], MESSAGE)
            assert one == {}
            return client.deliver(["ann@y.example", "nobody@y.example", "bob@y.example"], MESSAGE)

    async def accept() -> None:
        accepted, (ip, port, *_) = await listener.accept()
        sock = socket.socket(fileno=accepted.detach())
        server.host.adopt(sock, Peer("tcp", "lmtp", ip, port))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        replies = await trio.to_thread.run_sync(talk)
    listener.close()
    assert [code for code, _ in replies] == [250, 250]
    assert (len(house.bodies(ann)), len(house.bodies(bob))) == (2, 1)
    assert all(body.endswith(MESSAGE) for body in house.bodies(ann) + house.bodies(bob))
