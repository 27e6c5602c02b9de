"""What /metrics tells of sessions: log-ins by result, sessions and connections, their ends by reason, octets."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from budget_house import BudgetHouse, open_budget_house
from imap_world import ENGINES

from wd_trio import errors, telemetry
from wd_trio.secret import Secret


@pytest.fixture(params=ENGINES)
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BudgetHouse]:
    async with open_budget_house(request.param, tmp_path) as opened:
        await opened.user("alice")
        yield opened


def values(name: str) -> Counter[tuple[str, ...]]:
    """A counter's values by its labels, in order of their names."""
    found = Counter[tuple[str, ...]]()
    for metric in telemetry.REGISTRY.collect():
        for sample in metric.samples:
            if sample.name == name:
                found[tuple(sample.labels[label] for label in sorted(sample.labels))] = int(sample.value)
    return found


def since(name: str, before: Counter[tuple[str, ...]]) -> dict[tuple[str, ...], int]:
    return dict(values(name) - before)


async def test_log_ins_by_result_in_every_protocol(
    house: BudgetHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = values("wildduck_logins_total")
    client = house.imap()
    await client.read_line()
    assert (await client.command("a", "LOGIN alice wrong"))[-1].startswith("a NO")
    assert (await client.command("a", "LOGIN nobody wrong"))[-1].startswith("a NO")
    assert (await client.command("a", 'LOGIN alice "secret of alice"'))[-1].startswith("a OK")
    popper = house.pop3()
    await popper.read_line()
    await popper.say("USER alice")
    assert (await popper.say("PASS wrong")).startswith("-ERR")
    await popper.say("USER alice")
    assert (await popper.say("PASS secret of alice")).startswith("+OK")
    asked = {"username": "alice", "password": "secret of alice"}
    await house.api.post("/authenticate", **asked)
    assert await house.api.refused("POST", "/authenticate", asked | {"password": "wrong"}) == (
        403,
        "AuthFailed",
    )

    async def down(*_: object) -> None:
        raise errors.Unavailable("the engine is down", what="store")

    monkeypatch.setattr(house.services.users, "by_login", down)
    other = house.imap()
    await other.read_line()
    assert (await other.command("a", 'LOGIN alice "secret of alice"'))[-1].startswith("a NO")
    assert since("wildduck_logins_total", before) == {
        ("imap", "denied"): 2,
        ("imap", "ok"): 1,
        ("imap", "unavailable"): 1,
        ("pop3", "denied"): 1,
        ("pop3", "ok"): 1,
        ("api", "denied"): 1,
        ("api", "ok"): 1,
    }


async def test_a_log_in_that_is_cancelled_is_counted_too(
    house: BudgetHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object) -> None:
        await trio.sleep_forever()

    before = values("wildduck_logins_total")
    monkeypatch.setattr(house.services.users, "by_login", never)
    with trio.move_on_after(0):
        await house.services.auth.login(
            username="alice", password=Secret("x"), peer_ip="127.0.0.1", protocol="imap"
        )
    assert since("wildduck_logins_total", before) == {("imap", "cancelled"): 1}


async def test_connections_sessions_ends_and_octets(house: BudgetHouse) -> None:
    ended, octets = values("wildduck_connections_ended_total"), values("wildduck_bytes_total")
    sessions, accepted = values("wildduck_active_sessions_total"), values("wildduck_connections_total")
    client, popper, sender = house.imap(), house.pop3(), house.lmtp()
    await client.log_in("alice")
    await popper.log_in("alice")
    await sender.replies(1)
    told = since("wildduck_active_sessions_total", sessions)
    assert (told["imap",], told["pop3",]) == (1, 1)
    await client.command("a", "LOGOUT")
    assert (await popper.say("QUIT")).startswith("+OK")
    said = b"NOOP\r\nQUIT\r\n"
    heard = sum(map(len, await sender.say(said, 2)))
    gone = house.imap()
    await gone.read_line()
    await gone.aclose()
    await house.wait_ended()
    assert since("wildduck_connections_ended_total", ended) == {
        ("imap", "logout"): 1,
        ("imap", "closed"): 1,
        ("pop3", "quit"): 1,
        ("lmtp", "quit"): 1,
    }
    assert since("wildduck_connections_total", accepted) == {("imap",): 2, ("pop3",): 1, ("lmtp",): 1}
    assert values("wildduck_active_sessions_total")["imap",] == sessions["imap",]
    counted = since("wildduck_bytes_total", octets)
    assert counted["in", "lmtp"] == len(said)
    assert counted["out", "lmtp"] > heard, "and the greeting"
    assert set(counted) == {(way, each) for way in ("in", "out") for each in ("imap", "pop3", "lmtp")}
