"""smtplib.LMTP delivers, imaplib reads it back: one verdict per recipient, and the bytes as they were."""

from __future__ import annotations

import imaplib
import smtplib
from typing import Any

import pytest
from peers import LmtpClient
from served import Served

MESSAGE = b"From: a@example.org\r\nSubject: hello\r\n\r\n.dot first\r\nbare\nLF and 8-bit \xe9\r\n..\r\n"


def read_last(server: Served, username: str, password: str) -> bytes:
    """The newest message of INBOX."""
    with imaplib.IMAP4(server.imap.host, server.imap.port) as client:
        client.login(username, password)
        _, (count,) = client.select("INBOX", readonly=True)
        assert count is not None
        _, data = client.fetch(count.decode(), "(BODY.PEEK[])")
        assert isinstance(data[0], tuple)
        return data[0][1]


@pytest.fixture
def client(server: Served) -> Any:
    with LmtpClient(server.lmtp.host, server.lmtp.port) as client:
        yield client


def test_smtplib_delivers_to_one(server: Served) -> None:
    user = server.add_user()
    with smtplib.LMTP(server.lmtp.host, server.lmtp.port) as client:
        assert client.sendmail("a@example.org", [user.address], MESSAGE.replace(b"bare\nLF", b"LF")) == {}
    assert b"Subject: hello" in read_last(server, user.username, user.password)


def test_every_recipient_has_its_own_reply_and_copy(server: Served, client: LmtpClient) -> None:
    first, second = server.add_user(), server.add_user()
    recipients = [first.address, "nobody@nowhere.test", second.address]
    refused, replies = client.deliver("a@example.org", recipients, MESSAGE)
    assert [(code, text[:5]) for code, text in refused.values()] == [(550, b"5.1.1")]
    assert {to: code for to, (code, _) in replies.items()} == {first.address: 250, second.address: 250}
    for user in (first, second):
        head, _, body = read_last(server, user.username, user.password).partition(b"Subject: hello\r\n")
        assert body == MESSAGE.partition(b"Subject: hello\r\n")[2], "stored as it came"
        assert head.startswith(b"Return-Path: <a@example.org>\r\n")
        assert b"Delivered-To: %s\r\n" % user.address.encode() in head
        assert b"Received: from " in head


def test_plus_detail_and_case_reach_the_account(server: Served, client: LmtpClient) -> None:
    user = server.add_user()
    local, _, domain = user.address.partition("@")
    _, replies = client.deliver("", [f"{local.upper()}+shop@{domain.upper()}"], MESSAGE)
    assert [code for code, _ in replies.values()] == [250]
    assert read_last(server, user.username, user.password).startswith(b"Return-Path: <>\r\n")


def test_over_quota_is_permanent_and_leaves_others_alone(server: Served, client: LmtpClient) -> None:
    full, roomy = server.add_user(quota_bytes=200), server.add_user()
    _, replies = client.deliver(
        "a@example.org", [full.address, roomy.address], MESSAGE + b"x" * 500 + b"\r\n"
    )
    refused, verdicts = client.deliver("a@example.org", [full.address], MESSAGE + b"y" * 500 + b"\r\n")
    codes = [code for code, _ in replies.values()]
    assert codes[-1] == 250
    assert 552 in [*codes, *(code for code, _ in [*refused.values(), *verdicts.values()])]


def test_two_transactions_on_one_connection(server: Served, client: LmtpClient) -> None:
    user = server.add_user()
    for _ in range(2):
        _, replies = client.deliver("a@example.org", [user.address], MESSAGE)
        assert [code for code, _ in replies.values()] == [250]
    with imaplib.IMAP4(server.imap.host, server.imap.port) as imap:
        imap.login(user.username, user.password)
        assert imap.select("INBOX") == ("OK", [b"2"])
