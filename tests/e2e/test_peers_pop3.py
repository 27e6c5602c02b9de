"""poplib, curl, mpop and fetchmail against the running server: other people's POP3 clients."""

from __future__ import annotations

import poplib
from pathlib import Path

import pytest
from peers import need, run
from pop3_socket import deliver
from served import Account, Served

PLAIN = b"From: ann@example.org\r\nSubject: plain\r\n\r\nfirst\r\n.second\r\n.\r\n..third\r\n"
BARE = b"Subject: bare\r\n\r\na\n.\nb\r\n"
LARGE = b"Subject: large\r\n\r\n" + b"." * 70 + b"\r\n" + (b"x" * 70 + b"\r\n") * 40_000


@pytest.fixture
def user(server: Served) -> Account:
    return server.add_user()


def connect(server: Served) -> poplib.POP3:
    return poplib.POP3(server.pop3.host, server.pop3.port)


def log_in(server: Served, user: Account) -> poplib.POP3:
    client = connect(server)
    client.user(user.username)
    client.pass_(user.password)
    return client


def retrieve(client: poplib.POP3, number: int) -> bytes:
    _, lines, _ = client.retr(number)
    return b"".join(line + b"\r\n" for line in lines)


# --- poplib -------------------------------------------------------------------------------------------------


def test_poplib_reads_and_removes(server: Served, user: Account) -> None:
    deliver(server, user, [PLAIN, BARE, LARGE])
    client = connect(server)
    offered = client.capa()
    assert offered["SASL"] == ["PLAIN"]
    assert offered["EXPIRE"] == ["NEVER"]
    assert offered["IMPLEMENTATION"] == ["wd-trio"]
    assert {"TOP", "UIDL", "USER", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING"} <= offered.keys()
    client.user(user.address)
    client.pass_(user.password)
    count, octets = client.stat()
    _, listing, _ = client.list()
    sizes = [int(line.split()[1]) for line in listing]
    assert (count, octets) == (3, sum(sizes))
    assert retrieve(client, 1).endswith(PLAIN)
    assert retrieve(client, 2).endswith(BARE.replace(b"\n.\n", b"\r\n.\r\n")), (
        "poplib knows only one end of line"
    )
    assert retrieve(client, 3).endswith(LARGE)
    assert len(retrieve(client, 1)) == sizes[0]
    _, lines, _ = client.top(1, 2)
    assert lines[-3:] == [b"", b"first", b".second"]
    assert client.dele(1).startswith(b"+OK")
    with pytest.raises(poplib.error_proto, match="marked"):
        client.retr(1)
    client.rset()
    unique = client.uidl()[1]
    client.dele(2)
    client.noop()
    assert client.quit() == b"+OK Bye"

    client = log_in(server, user)
    assert client.uidl()[1] == [unique[0], b"2 " + unique[2].split()[1]]
    client.quit()


def test_poplib_hears_errors(server: Served, user: Account) -> None:
    client = connect(server)
    client.user(user.username)
    with pytest.raises(poplib.error_proto, match=r"\[AUTH\]"):
        client.pass_("wrong")
    with pytest.raises(poplib.error_proto, match="STLS not supported"):
        client.stls()
    other = log_in(server, user)
    client.user(user.username)
    with pytest.raises(poplib.error_proto, match=r"\[IN-USE\]"):
        client.pass_(user.password)
    with pytest.raises(poplib.error_proto, match="No such message"):
        other.retr(1)
    other.quit()
    client.quit()


# --- curl, mpop, fetchmail ----------------------------------------------------------------------------------


def test_curl_lists_and_reads(server: Served, user: Account) -> None:
    deliver(server, user, [PLAIN, LARGE])
    curl = [need("curl"), "--silent", "--show-error", "--user", f"{user.username}:{user.password}"]
    base = f"pop3://{server.pop3.host}:{server.pop3.port}"
    assert [line.split()[0] for line in run([*curl, f"{base}/"]).splitlines()] == [b"1", b"2"]
    assert run([*curl, f"{base}/1"]).endswith(PLAIN)
    assert run([*curl, f"{base}/2"]).endswith(LARGE)
    assert run([*curl, "--sasl-ir", "--login-options", "AUTH=PLAIN", f"{base}/1"]).endswith(PLAIN)
    assert run([*curl, "--request", "UIDL", f"{base}/"]).count(b"\r\n") == 2
    run([*curl, "--request", "DELE", "--head", f"{base}/1"])
    assert len(run([*curl, f"{base}/"]).splitlines()) == 1


def test_mpop_fetches_once_and_removes(server: Served, user: Account, tmp_path: Path) -> None:
    program = need("mpop")
    deliver(server, user, [PLAIN, BARE, LARGE])
    folder = tmp_path / "Maildir"
    for part in ("cur", "new", "tmp"):
        (folder / part).mkdir(parents=True)

    def fetch(auth: str, keep: str) -> list[Path]:
        run(
            [
                *(program, f"--host={server.pop3.host}", f"--port={server.pop3.port}", "--tls=off"),
                *(f"--user={user.username}", f"--passwordeval=echo {user.password}", f"--auth={auth}"),
                *(f"--uidls-file={tmp_path}/uidls", f"--delivery=maildir,{folder}", f"--keep={keep}"),
            ]
        )
        return sorted((folder / "new").glob("*"))

    assert len(fetch("user", "on")) == 3
    assert len(fetch("plain", "on")) == 3, "what it has it knows by UIDL"
    deliver(server, user, [PLAIN])
    fetched = fetch("plain", "off")
    assert len(fetched) == 4
    assert sum(path.read_bytes().endswith(PLAIN.replace(b"\r\n", b"\n")) for path in fetched) == 2
    client = log_in(server, user)
    assert client.stat() == (0, 0)
    client.quit()


def test_fetchmail_fetches_and_removes(server: Served, user: Account, tmp_path: Path) -> None:
    program = need("fetchmail")
    deliver(server, user, [PLAIN, LARGE])
    out = tmp_path / "out"
    rc = tmp_path / "fetchmailrc"
    rc.write_text(
        f"poll {server.pop3.host} service {server.pop3.port} protocol POP3 uidl\n"
        f'  username "{user.username}" password "{user.password}" sslproto "" no sslcertck\n'
        f'  mda "cat >> {out}" nokeep fetchall\n'
    )
    rc.chmod(0o600)
    run([program, "-f", str(rc), "-i", str(tmp_path / "ids"), "--pidfile", str(tmp_path / "pid"), "-v"])
    assert out.read_bytes().count(b"Subject: ") == 2
    client = log_in(server, user)
    assert client.stat() == (0, 0)
    client.quit()
