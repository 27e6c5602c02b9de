"""Sessions of a worker: places, lazy writes, renewals, ends of every kind."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from session_house import SessionHouse, open_session_house
from trio.testing import MockClock, wait_all_tasks_blocked

from wd_trio import telemetry
from wd_trio.adapters.sqlite.sessions import SqliteSessions
from wd_trio.errors import Limited, Unavailable
from wd_trio.ports.bus import Hint, Resync
from wd_trio.ports.gateway import writes
from wd_trio.service.sessions import KILL, LEASE_S, RENEW_S, WRITE_S, clean_user_agent


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[SessionHouse]:
    async with open_session_house(tmp_path) as made:
        yield made


class Slow:
    """A store whose server is not back yet when it is first asked for a lease."""

    def __init__(self, store: SqliteSessions) -> None:
        self._store = store
        self._asked = 0

    @writes("state")
    def lease(self, server: str, *, ttl_s: float) -> None:
        self._asked += 1
        if self._asked == 1:
            raise Unavailable("not back yet", what="state")
        self._store.lease(server, ttl_s=ttl_s)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def state_writes(house: SessionHouse) -> int:
    return house.accounts.crossings("state.write")


def active_sessions() -> float:
    value = telemetry.REGISTRY.get_sample_value("wildduck_active_sessions_total", {"protocol": "imap"})
    return value or 0.0


def selected(house: SessionHouse, session_id: str) -> str | None:
    document = house.store.get(session_id)
    return document.selected if document else None


async def test_a_session_begins_with_one_crossing_and_ends_with_one(house: SessionHouse) -> None:
    worker = house.worker("1.1")
    login = await house.login("anna")
    before = state_writes(house)
    open_before = active_sessions()
    session = await worker.begin(login)
    assert state_writes(house) == before + 1
    assert active_sessions() == open_before + 1
    document = house.store.get(session.id)
    assert document is not None
    assert re.fullmatch(r"sess_[0-9a-f]{32}", document.id)
    assert (document.user, document.protocol, document.server, document.worker) == (
        login.user_id,
        "imap",
        "s1",
        "1.1",
    )
    assert (document.ip, document.secure) == ("192.0.2.1", True)
    assert document.created == document.last_activity == int(house.accounts.clock.now * 1000)
    await worker.sessions.end(session)
    await worker.sessions.end(session)
    assert state_writes(house) == before + 2
    assert active_sessions() == open_before, "ended once, however often it is said"
    assert house.store.get(session.id) is None


async def test_places_are_shared_by_all_workers_and_freed_by_ends(house: SessionHouse) -> None:
    one, two = house.worker("1.1", most=2), house.worker("2.1", most=2)
    login = await house.login("anna")
    first = await one.begin(login)
    await two.begin(login)
    with pytest.raises(Limited):
        await one.begin(login)
    await one.begin(login, "pop3")
    await one.begin(await house.login("bert"))
    await one.sessions.end(first)
    await two.begin(login)


async def test_a_dead_servers_sessions_take_no_places(house: SessionHouse) -> None:
    login = await house.login("anna")
    await house.worker("1.1", server="dead", most=1).begin(login)
    here = house.worker("1.1", server="here", most=1)
    with pytest.raises(Limited):
        await here.begin(login)
    house.accounts.clock.now += LEASE_S
    await here.begin(login)


async def test_notes_cost_nothing_and_are_written_in_one_batch(house: SessionHouse) -> None:
    worker = house.worker("1.1")
    sessions = [await worker.begin(await house.login(f"user{number}")) for number in range(20)]
    before = state_writes(house)
    house.accounts.clock.now += 10
    for session in sessions:
        session.note(selected="m1", state={"view": [1, 2, 3, 4], "idle": "a1"})
        session.note(state={"idle": None, "marks": "1:3"}, user_agent="agent\r\n1.0")
    await wait_all_tasks_blocked()
    assert state_writes(house) == before
    await worker.sessions.write()
    assert state_writes(house) == before + 1
    for session in sessions:
        document = house.store.get(session.id)
        assert document is not None
        assert document.selected == "m1"
        assert document.state == {"view": [1, 2, 3, 4], "marks": "1:3"}
        assert document.user_agent == "agent??1.0"
        assert document.last_activity == document.created + 10_000
    await worker.sessions.write()
    assert state_writes(house) == before + 1, "nothing new, nothing written"


async def test_an_update_is_written_at_once(house: SessionHouse) -> None:
    worker = house.worker("1.1")
    session = await worker.begin(await house.login("anna"))
    session.note(state={"marks": "1,5"})
    await worker.sessions.update(session)
    document = house.store.get(session.id)
    assert document is not None
    assert document.state == {"marks": "1,5"}


async def test_silent_sessions_live_on_by_one_batch(house: SessionHouse) -> None:
    worker = house.worker("1.1")
    ids = {(await worker.begin(await house.login(f"user{number}"))).id for number in range(5)}
    before = state_writes(house)
    for _ in range(10):
        house.accounts.clock.now += RENEW_S
        house.store.lease("s1", ttl_s=2 * RENEW_S)
        await worker.sessions.write()
    assert state_writes(house) == before + 10
    assert {document.id for document in house.store.page().documents} == ids
    assert all(document.last_activity == document.created for document in house.store.page().documents)


async def test_the_run_writes_renews_the_lease_and_kills_by_itself(
    house: SessionHouse, autojump_clock: MockClock
) -> None:
    worker = house.worker("1.1")
    session = await worker.begin(await house.login("anna"))
    house.store.doom([session.id])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.sessions.run)
        for number in range(3):
            session.note(selected=f"m{number}")
            worker.kicked.clear()
            house.accounts.clock.now += LEASE_S - 1
            while selected(house, session.id) != f"m{number}" or not worker.kicked:
                await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert worker.kicked[0] == KILL


async def test_what_was_swept_while_the_worker_hung_comes_back(house: SessionHouse) -> None:
    worker, other = house.worker("1.1"), house.worker("1.1", server="s2")
    silent, active = [await worker.begin(await house.login(name)) for name in ("anna", "bert")]
    house.accounts.clock.now += LEASE_S + 1
    assert await other.sessions.sweep() == 2
    active.note(selected="m1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.sessions.run)
        while len(house.store.page().documents) < 2:
            await trio.sleep(0.001)
        nursery.cancel_scope.cancel()
    assert {document.id for document in house.store.page().documents} == {silent.id, active.id}


async def test_what_the_engine_forgot_while_it_was_away_is_written_again(
    house: SessionHouse, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """A silent connection would else be unknown until its document is due for renewal."""
    worker = house.worker("1.1")
    session = await worker.begin(await house.login("anna"))
    back, news = trio.open_memory_channel[Resync](1)

    async def receive() -> list[Resync]:
        return [await news.receive()]

    monkeypatch.setattr(worker.bus, "receive", receive)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.hub.run)
        nursery.start_soon(worker.sessions.run)
        await wait_all_tasks_blocked()
        for outage in range(2):
            assert len(house.store.end_owner("s1")) == 1
            house.store.lease("s1", ttl_s=-1.0)
            if outage:  # and it is not there at once when the bus is
                monkeypatch.setattr(worker.sessions, "_store", Slow(house.store))
            began = trio.current_time()
            await back.send(Resync())
            while house.store.get(session.id) is None:
                await trio.sleep(0.1)
            assert trio.current_time() - began < WRITE_S / 2
        nursery.cancel_scope.cancel()


async def test_what_was_written_before_the_engine_forgot_is_written_again(
    house: SessionHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store has done it, and lost it, before the worker hears that it is done."""
    worker = house.worker("1.1")
    session = await worker.begin(await house.login("anna"))
    session.touch()
    run = house.accounts.gateway.run

    async def lost(call: Any, *args: Any, **kwargs: Any) -> Any:
        answer = await run(call, *args, **kwargs)
        house.store.end_owner("s1")
        worker.sessions._engine_was_away()
        return answer

    with monkeypatch.context() as outage:
        outage.setattr(house.accounts.gateway, "run", lost)
        await worker.sessions.update(session)
    assert house.store.get(session.id) is None
    await worker.sessions.write()
    assert house.store.get(session.id) is not None


