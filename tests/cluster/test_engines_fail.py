"""Engines that fail: gone, hung or stepping down, below a real server.

What needs the engine is refused as trouble of ours that passes, what does not need it goes on, nothing acknowledged
is lost, nothing piles up, and once the engine is back all is well without a restart.
"""

from __future__ import annotations

import contextlib
import imaplib
import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pymongo
import pytest
from engine_processes import start_mongod, start_redis
from engines import or_no_engine
from failing_engines import LETTER, Pair, Sender, User, Watcher, at_once, hurting, said
from peers import wait_until
from pymongo.errors import PyMongoError
from served import Served

from wd_trio.adapters.mongo_redis.mongo import Mongo
from wd_trio.adapters.mongo_redis.store import MongoStore

NOT_NOW = "[UNAVAILABLE] Temporarily unavailable, try again later"
OUR_TROUBLE = "-ERR [SYS/TEMP] Trouble on our side, try again later"
LATER = "451 4.3.0 Trouble on our side, try again later"
SENDERS = 4
CLIENTS = 60  # of each protocol


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("engines")
    mongod = or_no_engine(lambda: start_mongod(folder / "mongodb"))
    try:
        made = Pair(mongod, or_no_engine(lambda: start_redis(folder / "redis")))
        yield made
        made.kill()
    finally:
        mongod.kill()


