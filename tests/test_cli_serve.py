"""`wd-trio serve --demo` as a person starts it: what it prints, that it stops, and what a second start says."""

from __future__ import annotations

import imaplib
import os
import poplib
import re
import signal
import subprocess
import sys
from pathlib import Path

START = [sys.executable, "-m", "wd_trio", "serve", "--demo"]


def start(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """The running server, and what it printed until it was ready."""
    anywhere = '["127.0.0.1:0"]'
    environ = {name: value for name, value in os.environ.items() if not name.startswith("WD_TRIO_")}
    environ |= {f"WD_TRIO_{section}__LISTEN": anywhere for section in ("IMAP", "POP3", "LMTP", "API")}
    environ |= {"WD_TRIO_SERVER__WORKERS": "1", "WD_TRIO_AUTH__ARGON2_MEMORY_KIB": "8"}
    environ |= {"PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        START, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "Ctrl-C" in line:
            break
    return process, "".join(lines)


def told(said: str, pattern: str) -> tuple[str, ...]:
    """The groups of `pattern` in what was printed."""
    found = re.search(pattern, said)
    assert found, said
    return found.groups()


def stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert process.stdout is not None
    process.stdout.close()


def test_demo_twice(tmp_path: Path) -> None:
    process, said = start(tmp_path)
    try:
        host, port = told(said, r"imap://([\d.]+):(\d+)")
        (password,) = told(said, r"password (\S+) \(shown")
        assert told(said, r"API token ([0-9a-f]{40}) ")
        (deliver,) = (line.strip() for line in said.splitlines() if "smtplib" in line)
        subprocess.run(["/bin/sh", "-c", deliver.replace("python3", sys.executable)], check=True)
        with imaplib.IMAP4(host, int(port)) as client:
            client.login("demo", password)
            assert client.select("INBOX") == ("OK", [b"1"])
        reader = poplib.POP3(*told(said, r"curl --user demo:\S+ pop3://([\d.]+):(\d+)/1\n"))
        reader.user("demo")
        reader.pass_(password)
        assert reader.stat()[0] == 1
        reader.quit()
    finally:
        stop(process)

    process, said = start(tmp_path)
    try:
        assert password not in said
        assert "API token" not in said
        assert "wd-trio user passwd demo" in said
        host, port = told(said, r"imap://([\d.]+):(\d+)")
        with imaplib.IMAP4(host, int(port)) as client:
            client.login("demo", password)
            assert client.select("INBOX") == ("OK", [b"1"]), "the same data"
    finally:
        stop(process)
