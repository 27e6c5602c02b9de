"""Sessions whose connections are parked, or came from elsewhere: who owns their documents, and who keeps them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import pytest
import trio
from session_house import SessionHouse, Worker, open_session_house

from wd_trio.errors import Unavailable
from wd_trio.ports.sessions import SessionDocument
from wd_trio.service.parked import SessionFacts
from wd_trio.service.sessions import LEASE_S, RENEW_S, Session


class SmallLot:
    """A lot that keeps facts in a dict."""

    def __init__(self) -> None:
        self.here: dict[str, SessionFacts] = {}
        self.changed: set[str] = set()
        self.kicked: list[tuple[str, str]] = []

    def __len__(self) -> int:
        return len(self.here)

    def park(self, facts: SessionFacts) -> None:
        self.here[facts.id] = facts
        self.changed.add(facts.id)

    def take_changed(self) -> Iterator[SessionFacts]:
        while self.changed:
            yield self.here[self.changed.pop()]

    def put_back(self, ids: Collection[str]) -> None:
        self.changed |= {*ids} & {*self.here}

    def ids(self) -> Iterator[str]:
        yield from self.here

    def facts(self, ids: Collection[str]) -> Iterator[SessionFacts]:
        return (facts for id_, facts in self.here.items() if id_ in ids)

    def kick(self, ids: Collection[str], reason: str) -> None:
        self.kicked.extend((id_, reason) for id_ in ids if id_ in self.here)


def facts_of(session: Session, **changes: object) -> SessionFacts:
    document = session.document
    known = {
        "id": document.id,
        "user_id": document.user,
        "protocol": document.protocol,
        "created_ms": document.created,
        "active_ms": document.last_activity,
        "ip": document.ip,
        "secure": document.secure,
    }
    return SessionFacts(**{**known, **changes})  # type: ignore[arg-type]  # the caller names fields of the type they have


def lot_of(worker: Worker) -> SmallLot:
    lot = SmallLot()
    worker.sessions.parked.keep(lot)
    return lot


async def parked(house: SessionHouse, worker: Worker, lot: SmallLot, user: str = "anna") -> Session:
    session = await worker.begin(await house.login(user))
    worker.sessions.park(session)
    lot.park(facts_of(session, selected="f" * 24, user_agent="Mutt"))
    return session


def stored(house: SessionHouse, session_id: str) -> SessionDocument | None:
    return house.store.get(session_id)


async def test_parking_ends_nothing_and_is_written(tmp_path: Path) -> None:
    async with open_session_house(tmp_path) as house:
        worker = house.worker("1")
        lot = lot_of(worker)
        session = await parked(house, worker, lot)
        assert worker.hub.follows(session.user_id)
        await worker.sessions.write()
        document = stored(house, session.id)
        assert document is not None
        assert (document.selected, document.user_agent, document.worker) == ("f" * 24, "Mutt", "1")
        again = worker.sessions.go_on
        worker.sessions.parked.unpark(session.id)
        del lot.here[session.id]
        back = again(facts_of(session), kick=worker.kicked.append)
        await worker.sessions.end(back)
        assert stored(house, session.id) is None
        assert not worker.hub.follows(session.user_id), "followed once, whatever happened in between"


async def test_what_could_not_be_written_is_written_later(tmp_path: Path) -> None:
    async with open_session_house(tmp_path) as house:
        worker = house.worker("1")
        lot = lot_of(worker)
        session = await parked(house, worker, lot)
        with failing(house, "update"), pytest.raises(Unavailable):
            await worker.sessions.write()
        await worker.sessions.write()
        document = stored(house, session.id)
        assert document is not None
        assert document.selected == "f" * 24


class failing:
    """The store's method fails for a while."""

    def __init__(self, house: SessionHouse, name: str) -> None:
        self._house, self._name = house, name

    def __enter__(self) -> None:
        real: Callable[..., object] = getattr(self._house.store, self._name)

        def fail(*_: object, **__: object) -> None:
            raise Unavailable("away")

        fail.__dict__.update(real.__dict__)  # the mark of its lane
        setattr(self._house.store, self._name, fail)

    def __exit__(self, *_: object) -> None:
        delattr(self._house.store, self._name)


async def test_silent_ones_are_renewed_and_lost_ones_written_again(tmp_path: Path) -> None:
    async with open_session_house(tmp_path) as house:
        worker = house.worker("1")
        lot = lot_of(worker)
        session = await parked(house, worker, lot)
        await worker.sessions.write()
        house.store.end([session.id])
        await worker.sessions.write()
        assert stored(house, session.id) is None, "nobody has looked yet"
        house.accounts.clock.now += RENEW_S + 1
        house.store.lease("s1", ttl_s=LEASE_S)
        await worker.sessions.write()
        assert stored(house, session.id) is not None


