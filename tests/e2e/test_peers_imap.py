"""imaplib and IMAPClient against the running server: reading, flags, expunge, append, idle."""

from __future__ import annotations

import imaplib
from datetime import UTC, datetime
from email import message_from_bytes
from typing import Any

import pytest
from imapclient import IMAPClient
from peers import LmtpClient, wait_until
from served import Account, Served

PLAIN = (
    b"From: Ann <ann@example.org>\r\nTo: bob@example.org\r\nSubject: plain\r\n\r\nfirst line\r\nsecond\r\n"
)
MIXED = (
    b"From: ann@example.org\r\nSubject: mixed\r\nMIME-Version: 1.0\r\n"
    b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n'
    b"--b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nhello\r\n"
    b"--b\r\nContent-Type: application/octet-stream\r\nContent-Disposition: attachment; filename=a.bin\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\nAAECAw==\r\n--b--\r\n"
)
SPECIAL = {"Sent Mail": b"\\Sent", "Trash": b"\\Trash", "Drafts": b"\\Drafts", "Junk": b"\\Junk"}


@pytest.fixture
def user(server: Served) -> Account:
    return server.add_user()


@pytest.fixture
def classic(server: Served, user: Account) -> Any:
    """imaplib, logged in."""
    with imaplib.IMAP4(server.imap.host, server.imap.port) as client:
        client.login(user.username, user.password)
        yield client


@pytest.fixture
def modern(server: Served, user: Account) -> Any:
    """IMAPClient, logged in."""
    with IMAPClient(server.imap.host, server.imap.port, ssl=False) as client:
        client.login(user.username, user.password)
        yield client


def deliver(server: Served, user: Account, *messages: bytes) -> None:
    with LmtpClient(server.lmtp.host, server.lmtp.port) as client:
        for message in messages:
            _, replies = client.deliver("ann@example.org", [user.address], message)
            assert [code for code, _ in replies.values()] == [250]


def test_imaplib_reads(server: Served, user: Account, classic: imaplib.IMAP4) -> None:
    deliver(server, user, PLAIN, MIXED)
    assert classic.select("INBOX") == ("OK", [b"2"])
    _, data = classic.fetch("1:2", "(UID FLAGS RFC822.SIZE ENVELOPE BODYSTRUCTURE)")
    assert len(data) == 2
    assert b'"plain"' in data[0]
    assert b'"octet-stream"' in data[1].lower()
    _, data = classic.fetch("1", "(BODY[])")
    assert data[0][1].endswith(PLAIN)
    assert message_from_bytes(data[0][1])["Subject"] == "plain"
    _, data = classic.fetch("2", "(BODY.PEEK[2])")
    assert data[0][1] == b"AAECAw=="
    _, data = classic.fetch("1", "(BODY.PEEK[TEXT]<6.4>)")
    assert data[0][1] == b"line"
    _, data = classic.fetch("1:2", "(FLAGS)")
    assert b"\\Seen" in data[0]
    assert b"\\Seen" not in data[1]


def test_imaplib_changes_flags_and_expunges(server: Served, user: Account, classic: imaplib.IMAP4) -> None:
    deliver(server, user, PLAIN, PLAIN, PLAIN)
    classic.select("INBOX")
    _, data = classic.store("1,3", "+FLAGS", r"(\Deleted $Later)")
    assert len(data) == 2
    _, data = classic.expunge()
    assert sorted(data) in ([b"1", b"2"], [b"1", b"3"]), "as the numbers fall after each"
    _, data = classic.uid("FETCH", "1:*", "(FLAGS)")
    assert len(data) == 1
    assert b"UID 2" in data[0]
    _, data = classic.status("INBOX", "(MESSAGES UNSEEN UIDNEXT)")
    assert b"MESSAGES 1" in data[0]
    assert b"UIDNEXT 4" in data[0]


