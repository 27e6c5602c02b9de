"""Hostile peers against the running server: a clear answer or a clean close, bounded memory, others served.

Each test notes the workers first; after the attack they are the same processes, no larger than before by more
than `ROOM_BYTES`, and an honest client is served.
"""

from __future__ import annotations

import contextlib
import imaplib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from peers import LmtpClient, wait_until
from served import Account, Place, Served

ROOM_BYTES = 48 << 20
MESSAGE = b"Subject: big\r\n\r\n" + b"x" * 72 + b"\r\n"
ANSWER_S = 30.0


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} has no memory: it is gone")


@pytest.fixture
def user(server: Served) -> Account:
    return server.add_user()


@pytest.fixture
def unharmed(server: Served, user: Account) -> Iterator[None]:
    """Holds what the module promises around a test."""
    honest(server, user)
    before = {pid: resident_bytes(pid) for pid in server.worker_pids()}
    yield
    honest(server, user)
    assert set(server.worker_pids()) == before.keys(), "a worker died"
    grown = {pid: resident_bytes(pid) - size for pid, size in before.items()}
    assert max(grown.values()) < ROOM_BYTES, grown


def honest(server: Served, user: Account) -> None:
    with imaplib.IMAP4(server.imap.host, server.imap.port) as client:
        client.login(user.username, user.password)
        assert client.select("INBOX")[0] == "OK"


class Raw:
    """A socket that says what it likes and reads what comes."""

    def __init__(self, place: Place) -> None:
        self.sock = socket.create_connection((place.host, place.port), timeout=ANSWER_S)
        self._file = self.sock.makefile("rb")

    def line(self) -> bytes:
        """The next line; b"" when the server closed."""
        try:
            return self._file.readline()
        except ConnectionResetError:
            return b""

    def send(self, data: bytes) -> bool:
        """Whether the server still took it."""
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def answer(self, tag: bytes) -> bytes:
        """The line that begins with `tag`, skipping others; b"" when the server closed before."""
        while (line := self.line()) and not line.startswith(tag):
            pass
        return line

    def rest(self) -> bytes:
        """All that comes until the server closes."""
        lines = []
        while line := self.line():
            lines.append(line)
        return b"".join(lines)

    def close(self) -> None:
        self._file.close()
        self.sock.close()


@pytest.fixture
def raw(server: Served, unharmed: None) -> Iterator[Raw]:
    with contextlib.closing(Raw(server.imap)) as raw:
        assert raw.line().startswith(b"* OK")
        yield raw


@pytest.fixture
def lmtp(server: Served, unharmed: None) -> Iterator[Raw]:
    with contextlib.closing(Raw(server.lmtp)) as raw:
        assert raw.line().startswith(b"220 ")
        yield raw


# --- IMAP -------------------------------------------------------------------------------------------------


def test_over_long_command_line_without_an_end(raw: Raw) -> None:
    for _ in range(400):  # 25 MB
        if not raw.send(b"x" * 65536):
            break
    raw.send(b"\r\na NOOP\r\n")
    text = raw.rest() if raw.send(b"b LOGOUT\r\n") else b"* BYE"
    assert b" BAD " in text or b"* BYE" in text or text == b""


def test_over_long_command_is_skipped_exactly(raw: Raw) -> None:
    raw.send(b"a LOGIN " + b"x" * 20_000 + b" y\r\nb NOOP\r\n")
    line = raw.line()
    assert line.startswith((b"a BAD", b"* BAD", b"* BYE"))
    if not line.startswith(b"* BYE"):
        assert raw.line().startswith(b"b OK")


@pytest.mark.parametrize(
    "command", [b"a LOGIN {300000000}", b"a APPEND INBOX {300000000}", b"a LOGIN {4294967295}"]
)
def test_unauthenticated_literal_is_refused_before_it_comes(command: bytes, raw: Raw) -> None:
    raw.send(command + b"\r\n")
    line = raw.line()
    assert line.startswith((b"a BAD", b"a NO", b"* BYE")), "and no continuation is asked for"


@pytest.mark.parametrize("command", [b"a LOGIN {300000000+}", b"a NOOP {300000000+}"])
def test_unauthenticated_nonsynchronising_literal_is_never_stored(command: bytes, raw: Raw) -> None:
    raw.send(command + b"\r\n")
    block = b"z" * (1 << 20)
    sent = 0
    while sent < 300 and raw.send(block):
        sent += 1
    if sent < 300:
        text = raw.rest()
        assert text == b"" or b"BYE" in text or b"BAD" in text
    else:
        assert b"b" in raw.answer(b"b") if raw.send(b"\r\nb NOOP\r\n") else True


def test_literal_in_the_wrong_place_is_data_not_a_command(raw: Raw) -> None:
    raw.send(b"a NOOP {14+}\r\nx LOGOUT now\r\n\r\nb NOOP\r\n")
    assert raw.line().startswith(b"a BAD")
    assert raw.line().startswith(b"b OK")


