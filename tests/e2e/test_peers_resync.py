"""imaplib and IMAPClient come back to a mailbox by CONDSTORE and QRESYNC, from the running server."""

from __future__ import annotations

import imaplib
from typing import Any

from imapclient import IMAPClient
from peers import wait_until
from served import Account, Served

MESSAGE = b"From: ann@example.org\r\nSubject: %d\r\n\r\nbody\r\n"


def untagged(client: imaplib.IMAP4, name: str) -> list[Any]:
    """What responses or codes of this name came since they were last asked for."""
    return [data for data in client.response(name)[1] if data is not None]


def opened(server: Served, user: Account) -> imaplib.IMAP4:
    client = imaplib.IMAP4(server.imap.host, server.imap.port)
    client.login(user.username, user.password)
    return client


def test_imaplib_resynchronises(server: Served) -> None:
    user = server.add_user()
    client, other = opened(server, user), opened(server, user)
    for number in range(10):
        other.append("INBOX", "", "", MESSAGE % number)
    assert "QRESYNC" in client.capabilities
    client.enable("QRESYNC")
    assert client.select("INBOX")[1] == [b"10"]
    [validity], [modseq] = untagged(client, "UIDVALIDITY"), untagged(client, "HIGHESTMODSEQ")
    client.logout()

    other.select("INBOX")
    other.store("3:5,8", "+FLAGS", r"(\Deleted)")
    other.expunge()
    other.store("1", "+FLAGS", r"(\Seen)")
    other.append("INBOX", "", "", MESSAGE % 10)

    client = opened(server, user)
    client.enable("QRESYNC")
    since = f"{validity.decode()} {modseq.decode()} 1:10"
    assert client.select(f"INBOX (QRESYNC ({since}))")[1] == [b"7"]
    assert untagged(client, "VANISHED") == [b"(EARLIER) 3:5,8"]
    [changed] = untagged(client, "FETCH")
    assert changed.startswith(b"1 (UID 1 FLAGS (\\Seen) MODSEQ (")

    other.store("2", "+FLAGS", r"(\Deleted)")
    other.expunge()
    gone: list[Any] = []

    def told_of_it() -> bool:
        client.noop()
        gone.extend(untagged(client, "VANISHED"))
        return bool(gone)

    wait_until(told_of_it, "VANISHED")
    assert gone == [b"2"]
    assert untagged(client, "EXPUNGE") == []
    told = untagged(client, "HIGHESTMODSEQ")[-1]
    _, [status] = other.status("INBOX", "(HIGHESTMODSEQ)")
    assert status == b"INBOX (HIGHESTMODSEQ %b)" % told
    client.uid("FETCH", "1:*", "(FLAGS)", f"(CHANGEDSINCE {modseq.decode()} VANISHED)")
    assert untagged(client, "VANISHED") == [b"(EARLIER) 2:5,8"]
    client.logout()
    other.logout()


def test_imapclient_asks_for_what_changed(server: Served) -> None:
    user = server.add_user()
    with IMAPClient(server.imap.host, server.imap.port, ssl=False) as client:
        client.login(user.username, user.password)
        for number in range(4):
            client.append("INBOX", MESSAGE % number)
        assert client.enable("QRESYNC") == [b"QRESYNC"]
        modseq = client.select_folder("INBOX")[b"HIGHESTMODSEQ"]
        client.add_flags([2, 3], [b"\\Flagged"])
        changed = client.fetch([1, 2, 3, 4], ["FLAGS"], [f"CHANGEDSINCE {modseq}"])
        assert sorted(changed) == [2, 3]
        assert {row[b"MODSEQ"] for row in changed.values()} == {(modseq + 1,)}
        client.delete_messages([1, 4])
        client.expunge([1])
        client.noop()
        assert client.search("ALL") == [2, 3, 4]