def test_imaplib_appends_and_lists(classic: imaplib.IMAP4) -> None:
    when = imaplib.Time2Internaldate(1_000_000_000)
    status, _ = classic.append("Drafts", r"(\Draft \Seen)", when, PLAIN)
    assert status == "OK"
    assert classic.select("Drafts") == ("OK", [b"1"])
    _, data = classic.fetch("1", "(FLAGS INTERNALDATE BODY.PEEK[])")
    assert data[0][1] == PLAIN
    assert imaplib.Internaldate2tuple(data[0][0] + data[1]) == imaplib.Internaldate2tuple(
        b'INTERNALDATE "09-Sep-2001 01:46:40 +0000"'
    )
    _, boxes = classic.list()
    assert {box.split(b'"/" ')[-1].strip(b'"').decode() for box in boxes} == {"INBOX", *SPECIAL}


def test_imaplib_bad_password(server: Served, user: Account) -> None:
    with imaplib.IMAP4(server.imap.host, server.imap.port) as client:
        with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
            client.login(user.username, "not " + user.password)
        client.login(user.username, user.password)


def test_imapclient_folders(modern: IMAPClient) -> None:
    folders = {name: flags for flags, _, name in modern.list_folders()}
    assert folders.keys() == {"INBOX", *SPECIAL}
    assert all(attribute in folders[name] for name, attribute in SPECIAL.items())
    assert modern.namespace().personal == (("", "/"),)
    assert modern.folder_status("Trash", ["MESSAGES", "UIDNEXT"]) == {b"MESSAGES": 0, b"UIDNEXT": 1}


def test_imapclient_reads_what_it_appended(modern: IMAPClient) -> None:
    when = datetime(2020, 2, 29, 12, 30, 15, tzinfo=UTC)
    modern.append("INBOX", MIXED, [b"\\Flagged"], when)
    modern.select_folder("INBOX")
    row = modern.fetch([1], ["ENVELOPE", "BODYSTRUCTURE", "FLAGS", "INTERNALDATE", "RFC822.SIZE", "BODY[]"])[
        1
    ]
    assert row[b"ENVELOPE"].subject == b"mixed"
    assert row[b"ENVELOPE"].from_[0].mailbox == b"ann"
    assert row[b"BODYSTRUCTURE"].is_multipart
    assert [part[1].lower() for part in row[b"BODYSTRUCTURE"][0]] == [b"plain", b"octet-stream"]
    assert b"\\Flagged" in row[b"FLAGS"]
    assert row[b"INTERNALDATE"].timestamp() == when.timestamp()
    assert row[b"RFC822.SIZE"] == len(MIXED)
    assert row[b"BODY[]"] == MIXED
    modern.delete_messages([1])
    modern.expunge()
    assert modern.select_folder("INBOX")[b"EXISTS"] == 0


def test_imapclient_idle_hears_of_a_delivery_and_of_another_sessions_flags(
    server: Served, user: Account, modern: IMAPClient, classic: imaplib.IMAP4
) -> None:
    modern.select_folder("INBOX")
    modern.idle()
    heard: list[Any] = []

    def hears(line: Any) -> Any:
        """A condition that gathers what arrives while idle."""

        def check() -> bool:
            heard.extend(modern.idle_check(timeout=0.1))
            return line in heard

        return check

    deliver(server, user, PLAIN)
    wait_until(hears((1, b"EXISTS")), "EXISTS while idle")
    classic.select("INBOX")
    classic.store("1", "+FLAGS", r"(\Flagged)")
    wait_until(
        lambda: (
            hears(None)() or any(b"FETCH" in line and b"\\Flagged" in str(line).encode() for line in heard)
        ),
        "FETCH while idle",
    )
    classic.store("1", "+FLAGS", r"(\Deleted)")
    classic.expunge()
    wait_until(hears((1, b"EXPUNGE")), "EXPUNGE while idle")
    text, _ = modern.idle_done()
    assert text