async def test_a_kill_reaches_the_worker_that_has_the_session(house: SessionHouse) -> None:
    one, two = house.worker("1.1"), house.worker("2.1")
    login = await house.login("anna")
    here, there = await one.begin(login), await two.begin(login)
    await two.begin(await house.login("bert"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.sessions.run)
        nursery.start_soon(two.sessions.run)
        await wait_all_tasks_blocked()
        assert set(await one.sessions.kill(login.user_id)) == {here.id, there.id}
        while not one.kicked:
            await trio.sleep(0.001)
        assert one.bus.hints == [Hint(KILL, login.user_id)]
        assert two.kicked == []
        two.hub._tell(one.bus.hints[0])
        while not two.kicked:
            await trio.sleep(0.001)
        nursery.cancel_scope.cancel()
    assert (one.kicked, two.kicked) == ([KILL], [KILL])


async def test_a_kill_of_one_session_leaves_the_users_others(house: SessionHouse) -> None:
    worker = house.worker("1.1")
    login, other = await house.login("anna"), await house.login("bert")
    first, second = await worker.begin(login), await worker.begin(login)
    assert await worker.sessions.kill(login.user_id, [second.id, "sess_none"]) == [second.id]
    assert house.store.doomed("s1", "1.1") == [second.id]
    assert await worker.sessions.kill(other.user_id, [first.id]) == [], "another user's session"
    assert worker.bus.hints == [Hint(KILL, login.user_id)]


async def test_a_kill_of_all_is_told_where_there_is_no_session(house: SessionHouse) -> None:
    """What follows a user without a session, such as a stream of updates, ends by that hint."""
    worker = house.worker("1.1")
    login = await house.login("anna")
    assert await worker.sessions.kill(login.user_id) == []
    assert worker.bus.hints == [Hint(KILL, login.user_id)]


async def test_a_dead_workers_sessions_are_ended_by_a_sibling(house: SessionHouse) -> None:
    one, two = house.worker("1.1"), house.worker("2.1")
    login = await house.login("anna")
    for _ in range(3):
        await one.begin(login)
    left = await two.begin(login)
    assert await two.sessions.end_worker("1.1") == 3
    assert await two.sessions.end_worker("1.1") == 0
    assert [document.id for document in await two.sessions.of_user(login.user_id)] == [left.id]


async def test_a_session_goes_on_in_another_worker(house: SessionHouse) -> None:
    one, two = house.worker("1.1"), house.worker("2.1")
    login = await house.login("anna")
    begun = await one.begin(login, "pop3")
    begun.note(selected="m1", state={"marks": "1:2"})
    await one.sessions.update(begun)
    one.sessions.let_go(begun)
    session = await two.sessions.resume(begun.id, kick=two.kicked.append)
    assert session is not None
    assert session.document.state == {"marks": "1:2"}
    assert session.document.worker == "2.1"
    await one.sessions.end(begun)
    assert await two.sessions.end_worker("1.1") == 0, "it is the other's now"
    assert [document.id for document in await two.sessions.of_user(login.user_id)] == [begun.id]
    await two.sessions.end(session)
    assert await two.sessions.of_user(login.user_id) == []
    assert await two.sessions.resume(begun.id, kick=two.kicked.append) is None


async def test_an_end_that_the_engine_missed_is_made_up_for(
    house: SessionHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = house.worker("1.1")
    session = await worker.begin(await house.login("anna"))
    with monkeypatch.context() as broken:
        broken.setattr(house.accounts.state, "writing", _no_engine)
        await worker.sessions.end(session)
    assert house.store.get(session.id) is not None
    await worker.sessions.write()
    assert house.store.get(session.id) is None


async def test_a_place_that_was_taken_without_an_answer_is_given_back(
    house: SessionHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = house.worker("1.1", most=1)
    login = await house.login("anna")
    gateway = house.accounts.gateway
    run = gateway.run

    async def unanswered(*args: Any, **kwargs: Any) -> bool:
        await run(*args, **kwargs)
        raise Unavailable("no answer", what="state")

    with monkeypatch.context() as broken:
        broken.setattr(gateway, "run", unanswered)
        with pytest.raises(Unavailable):
            await worker.begin(login)
    with pytest.raises(Limited):
        await worker.begin(login)
    await worker.sessions.write()
    await worker.begin(login)


def _no_engine() -> None:
    raise Unavailable("down", what="sqlite") from sqlite3.OperationalError("disk I/O error")


async def test_a_write_that_failed_is_tried_again(
    house: SessionHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = house.worker("1.1")
    session = await worker.begin(await house.login("anna"))
    session.note(selected="m1")
    with monkeypatch.context() as broken:
        broken.setattr(house.accounts.state, "writing", _no_engine)
        with pytest.raises(Unavailable):
            await worker.sessions.write()
    await worker.sessions.write()
    document = house.store.get(session.id)
    assert document is not None
    assert document.selected == "m1"


async def test_a_cancelled_connection_ends_its_session(house: SessionHouse) -> None:
    worker = house.worker("1.1")
    session = await worker.begin(await house.login("anna"))
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.sleep_forever()
        finally:
            await worker.sessions.end(session)
    assert house.store.get(session.id) is None


def test_what_a_client_says_of_itself_is_bounded_and_printable() -> None:
    assert clean_user_agent("Thunderbird 1.0") == "Thunderbird 1.0"
    assert clean_user_agent("a\x00b\r\nc\u202e" + "x" * 1000) == "a?b??c?" + "x" * 193
