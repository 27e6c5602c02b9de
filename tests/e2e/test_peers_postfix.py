"""Postfix delivers into the LMTP port, by TCP and by Unix socket: the agreement that matters most in production."""

from __future__ import annotations

import imaplib

import pytest
from peers import Postfix, open_folder, postfix, wait_until
from served import Account, Served

BODY = b"Subject: through postfix\n\nhello\n.\n..two dots\nFrom here\n"


def messages(server: Served, user: Account) -> list[bytes]:
    with imaplib.IMAP4(server.imap.host, server.imap.port) as client:
        client.login(user.username, user.password)
        client.select("INBOX", readonly=True)
        _, data = client.fetch("1:*", "(BODY.PEEK[])")
        return [item[1] for item in data if isinstance(item, tuple)]


@pytest.mark.parametrize("way", ["tcp", "unix"])
def test_postfix_delivers(way: str, start_server: Served) -> None:
    with open_folder() as folder:
        listen = f"unix:{folder}/lmtp.sock" if way == "unix" else "127.0.0.1:0"
        server = start_server(lmtp=listen)
        target = listen if way == "unix" else f"inet:127.0.0.1:{server.lmtp.port}"
        users = [server.add_user(domain="example.test") for _ in range(3)]
        with postfix(folder, target) as relay:
            deliver_and_check(relay, server, users)


def deliver_and_check(relay: Postfix, server: Served, users: list[Account]) -> None:
    relay.submit("ann@example.org", [user.address for user in users], BODY)
    relay.submit("ann@example.org", ["nobody@example.test"], BODY)
    wait_until(lambda: relay.queued() == 0, f"an empty queue\n{relay.log()}")
    log = relay.log()
    assert log.count("status=sent (250 2.") == 3, log
    assert "dsn=5.1.1" in log, "an unknown user bounces at once"
    for user in users:
        (message,) = messages(server, user)
        assert message.startswith(b"Return-Path: <ann@example.org>\r\n")
        assert message.endswith(b"\r\n\r\nhello\r\n.\r\n..two dots\r\nFrom here\r\n")
