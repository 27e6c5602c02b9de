"""POP3 from outside: the running server and nothing but sockets.

Every command in every state, each sent whole, byte by byte and all in one packet; sessions side by side, over several
workers; clients that vanish, workers that are killed, servers that stop.
"""

from __future__ import annotations

import base64
import imaplib
import os
import re
import signal
import threading
from collections.abc import Callable

import pytest
from peers import wait_until
from pop3_socket import Pop3Socket, deliver, messages
from served import Account, Served

MARKED = b"+OK Marked to be deleted"
IN_USE = b"-ERR [IN-USE] Another session has the maildrop"
CAPABILITIES = (
    b"TOP\r\nUIDL\r\nUSER\r\nSASL PLAIN\r\nRESP-CODES\r\nAUTH-RESP-CODE\r\nPIPELINING\r\nEXPIRE NEVER\r\n"
    b"IMPLEMENTATION wd-trio\r\n"
)


@pytest.fixture
def user(server: Served) -> Account:
    return server.add_user()


# --- every command in every state ---------------------------------------------------------------------------

ARGUMENTS = {
    "USER": b" somebody",
    "PASS": b" wrong",
    "AUTH": b" PLAIN " + base64.b64encode(b"\0somebody\0wrong"),
    "APOP": b" somebody c4c9334bac560ecc979e58001b3e22fb",
    "RETR": b" 1",
    "TOP": b" 1 0",
    "DELE": b" 1",
}
COMMANDS = (
    "USER",
    "PASS",
    "AUTH",
    "APOP",
    "STLS",
    "CAPA",
    "STAT",
    "LIST",
    "UIDL",
    "RETR",
    "TOP",
    "DELE",
    "RSET",
)
COMMANDS += ("NOOP", "QUIT", "XYZZY")
GOOD = {
    "fresh": {"USER", "CAPA", "QUIT"},
    "named": {"USER", "CAPA", "QUIT"},
    "in": {"CAPA", "STAT", "LIST", "UIDL", "RETR", "TOP", "DELE", "RSET", "NOOP", "QUIT"},
}


@pytest.mark.parametrize("state", GOOD)
def test_every_command_in_every_state(server: Served, user: Account, state: str) -> None:
    deliver(server, user, messages(1))
    for command in COMMANDS:
        with Pop3Socket(server.pop3) as client:
            if state == "named":
                client.say(b"USER " + user.username.encode())
            elif state == "in":
                client.log_in(user)
            reply = client.say(command.encode() + ARGUMENTS.get(command, b""))
            expected = b"+OK" if command in GOOD[state] else b"-ERR"
            assert reply.startswith(expected), (command, reply)
            multi = command in ("CAPA", "RETR", "TOP") or (command in ("LIST", "UIDL") and state == "in")
            if expected == b"+OK" and multi:
                client.body()
            if command == "QUIT":
                assert client.rest() == b""
            else:
                assert client.say(b"QUIT") == b"+OK Bye", command
        if state == "in" and command == "DELE":
            deliver(server, user, messages(1))


def script(user: Account) -> list[tuple[bytes, bytes]]:
    """Commands and their whole answers, as patterns, for a maildrop of messages(3)."""
    head = rb"Return-Path: <ann@example\.org>\r\n(?:[^\r\n]+\r\n)+?Subject: number %d\r\n\r\n"
    name, password = user.username.encode(), user.password.encode()
    plain = base64.b64encode(b"\0" + name + b"\0wrong")
    return [
        (b"CAPA", rb"\+OK Capabilities follow\r\n" + re.escape(CAPABILITIES) + rb"\.\r\n"),
        (b"STAT", rb"-ERR Log in first\r\n"),
        (b"AUTH", rb"\+OK Mechanisms follow\r\nPLAIN\r\n\.\r\n"),
        (b"AUTH PLAIN " + plain, rb"-ERR \[AUTH\] Wrong user name or password\r\n"),
        (b"AUTH PLAIN\r\n*", rb"\+ \r\n-ERR Authentication cancelled\r\n"),
        (b"USER " + name, rb"\+OK Now the password\r\n"),
        (b"PASS " + password, rb"\+OK Logged in\r\n"),
        (b"STAT", rb"\+OK 3 [0-9]+\r\n"),
        (b"LIST", rb"\+OK 3 messages \([0-9]+ octets\)\r\n1 [0-9]+\r\n2 [0-9]+\r\n3 [0-9]+\r\n\.\r\n"),
        (b"LIST 2", rb"\+OK 2 [0-9]+\r\n"),
        (b"LIST 4", rb"-ERR No such message\r\n"),
        (b"UIDL", rb"\+OK Unique ids follow\r\n1 [0-9.]+\r\n2 [0-9.]+\r\n3 [0-9.]+\r\n\.\r\n"),
        (b"UIDL 3", rb"\+OK 3 [0-9.]+\r\n"),
        (b"RETR 2", rb"\+OK [0-9]+ octets\r\n" + head % 2 + rb"body 2\r\n\.\.\r\n\.\.\.end\r\n\.\r\n"),
        (b"TOP 1 0", rb"\+OK Top of the message follows\r\n" + head % 1 + rb"\.\r\n"),
        (b"TOP 3 2", rb"\+OK Top of the message follows\r\n" + head % 3 + rb"body 3\r\n\.\.\r\n\.\r\n"),
        (b"DELE 2", rb"\+OK Marked to be deleted\r\n"),
        (b"DELE 2", rb"-ERR The message is marked to be deleted\r\n"),
        (b"RETR 2", rb"-ERR The message is marked to be deleted\r\n"),
        (b"LIST", rb"\+OK 2 messages \([0-9]+ octets\)\r\n1 [0-9]+\r\n3 [0-9]+\r\n\.\r\n"),
        (b"RSET", rb"\+OK No message is marked\r\n"),
        (b"STAT", rb"\+OK 3 [0-9]+\r\n"),
        (b"NOOP", rb"\+OK Nothing done\r\n"),
        (b"BOGUS", rb"-ERR Unknown command\r\n"),
        (b"DELE 1", rb"\+OK Marked to be deleted\r\n"),
        (b"DELE 3", rb"\+OK Marked to be deleted\r\n"),
        (b"QUIT", rb"\+OK Bye\r\n"),
    ]


