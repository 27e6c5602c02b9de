"""Any server, any request: three servers behind a balancer without affinity, one of which is lost in the middle."""

from __future__ import annotations

import http.client
import imaplib
import json
import poplib
import smtplib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from balancers import CLIENT, Imap, Pop3
from peers import LmtpClient, wait_until
from served import Account
from three_servers import BALANCERS, ROOT_TOKEN, Cluster, lose, three_servers

from wd_trio.ops import admin

LETTERS = 40


@pytest.fixture(scope="module", params=BALANCERS)
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, mongo_url: str, redis_url: str
) -> Iterator[Cluster]:
    """One for all tests of a balancer; the last of them hurts it."""
    folder = tmp_path_factory.mktemp(request.param)
    with three_servers(folder, mongo_url, redis_url, request.param) as made:
        yield made


@pytest.fixture
def user(cluster: Cluster) -> Account:
    return cluster.servers[0].add_user()


def letter(number: int) -> bytes:
    return b"From: ann@example.org\r\nSubject: number %d\r\n\r\nbody %d\r\n" % (number, number)


def deliver(port: int, user: Account, number: int) -> int:
    with LmtpClient("127.0.0.1", port, source_address=(CLIENT, 0)) as lmtp:
        _, replies = lmtp.deliver("ann@example.org", [user.address], letter(number))
        (code,) = {code for code, _ in replies.values()}
        return int(code)


def test_mail_delivered_on_one_is_told_on_all_and_the_api_pages_across(
    cluster: Cluster, user: Account
) -> None:
    watchers = [Watcher(cluster.imap, user) for _ in cluster.servers]
    sessions = admin.list_sessions(cluster.servers[0].config(), user.username)
    assert len({session.worker.partition("/")[0] for session in sessions}) == 3, "one on each server"
    assert {session.ip for session in sessions} == {CLIENT}
    for number in range(1, 7):
        assert deliver(cluster.lmtp, user, number) == 250
        for watcher in watchers:
            assert watcher.heard() == number
    for watcher in watchers:
        watcher.leave()

    known = {"username": user.username, "password": user.password, "token": True}
    token = call(cluster.api, "POST", "/authenticate", ROOT_TOKEN, **known)["token"]
    seen: list[str] = []
    cursor: str | None = None
    for server in (*cluster.servers, *cluster.servers):
        path = f"/users/me/mailboxes/{inbox(cluster.api, token)}/messages?limit=1"
        page = call(server.api.port, "GET", path + (f"&next={cursor}" if cursor else ""), token)
        seen.extend(result["subject"] for result in page["results"])
        cursor = page["nextCursor"]
    assert seen == [f"number {number}" for number in range(6, 0, -1)]
    assert not cursor

    pop3 = Pop3(cluster.pop3)
    pop3.user(user.username)
    pop3.pass_(user.password)
    assert pop3.stat()[0] == 6
    second = Pop3(cluster.pop3)
    second.user(user.username)
    with pytest.raises(poplib.error_proto, match="IN-USE"):  # the lock holds on the other servers
        second.pass_(user.password)
    second.close()
    pop3.quit()


def test_the_command_line_ends_sessions_on_every_server(cluster: Cluster, user: Account) -> None:
    watchers = [Watcher(cluster.imap, user) for _ in cluster.servers]
    assert admin.kill_sessions(cluster.servers[2].config(), username=user.username) == 3
    for watcher in watchers:
        watcher.ended()


def test_a_server_lost_in_the_middle_costs_no_mail(cluster: Cluster, user: Account) -> None:
    """Every letter that was answered with 250 is there; its sender goes on after a lost connection, and so does who
    reads."""
    acknowledged: list[int] = []
    halfway = threading.Event()

    def send() -> None:
        for number in range(LETTERS):
            while True:
                try:
                    code = deliver(cluster.lmtp, user, number)
                except (OSError, smtplib.SMTPException, AssertionError):
                    continue  # this server is gone, or going: the next connection reaches another
                if code == 250:
                    break
            acknowledged.append(number)
            if number == LETTERS // 2:
                halfway.set()

    sender = threading.Thread(target=send)
    sender.start()
    halfway.wait()
    lose(cluster.servers[1])
    sender.join()
    assert acknowledged == list(range(LETTERS))

    imap = connected(cluster.imap, user)
    (count,) = imap.select()[1]
    assert count is not None
    _, found = imap.fetch(f"1:{int(count)}", "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
    subjects = [part[1].split(b"number ")[1].strip() for part in found if isinstance(part, tuple)]
    assert {int(subject) for subject in subjects} == set(range(LETTERS))
    imap.store("1", "+FLAGS", r"(\Seen)")
    imap.logout()
    again = connected(cluster.imap, user)
    again.select()
    assert again.search(None, "SEEN")[1] == [b"1"]
    again.logout()


# --- clients


class Watcher:
    """A connection in IDLE."""

    def __init__(self, port: int, user: Account) -> None:
        self._imap = connected(port, user)
        self._imap.select()
        self._imap.send(b"i1 IDLE\r\n")
        assert self._imap.readline().startswith(b"+ ")

    def heard(self) -> int:
        """The next number of messages that it is told."""
        while True:
            line = self._imap.readline()
            assert line, "the server has closed"
            if line.endswith(b" EXISTS\r\n"):
                return int(line.split()[1])

    def ended(self) -> None:
        """Hear that the server says goodbye."""
        assert self._imap.readline().startswith(b"* BYE ")
        assert self._imap.readline() == b""
        self._imap.shutdown()

    def leave(self) -> None:
        self._imap.send(b"DONE\r\n")
        while not self._imap.readline().startswith(b"i1 OK"):
            pass
        self._imap.shutdown()


def connected(port: int, user: Account) -> imaplib.IMAP4:
    """A logged-in connection, of the first server that answers."""
    made: list[imaplib.IMAP4] = []

    def connects() -> bool:
        try:
            imap = Imap(port)
            imap.login(user.username, user.password)
        except (OSError, imaplib.IMAP4.abort):
            return False
        made.append(imap)
        return True

    wait_until(connects, "a server that answers")
    return made[0]


def call(port: int, method: str, path: str, bearer: str, **fields: Any) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"Authorization": f"Bearer {bearer}"}
    body = json.dumps(fields) if fields else None
    connection.request(method, path, body, {**headers, "Content-Type": "application/json"})
    answered = json.loads(connection.getresponse().read())
    connection.close()
    assert answered.get("success"), answered
    return answered


def inbox(port: int, token: str) -> str:
    boxes = call(port, "GET", "/users/me/mailboxes", token)["results"]
    return str(next(box["id"] for box in boxes if box["path"] == "INBOX"))
