"""Deliveries into the real store: verdicts, exact bytes, shared blobs, few commits, hints."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from delivery_house import NOW, House, open_house

from wd_trio import errors, telemetry
from wd_trio.ports.bus import Hint
from wd_trio.service.delivery import APPENDS_AT_ONCE, Verdict
from wd_trio.service.trace import Trace, trace_headers

MESSAGE = b"From: s@x.example\r\nSubject: hello\r\n\r\nline\nbare\rchaos\r\n\x00\xff\r\n.\r\n"
TRACE = Trace(lhlo="mx.example", ip="192.0.2.1", id="65a1b2c3d4e5f60718293a4b")


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(tmp_path) as opened:
        yield opened


async def deliver(
    house: House, addresses: Sequence[str], message: bytes, *, memory_bytes: int = 1 << 20
) -> list[Verdict]:
    recipients = [await house.delivery.resolve(address) for address in addresses]
    with house.delivery.spool(most_bytes=1 << 30, memory_bytes=memory_bytes) as spool:
        for start in range(0, len(message), 60_000):
            await spool.write(message[start : start + 60_000])
        return await house.delivery.deliver(recipients, spool, "s@x.example", TRACE)


def prefix(recipient: str) -> bytes:
    return trace_headers(
        sender="s@x.example", recipient=recipient, hostname="store.example", trace=TRACE, date=NOW
    )


def commits() -> float:
    return telemetry.REGISTRY.get_sample_value("wildduck_engine_commits_total", {"engine": "sqlite"}) or 0.0


def delivered(result: str) -> float:
    return telemetry.REGISTRY.get_sample_value("wildduck_deliveries_total", {"result": result}) or 0.0


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def with_attachments(*bodies: bytes) -> bytes:
    """A multipart message whose leaves are `bodies`, as they are."""
    head = b'Subject: files\r\nContent-Type: multipart/mixed; boundary="=-x-="\r\n\r\n'
    parts = b"".join(
        b"--=-x-=\r\nContent-Type: application/octet-stream\r\n\r\n" + body + b"\r\n" for body in bodies
    )
    return head + parts + b"--=-x-=--\r\n"


async def test_what_is_stored_is_prefix_and_message(house: House) -> None:
    user = await house.user("ann@y.example")
    before = delivered("delivered")
    verdicts = await deliver(house, ["ann@y.example"], MESSAGE)
    assert [verdict.error for verdict in verdicts] == [None]
    assert house.bodies(user) == [prefix("ann@y.example") + MESSAGE]
    (row,) = house.rows(user)
    assert row.size == len(prefix("ann@y.example") + MESSAGE)
    assert row.internal_date == int(NOW)
    assert row.header == prefix("ann@y.example") + b"From: s@x.example\r\nSubject: hello\r\n\r\n"
    assert b'"hello"' in (row.envelope or b"")
    assert delivered("delivered") == before + 1


@pytest.mark.parametrize("message", [b"", b"\r\n", b"no header at all", b"\x00" * 3000, noise(5000)])
async def test_any_bytes_are_stored(house: House, message: bytes) -> None:
    one, two = await house.user("ann@y.example"), await house.user("bob@y.example")
    await deliver(house, ["ann@y.example"], message)
    await deliver(house, ["ann@y.example", "bob@y.example"], message)
    assert house.bodies(one) == [prefix("ann@y.example") + message] * 2
    assert house.bodies(two) == [prefix("bob@y.example") + message]


async def test_recipients_share_one_blob(house: House) -> None:
    users = [await house.user(f"u{i}@y.example") for i in range(3)]
    message = with_attachments(noise(20_000))
    verdicts = await deliver(house, [f"u{i}@y.example" for i in range(3)], message)
    assert [verdict.error for verdict in verdicts] == [None] * 3
    blobs = house.count("blobs")
    for i, user in enumerate(users):
        assert house.bodies(user) == [prefix(f"u{i}@y.example") + message]
    await deliver(house, ["u0@y.example", "u1@y.example"], message)
    assert house.count("blobs") == blobs
    assert house.count("blob_chunks") == blobs  # each is a single chunk


async def test_plain_text_for_many_is_shared_too(house: House) -> None:
    await house.user("ann@y.example")
    await house.user("bob@y.example")
    await deliver(house, ["ann@y.example", "bob@y.example"], b"Subject: x\r\n\r\n" + b"text\r\n" * 500)
    assert house.count("blobs") == 1


async def test_fifty_recipients_cost_few_commits(house: House) -> None:
    addresses = [f"u{i}@y.example" for i in range(50)]
    users = [await house.user(address) for address in addresses]
    before = commits()
    verdicts = await deliver(house, addresses, MESSAGE)
    assert all(verdict.error is None for verdict in verdicts)
    assert commits() - before <= 5
    assert [verdict.recipient.address for verdict in verdicts] == addresses
    assert {len(house.bodies(user)) for user in users} == {1}


async def test_more_recipients_than_one_wave(house: House) -> None:
    addresses = [f"u{i}@y.example" for i in range(APPENDS_AT_ONCE + 3)]
    users = [await house.user(address) for address in addresses]
    verdicts = await deliver(house, addresses, with_attachments(noise(9000)))
    assert all(verdict.error is None for verdict in verdicts)
    assert {len(house.rows(user)) for user in users} == {1}


async def test_the_same_address_twice_is_one_copy(house: House) -> None:
    user = await house.user("ann@y.example")
    verdicts = await deliver(house, ["ann@y.example", "ANN@Y.example", "ann+tag@y.example"], MESSAGE)
    assert [verdict.error for verdict in verdicts] == [None] * 3
    copies = {prefix(address) + MESSAGE for address in ("ann@y.example", "ann+tag@y.example")}
    assert set(house.bodies(user)) == copies
    assert len(house.bodies(user)) == 2


async def test_over_quota_is_one_recipient_s_own_affair(house: House) -> None:
    full = await house.user("full@y.example", quota_bytes=len(MESSAGE))
    roomy = await house.user("roomy@y.example", quota_bytes=1 << 20)
    before = delivered("over_quota")
    verdicts = await deliver(house, ["full@y.example", "roomy@y.example"], MESSAGE)
    assert isinstance(verdicts[0].error, errors.OverQuota)
    assert verdicts[1].error is None
    assert (len(house.bodies(full)), len(house.bodies(roomy))) == (0, 1)
    assert delivered("over_quota") == before + 1


async def test_resolve(house: House) -> None:
    user = await house.user("ann@y.example", quota_bytes=1000)
    recipient = await house.delivery.resolve("Ann+Work@Y.example", size_bytes=1000)
    assert (recipient.user_id, recipient.address) == (user, "ann+work@y.example")
    with pytest.raises(errors.OverQuota):
        await house.delivery.resolve("ann@y.example", size_bytes=1001)
    with pytest.raises(errors.NotFound):
        await house.delivery.resolve("nobody@y.example")
    with pytest.raises(errors.Invalid):
        await house.delivery.resolve('""@')
    await house.users.set_disabled(user, True)
    with pytest.raises(errors.Denied):
        await house.delivery.resolve("ann@y.example")


async def test_a_full_mailbox_is_refused_before_the_message(house: House) -> None:
    await house.user("ann@y.example", quota_bytes=1200)
    filler = b"Subject: x\r\n\r\n" + b"x" * (1200 - 14 - len(prefix("ann@y.example")))
    assert (await deliver(house, ["ann@y.example"], filler))[0].error is None
    with pytest.raises(errors.OverQuota):
        await house.delivery.resolve("ann@y.example")


@pytest.mark.parametrize("memory_bytes", [1000, 16 << 20])
async def test_large_bodies_are_kept_in_pieces(house: House, memory_bytes: int) -> None:
    user = await house.user("ann@y.example")
    message = with_attachments(noise(5_000_000), b"text " * 300_000, noise(300_000, 2), noise(400_000, 3))
    verdicts = await deliver(house, ["ann@y.example"], message, memory_bytes=memory_bytes)
    assert [verdict.error for verdict in verdicts] == [None]
    assert house.bodies(user) == [prefix("ann@y.example") + message]
    before = house.count("blob_chunks")
    await deliver(house, ["ann@y.example"], message, memory_bytes=memory_bytes)
    assert house.count("blob_chunks") == before
    assert house.bodies(user)[1] == house.bodies(user)[0]


async def test_a_spooled_message_for_many(house: House) -> None:
    addresses = [f"u{i}@y.example" for i in range(5)]
    users = [await house.user(address) for address in addresses]
    message = with_attachments(*(noise(50_000, seed) for seed in range(10)))
    await deliver(house, addresses, message, memory_bytes=1000)
    for user, address in zip(users, addresses, strict=True):
        assert house.bodies(user) == [prefix(address) + message]


async def test_the_hint_tells_the_change(house: House) -> None:
    user = await house.user("ann@y.example")
    heard: list[Hint] = []
    house.hub.listen(heard.append)
    await deliver(house, ["ann@y.example"], MESSAGE)
    await deliver(house, ["ann@y.example"], MESSAGE)
    mailbox = house.store.find_mailbox(user, "INBOX")
    assert [(hint.kind, hint.user_id, hint.mailbox_id) for hint in heard] == [
        ("mailbox", user, mailbox.id)
    ] * 2
    assert heard[0].modseq == heard[1].previous_modseq
    assert heard[1].modseq == mailbox.highest_modseq
    changes = heard[1].changes
    assert changes is not None
    assert (changes.since, changes.modseq) == (heard[1].previous_modseq, heard[1].modseq)
    assert changes.uid_next == mailbox.uid_next == 3
    assert [row.uid for row in changes.rows] == [2]


async def test_a_failing_hint_changes_no_verdict(house: House) -> None:
    user = await house.user("ann@y.example")

    def fails(hint: Hint) -> None:
        raise ZeroDivisionError

    house.hub.listen(fails)
    verdicts = await deliver(house, ["ann@y.example"], MESSAGE)
    assert verdicts[0].error is None
    assert len(house.bodies(user)) == 1


@pytest.mark.parametrize("message", [MESSAGE, with_attachments(noise(3_000_000))])
async def test_engine_trouble_is_never_permanent(house: House, message: bytes) -> None:
    await house.user("ann@y.example")
    await house.user("bob@y.example")
    recipients = [await house.delivery.resolve(address) for address in ("ann@y.example", "bob@y.example")]
    with house.delivery.spool(most_bytes=1 << 30) as spool:
        await spool.write(message)
        house.database.close()
        verdicts = await house.delivery.deliver(recipients, spool, "s@x.example", TRACE)
    assert [type(verdict.error) for verdict in verdicts] == [errors.Unavailable] * 2
    with pytest.raises(errors.Unavailable):
        await house.delivery.resolve("ann@y.example")


async def test_intake_for_append_has_no_prefix(house: House) -> None:
    with house.delivery.spool(most_bytes=1 << 20) as spool:
        await spool.write(MESSAGE)
        taken = await house.intake.prepare(spool, (b"",))
    (content,) = taken.contents
    assert content.size == len(MESSAGE)
    assert taken.blobs == ()


async def test_a_user_deleted_before_the_dot_gets_nothing_and_leaves_nothing(house: House) -> None:
    user = await house.user("gone@y.example")
    recipient = await house.delivery.resolve("gone@y.example")
    await house.users.delete(user)
    with house.delivery.spool(most_bytes=1000) as spool:
        await spool.write(MESSAGE)
        verdicts = await house.delivery.deliver([recipient], spool, "s@x.example", TRACE)
    assert [type(verdict.error) for verdict in verdicts] == [errors.NotFound]
    assert house.store.list_mailboxes(user) == []