@pytest.mark.parametrize("way", ["line by line", "byte by byte", "split line ends", "one packet"])
def test_the_answers_do_not_depend_on_the_packets(server: Served, user: Account, way: str) -> None:
    deliver(server, user, messages(3))
    commands = script(user)
    stream = b"".join(command + b"\r\n" for command, _ in commands)
    with Pop3Socket(server.pop3) as client:
        if way == "byte by byte":
            for at in range(len(stream)):
                client.send(stream[at : at + 1])
        elif way == "split line ends":
            for piece in re.split(rb"(?<=\r)", stream):
                client.send(piece)
        elif way == "one packet":
            client.send(stream)
        else:
            for command, _ in commands:
                client.send(command + b"\r\n")
        heard = client.rest()
    pattern = b"".join(answer for _, answer in commands)
    assert re.fullmatch(pattern, heard), heard
    with Pop3Socket(server.pop3) as client:
        assert client.log_in(user).count() == 1
        assert client.say(b"TOP 1 0").startswith(b"+OK")
        assert client.body().endswith(b"Subject: number 2\r\n\r\n")


def test_a_batch_larger_than_every_buffer(server: Served, user: Account) -> None:
    mail = [b"Subject: %d\r\n\r\n" % n + b".%063d\r\n" % n * 2000 for n in range(40)]
    deliver(server, user, mail)
    with Pop3Socket(server.pop3) as client:
        client.log_in(user)
        batch = b"".join(b"RETR %d\r\nDELE %d\r\nSTAT\r\n" % (n, n) for n in range(1, 41)) + b"QUIT\r\n"
        sender = threading.Thread(target=client.send, args=(batch,), daemon=True)
        sender.start()
        for number, message in enumerate(mail, 1):
            assert client.line().startswith(b"+OK ")
            assert client.body().endswith(message)
            assert client.line() == MARKED
            assert client.line().startswith(b"+OK %d " % (40 - number))
        assert client.line() == b"+OK Bye"
        sender.join()
    with Pop3Socket(server.pop3) as client:
        assert client.log_in(user).count() == 0


# --- sessions side by side ----------------------------------------------------------------------------------


def test_one_session_of_a_user_and_many_of_others(server: Served, user: Account) -> None:
    deliver(server, user, messages(2))
    other = server.add_user()
    with (
        Pop3Socket(server.pop3) as first,
        Pop3Socket(server.pop3) as second,  # the door gives it to the other worker
        Pop3Socket(server.pop3) as third,
    ):
        first.log_in(user)
        for client in (second, third):
            assert client.say(b"USER " + user.username.encode()).startswith(b"+OK")
            assert client.say(b"PASS " + user.password.encode()) == IN_USE
        third.log_in(other)
        assert first.say(b"DELE 1") == MARKED
        assert first.say(b"QUIT") == b"+OK Bye"
        assert second.log_in(user).count() == 1, "the maildrop is free once QUIT is answered"


