"""The command line in one process: accounts, copies, complaints and exit statuses, on a real store."""

from __future__ import annotations

import http.server
import io
import json
import logging
import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from wd_trio.adapters.sqlite.limits import open_state
from wd_trio.adapters.sqlite.sessions import SqliteSessions
from wd_trio.cli import main
from wd_trio.cli.server import _demo_lines
from wd_trio.cli.terminal import size_bytes, size_words
from wd_trio.config import Config
from wd_trio.config_load import load, render_default
from wd_trio.errors import Unavailable
from wd_trio.ops import admin, control
from wd_trio.ports.sessions import SessionDocument

Run = Callable[..., tuple[int, str, str]]
NO_PROGRESS = lambda done, total: None  # noqa: E731  # a name for what backups may call


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs a command in a fresh folder: (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WD_TRIO_STORE__URL", "sqlite:data/mail.db")
    monkeypatch.setenv("WD_TRIO_AUTH__ARGON2_TIME_COST", "1")
    monkeypatch.setenv("WD_TRIO_AUTH__ARGON2_MEMORY_KIB", "8")
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level

    def call(*arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        try:
            status = main(arguments)
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return status, out, err

    yield call
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)
    structlog.reset_defaults()


def add(run: Run, name: str, *arguments: str, password: bytes = b"secret\n") -> tuple[int, str, str]:
    return run("user", "add", name, "--password-stdin", *arguments, stdin=password)


# --- configuration ----------------------------------------------------------------------------------------


def test_version(run: Run) -> None:
    status, out, _ = run("version")
    assert (status, out.split()[0]) == (0, "wd-trio")


def test_check_config(run: Run, tmp_path: Path) -> None:
    assert run("check-config")[0] == 0
    assert run("check-config", "--print-default")[1] == render_default()
    (tmp_path / "config.toml").write_text("[imap]\nlisten = 3\n[colour]\n")
    status, out, err = run("check-config")
    assert (status, out) == (2, "")
    assert err.splitlines() == [
        "wd-trio: colour: no such section",
        "wd-trio: imap.listen: expected a list of texts",
    ]
    (tmp_path / "good.toml").write_text("")
    assert run("check-config", "--config", "good.toml")[0] == 0
    assert run("--config", "good.toml", "check-config")[0] == 0
    assert run("check-config", "--config", "missing.toml")[0] == 2


@pytest.mark.parametrize("command", [["user", "list"], ["serve"], ["backup", "x"], ["reload"], ["health"]])
def test_every_command_refuses_a_bad_configuration(command: list[str], run: Run, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[server]\nworkers = -1\n")
    status, _, err = run(*command)
    assert (status, err) == (2, "wd-trio: server.workers: must be at least 0\n")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["user"], ["user", "add"], ["user", "quota", "x", "1Q"]]
)
def test_bad_usage(arguments: list[str], run: Run) -> None:
    assert run(*arguments)[0] == 2


# --- accounts ---------------------------------------------------------------------------------------------


def test_accounts_come_and_go(run: Run) -> None:
    assert add(run, "anna", "--address", "Anna@Example.com", "--quota", "5G")[0] == 0
    assert add(run, "bert@example.com")[0] == 0
    rows = [line.split("\t") for line in run("user", "list")[1].splitlines()]
    assert [row[0] for row in rows] == ["anna", "bert@example.com"]
    assert rows[0][1].lower() == "anna@example.com"
    assert [row[4] for row in rows] == [str(5 << 30), "-"]
    assert run("user", "quota", "anna", "unlimited")[0] == 0
    assert run("user", "list", "an")[1].splitlines()[0].split("\t")[4] == "unlimited"
    assert run("user", "passwd", "anna", "--password-stdin", stdin=b"other\r\n")[0] == 0
    assert run("address", "add", "anna", "info@example.com")[0] == 0
    addresses = run("address", "list", "anna")[1].lower().split()
    assert sorted(addresses) == ["anna@example.com", "info@example.com"]
    assert run("address", "del", "info@example.com")[0] == 0
    assert run("user", "del", "anna")[0] == 0
    assert [line.split("\t")[0] for line in run("user", "list")[1].splitlines()] == ["bert@example.com"]


def test_failures_are_one_line_and_status_one(run: Run) -> None:
    add(run, "anna", "--address", "anna@example.com")
    for outcome in (
        add(run, "anna", "--address", "other@example.com"),
        add(run, "other", "--address", "anna@example.com"),
        run("user", "del", "nobody"),
        run("user", "quota", "nobody", "1M"),
        run("address", "add", "anna", "anna@example.com"),
        run("address", "del", "nobody@example.com"),
        run("address", "list", "nobody"),
    ):
        status, out, err = outcome
        assert (status, out, err.count("\n")) == (1, "", 1), outcome
        assert err.startswith("wd-trio: ")


