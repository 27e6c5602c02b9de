"""The contract of sessions: what is live, who is counted, what ends with whom."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import pytest
from contract_make import Clock

from wd_trio.ports.sessions import SessionDocument, SessionStore

LEASE_S = 30.0
_numbers = count(1)


def make(user: str = "u1", **changes: object) -> SessionDocument:
    number = next(_numbers)
    document = SessionDocument(
        id=f"sess_{number:032x}",
        user=user,
        protocol="imap",
        server="s1",
        worker="1.1",
        created=1_700_000_000_000 + number,
        last_activity=1_700_000_000_000 + number,
    )
    return replace(document, **changes)  # type: ignore[arg-type]  # replace checks the names


def put(sessions: SessionStore, document: SessionDocument, most: int = 100) -> bool:
    return sessions.put(document, most=most, lease_s=LEASE_S)


def live(sessions: SessionStore) -> list[str]:
    return [document.id for document in sessions.page().documents]


def test_a_document_comes_back_whole(sessions: SessionStore) -> None:
    document = make(
        selected="65f0c0ffee",
        capabilities=("IMAP4rev1", "IDLE"),
        ip="192.0.2.1",
        user_agent="Ünicode 1.0",
        secure=True,
        state={"view": [1, 2, 3, 4], "enabled": ["CONDSTORE"], "idle": "a1", "marks": "1:3,7"},
    )
    assert put(sessions, document)
    assert sessions.get(document.id) == document
    assert sessions.get("sess_none") is None
    assert document.as_json().keys() == {
        "id",
        "user",
        "protocol",
        "server",
        "worker",
        "created",
        "lastActivity",
        "ttl",
        "selected",
        "capabilities",
        "metadata",
        "state",
    }


def test_places_are_counted_by_user_and_protocol(sessions: SessionStore) -> None:
    assert [put(sessions, make(), most=2) for _ in range(3)] == [True, True, False]
    assert put(sessions, make(protocol="pop3"), most=2)
    assert put(sessions, make("u2"), most=2)
    refused = make()
    assert not put(sessions, refused, most=2)
    assert sessions.get(refused.id) is None
    sessions.end([sessions.of_users(["u1"])[0].id])
    assert put(sessions, refused, most=2)


def test_an_hour_without_a_write_ends_a_session(sessions: SessionStore, clock: Clock) -> None:
    touched, updated, silent = make(), make(), make()
    for document in (touched, updated, silent):
        put(sessions, document)
    clock.move(3599)
    sessions.lease("s1", ttl_s=9999)
    assert sessions.touch([touched.id, "sess_none"]) == {"sess_none"}
    sessions.update([replace(updated, selected="m1")])
    clock.move(1)
    assert live(sessions) == [touched.id, updated.id]
    assert sessions.get(silent.id) is None
    assert [document.selected for document in sessions.of_users(["u1"])] == ["", "m1"]
    assert sessions.sweep(limit=10) == [silent]
    assert sessions.sweep(limit=10) == []


def test_an_update_writes_what_is_gone_afresh(sessions: SessionStore) -> None:
    document = make()
    put(sessions, document)
    sessions.end([document.id, "sess_none"])
    assert live(sessions) == []
    sessions.update([document])
    assert live(sessions) == [document.id]


def test_sessions_end_with_their_servers_lease(sessions: SessionStore, clock: Clock) -> None:
    dead, alive = make(server="s1"), make(server="s2")
    put(sessions, dead)
    clock.move(20)
    put(sessions, alive)
    clock.move(10)
    assert live(sessions) == [alive.id]
    assert put(sessions, make(server="s2"), most=2), "a dead server's sessions take no places"
    assert sessions.sweep(limit=10) == [dead]
    assert len(live(sessions)) == 2


def test_a_lease_renewed_keeps_them(sessions: SessionStore, clock: Clock) -> None:
    document = make()
    put(sessions, document)
    for _ in range(10):
        clock.move(29)
        sessions.lease("s1", ttl_s=LEASE_S)
    assert live(sessions) == [document.id]
    assert sessions.sweep(limit=10) == []


def test_a_sweep_is_bounded(sessions: SessionStore, clock: Clock) -> None:
    for _ in range(5):
        put(sessions, make())
    clock.move(31)
    assert [len(sessions.sweep(limit=2)) for _ in range(4)] == [2, 2, 1, 0]


@pytest.mark.parametrize(("worker", "left"), [("1.1", ["1.2"]), ("1.2", ["1.1"]), (None, [])])
def test_a_workers_sessions_end_together(sessions: SessionStore, worker: str | None, left: list[str]) -> None:
    for name in ("1.1", "1.2"):
        put(sessions, make(worker=name))
    other = make(server="s2", worker="1.1")
    put(sessions, other)
    ended = sessions.end_owner("s1", worker)
    assert len(ended) == 2 - len(left)
    assert all(document.server == "s1" for document in ended)
    assert [document.worker for document in sessions.page().documents if document.server == "s1"] == left
    assert sessions.get(other.id) == other
    assert sessions.end_owner("s1", worker) == []


def test_sessions_that_moved_end_with_their_new_worker(sessions: SessionStore, clock: Clock) -> None:
    documents = [make(state={"view": [1, 2, 3, 4]}) for _ in range(3)]
    for document in documents:
        put(sessions, document)
    moved, stays, ended = documents
    sessions.end([ended.id])
    sessions.doom([moved.id])
    assert sessions.move([moved.id, ended.id, "sess_none"], "s1", "2.1") == {ended.id, "sess_none"}
    assert sessions.get(moved.id) == replace(moved, worker="2.1")
    assert (sessions.doomed("s1", "1.1"), sessions.doomed("s1", "2.1")) == ([], [moved.id])
    assert sessions.end_owner("s1", "1.1") == [stays]
    assert live(sessions) == [moved.id]
    assert sessions.end_owner("s1", "2.1") == [replace(moved, worker="2.1")]
    assert live(sessions) == []


def test_moving_begins_the_hour_anew(sessions: SessionStore, clock: Clock) -> None:
    document = make()
    put(sessions, document)
    clock.move(3599)
    sessions.lease("s1", ttl_s=9999)
    assert sessions.move([document.id], "s1", "1.1") == set()
    clock.move(3599)
    assert live(sessions) == [document.id]
    clock.move(1)
    assert live(sessions) == []


def test_many_move_at_once(sessions: SessionStore) -> None:
    documents = [make() for _ in range(1100)]
    sessions.update(documents)
    assert sessions.move([document.id for document in documents], "s1", "2.1") == set()
    assert sessions.end_owner("s1", "1.1") == []
    assert len(sessions.end_owner("s1", "2.1")) == len(documents)
    assert sessions.move([], "s1", "2.1") == set()


def test_marks_to_be_ended_are_seen_by_the_worker_and_survive_writes(sessions: SessionStore) -> None:
    documents = [make(), make(), make(worker="2.1")]
    for document in documents:
        put(sessions, document)
    assert sessions.doom([documents[0].id, documents[2].id, "sess_none"]) == 2
    sessions.update(documents)
    assert sessions.doomed("s1", "1.1") == [documents[0].id]
    assert sessions.doomed("s1", "2.1") == [documents[2].id]
    assert sessions.doomed("s2", "1.1") == []
    sessions.end([documents[0].id])
    assert sessions.doomed("s1", "1.1") == []


def test_pages_cover_all_once(sessions: SessionStore) -> None:
    made = [make(f"u{number}") for number in range(7)]
    for document in made:
        put(sessions, document)
    seen: list[str] = []
    after: str | None = None
    while True:
        page = sessions.page(after=after, limit=3)
        seen += [document.id for document in page.documents]
        after = page.next
        if after is None:
            break
    assert seen == [document.id for document in made]


def test_sessions_of_users_come_oldest_first(sessions: SessionStore) -> None:
    young, old = make("u1"), replace(make("u2"), created=5)
    for document in (young, old, make("u3")):
        put(sessions, document)
    assert sessions.of_users(["u1", "u2"]) == [old, young]
    assert sessions.of_users([]) == []