def test_numbers_stay_while_mail_comes_and_goes(server: Served, user: Account) -> None:
    deliver(server, user, messages(3))
    with Pop3Socket(server.pop3) as client, imaplib.IMAP4(server.imap.host, server.imap.port) as imap:
        client.log_in(user)
        imap.login(user.username, user.password)
        imap.select("INBOX")
        imap.store("1", "+FLAGS", r"(\Deleted)")
        imap.expunge()
        deliver(server, user, messages(1))
        assert client.count() == 3
        assert client.say(b"RETR 1") == b"-ERR The message is gone"
        assert client.say(b"RETR 4") == b"-ERR No such message"
        assert client.say(b"RETR 2").startswith(b"+OK")
        assert client.body().endswith(messages(2)[1])
        assert client.say(b"DELE 3") == MARKED
        unseen = [b"1 (UID 2 FLAGS ())", b"2 (UID 3 FLAGS ())", b"3 (UID 4 FLAGS ())"]
        assert imap.select("INBOX") == ("OK", [b"3"])
        assert imap.fetch("1:*", "(UID FLAGS)")[1] == unseen, "nothing is written before QUIT"
        assert client.say(b"QUIT") == b"+OK Bye"
        assert imap.select("INBOX") == ("OK", [b"2"])
        assert imap.fetch("1:*", "(UID FLAGS)")[1] == [rb"1 (UID 2 FLAGS (\Seen))", b"2 (UID 4 FLAGS ())"]


def test_a_client_that_vanishes_changes_nothing_and_frees_the_maildrop(server: Served, user: Account) -> None:
    deliver(server, user, [*messages(2), b"Subject: big\r\n\r\n" + b"x\r\n" * 500_000])
    for way in ("quietly", "within a command", "within a message"):
        with Pop3Socket(server.pop3) as client:
            client.log_in(user)
            assert client.say(b"DELE 1") == MARKED
            if way == "within a command":
                client.send(b"QUI")
            elif way == "within a message":
                assert client.say(b"RETR 3").startswith(b"+OK")
        with Pop3Socket(server.pop3) as client:
            wait_until(lambda c=client: logs_in(c, user), "the maildrop to be free")
            assert client.count() == 3
            assert client.say(b"QUIT") == b"+OK Bye"


def logs_in(client: Pop3Socket, user: Account) -> bool:
    assert client.say(b"USER " + user.username.encode()).startswith(b"+OK")
    reply = client.say(b"PASS " + user.password.encode())
    assert reply in (b"+OK Logged in", IN_USE)
    return reply != IN_USE


# --- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "heard"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"-ERR This is a POP3 server\r\n"),
        (b"X\r\n" * 100, b"-ERR Unknown command\r\n" * 20 + b"-ERR Too many errors\r\n"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\n" * 100, None),
        (b"USER " + b"x" * 1_000_000 + b"\r\nQUIT\r\n", b"-ERR Line too long\r\n+OK Bye\r\n"),
        (b"\x00" * 100_000 + b"\r\nQUIT\r\n", b"-ERR Line too long\r\n+OK Bye\r\n"),
        (b"AUTH PLAIN\r\n" + b"A" * 100_000 + b"\r\nQUIT\r\n", b"+ \r\n-ERR Line too long\r\n+OK Bye\r\n"),
        (b"RETR " + b"9" * 8000 + b"\r\nQUIT\r\n", b"-ERR A message number has only digits\r\n+OK Bye\r\n"),
    ],
)
def test_hostile_input(server: Served, sent: bytes, heard: bytes | None) -> None:
    before = server.worker_pids()
    with Pop3Socket(server.pop3) as client:
        sender = threading.Thread(target=send_what_goes, args=(client, sent), daemon=True)
        sender.start()
        said = client.rest()
        sender.join()
    if heard is None:
        assert said.endswith(b"-ERR Too many errors\r\n")
    else:
        assert said == heard
    assert server.worker_pids() == before


def send_what_goes(client: Pop3Socket, data: bytes) -> None:
    """The server may close before it has taken everything."""
    try:
        client.send(data)
    except (BrokenPipeError, ConnectionResetError):
        return


def test_wrong_passwords_end_the_connection(server: Served, user: Account) -> None:
    with Pop3Socket(server.pop3) as client:
        for _ in range(5):
            assert client.say(b"USER " + user.username.encode()) == b"+OK Now the password"
            assert client.say(b"PASS wrong") == b"-ERR [AUTH] Wrong user name or password"
        assert client.rest() == b""


# --- workers and servers that end ---------------------------------------------------------------------------


