"""Tracking records: made from the live documents, whatever order and whoever writes, and repaired so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from session_house import SessionHouse, open_session_house
from trio.testing import MockClock, wait_all_tasks_blocked

from wd_trio.ports.documents import Update
from wd_trio.ports.gateway import reads
from wd_trio.ports.sessions import SessionDocument
from wd_trio.service.tracking import SEEN_STEP_MS, SESSIONS_KEPT, updated
from wd_trio.service.users import TRACKING


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[SessionHouse]:
    async with open_session_house(tmp_path) as made:
        yield made


def make(number: int, *, seen: int = 0) -> SessionDocument:
    return SessionDocument(
        id=f"sess_{number:032x}",
        user="u1",
        protocol="imap",
        server="s1",
        worker="1.1",
        created=number,
        last_activity=seen or number,
    )


# --- the record itself


def test_a_first_record() -> None:
    assert updated({}, [make(7)], []) == {
        "sessions": [{"id": make(7).id, "protocol": "imap", "created": 7, "lastSeen": 7, "active": True}],
        "lastLogin": 7,
        "connectionCount": 1,
        "connected": "yes",
    }


def test_what_is_not_live_is_not_active_and_ends_tell_when() -> None:
    record = updated({}, [make(1), make(2)], [])
    record = updated(record, [], [make(2, seen=99)])
    assert [(entry["lastSeen"], entry["active"]) for entry in record["sessions"]] == [(99, False), (1, False)]
    assert (record["lastLogin"], record["connectionCount"]) == (2, 0)
    assert "connected" not in record


def test_making_it_again_changes_nothing() -> None:
    record = updated({}, [make(1)], [make(2)])
    assert updated(record, [make(1, seen=1 + SEEN_STEP_MS - 1)], []) == record
    later = updated(record, [make(1, seen=1 + SEEN_STEP_MS)], [])
    assert later["sessions"][-1]["lastSeen"] == 1 + SEEN_STEP_MS


def test_the_newest_are_kept_and_all_are_counted() -> None:
    record = updated({}, [make(number) for number in range(1, 81)], [])
    assert len(record["sessions"]) == SESSIONS_KEPT
    assert record["sessions"][0]["created"] == 80
    assert record["connectionCount"] == 80


# --- writing it


async def test_a_log_in_costs_no_durable_write(house: SessionHouse) -> None:
    worker = house.worker("1.1")
    logins = [await house.login(f"user{number}") for number in range(10)]
    before = house.accounts.crossings("store.write")
    sessions = [await worker.begin(login) for login in logins]
    assert house.accounts.crossings("store.write") == before
    await worker.tracking.flush()
    assert house.accounts.crossings("store.write") == before + 1
    for login, session in zip(logins, sessions, strict=True):
        record = await worker.tracking.get(login.user_id)
        assert [(entry["id"], entry["active"]) for entry in record["sessions"]] == [(session.id, True)]
        assert record["lastLogin"] == session.document.created
    await worker.tracking.flush()
    assert house.accounts.crossings("store.write") == before + 1


async def test_a_short_session_leaves_its_trace(house: SessionHouse) -> None:
    worker = house.worker("1.1")
    login = await house.login("anna")
    assert (await worker.tracking.get(login.user_id))["sessions"] == []
    session = await worker.begin(login)
    house.accounts.clock.now += 3
    session.note()
    await worker.sessions.end(session)
    await worker.tracking.flush()
    (entry,) = (await worker.tracking.get(login.user_id))["sessions"]
    assert (entry["active"], entry["lastSeen"] - entry["created"]) == (False, 3000)


async def test_two_workers_at_once_agree_with_the_truth(house: SessionHouse) -> None:
    workers = [house.worker(f"{number}.1") for number in range(4)]
    login = await house.login("anna")
    sessions = [[await worker.begin(login) for _ in range(5)] for worker in workers]
    async with trio.open_nursery() as nursery:
        for worker, held in zip(workers, sessions, strict=True):

            async def leave(worker: Any = worker, held: Any = held) -> None:
                for session in held[1:]:
                    await worker.tracking.flush()
                    await worker.sessions.end(session)
                    await worker.tracking.flush()

            nursery.start_soon(leave)
    record = await workers[0].tracking.get(login.user_id)
    assert record["connectionCount"] == 4
    active = {entry["id"] for entry in record["sessions"] if entry["active"]}
    assert active == {held[0].id for held in sessions}
    assert len(record["sessions"]) == 20


async def test_a_record_that_changed_meanwhile_is_made_again(
    house: SessionHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = house.worker("1.1")
    login = await house.login("anna")
    await worker.begin(login)
    await worker.tracking.flush()
    await worker.begin(login)
    documents, real = house.accounts.documents, house.store.of_users
    crossed: list[int] = []

    @reads("state")
    def of_users(users: list[str]) -> list[SessionDocument]:
        found = real(users)
        if not crossed:
            record = documents.get(TRACKING, login.user_id)
            assert record is not None
            crossed.append(record.version)
            documents.apply(
                [Update(TRACKING, record.id, record.version, {**record.data, "lastLogin": 9**15})]
            )
        return found

    monkeypatch.setattr(house.store, "of_users", of_users)
    await worker.tracking.flush()
    record = await worker.tracking.get(login.user_id)
    assert (record["connectionCount"], record["lastLogin"]) == (2, 9**15)


async def test_repair_tells_the_truth_after_a_kill(house: SessionHouse) -> None:
    killed, other = house.worker("1.1"), house.worker("1.1", server="s2")
    gone, unheard, idle = [await house.login(name) for name in ("gone", "unheard", "idle")]
    await killed.begin(gone)
    await killed.tracking.flush()
    await other.begin(unheard)  # whose tracking never came to be written
    house.store.end_owner("s1")
    repairer = house.worker("2.1", server="s2")
    assert await repairer.tracking.repair() == 2
    record = await repairer.tracking.get(gone.user_id)
    assert record["connectionCount"] == 0
    assert [entry["active"] for entry in record["sessions"]] == [False]
    assert (await repairer.tracking.get(unheard.user_id))["connectionCount"] == 1
    assert (await repairer.tracking.get(idle.user_id))["sessions"] == []
    writes = house.accounts.crossings("store.write")
    assert await repairer.tracking.repair() == 1
    assert house.accounts.crossings("store.write") == writes, "what is true is not written again"


async def test_the_record_goes_with_its_user(house: SessionHouse) -> None:
    worker = house.worker("1.1")
    login = await house.login("anna")
    session = await worker.begin(login)
    await worker.tracking.flush()
    await house.accounts.users.delete(login.user_id)
    await worker.sessions.end(session)
    await worker.tracking.flush()
    assert house.accounts.documents.get(TRACKING, login.user_id) is None


async def test_the_last_words_are_written_at_the_end(house: SessionHouse) -> None:
    worker = house.worker("1.1")
    login = await house.login("anna")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.sessions.run)
        await wait_all_tasks_blocked()
        await worker.begin(login)
        nursery.cancel_scope.cancel()
    assert (await worker.tracking.get(login.user_id))["connectionCount"] == 1


async def test_records_are_written_every_few_seconds(house: SessionHouse, autojump_clock: MockClock) -> None:
    worker = house.worker("1.1")
    login = await house.login("anna")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.sessions.run)
        for expected in (1, 2):
            await worker.begin(login)
            while (await worker.tracking.get(login.user_id))["connectionCount"] != expected:
                await trio.sleep(1)
        nursery.cancel_scope.cancel()