@pytest.mark.parametrize(
    "command", [b"a NO\0OP", b'a LOGIN "x\0y" "z"', b"\0\0\0", b"a LOGIN {3+}\r\n\0\0\0 {1+}\r\n\0"]
)
def test_nul_is_refused(command: bytes, raw: Raw) -> None:
    raw.send(command + b"\r\nb NOOP\r\n")
    first = raw.line()
    assert first.startswith((b"a BAD", b"a NO", b"* BAD", b"* BYE"))
    if not first.startswith(b"* BYE"):
        assert raw.answer(b"b").startswith(b"b OK")


def test_pipelined_garbage_ends_the_connection(raw: Raw) -> None:
    raw.send(b"garbage \xff\xfe (((( }}} \r\n" * 45_000)  # 1 MB
    text = raw.rest()
    assert text.count(b"\r\n") < 1000, "one answer each would be an amplifier"
    assert text == b"" or b"BAD" in text or b"BYE" in text


def test_deep_nesting_before_and_after_login(raw: Raw, user: Account) -> None:
    raw.send(b"a LIST " + b"(" * 4000 + b")" * 4000 + b' ""\r\n')
    assert raw.line().startswith((b"a BAD", b"* BAD", b"* BYE"))


def test_a_client_that_never_reads_is_let_go(start_server: Served) -> None:
    server = start_server(settings={"limits": {"flush_s": 0.2}})
    user = server.add_user()
    with LmtpClient(server.lmtp.host, server.lmtp.port) as client:
        _, replies = client.deliver("", [user.address], MESSAGE * 60_000)  # 5 MB
        assert [code for code, _ in replies.values()] == [250]
    before = max(map(resident_bytes, server.worker_pids()))
    with contextlib.closing(Raw(server.imap)) as raw:
        raw.send(b'a LOGIN %s "%s"\r\n' % (user.username.encode(), user.password.encode()))
        assert raw.answer(b"a").startswith(b"a OK")
        raw.send(b"b SELECT INBOX\r\n" + b"c FETCH 1 BODY.PEEK[]\r\n" * 100)
        wait_until(lambda: b'reason="flush deadline"' in server.metrics(), "the flush deadline")
        assert max(map(resident_bytes, server.worker_pids())) - before < ROOM_BYTES
        honest(server, user)


def test_connect_and_drop(server: Served, unharmed: None) -> None:
    for place in (server.imap, server.lmtp):
        for n in range(300):
            sock = socket.create_connection((place.host, place.port), timeout=ANSWER_S)
            if n % 3 == 1:
                sock.sendall(b"a NO")
            if n % 3 == 2:
                sock.recv(1)
            sock.close()


# --- LMTP -------------------------------------------------------------------------------------------------


def test_lmtp_over_long_line_and_nul(lmtp: Raw) -> None:
    lmtp.send(b"LHLO " + b"x" * 100_000 + b"\r\n")
    assert lmtp.line()[:1] in (b"5", b"4", b"")
    lmtp.send(b"NO\0OP\r\n")
    assert lmtp.line()[:1] in (b"5", b"4", b"")


def test_lmtp_pipelined_garbage(lmtp: Raw) -> None:
    lmtp.send(b"garbage \xff\xfe {300000000+}\r\n" * 35_000)  # 1 MB
    text = lmtp.rest()
    assert text.count(b"\r\n") < 1000
    assert text == b"" or text[:1] in b"45"


def test_lmtp_message_larger_than_the_cap(lmtp: Raw, user: Account) -> None:
    lmtp.send(b"LHLO x\r\n")
    assert lmtp.answer(b"250 ")
    lmtp.send(b"MAIL FROM:<> SIZE=99999999999\r\n")
    assert lmtp.line().startswith(b"552")
    lmtp.send(b"MAIL FROM:<>\r\nRCPT TO:<%s>\r\nDATA\r\n" % user.address.encode())
    assert [lmtp.line()[:3] for _ in range(3)] == [b"250", b"250", b"354"]
    block = (b"y" * 1022 + b"\r\n") * 1024
    for _ in range(66):
        assert lmtp.send(block)
    lmtp.send(b".\r\n")
    assert lmtp.line().startswith(b"552")
    lmtp.send(b"NOOP\r\n")
    assert lmtp.line().startswith(b"250")


def test_lmtp_long_lines_are_data_and_bare_lf_ends_nothing(lmtp: Raw, server: Served, user: Account) -> None:
    body = b"x" * 300_000 + b"\r\nsmuggled?\n.\nMAIL FROM:<evil@x>\n.\r\nRCPT\r.\r\nend\r\n"
    lmtp.send(b"LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<%s>\r\nDATA\r\n" % user.address.encode())
    assert lmtp.answer(b"354")
    lmtp.send(b"Subject: s\r\n\r\n" + body + b".\r\n")
    assert lmtp.line().startswith(b"250")
    with imaplib.IMAP4(server.imap.host, server.imap.port) as client:
        client.login(user.username, user.password)
        client.select("INBOX")
        _, data = client.fetch("1", "(BODY[TEXT])")
        assert data[0][1] == body