def test_a_killed_worker_s_successor_keeps_maildrop_and_marks(start_server: Callable[..., Served]) -> None:
    server = start_server(workers=1)
    user = server.add_user()
    deliver(server, user, messages(3))
    with Pop3Socket(server.pop3) as client:
        assert client.log_in(user).count() == 3
        for killed in (1, 2):
            assert client.say(b"RETR %d" % (killed + 1)).startswith(b"+OK")
            client.body()
            assert client.say(b"DELE %d" % killed) == MARKED
            os.kill(server.worker_pids()[0], signal.SIGKILL)
            server.log.wait("worker ready", count=killed + 1)
            with Pop3Socket(server.pop3) as other:
                assert other.say(b"USER " + user.username.encode()).startswith(b"+OK")
                assert other.say(b"PASS " + user.password.encode()).startswith(b"-ERR [IN-USE]")
            assert client.say(b"STAT").startswith(b"+OK %d " % (3 - killed))
        assert client.say(b"QUIT") == b"+OK Bye"
    with Pop3Socket(server.pop3) as client:
        assert client.log_in(user).count() == 1
        assert client.say(b"QUIT") == b"+OK Bye"
    assert server.stop() == 0


def test_a_killed_worker_applies_nothing_for_who_has_left(start_server: Callable[..., Served]) -> None:
    server = start_server(workers=1)
    user = server.add_user()
    deliver(server, user, messages(3))
    (pid,) = server.worker_pids()
    with Pop3Socket(server.pop3) as client:
        assert client.log_in(user).say(b"DELE 1") == MARKED
        os.kill(pid, signal.SIGSTOP)  # so that it does not see the client go
    os.kill(pid, signal.SIGKILL)
    server.log.wait("worker ready", count=2)
    with Pop3Socket(server.pop3) as client:
        assert client.log_in(user).count() == 3
        assert client.say(b"QUIT") == b"+OK Bye"
    assert server.stop() == 0


def test_a_kill_in_the_middle_of_quit_removes_all_or_nothing(start_server: Callable[..., Served]) -> None:
    server = start_server(workers=1)
    user = server.add_user()
    left = 0
    for killed in (1, 2):
        deliver(server, user, messages(20 - left))
        with Pop3Socket(server.pop3) as client:
            assert client.log_in(user).count() == 20
            batch = b"".join(b"DELE %d\r\n" % number for number in range(1, 11)) + b"QUIT\r\n"
            (pid,) = server.worker_pids()
            client.send(batch)
            os.kill(pid, signal.SIGKILL)
            answered = b"+OK Bye" in client.rest()
        server.log.wait("worker died", count=killed)
        server.log.wait("worker ready", count=killed + 1)
        with Pop3Socket(server.pop3) as client:
            left = client.log_in(user).count()
            assert left in ((10,) if answered else (10, 20))
            assert client.say(b"QUIT") == b"+OK Bye"
    assert server.stop() == 0


def test_a_server_that_stops_says_so_and_applies_nothing(start_server: Callable[..., Served]) -> None:
    server = start_server(workers=1)
    user = server.add_user()
    deliver(server, user, messages(2))
    with Pop3Socket(server.pop3) as client, Pop3Socket(server.pop3) as stranger:
        assert client.log_in(user).say(b"DELE 1") == MARKED
        server.signal(signal.SIGTERM)
        for each in (client, stranger):
            assert each.rest() == b"-ERR [SYS/TEMP] The server is going down, connect again\r\n"
    assert server.wait() == 0
    server = start_server(workers=1)
    with Pop3Socket(server.pop3) as client:
        assert client.log_in(user).count() == 2
    assert server.stop() == 0


def test_limits_timers_and_numbers(start_server: Callable[..., Served]) -> None:
    settings = {"limits": {"connections_per_ip": 2}, "pop3": {"idle_timeout_s": 1.0}}
    server = start_server(workers=1, settings=settings)
    user = server.add_user()
    deliver(server, user, messages(1))
    wait_until(lambda: server.ask("status")["connections"] == 0, "LMTP to be over")
    with Pop3Socket(server.pop3) as client, Pop3Socket(server.pop3):
        with Pop3Socket(server.pop3) as refused:
            assert refused.greeting == b"-ERR [SYS/TEMP] Too many connections, try again later"
            assert refused.rest() == b""
        assert client.log_in(user).say(b"DELE 1") == MARKED
        assert client.rest() == b"", "the idle timer closes without a word"
    wait_until(lambda: server.ask("status")["connections"] == 0, "both connections to be over")
    with Pop3Socket(server.pop3) as client:
        assert client.log_in(user).count() == 1
        assert client.say(b"QUIT") == b"+OK Bye"
    assert server.metric('wildduck_logins_total{protocol="pop3",result="ok"}') == 2
    assert server.metric('wildduck_connections_ended_total{protocol="pop3",reason="idle"}') == 1
    assert server.metric('wildduck_request_duration_seconds_count{command="QUIT",protocol="pop3"}') == 1
    assert server.stop() == 0