@pytest.mark.parametrize("password", [b"", b"\n", b"x" * 1025, b"\xff\n", b"a\0b\n"])
def test_passwords_that_are_none(password: bytes, run: Run) -> None:
    status, out, err = add(run, "anna", password=password)
    assert (status, out, err.count("\n")) == (2, "", 1)


def test_names_and_addresses_that_are_none(run: Run) -> None:
    assert add(run, "An na")[0] == 2
    assert add(run, "anna", "--address", "nonsense")[0] == 2
    assert run("user", "list")[1] == ""


def test_a_password_is_never_an_argument_or_a_surprise(run: Run) -> None:
    assert run("user", "add", "anna", "--password", "x")[0] == 2
    status, _, err = run("user", "add", "anna", stdin=b"secret\n")
    assert (status, err) == (2, "wd-trio: no terminal to ask on: use --password-stdin\n")


def test_a_store_that_is_no_database(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mail.db").write_bytes(b"not a database at all" * 1000)
    status, _, err = run("user", "list")
    assert (status, err.count("wd-trio: ")) == (1, 1)


# --- sessions ---------------------------------------------------------------------------------------------


def test_sessions_without_a_server(run: Run) -> None:
    add(run, "anna")
    assert run("sessions", "list") == (0, "", "")
    assert run("sessions", "list", "--user", "anna") == (0, "", "")
    assert run("sessions", "kill", "--user", "anna") == (0, "ended 0 sessions\n", "")
    for arguments in (["list", "--user", "nobody"], ["kill", "--user", "nobody"], ["kill", "sess_none"]):
        status, out, err = run("sessions", *arguments)
        assert (status, out, err.count("\n")) == (1, "", 1)
    assert run("sessions", "kill")[0] == 2
    assert run("sessions", "kill", "sess_none", "--user", "anna")[0] == 2


def test_sessions_that_nobody_ends_are_told_of(run: Run, tmp_path: Path) -> None:
    add(run, "anna")
    user = admin._run(load(None, os.environ), lambda services: services.users.by_username("anna"))
    state = open_state(tmp_path / "data" / "mail.db")
    document = SessionDocument(
        id="sess_" + "0" * 32,
        user=user.id,
        protocol="pop3",
        server="s1",
        worker="1.1",
        created=86_400_000,
        last_activity=90_000_000,
        ip="192.0.2.1",
        user_agent="fetchmail",
    )
    SqliteSessions(state).put(document, most=1, lease_s=60)
    status, out, _ = run("sessions", "list")
    assert (status, out.rstrip("\n").split("\t")) == (
        0,
        [
            document.id,
            "anna",
            "pop3",
            "192.0.2.1",
            "1970-01-02T00:00:00Z",
            "1970-01-02T01:00:00Z",
            "s1/1.1",
            "fetchmail",
        ],
    )
    assert run("user", "del", "anna")[0] == 0
    assert SqliteSessions(state).doomed("s1", "1.1") == [document.id]
    assert run("sessions", "list")[1].split("\t")[1] == user.id, "of a user who is gone"
    status, _, err = run("sessions", "kill", document.id)
    assert (status, "no server is running" in err) == (1, True)
    assert SqliteSessions(state).doomed("s1", "1.1") == [document.id]
    state.close()


def test_a_running_server_hears_of_new_passwords_and_deletions(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def request(config: Config, op: str, *, user: str) -> dict[str, bool]:
        asked.append((op, user))
        return {"ok": True}

    add(run, "anna")
    user = admin._run(load(None, os.environ), lambda services: services.users.by_username("anna"))
    monkeypatch.setattr(control, "request", request)
    assert run("user", "passwd", "anna", "--password-stdin", stdin=b"other\n")[0] == 0
    assert asked == [("kill", user.id)], "without any session: there may be other clients"
    assert run("user", "del", "anna")[0] == 0
    assert asked == [("kill", user.id)] * 2


@pytest.mark.parametrize(("cause", "status"), [(ConnectionRefusedError(), 0), (TimeoutError(), 1)])
def test_a_server_that_does_not_answer_is_told_of_and_one_that_does_not_run_is_not(
    run: Run, monkeypatch: pytest.MonkeyPatch, cause: OSError, status: int
) -> None:
    def request(config: Config, op: str, *, user: str) -> None:
        raise Unavailable("nothing is heard", what="server") from cause

    add(run, "anna")
    monkeypatch.setattr(control, "request", request)
    assert run("user", "passwd", "anna", "--password-stdin", stdin=b"other\n")[0] == status


# --- copies -----------------------------------------------------------------------------------------------


def test_backup_and_restore(run: Run, tmp_path: Path) -> None:
    add(run, "anna", "--address", "anna@example.com")
    assert run("backup", "copy.db")[0] == 0
    assert run("backup", "copy.db")[0] == 2, "a backup is not overwritten"
    add(run, "bert", "--address", "bert@example.com")
    assert run("restore", "copy.db")[0] == 2, "without a terminal it needs --yes"
    assert run("restore", "copy.db", "--yes")[0] == 0
    assert [line.split("\t")[0] for line in run("user", "list")[1].splitlines()] == ["anna"]
    with sqlite3.connect(tmp_path / "copy.db") as copy:
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    copy.close()


def test_backup_of_nothing_and_restore_of_rubbish(run: Run, tmp_path: Path) -> None:
    assert run("backup", "copy.db")[0] == 1
    assert run("restore", "none.db", "--yes")[0] == 2
    (tmp_path / "rubbish").write_bytes(b"x" * 10_000)
    add(run, "anna", "--address", "anna@example.com")
    status, _, err = run("restore", "rubbish", "--yes")
    assert (status, err.count("\n")) == (2, 1)
    assert run("user", "list")[1].startswith("anna\t")


# --- a running server -------------------------------------------------------------------------------------


def test_nobody_answers(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    status, _, err = run("reload")
    assert (status, err.count("\n")) == (1, 1)
    status, _, err = run("health", "--url", "http://127.0.0.1:1")
    assert (status, err.startswith("wd-trio: no answer from http://127.0.0.1:1")) == (1, True)
    assert run("health", "--url", "ftp://x")[0] == 2
    monkeypatch.setenv("WD_TRIO_API__LISTEN", "[]")
    assert run("health")[0] == 2


class _Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"status": "unhealthy" if self.path == "/health" else "healthy"}).encode()
        self.send_response(503 if self.path == "/health" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Not on the test's stderr."""


@pytest.fixture
def health_port() -> Iterator[int]:
    with http.server.HTTPServer(("127.0.0.1", 0), _Health) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_health(run: Run, health_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WD_TRIO_API__LISTEN", f'["0.0.0.0:{health_port}"]')
    assert run("health")[:2] == (1, '{"status": "unhealthy"}\n')
    assert run("health", "--live")[:2] == (0, '{"status": "healthy"}\n')
    assert run("health", "--live", "--url", f"http://localhost:{health_port}/")[0] == 0


# --- the first run ----------------------------------------------------------------------------------------


def test_demo_is_made_once_and_its_token_is_kept_hashed(run: Run, tmp_path: Path) -> None:
    environ = {
        "WD_TRIO_STORE__URL": f"sqlite:{tmp_path}/data/mail.db",
        "WD_TRIO_AUTH__ARGON2_MEMORY_KIB": "8",
    }
    config = load(None, environ)
    first = admin.prepare_demo(config)
    assert first.password
    assert first.token
    assert admin.prepare_demo(config) == admin.Demo(None, None)
    assert [account.address for account in admin.list_users(config)] == ["demo@localhost"]
    admin.back_up(config, tmp_path / "copy.db", NO_PROGRESS)
    stored = (tmp_path / "copy.db").read_bytes()
    assert first.token.reveal().encode() not in stored
    assert first.password.reveal().encode() not in stored


def test_no_token_is_made_where_the_configuration_has_one(run: Run, tmp_path: Path) -> None:
    environ = {"WD_TRIO_STORE__URL": f"sqlite:{tmp_path}/data/mail.db", "WD_TRIO_API__ACCESS_TOKEN": "given"}
    assert admin.prepare_demo(load(None, environ)).token is None


def test_demo_lines_can_be_pasted() -> None:
    addresses = ["imap://unix:/run/imap", "imap://0.0.0.0:1143", "lmtp://[::]:24", "api://127.0.0.1:8080"]
    deliver, read, health = _demo_lines(addresses, "pw")
    assert 'smtplib.LMTP("::1", 24)' in deliver
    assert "'imap://127.0.0.1:1143/INBOX;MAILINDEX=1'" in read
    assert health == "curl http://127.0.0.1:8080/health"


def test_sizes() -> None:
    assert [size_bytes(text) for text in ("0", "10", "1k", "2M", "3G")] == [0, 10, 1024, 2 << 20, 3 << 30]
    assert [size_words(size) for size in (None, 0, 1023, 1536, 5 << 40)] == [
        "-",
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 TiB",
    ]