@pytest.fixture(scope="module")
def server(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Whatever is done to its engines, it is never started again."""
    served = pair.serve(tmp_path_factory.mktemp("served") / "server").wait_ready()
    pids = served.worker_pids()
    yield served
    assert served.worker_pids() == pids
    assert served.stop() == 0
    assert said(served.log.all()) == []


@pytest.fixture
def user(server: Served) -> Iterator[User]:
    with User.made(server) as made:
        yield made


@pytest.mark.parametrize("how", ["killed", "hung"])
def test_without_redis_mail_flows_and_only_log_ins_wait(
    pair: Pair, server: Served, user: User, how: str
) -> None:
    watchers = [Watcher(user) for _ in range(4)]  # of both workers
    known = user.sessions()
    assert len(known) == 4
    imap = user.opens()
    assert user.is_sent().startswith("250 ")
    for watcher in watchers:
        watcher.hears(1)

    with hurting(pair.redis, how):
        answers = at_once(
            user.logs_in,
            user.takes_maildrop,
            lambda: server.get("/health"),
            lambda: server.get("/health/live"),
            lambda: user.calls("/users/me/mailboxes"),
            user.is_sent,
        )
        assert answers[:2] == [NOT_NOW, OUR_TROUBLE]
        assert answers[2][0] == 503
        assert re.search(rb'"error":"redis (unavailable|too slow)"', answers[2][1])
        assert answers[3][0] == 200
        assert answers[4][0] == 200
        assert answers[5].startswith("250 ")
        uses_an_open_session(imap, there=2)

    for watcher in watchers:  # of what came while no hint could pass
        watcher.hears(3)
    wait_until(lambda: user.logs_in() == "OK", "a log-in")
    wait_until(lambda: server.get("/health")[0] == 200, "health")
    assert user.is_sent().startswith("250 ")
    for watcher in watchers:
        watcher.hears(4)
    wait_until(lambda: user.sessions() >= known, "the sessions that are connected, silent ones too")
    wait_until(lambda: user.takes_maildrop().startswith("+OK"), "a maildrop")


def uses_an_open_session(imap: imaplib.IMAP4, *, there: int) -> None:
    """All that a connection does to mail; it appends one message to those that are there."""
    assert imap.noop()[0] == "OK"
    assert imap.select() == ("OK", [b"%d" % there])
    assert imap.fetch("1", "(BODY.PEEK[])")[0] == "OK"
    assert imap.store("1", "+FLAGS", r"(\Seen)") == ("OK", [rb"1 (FLAGS (\Seen))"])
    assert imap.append("INBOX", "", "", LETTER)[0] == "OK"
    assert imap.logout()[0] == "BYE"


@pytest.mark.parametrize("how", ["killed", "hung"])
def test_without_mongodb_everybody_is_told_to_come_again(
    pair: Pair, server: Served, user: User, how: str
) -> None:
    wait_until(lambda: user.is_sent().startswith("250 "), "the worker that still remembers the last failure")
    imaps = [user.opens() for _ in range(3)]
    for imap in imaps:
        imap.select()
    with hurting(pair.mongodb, how):
        answers = at_once(
            user.is_sent,
            lambda: imaps[0].fetch("1", "(BODY.PEEK[])"),
            lambda: imaps[1].store("1", "+FLAGS", r"(\Seen)"),
            lambda: imaps[2].append("INBOX", "", "", LETTER),
            user.logs_in,
            user.takes_maildrop,
            lambda: user.calls("/users/me/mailboxes"),
            lambda: server.get("/health"),
            lambda: server.get("/health/live"),
        )
    assert answers[0] == f"RCPT: {LATER}"
    assert answers[1:4] == [("NO", [NOT_NOW.encode()])] * 3
    assert answers[4:6] == [NOT_NOW, OUR_TROUBLE]
    status, body, _ = answers[6]
    assert (status, body["code"]) == (503, "ServiceUnavailable")
    assert answers[7][0] == 503
    assert re.search(rb'"error":"mongodb (unavailable|too slow)"', answers[7][1])
    assert answers[8][0] == 200

    wait_until(lambda: user.is_sent().startswith("250 "), "a delivery that is accepted")
    wait_until(lambda: server.get("/health")[0] == 200, "health")
    # Each worker sees for itself that the engine is back.
    wait_until(lambda: imaps[0].fetch("1", "(BODY.PEEK[])")[0] == "OK", "the same connection's message")
    assert imaps[0].select()[0] == "OK"
    wait_until(lambda: user.logs_in() == "OK", "a log-in")
    wait_until(lambda: user.takes_maildrop().startswith("+OK"), "a maildrop")


def test_nothing_acknowledged_is_lost_whatever_happens_to_mongodb(
    pair: Pair, server: Served, user: User
) -> None:
    """Senders that go on through a hang, a step-down and a crash: each letter is there as often as it was accepted,
    and beyond that at most as often as it was refused when its commit may have been made."""
    senders = [Sender(user, f"sender{number}") for number in range(SENDERS)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.goes_on()
    with hurting(pair.mongodb, "hung"):
        for sender in senders:
            sender.is_refused()
    for sender in senders:
        sender.goes_on()
    with (
        pymongo.MongoClient[dict[str, object]](pair.mongodb.url) as client,
        contextlib.suppress(PyMongoError),
    ):
        client.admin.command("replSetStepDown", 1, force=True)  # where it closes connections, this one too
    for sender in senders:
        sender.goes_on()
    with hurting(pair.mongodb, "killed"):
        pass
    for sender in senders:
        sender.goes_on()
        sender.enough.set()
    for sender in senders:
        sender.join()

    codes = Counter[str]()
    refused = Counter[str]()
    for sender in senders:
        codes += sender.replies
        refused += sender.refused
    assert set(codes) == {"250 2.0.0", "451 4.3.0"}
    stored = stored_letters(user)
    accepted = [name for sender in senders for name in sender.accepted]
    assert set(stored) == set(accepted)
    assert {name: count for name, count in stored.items() if count > 1 + refused[name]} == {}
    mongo = Mongo(pair.store_url)
    store = MongoStore(mongo)
    counted = store.usage(user.id)
    assert counted == store.recount(user.id)
    mongo.close()


def stored_letters(user: User) -> Counter[str]:
    """How often each letter is in INBOX, all of which are whole and told by the counters."""
    imap = user.opens()
    (count,) = imap.select()[1]
    assert count is not None
    _, fetched = imap.fetch("1:*", "(UID BODY.PEEK[])")
    letters = [part for part in fetched if isinstance(part, tuple)]
    uids = [int(part[0].split(b"UID ")[1].split()[0]) for part in letters]
    assert len(letters) == int(count)
    assert uids == sorted(set(uids))
    names = Counter[str]()
    for _, content in letters:
        head, _, body = content.partition(b"\r\n\r\n")
        name = re.search(rb"Subject: (\S+)", head)
        assert name is not None
        assert body == name[1] + b"\r\n"
        names[name[1].decode()] += 1
    imap.logout()
    return names


@pytest.mark.parametrize("name", ["redis", "mongodb"])
def test_a_crowd_before_a_hung_engine_is_refused_and_holds_up_no_exit(
    pair: Pair, tmp_path: Path, name: str
) -> None:
    lane = "state" if name == "redis" else "store"
    with pair.serving(tmp_path / "server") as server, User.made(server) as user:
        kept = [user.opens() for _ in range(6)]
        with hurting(pair[name], "hung"):
            assert set(at_once(*[user.logs_in] * CLIENTS)) == {NOT_NOW}
            assert set(at_once(*[user.takes_maildrop] * CLIENTS)) == {OUR_TROUBLE}
            refused = f'wildduck_gateway_crossings_total{{lane="{lane}.read",result="refused"}}'
            assert server.metric(refused) > 0, "by the breaker, without waiting"
            assert server.metric(f'wildduck_gateway_waiting{{lane="{lane}.read"}}') < CLIENTS
            assert server.get("/health/live")[0] == 200
            server.signal(signal.SIGTERM)
            assert server.wait() == 0
        assert all(imap.readline().startswith(b"* BYE") for imap in kept)
        assert said(server.log.all()) == []


def test_a_server_starts_without_redis_and_says_why_it_cannot_without_mongodb(
    pair: Pair, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        with hurting(pair.redis, "killed"):
            server = stack.enter_context(pair.serving(tmp_path / "server"))
            user = stack.enter_context(User(server, server.add_user()))
            assert user.is_sent().startswith("250 ")
            assert user.logs_in() == NOT_NOW
            assert server.get("/health")[0] == 503
        wait_until(lambda: user.logs_in() == "OK", "a log-in")
    with hurting(pair.mongodb, "killed"):
        refused = pair.serve(tmp_path / "refused", workers=1)
        assert refused.wait() == 2
        assert refused.log.all("ready") == []
        (reason,) = {event["error"] for event in refused.log.all("cannot start")}
        assert f"127.0.0.1:{pair.mongodb.port}" in reason
