"""nginx and HAProxy before the server, as deploy/ configures them: it sees the clients' addresses, and who is on TLS.

The clients speak from 127.0.0.5, the balancers to the server from 127.0.0.1, which is all that `proxy_networks`
names: so whoever comes from elsewhere needs no header, and who comes from there without one is turned away.
"""

from __future__ import annotations

import contextlib
import imaplib
import smtplib
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from balancers import (
    CLIENT,
    Balancer,
    Imap,
    Imaps,
    Pop3,
    balancing,
    free_ports,
    need_nginx,
    nginx_command,
    nginx_conf,
    running,
)
from peers import LmtpClient, wait_until
from served import Account, Served, start

from wd_trio.ops import admin

UNTRUSTED = "127.0.0.6"
MESSAGE = b"From: ann@example.org\r\nMessage-ID: <1@example.org>\r\nSubject: through\r\n\r\nbody\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that believes 127.0.0.1 alone, and lets only 127.0.0.5 log in without TLS."""
    served = start(
        tmp_path_factory.mktemp("server"),
        settings={
            "server": {"proxy_networks": ["127.0.0.1/32"]},
            "tls": {"trusted_networks": [f"{CLIENT}/32"]},
        },
    )
    try:
        yield served.wait_ready()
    finally:
        status = served.stop()
    assert status == 0


def ports_of(server: Served) -> dict[str, int]:
    return {name: place.port for name, place in server.places.items()}


@pytest.fixture(scope="module")
def nginx(server: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balancer]:
    """Version 1 of the header."""
    with balancing("nginx", tmp_path_factory.mktemp("nginx"), [ports_of(server)]) as balancer:
        yield balancer


def haproxy_with(header: str) -> Callable[[Served, pytest.TempPathFactory], Iterator[Balancer]]:
    def haproxy(server: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balancer]:
        folder = tmp_path_factory.mktemp("haproxy")
        with balancing("haproxy", folder, [ports_of(server)], header=header) as balancer:
            yield balancer

    return haproxy


haproxy_v1 = pytest.fixture(haproxy_with("send-proxy"), scope="module", name="haproxy_v1")
haproxy_v2 = pytest.fixture(haproxy_with("send-proxy-v2"), scope="module", name="haproxy_v2")
haproxy_ssl = pytest.fixture(
    haproxy_with("send-proxy-v2-ssl proxy-v2-options crc32c,unique-id"), scope="module", name="haproxy_ssl"
)


@pytest.fixture(params=["nginx", "haproxy_v1", "haproxy_v2", "haproxy_ssl"])
def balancer(request: pytest.FixtureRequest) -> Balancer:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Balancer)
    return found


@pytest.fixture
def user(server: Served, monkeypatch: pytest.MonkeyPatch) -> Account:
    monkeypatch.chdir(server.folder)  # its configuration's relative paths
    return server.add_user()


def session_of(server: Served, account: Account) -> admin.OpenSession:
    (session,) = admin.list_sessions(server.config(), account.username)
    return session


def test_mail_goes_in_and_out_under_the_clients_address(
    server: Served, balancer: Balancer, user: Account
) -> None:
    with LmtpClient("127.0.0.1", balancer.ports["lmtp"], source_address=(CLIENT, 0)) as lmtp:
        _, replies = lmtp.deliver("ann@example.org", [user.address], MESSAGE)
        assert [code for code, _ in replies.values()] == [250]

    with Imap(balancer.ports["imap"]) as imap:
        imap.login(user.username, user.password)
        assert imap.select() == ("OK", [b"1"])
        _, ((_, message), _) = imap.fetch("1", "(BODY.PEEK[])")
        assert message.endswith(MESSAGE)
        assert f"[{CLIENT}]".encode() in message.partition(b"\r\n\r\n")[0]  # the trace header of LMTP
        session = session_of(server, user)
        assert (session.protocol, session.ip) == ("imap", CLIENT)
    wait_until(lambda: not admin.list_sessions(server.config(), user.username), "the session's end")

    pop3 = Pop3(balancer.ports["pop3"])
    pop3.user(user.username)
    pop3.pass_(user.password)
    assert pop3.stat()[0] == 1
    session = session_of(server, user)
    assert (session.protocol, session.ip) == ("pop3", CLIENT)
    pop3.quit()


def test_the_api_through_both(balancer: Balancer) -> None:
    def status() -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{balancer.ports['api']}/health", timeout=30) as answer:
            return int(answer.status)

    assert status() == 200
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://127.0.0.1:{balancer.ports['api']}/metrics", timeout=30)
    with refused.value:
        assert refused.value.code == 404


def test_tls_ended_by_haproxy_allows_log_in(haproxy_ssl: Balancer, user: Account) -> None:
    with Imaps(haproxy_ssl.ports["imaps"], UNTRUSTED) as imap:
        imap.login(user.username, user.password)
    with Imap(haproxy_ssl.ports["imap"], UNTRUSTED) as imap, pytest.raises(imaplib.IMAP4.error):
        imap.login(user.username, user.password)


def test_a_balancer_that_does_not_say_so_does_not(haproxy_v2: Balancer, user: Account) -> None:
    with Imaps(haproxy_v2.ports["imaps"], UNTRUSTED) as imap, pytest.raises(imaplib.IMAP4.error):
        imap.login(user.username, user.password)


def test_others_need_no_header_and_are_not_believed(server: Served, user: Account) -> None:
    with Imap(server.imap.port) as imap:
        imap.login(user.username, user.password)
        assert session_of(server, user).ip == CLIENT
    with socket.create_connection(("127.0.0.1", server.imap.port), source_address=(UNTRUSTED, 0)) as sock:
        sock.settimeout(30)
        sock.sendall(b"PROXY TCP4 127.0.0.5 127.0.0.1 4711 143\r\n")
        said = b""
        while b"BAD" not in said:
            more = sock.recv(1000)
            assert more, said
            said += more
        assert said.startswith(b"* OK")


def test_who_comes_from_the_balancer_without_a_header_is_turned_away(server: Served) -> None:
    with socket.create_connection((server.pop3.host, server.pop3.port)) as sock:
        sock.settimeout(30)
        sock.sendall(b"CAPA\r\n")
        with contextlib.suppress(ConnectionResetError):  # what was sent was not read
            assert sock.recv(1000) == b""
    server.log.wait("no proxy header", where=lambda event: event["protocol"] == "pop3")


def test_from_a_reload_on_clients_are_counted_and_not_their_balancer(
    tmp_path: Path, start_server: Callable[..., Served]
) -> None:
    server = start_server(settings={"limits": {"connections_per_ip": 1}})
    before = server.config_path.read_text()
    server.config_path.write_text(before.replace("[server]", '[server]\nproxy_networks = ["127.0.0.1/32"]'))
    assert server.ask("reload")["ok"]
    ports = free_ports(["imap", "pop3", "lmtp", "api"])
    conf = tmp_path / "nginx.conf"
    conf.write_text("daemon off;\n" + nginx_conf([ports_of(server)], ports))
    with running(nginx_command(need_nginx(), tmp_path, conf), ports, tmp_path):
        wait_until(lambda: server.ask("status")["connections"] == 0, "the end of the first looks")
        with Imap(ports["imap"]), Imap(ports["imap"], UNTRUSTED):
            with pytest.raises((imaplib.IMAP4.abort, imaplib.IMAP4.error), match="Too many connections"):
                Imap(ports["imap"])
            with pytest.raises(smtplib.SMTPConnectError, match="Too many connections"):
                LmtpClient("127.0.0.1", ports["lmtp"], source_address=(CLIENT, 0))
