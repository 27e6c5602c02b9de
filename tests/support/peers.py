"""Real peers for the end-to-end tests: programs that may be missing, and a Postfix of our own.

With CI=true a missing peer fails the test; elsewhere it is skipped, naming the peer.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import smtplib
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

WAIT_S = 30.0
STEP_S = 0.02


def need(program: str) -> str:
    """The path of an installed program; without it the test is skipped, or fails where CI=true."""
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        reason = f"{program} is not installed: this peer goes untested"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def need_root() -> None:
    """Postfix can only be started by root."""
    if os.geteuid() != 0:
        reason = "Postfix needs root: this peer goes untested"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Poll a condition of other processes until it holds; a failure names `what`."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"still waiting for {what}"
        time.sleep(STEP_S)


def run(arguments: Sequence[str], *, stdin: bytes = b"", cwd: Path | None = None) -> bytes:
    """Run a program to its end; its stdout. A failure shows both streams."""
    done = subprocess.run(arguments, input=stdin, capture_output=True, timeout=60, check=False, cwd=cwd)
    assert done.returncode == 0, f"{arguments[0]} exited {done.returncode}\n{done.stdout!r}\n{done.stderr!r}"
    return done.stdout


class LmtpClient(smtplib.LMTP):
    """smtplib.LMTP reads one reply after the dot; LMTP sends one for each accepted recipient (RFC 2033 §4.2)."""

    def deliver(
        self, sender: str, recipients: Sequence[str], message: bytes
    ) -> tuple[dict[str, tuple[int, bytes]], dict[str, tuple[int, bytes]]]:
        """One transaction: (the refused recipients' replies, the accepted ones' replies after the dot)."""
        self.ehlo_or_helo_if_needed()
        code, text = self.mail(sender)
        assert code == 250, (code, text)
        replies = {recipient: self.rcpt(recipient) for recipient in recipients}
        refused = {recipient: reply for recipient, reply in replies.items() if reply[0] != 250}
        accepted = [recipient for recipient in recipients if recipient not in refused]
        if not accepted:
            self.rset()
            return refused, {}
        self.putcmd("data")
        assert self.getreply()[0] == 354
        assert message.endswith(b"\r\n")
        stuffed = message.replace(b"\r\n.", b"\r\n..")
        self.send((b"." if stuffed.startswith(b".") else b"") + stuffed + b".\r\n")
        return refused, {recipient: self.getreply() for recipient in accepted}


MASTER_CF = """\
pickup    unix  n - n 1 1 pickup
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
verify    unix  - - n - 1 verify
error     unix  - - n - - error
discard   unix  - - n - - discard
retry     unix  - - n - - error
lmtp      unix  - - n - - lmtp
anvil     unix  - - n - 1 anvil
postlog   unix-dgram n - n - 1 postlogd
"""

MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
command_directory = /usr/sbin
daemon_directory = {daemons}
mail_owner = postfix
setgid_group = postdrop
multi_instance_enable = no
myhostname = relay.example.test
mydestination =
inet_interfaces = loopback-only
alias_maps =
alias_database =
virtual_mailbox_domains = example.test
virtual_transport = lmtp:{lmtp}
default_transport = discard:bounces
maillog_file = {folder}/mail.log
maillog_file_prefixes = {folder}
import_environment = MAIL_CONFIG MAIL_DEBUG MAIL_LOGTAG TZ LANG=C
"""


class Postfix:
    """A running Postfix with its own configuration, queue and log; it delivers example.test by LMTP."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def submit(self, sender: str, recipients: Sequence[str], message: bytes) -> None:
        """Hand a message to the queue, as a local program does."""
        run(
            [need("sendmail"), "-i", "-C", str(self.folder / "etc"), "-f", sender, *recipients], stdin=message
        )

    def log(self) -> str:
        path = self.folder / "mail.log"
        return path.read_text() if path.exists() else ""

    def queued(self) -> int:
        """Messages that are still in the queue, whatever their state."""
        folders = ("maildrop", "incoming", "active", "deferred")
        return sum(path.is_file() for name in folders for path in (self.folder / "queue" / name).rglob("*"))


@contextlib.contextmanager
def postfix(folder: Path, lmtp: str) -> Iterator[Postfix]:
    """Start a Postfix whose LMTP target is `lmtp` ("inet:host:port" or "unix:path"); stop it at the end."""
    program = need("postfix")
    need_root()
    daemons = run([need("postconf"), "-d", "-h", "daemon_directory"]).decode().strip()
    for name in ("etc", "queue", "data"):
        (folder / name).mkdir()
    shutil.chown(folder / "data", "postfix")
    (folder / "etc" / "main.cf").write_text(MAIN_CF.format(folder=folder, lmtp=lmtp, daemons=daemons))
    (folder / "etc" / "master.cf").write_text(MASTER_CF)
    instance = [program, "-c", str(folder / "etc")]
    run([*instance, "start"])
    try:
        yield Postfix(folder)
    finally:
        run([*instance, "stop"])


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A temporary folder that other users can enter (pytest's own are closed to Postfix's)."""
    with tempfile.TemporaryDirectory(prefix="wd-trio-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
