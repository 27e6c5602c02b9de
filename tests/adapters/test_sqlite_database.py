"""The database file: group commit, rollback, migrations, checkpoints, closing."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread

import pytest
import trio
from sqlite_support import commits, message

from wd_trio import errors
from wd_trio.adapters.bridge import Gateway
from wd_trio.adapters.lanes import LaneOptions
from wd_trio.adapters.sqlite import disk, schema
from wd_trio.adapters.sqlite.connection import SqliteOptions
from wd_trio.adapters.sqlite.database import Outcome, SqliteDatabase
from wd_trio.adapters.sqlite.documents import SqliteDocuments
from wd_trio.adapters.sqlite.limits import SqliteLimits, open_state
from wd_trio.adapters.sqlite.store import SqliteStore
from wd_trio.mail.model import SEEN, Appended, Columns, FlagChange
from wd_trio.mail.numset import UidSet
from wd_trio.ports.documents import Collection, Insert
from wd_trio.ports.ids import new_id

NOTES = Collection("notes")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[SqliteDatabase]:
    made = SqliteDatabase(tmp_path / "mail.db", SqliteOptions(group_work_s=60.0))
    yield made
    made.close()


@pytest.fixture
def store(database: SqliteDatabase) -> SqliteStore:
    return SqliteStore(database)


def appends(store: SqliteStore, user: str, count: int) -> list[Callable[[], object]]:
    return [
        lambda n=n: store.append(user, "INBOX", [message(str(n))], create=True)  # type: ignore[misc]
        for n in range(count)
    ]


def messages_of(store: SqliteStore, user: str) -> int:
    return sum(box.messages for box in store.list_mailboxes(user))


# -- groups


def test_a_group_is_one_commit(database: SqliteDatabase, store: SqliteStore) -> None:
    user, before = new_id(), commits()
    outcomes = database.group(appends(store, user, 50))
    assert commits() - before == 1
    assert [error for _, error in outcomes] == [None] * 50
    uids = [value.uids for value, _ in outcomes if isinstance(value, Appended)]
    assert uids == [(n,) for n in range(1, 51)]
    assert messages_of(store, user) == 50


async def test_fifty_concurrent_appends_take_few_commits(
    database: SqliteDatabase, store: SqliteStore
) -> None:
    user, before = new_id(), commits()
    uids: list[int] = []
    async with Gateway([LaneOptions(name="store.write", group=database.group)]) as gateway:

        async def deliver() -> None:
            appended = await gateway.run(store.append, user, "INBOX", [message()], create=True)
            uids.extend(appended.uids)

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(deliver)
    assert sorted(uids) == list(range(1, 51))
    assert commits() - before <= 5


def test_a_call_that_raises_undoes_its_own_writes_only(database: SqliteDatabase, store: SqliteStore) -> None:
    user = new_id()

    def write_and_fail() -> None:
        store.append(user, "INBOX", [message("half")] * 3)
        raise ValueError("mine")

    first, second = appends(store, user, 2)
    too_much = lambda: store.append(user, "INBOX", [message("xx")], quota_bytes=1)  # noqa: E731
    outcomes = database.group([first, write_and_fail, too_much, second])
    assert [type(error) for _, error in outcomes] == [type(None), ValueError, errors.OverQuota, type(None)]
    last = outcomes[3].value
    assert isinstance(last, Appended)
    assert last.uids == (2,)
    assert messages_of(store, user) == 2


def test_a_call_may_go_on_after_a_step_of_its_failed(database: SqliteDatabase, store: SqliteStore) -> None:
    user = new_id()

    def try_twice() -> Appended:
        try:
            return store.append(user, "INBOX", [message("long")], quota_bytes=1, create=True)
        except errors.OverQuota:
            assert store.list_mailboxes(user) == []
            return store.append(user, "INBOX", [message("x")], create=True)

    [(value, error)] = database.group([try_twice])
    assert error is None
    assert isinstance(value, Appended)
    assert messages_of(store, user) == 1


def test_a_group_sees_its_own_writes_and_others_only_after_the_commit(
    database: SqliteDatabase, store: SqliteStore
) -> None:
    user = new_id()
    with ThreadPoolExecutor(1) as elsewhere:

        def look() -> tuple[int, int]:
            return messages_of(store, user), elsewhere.submit(messages_of, store, user).result()

        outcomes = database.group([*appends(store, user, 2), look])
    assert outcomes[2] == Outcome((2, 0), None)
    assert messages_of(store, user) == 2


def test_mail_and_documents_share_a_transaction(database: SqliteDatabase, store: SqliteStore) -> None:
    user, documents = new_id(), SqliteDocuments(database)

    def write_both_and_fail() -> None:
        with database.writing():
            documents.apply([Insert(NOTES, "1", {})])
            store.append(user, "INBOX", [message()], create=True)
            raise ValueError("late")

    with pytest.raises(ValueError, match="late"):
        write_both_and_fail()
    assert documents.get(NOTES, "1") is None
    assert store.list_mailboxes(user) == []


def test_a_long_queue_is_done_in_parts(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "mail.db", SqliteOptions(group_calls=3, group_work_s=60.0))
    assert len(database.group([int] * 8)) == 3
    assert len(database.group([int] * 2)) == 2
    assert database.group([]) == []
    database.close()
    hasty = SqliteDatabase(tmp_path / "mail.db", SqliteOptions(group_work_s=0.0))
    assert hasty.group([int, int]) == [Outcome(0, None)]
    hasty.close()


def test_when_the_engine_gives_up_every_call_of_the_group_is_unavailable(
    database: SqliteDatabase, store: SqliteStore
) -> None:
    user = new_id()

    def give_up() -> None:
        with database.writing() as connection:
            connection.execute("ROLLBACK")  # as SQLite itself does after some faults

    first, second, third = appends(store, user, 3)
    outcomes = database.group([first, second, give_up, third])
    assert [type(error) for _, error in outcomes[:2]] == [errors.Unavailable] * 2
    assert outcomes[0].error is not outcomes[1].error
    assert isinstance(outcomes[2].error, errors.WdError)
    assert len(outcomes) == 3  # the last one never ran
    assert store.list_mailboxes(user) == []
    assert database.group([first])[0].error is None


def test_when_the_disk_is_full_nothing_is_acknowledged_and_the_next_write_goes_on(
    database: SqliteDatabase, store: SqliteStore
) -> None:
    user = new_id()
    store.append(user, "INBOX", [message()], create=True)
    with database.reading() as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
    database._writer.execute(f"PRAGMA max_page_count = {pages + 1}")
    outcomes = database.group([lambda: store.append(user, "INBOX", [message("x" * 50_000)])])
    assert isinstance(outcomes[0].error, errors.Unavailable)
    database._writer.execute(f"PRAGMA max_page_count = {pages + 1000}")
    assert store.append(user, "INBOX", [message()]).uids == (2,)
    usage = store.usage(user)
    assert store.recount(user) == usage


def test_a_commit_that_fails_acknowledges_nothing(
    database: SqliteDatabase, store: SqliteStore, tmp_path: Path
) -> None:
    user = new_id()

    def leave_a_dangling_reference() -> None:
        with database.writing() as connection:
            connection.execute("INSERT INTO test_child VALUES (99)")

    with database.writing() as connection:
        connection.execute("CREATE TABLE test_parent (id INTEGER PRIMARY KEY)")
        connection.execute(
            "CREATE TABLE test_child (id INTEGER REFERENCES test_parent DEFERRABLE INITIALLY DEFERRED)"
        )
    database._writer.execute("PRAGMA foreign_keys = ON")
    outcomes = database.group([*appends(store, user, 2), leave_a_dangling_reference])
    assert [type(error) for _, error in outcomes] == [errors.Unavailable] * 3
    assert store.list_mailboxes(user) == []
    assert database.group(appends(store, user, 1))[0].error is None


def test_a_writer_that_gets_no_turn_is_unavailable_and_has_begun_nothing(tmp_path: Path) -> None:
    options = SqliteOptions(lock_timeout_s=0.01)
    first, second = (SqliteDatabase(tmp_path / "mail.db", options) for _ in range(2))
    user = new_id()
    with first.writing():
        outcomes = second.group(appends(SqliteStore(second), user, 2))
        assert [type(error) for _, error in outcomes] == [errors.Unavailable] * 2
        with pytest.raises(errors.Unavailable):
            SqliteStore(second).append(user, "INBOX", [message()], create=True)
        assert SqliteStore(second).list_mailboxes(user) == []  # reading needs no turn
    assert second.group(appends(SqliteStore(second), user, 1))[0].error is None
    first.close()
    second.close()


# -- faults


def test_driver_faults_become_ours(database: SqliteDatabase) -> None:
    with database.writing() as connection:
        connection.execute("CREATE TABLE test_numbers (value INTEGER UNIQUE)")
        connection.execute("INSERT INTO test_numbers VALUES (1)")
    with pytest.raises(errors.Conflict), database.writing() as connection:
        connection.execute("INSERT INTO test_numbers VALUES (1)")
    with pytest.raises(errors.Unavailable), database.reading() as connection:
        connection.execute("INSERT INTO test_numbers VALUES (2)")  # readers cannot write
    with pytest.raises(errors.Invalid), database.writing() as connection:
        connection.execute("INSERT INTO test_numbers VALUES (?)", (1 << 64,))
    with pytest.raises(sqlite3.ProgrammingError), database.reading() as connection:
        connection.execute("SELECT ?", ())
    with database.reading() as connection:
        assert connection.execute("SELECT value FROM test_numbers").fetchall() == [(1,)]


def test_a_damaged_file_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "mail.db"
    path.write_bytes(b"no database at all " * 1000)
    with pytest.raises(errors.Unavailable, match="NOTADB"):
        SqliteDatabase(path)
    assert path.read_bytes().startswith(b"no database")


def test_a_damaged_volatile_file_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "mail.db.state").write_bytes(b"torn by a power cut " * 1000)
    state = open_state(tmp_path / "mail.db")
    limits = SqliteLimits(state)
    assert limits.claim("k", "h", owner="o", most=1)
    limits.strike("s", window_s=10)
    limits.clear()
    assert (limits.claims("k"), limits.strikes("s")) == (0, 0)
    state.close()


def test_files_are_for_their_owner_only(database: SqliteDatabase) -> None:
    SqliteStore(database).ensure_mailboxes(new_id(), [])
    for path in database.path.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_closed_database_is_unavailable(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "new" / "folder" / "mail.db")
    store = SqliteStore(database)
    store.ping()
    database.close()
    database.close()
    for call in (store.ping, lambda: store.ensure_mailboxes("0" * 24, []), database.checkpoint):
        with pytest.raises(errors.Unavailable):
            call()


@pytest.mark.parametrize(
    ("kind", "refused"),
    [("ext4", False), ("nfs4", True), ("cifs", True), ("fuse.sshfs", True), ("fuse.fuse-overlayfs", False)],
)
def test_network_disks_are_refused(tmp_path: Path, kind: str, refused: bool) -> None:
    odd = tmp_path / "od d"
    odd.mkdir()
    table = tmp_path / "mounts"
    point = str(odd).replace(" ", "\\040")
    table.write_text(
        "22 1 0:1 / / rw - tmpfs none rw\n"
        f"23 22 0:2 / {point} rw shared:1 - ext3 /dev/a rw\n"
        f"24 22 0:2 / {point} rw,x - {kind} host:/a rw\n"
        f"25 22 0:2 / {point}x rw - nfs host:/b rw\n"
        "broken line\n"
    )
    assert disk.file_system_of(odd / "a", table) == kind
    assert disk.file_system_of(tmp_path, table) == "tmpfs"
    assert disk.file_system_of(tmp_path, tmp_path / "absent") == ""
    if refused:
        with pytest.raises(errors.Invalid, match=kind):
            disk.require_local(odd / "mail.db", mount_table=table)
    else:
        disk.require_local(odd / "mail.db", mount_table=table)


# -- migrations

ONE: schema.Schema = (("CREATE TABLE notes (text TEXT)", "INSERT INTO notes VALUES ('kept')"),)
TWO: schema.Schema = (*ONE, ("ALTER TABLE notes ADD COLUMN stars INTEGER NOT NULL DEFAULT 3",))
BROKEN: schema.Schema = (*ONE, ("UPDATE notes SET text = 'lost'", "CREATE TABLE notes (again TEXT)"))


def versions(database: SqliteDatabase) -> list[int]:
    with database.reading() as connection:
        return [n for (n,) in connection.execute("SELECT version FROM schema_versions ORDER BY version")]


def test_a_database_of_an_older_schema_is_brought_forward_once(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    SqliteDatabase(path, tables=ONE).close()
    for _ in range(2):
        database = SqliteDatabase(path, tables=TWO)
        with database.reading() as connection:
            assert connection.execute("SELECT text, stars FROM notes").fetchall() == [("kept", 3)]
        assert versions(database) == [1, 2]
        database.close()


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    SqliteDatabase(path, tables=ONE).close()
    with pytest.raises(errors.Unavailable):
        SqliteDatabase(path, tables=BROKEN)
    database = SqliteDatabase(path, tables=ONE)
    assert versions(database) == [1]
    with database.reading() as connection:
        assert connection.execute("SELECT text FROM notes").fetchall() == [("kept",)]
    database.close()


def test_a_database_of_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    SqliteDatabase(path, tables=TWO).close()
    with pytest.raises(errors.Invalid, match=r"schema 2, this program knows schemas up to 1"):
        SqliteDatabase(path, tables=ONE)
    SqliteDatabase(path, tables=TWO).close()


def test_processes_that_open_a_new_database_at_once_migrate_it_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: SqliteDatabase(tmp_path / "notes.db", tables=TWO), range(4)))
    assert [versions(database) for database in made] == [[1, 2]] * 4
    for database in made:
        database.close()


# -- upkeep


def test_a_checkpoint_moves_the_log_and_empties_it_beyond_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "mail.db"
    roomy = SqliteDatabase(path)
    SqliteStore(roomy).append(new_id(), "INBOX", [message("x" * 100_000)], create=True)
    done = roomy.checkpoint()
    assert done.log_pages == done.moved_pages > 0
    assert not done.emptied
    wal = tmp_path / "mail.db-wal"
    assert wal.stat().st_size > 0
    tight = SqliteDatabase(path, SqliteOptions(wal_limit_bytes=10_000))
    assert tight.checkpoint().emptied
    assert wal.stat().st_size == 0
    SqliteStore(tight).ping()
    tight.close()
    roomy.close()


def test_a_reader_keeps_its_moment_while_others_write_and_checkpoint(
    database: SqliteDatabase, store: SqliteStore
) -> None:
    user = new_id()
    store.append(user, "INBOX", [message()], create=True)
    opened, may_end = Event(), Event()
    seen: list[int] = []

    def count_in_one_block() -> None:
        with database.reading() as connection:
            count = "SELECT count(*) FROM messages"
            seen.append(connection.execute(count).fetchone()[0])
            opened.set()
            may_end.wait()
            seen.append(connection.execute(count).fetchone()[0])

    thread = Thread(target=count_in_one_block)
    thread.start()
    opened.wait()
    store.append(user, "INBOX", [message()])
    database.checkpoint()
    may_end.set()
    thread.join()
    assert seen == [1, 1]
    assert messages_of(store, user) == 2


def test_looking_for_few_messages_never_walks_the_mailbox(
    database: SqliteDatabase, store: SqliteStore
) -> None:
    user = new_id()
    store.append(user, "INBOX", [message(flags=SEEN)] * 3000, create=True)
    box = store.find_mailbox(user, "INBOX")
    known = store.store_flags(box.id, UidSet([(1500, 1500)]), FlagChange("remove", SEEN)).previous_modseq
    calls: list[tuple[Callable[[], object], int]] = [
        (lambda: store.changes_since(box.id, known), 1),
        (lambda: store.open_mailbox(user, "INBOX"), 2),
        (lambda: store.fetch(box.id, UidSet([(10, 10), (2990, 2990)]), Columns.ENVELOPE), 2),
        (lambda: store.expunge(box.id), 1),
        (lambda: store.trim_journal(older_than_s=0), 1),
    ]
    for call, few in calls:
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        with database.writing() as connection:
            connection.set_progress_handler(count, 100)
            call()
            connection.set_progress_handler(None, 0)
        assert steps <= few * 10  # hundreds of the engine's instructions; a walk takes ten thousands


def test_one_database_object_leads(tmp_path: Path) -> None:
    first, second = (SqliteDatabase(tmp_path / "mail.db") for _ in range(2))
    assert [first.try_lead(), second.try_lead(), first.try_lead()] == [True, False, True]
    first.close()
    assert second.try_lead()
    second.close()
