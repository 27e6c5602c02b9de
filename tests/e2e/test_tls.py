"""TLS in the server, by the holder and by the workers: every protocol, from the first byte and by STARTTLS."""

from __future__ import annotations

import base64
import imaplib
import json
import os
import poplib
import signal
import smtplib
import socket
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest
from certificates import Pair, make_pair
from peers import need, wait_until
from served import Account, Served

MAIL = b"From: a@example.org\r\nSubject: under TLS\r\n\r\nHello\r\n"
HOST = "127.0.0.1"
ALERT = b"\x15"


@pytest.fixture(scope="module", params=["holder", "workers"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that trusts nobody in clear."""
    folder = tmp_path_factory.mktemp("server")
    pair = make_pair(folder)
    listening = "\n".join(
        f'[{section}]\nlisten = ["{HOST}:0"]\ntls_listen = ["{HOST}:0"]'
        for section in ("imap", "pop3", "lmtp", "api")
    )
    config = folder / "config.toml"
    config.write_text(
        f"{listening}\n[server]\nworkers = 2\n[store]\nurl = 'sqlite:mail.db'\n[auth]\nargon2_time_cost = 1\n"
        f"argon2_memory_kib = 8\n[log]\nformat = 'json'\n[tls]\ntrusted_networks = []\n"
        f"certificate = '{pair.certificate}'\nkey = '{pair.key}'\nhold = {str(request.param == 'holder').lower()}\n",
        "utf-8",
    )
    served = Served(folder, config, {})
    try:
        yield served.wait_ready()
    finally:
        served.stop()


@pytest.fixture(scope="module")
def pair(server: Served) -> Pair:
    return Pair(server.config().tls.certificate, server.config().tls.key)


@pytest.fixture(scope="module")
def context(pair: Pair) -> ssl.SSLContext:
    """A client's, that verifies."""
    return ssl.create_default_context(cafile=pair.certificate)


@pytest.fixture
def user(server: Served) -> Account:
    account = server.add_user()
    with smtplib.LMTP(HOST, server.lmtp.port) as lmtp:
        lmtp.sendmail("a@example.org", account.address, MAIL)
    return account


def test_imap(server: Served, user: Account, context: ssl.SSLContext) -> None:
    with imaplib.IMAP4(HOST, server.imap.port, timeout=30) as clear:
        assert "STARTTLS" in clear.capabilities
        assert "LOGINDISABLED" in clear.capabilities
        with pytest.raises(imaplib.IMAP4.error, match="PRIVACYREQUIRED"):
            clear.login(user.username, user.password)
        clear.starttls(context)
        assert "STARTTLS" not in clear.capabilities
        assert "AUTH=PLAIN" in clear.capabilities
        _read_mail(clear, user)
        with pytest.raises(imaplib.IMAP4.error):
            clear.starttls(context)
    port = server.places["imaps"].port
    with imaplib.IMAP4_SSL(HOST, port, ssl_context=context, timeout=30) as secure:
        _read_mail(secure, user)


def _read_mail(client: imaplib.IMAP4, user: Account) -> None:
    client.login(user.username, user.password)
    assert client.select()[1] == [b"1"]
    ((_, found), _) = client.fetch("1", "(BODY.PEEK[])")[1]
    assert found.endswith(MAIL)


def test_pop3(server: Served, user: Account, context: ssl.SSLContext) -> None:
    clear = poplib.POP3(HOST, server.pop3.port, timeout=30)
    assert "STLS" in clear.capa()
    assert "USER" not in clear.capa()
    clear.stls(context)
    assert "STLS" not in clear.capa()
    for client in (clear, poplib.POP3_SSL(HOST, server.places["pop3s"].port, context=context, timeout=30)):
        client.user(user.username)
        client.pass_(user.password)
        assert b"Subject: under TLS" in client.retr(1)[1]
        client.quit()


class Lmtps(smtplib.LMTP):
    """LMTP that begins with TLS."""

    context: ssl.SSLContext

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        return self.context.wrap_socket(socket.create_connection((host, port), 30), server_hostname=host)


def test_lmtp(server: Served, user: Account, context: ssl.SSLContext) -> None:
    with smtplib.LMTP(HOST, server.lmtp.port) as clear:
        clear.ehlo("client.example.org")
        assert clear.has_extn("starttls")
        assert clear.starttls(context=context)[0] == 220
        assert clear.docmd("MAIL FROM:<>")[0] == 503  # LHLO is to be said again
        clear.ehlo("client.example.org")
        assert not clear.has_extn("starttls")
        clear.sendmail("a@example.org", user.address, MAIL)
    Lmtps.context = context
    with Lmtps(HOST, server.places["lmtps"].port) as secure:
        secure.sendmail("a@example.org", user.address, MAIL)


def test_api(server: Served, context: ssl.SSLContext) -> None:
    url = f"https://{HOST}:{server.places['apis'].port}/health"
    with urllib.request.urlopen(url, context=context, timeout=30) as answer:
        assert json.load(answer)["status"] == "healthy"


@contextmanager
def greeted(server: Served, protocol: str) -> Iterator[tuple[socket.socket, BinaryIO]]:
    """A connection in clear, and what comes on it after the greeting."""
    with (
        socket.create_connection((HOST, server.places[protocol].port), 30) as sock,
        sock.makefile("rb") as file,
    ):
        assert file.readline()
        yield sock, file


@pytest.mark.parametrize(
    ("protocol", "lines"),
    [
        ("imap", [b"a1 STARTTLS\r\na2 CAPABILITY\r\n"]),
        ("imap", [b"a1 NOOP\r\na2 STARTTLS\r\na3"]),
        ("pop3", [b"STLS\r\nCAPA\r\n"]),
        ("pop3", [b"CAPA\r\nSTLS\r\nQ"]),
        ("lmtp", [b"LHLO x\r\n", b"STARTTLS\r\nLHLO x\r\n"]),
        ("lmtp", [b"LHLO x\r\nSTARTTLS\r\nMAIL FROM:<>\r\nRCPT TO:<a@example.org>\r\nDATA\r\n"]),
    ],
)
def test_what_follows_in_clear_ends_the_connection(server: Served, protocol: str, lines: list[bytes]) -> None:
    with greeted(server, protocol) as (sock, file):
        for line in lines[:-1]:
            sock.sendall(line)
            while file.readline()[3:4] == b"-":
                pass
        sock.sendall(lines[-1])
        rest = file.readlines()
        assert b"in clear" in rest[-1]
        assert not any(b"TLS now" in line for line in rest)


@pytest.mark.parametrize(
    ("protocol", "lines"),
    [
        ("imap", [b"a1 STARTTLS\r\n", b"a2 CAPABILITY\r\n"]),
        ("pop3", [b"STLS\r\n", b"CAPA\r\n"]),
        ("lmtp", [b"LHLO x\r\n", b"STARTTLS\r\n", b"LHLO x\r\n"]),
    ],
)
def test_what_comes_in_clear_in_place_of_tls_is_not_answered(
    server: Served, protocol: str, lines: list[bytes]
) -> None:
    with greeted(server, protocol) as (sock, file):
        for line in lines[:-1]:
            sock.sendall(line)
            while (said := file.readline())[3:4] == b"-":
                pass
        assert b"TLS now" in said
        sock.sendall(lines[-1])
        assert file.read()[:1] in (b"", ALERT)


def test_passwords_are_not_taken_in_clear(server: Served, user: Account) -> None:
    """Whatever the way: this server trusts no network."""
    clear = poplib.POP3(HOST, server.pop3.port, timeout=30)
    plain = base64.b64encode(f"\0{user.username}\0{user.password}".encode()).decode()
    for line in (f"USER {user.username}", f"AUTH PLAIN {plain}", "AUTH PLAIN"):
        with pytest.raises(poplib.error_proto, match="TLS is required"):
            clear._shortcmd(line)
    clear.quit()
    with imaplib.IMAP4(HOST, server.imap.port, timeout=30) as client:
        for arguments in (("PLAIN", plain), ("PLAIN",)):
            assert client._simple_command("AUTHENTICATE", *arguments)[0] == "NO"


def test_a_message_and_its_end_that_come_apart_are_taken(
    server: Served, user: Account, context: ssl.SSLContext
) -> None:
    """As many clients send them: in two writes, with Nagle's algorithm between them."""
    Lmtps.context = context
    with Lmtps(HOST, server.places["lmtps"].port) as lmtp:
        lmtp.ehlo("client.example.org")
        for _ in range(3):
            lmtp.mail("a@example.org")
            lmtp.rcpt(user.address)
            assert lmtp.docmd("DATA")[0] == 354
            lmtp.send(MAIL)
            lmtp.send(b".\r\n")
            assert lmtp.getreply()[0] == 250


@pytest.mark.parametrize("protocol", ["imap", "pop3", "lmtp"])
def test_openssl_finds_its_way(server: Served, protocol: str, pair: Pair) -> None:
    command = [need("openssl"), "s_client", "-connect", f"{HOST}:{server.places[protocol].port}"]
    command += ["-starttls", protocol, "-CAfile", pair.certificate, "-verify_return_error"]
    done = subprocess.run(command, input=b"", capture_output=True, timeout=60, check=False)
    assert b"Verify return code: 0 (ok)" in done.stdout


def test_curl_finds_its_way(server: Served, user: Account, pair: Pair) -> None:
    for scheme, port, option in (
        ("imaps", server.places["imaps"].port, []),
        ("imap", server.imap.port, ["--ssl-reqd"]),
    ):
        command = [need("curl"), "--silent", "--show-error", "--cacert", pair.certificate, *option]
        command += [
            "--user",
            f"{user.username}:{user.password}",
            f"{scheme}://{HOST}:{port}/INBOX;MAILINDEX=1",
        ]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        assert done.stdout.endswith(MAIL), done.stderr


def test_held_connections_outlive_their_worker(
    server: Served, user: Account, context: ssl.SSLContext
) -> None:
    if not server.config().tls.hold:
        return
    port = server.places["imaps"].port
    with (
        imaplib.IMAP4_SSL(HOST, port, ssl_context=context, timeout=60) as client,
        imaplib.IMAP4(HOST, server.imap.port, timeout=60) as upgraded,
    ):
        upgraded.starttls(context)
        for each in (client, upgraded):
            each.login(user.username, user.password)
            each.select()
        before = server.worker_pids()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(set(server.worker_pids()) - set(before)) == 2, "new workers")
        assert server.ask("reload")["ok"]
        for each in (client, upgraded):
            assert each.noop()[0] == "OK"
            assert each.fetch("1", "(UID)")[1] == [b"1 (UID 1)"]


def test_held_connections_outlive_the_supervisors_own_program(
    server: Served, user: Account, context: ssl.SSLContext
) -> None:
    if not server.config().tls.hold:
        return
    port = server.places["imaps"].port
    with imaplib.IMAP4_SSL(HOST, port, ssl_context=context, timeout=60) as client:
        client.login(user.username, user.password)
        client.select()
        assert server.ask("upgrade")["ok"]
        server.log.wait("upgraded")
        assert client.noop()[0] == "OK"
        assert client.fetch("1", "(UID)")[1] == [b"1 (UID 1)"]
        with imaplib.IMAP4_SSL(HOST, port, ssl_context=context, timeout=60) as another:
            _read_mail(another, user)


def test_a_new_certificate_by_a_reload(server: Served, pair: Pair, tmp_path: Path) -> None:
    port = server.places["imaps"].port
    other = make_pair(tmp_path, "other")
    kept = [Path(path).read_bytes() for path in (pair.certificate, pair.key)]

    def seen() -> bytes:
        return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((HOST, port)))

    before = seen()
    Path(pair.key).write_bytes(Path(other.key).read_bytes())
    try:
        assert server.ask("reload")["faults"] == [f"tls.key: {pair.key} is not the key of the certificate"]
        assert seen() == before
        Path(pair.certificate).write_bytes(Path(other.certificate).read_bytes())
        assert server.ask("reload")["ok"]
        wait_until(lambda: seen() == other.der, "the new certificate")
    finally:
        for path, data in zip((pair.certificate, pair.key), kept, strict=True):
            Path(path).write_bytes(data)
