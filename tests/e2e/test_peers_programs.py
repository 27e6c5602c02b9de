"""curl and mbsync, where they are installed: other people's clients on the same mailbox."""

from __future__ import annotations

from pathlib import Path

import pytest
from mbsync import Mbsync
from peers import LmtpClient, need, run
from served import Account, Served

MESSAGE = b"From: ann@example.org\r\nMessage-ID: <%d@example.org>\r\nSubject: number %d\r\n\r\nbody %d\r\n"


@pytest.fixture
def user(server: Served) -> Account:
    return server.add_user()


def deliver(server: Served, user: Account, *numbers: int) -> None:
    with LmtpClient(server.lmtp.host, server.lmtp.port) as client:
        for number in numbers:
            _, replies = client.deliver("ann@example.org", [user.address], MESSAGE % ((number,) * 3))
            assert [code for code, _ in replies.values()] == [250]


# --- curl -------------------------------------------------------------------------------------------------


class Curl:
    def __init__(self, server: Served, user: Account) -> None:
        self._program = need("curl")
        self._base = f"imap://{server.imap.host}:{server.imap.port}"
        self._login = f"{user.username}:{user.password}"

    def __call__(self, path: str, *options: str) -> bytes:
        arguments = [self._program, "--silent", "--show-error", "--user", self._login, *options]
        return run([*arguments, f"{self._base}/{path}"])


def test_curl_lists_reads_asks_and_uploads(server: Served, user: Account, tmp_path: Path) -> None:
    curl = Curl(server, user)
    deliver(server, user, 1, 2)
    listing = curl("")
    assert all(name in listing for name in (b"INBOX", b"Sent Mail", b"\\Junk"))
    assert curl("INBOX;MAILINDEX=1").endswith(MESSAGE % (1, 1, 1))
    assert curl("INBOX;UID=2").endswith(MESSAGE % (2, 2, 2))
    assert curl("INBOX;UID=2;SECTION=TEXT") == b"body 2\r\n"
    (tmp_path / "draft.eml").write_bytes(MESSAGE % (3, 3, 3))
    curl("Drafts", "--upload-file", str(tmp_path / "draft.eml"))
    assert curl("Drafts;MAILINDEX=1") == MESSAGE % (3, 3, 3)
    assert b"MESSAGES 1" in curl("", "--request", "STATUS Drafts (MESSAGES)")
    curl("INBOX", "--request", r"STORE 1 +FLAGS (\Deleted)")
    curl("INBOX", "--request", "EXPUNGE")
    assert b"MESSAGES 1" in curl("", "--request", "STATUS INBOX (MESSAGES)")


# --- mbsync -----------------------------------------------------------------------------------------------


def test_mbsync_reads_and_moves(server: Served, user: Account, tmp_path: Path) -> None:
    deliver(server, user, 1, 2, 3)
    mbsync = Mbsync(server, user, tmp_path)
    mbsync.sync()
    found = {
        path.read_bytes().partition(b"Subject: ")[2].split(b"\n")[0]: path
        for path in mbsync.messages("INBOX")
    }
    assert {subject.strip() for subject in found} == {b"number 1", b"number 2", b"number 3"}

    moved = next(path for subject, path in found.items() if b"2" in subject)
    name = moved.name.partition(",U=")[0] + ":2,S"
    mbsync.put("Trash", name, moved.read_bytes())
    moved.unlink()
    mbsync.put("Sent Mail", "1.local:2,S", (MESSAGE % (4, 4, 4)).replace(b"\r\n", b"\n"))
    mbsync.sync()

    curl = Curl(server, user)
    assert b"MESSAGES 2" in curl("", "--request", "STATUS INBOX (MESSAGES)")
    assert b"MESSAGES 1 UNSEEN 0" in curl("", "--request", "STATUS Trash (MESSAGES UNSEEN)")
    assert b"Subject: number 2\r\n" in curl("Trash;MAILINDEX=1")
    pushed = curl("Sent%20Mail;MAILINDEX=1").splitlines(keepends=True)
    assert b"".join(line for line in pushed if not line.startswith(b"X-TUID:")) == MESSAGE % (4, 4, 4)

    curl("INBOX", "--request", r"STORE 1 +FLAGS (\Flagged)")
    deliver(server, user, 5)
    mbsync.sync()
    assert len(mbsync.messages("INBOX")) == 3
    assert sum("F" in path.name.rpartition(",")[2] for path in mbsync.messages("INBOX")) == 1