async def test_an_engine_that_lost_its_memory_is_told_at_once(tmp_path: Path) -> None:
    async with open_session_house(tmp_path) as house:
        worker = house.worker("1")
        lot = lot_of(worker)
        session = await parked(house, worker, lot)
        await worker.sessions.write()
        house.store.end([session.id])
        worker.hub.resync()
        worker.sessions._doubt()
        await worker.sessions.write()
        assert stored(house, session.id) is not None


async def test_sessions_that_move_are_the_successors(tmp_path: Path) -> None:
    async with open_session_house(tmp_path) as house:
        old, new = house.worker("1"), house.worker("2")
        lot = lot_of(new)
        first = await old.begin(await house.login("anna"))
        second = await old.begin(await house.login("ben"))
        for session in (first, second):
            old.sessions.let_go(session)
        lot.park(facts_of(first))
        new.sessions.parked.enter(first.id, first.user_id, "imap")
        moved = new.sessions.go_on(facts_of(second), kick=new.kicked.append)
        await new.sessions.parked.take_over([first.id, second.id])
        assert await new.sessions.end_worker("1") == 0
        for session in (first, second):
            document = stored(house, session.id)
            assert document is not None
            assert document.worker == "2"
            assert new.hub.follows(session.user_id)
            assert not old.hub.follows(session.user_id)
        await new.sessions.end(moved)
        new.sessions.parked.end(lot.here.pop(first.id))
        await new.sessions.parked.end_documents()
        assert [stored(house, session.id) for session in (first, second)] == [None, None]


async def test_what_could_not_be_taken_over_is_taken_later(tmp_path: Path) -> None:
    async with open_session_house(tmp_path) as house:
        old, new = house.worker("1"), house.worker("2")
        session = await old.begin(await house.login("anna"))
        old.sessions.let_go(session)
        new.sessions.go_on(facts_of(session), kick=new.kicked.append)
        with failing(house, "move"):
            await new.sessions.parked.take_over([session.id])
        await new.sessions.write()
        assert await new.sessions.end_worker("1") == 0
        assert stored(house, session.id) is not None


@pytest.mark.parametrize("was_parked", [False, True])
async def test_what_was_passed_on_is_not_taken_back(tmp_path: Path, *, was_parked: bool) -> None:
    """A worker that could not take it over, and is gone soon, leaves it to the next one."""
    async with open_session_house(tmp_path) as house:
        old, middle, new = (house.worker(name) for name in "123")
        session = await old.begin(await house.login("anna"))
        old.sessions.let_go(session)
        if was_parked:
            middle.sessions.parked.enter(session.id, session.user_id, "imap")
        else:
            gone_on = middle.sessions.go_on(facts_of(session), kick=middle.kicked.append)
        with failing(house, "move"):
            await middle.sessions.parked.take_over([session.id])
        if was_parked:
            middle.sessions.parked.leave(session.id, session.user_id, "imap")
        else:
            middle.sessions.let_go(gone_on)
        new.sessions.go_on(facts_of(session), kick=new.kicked.append)
        await new.sessions.parked.take_over([session.id])
        await middle.sessions.write()
        document = stored(house, session.id)
        assert document is not None
        assert document.worker == "3"


async def test_a_document_lost_on_the_way_is_written_again(tmp_path: Path) -> None:
    async with open_session_house(tmp_path) as house:
        old, new = house.worker("1"), house.worker("2")
        lot = lot_of(new)
        session = await old.begin(await house.login("anna"))
        old.sessions.let_go(session)
        house.store.end([session.id])
        lot.park(facts_of(session))
        await new.sessions.parked.take_over([session.id])
        document = stored(house, session.id)
        assert document is not None
        assert document.worker == "2"


async def test_who_leaves_waits_for_what_it_is_taking_over(tmp_path: Path) -> None:
    """Else that might come after the next worker has taken it."""
    async with open_session_house(tmp_path) as house:
        old, leaving = house.worker("1"), house.worker("2")
        session = await old.begin(await house.login("anna"))
        old.sessions.let_go(session)
        gone_on = leaving.sessions.go_on(facts_of(session), kick=leaving.kicked.append)
        may, rested = threading.Event(), trio.Event()
        real = house.store.move

        def late(ids: Sequence[str], server: str, worker: str) -> set[str]:
            may.wait()
            return real(ids, server, worker)

        late.__dict__.update(real.__func__.__dict__)  # the mark of its lane
        house.store.move = late  # type: ignore[method-assign]  # an engine that is slow

        async def rest() -> None:
            await leaving.sessions.rest()
            rested.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(leaving.sessions.parked.take_over, [session.id])
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(rest)
            await trio.testing.wait_all_tasks_blocked()
            assert not rested.is_set()
            may.set()
        leaving.sessions.let_go(gone_on)
        document = stored(house, session.id)
        assert document is not None
        assert document.worker == "2"
