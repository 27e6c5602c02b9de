"""mbsync, two ways, two thousand messages: everything arrives on both sides, and a second run moves nothing."""

from __future__ import annotations

import imaplib
from pathlib import Path

from mbsync import Mbsync
from served import Served

EACH = 1000
MESSAGE = b"From: ann@example.org\r\nMessage-ID: <%s-%d@example.org>\r\nSubject: %s %d\r\n\r\nbody\r\n"


def test_two_thousand_messages_both_ways(server: Served, tmp_path: Path) -> None:
    user = server.add_user()
    far = imaplib.IMAP4(server.imap.host, server.imap.port)
    far.login(user.username, user.password)
    for number in range(EACH):
        far.append("INBOX", r"(\Seen)" if number % 2 else "", "", MESSAGE % (b"far", number, b"far", number))
    mbsync = Mbsync(server, user, tmp_path)
    for part in ("cur", "new", "tmp"):
        (mbsync.mail / "INBOX" / part).mkdir(parents=True)
    for number in range(EACH):
        text = (MESSAGE % (b"near", number, b"near", number)).replace(b"\r\n", b"\n")
        mbsync.put("INBOX", f"{number}.near:2,F", text)
    mbsync.sync()
    assert len(mbsync.messages("INBOX")) == 2 * EACH
    assert far.select("INBOX")[1] == [b"%d" % (2 * EACH)]
    for what, count in ("SEEN", EACH // 2), ("FLAGGED", EACH), ("SUBJECT near", EACH):
        found = far.search(None, what)[1][0]
        assert isinstance(found, bytes)
        assert len(found.split()) == count, what

    before = {path.name: path.stat().st_mtime_ns for path in mbsync.messages("INBOX")}
    _, status = far.status("INBOX", "(MESSAGES UIDNEXT HIGHESTMODSEQ)")
    mbsync.sync()
    assert far.status("INBOX", "(MESSAGES UIDNEXT HIGHESTMODSEQ)")[1] == status, (
        "the second run wrote nothing"
    )
    assert {path.name: path.stat().st_mtime_ns for path in mbsync.messages("INBOX")} == before

    far.store("1:100", "+FLAGS", r"(\Deleted)")
    far.expunge()
    for path in [path for path in mbsync.messages("INBOX") if ".near" in path.name][:100]:
        path.unlink()
    mbsync.sync()
    left = len(mbsync.messages("INBOX"))
    assert far.select("INBOX")[1] == [b"%d" % left]
    assert 2 * EACH - 200 <= left <= 2 * EACH - 100
    far.logout()
