"""A private Dovecot to compare with: own folder, loopback, unprivileged ports, ended with its owner.

    python -m scripts.bench.dovecot          starts one, says where it is, and runs until interrupted

It needs Debian's dovecot-imapd and dovecot-lmtpd. Mail lies in sdbox with fsync as it is shipped
(mail_fsync=optimized: a delivery is on the disk before its 250); every user has the same plain password, so its
log-ins are to be compared with the other's remembered ones. Log-in processes are reused (its "high-performance
mode"). As root it serves mail as the user `mail`, as Dovecot wants; else as the one who starts it.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.bench.target import Target
from scripts.bench.wire import Fault, Place

START_S = 20.0
PROGRAM = "/usr/sbin/dovecot"


def is_there() -> bool:
    return shutil.which(PROGRAM) is not None


@contextmanager
def dovecot(folder: Path) -> Iterator[Target]:
    """A Dovecot that runs in `folder` while the context lasts."""
    mail_user = "mail" if os.getuid() == 0 else getpass.getuser()
    places = {"imap": _free(), "lmtp": _free()}
    for name in ("run", "state", "mail"):
        (folder / name).mkdir(parents=True)
    if os.getuid() == 0:
        shutil.chown(folder / "mail", mail_user, mail_user)
        for above in (folder, *folder.parents[: len(folder.parents) - 2]):
            above.chmod(above.stat().st_mode | 0o011)
    config = folder / "dovecot.conf"
    config.write_text(_config(folder, mail_user, places))
    process = subprocess.Popen([PROGRAM, "-F", "-c", str(config)], cwd=folder, stdin=subprocess.DEVNULL)
    try:
        _wait_open(process, places["imap"], folder)
        yield Target("Dovecot", places, [process.pid])
    finally:
        process.terminate()
        process.wait(START_S)


def _free() -> Place:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return "127.0.0.1", sock.getsockname()[1]


def _wait_open(process: subprocess.Popen[bytes], place: Place, folder: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            with socket.create_connection(place, timeout=START_S) as sock:
                if sock.recv(100).startswith(b"* OK"):
                    return
        except OSError:
            time.sleep(0.05)
    written = folder / "dovecot.log"
    raise Fault(f"Dovecot does not start: {written.read_text() if written.exists() else 'no log'}")


def _config(folder: Path, mail_user: str, places: dict[str, Place]) -> str:
    rootless = (
        ""
        if os.getuid() == 0
        else f"""
default_login_user = {mail_user}
default_internal_user = {mail_user}
default_internal_group = {mail_user}
service anvil {{
  chroot =
}}
"""
    )
    return f"""
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/dovecot.log
protocols = imap lmtp
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
auth_username_format = %Ln
first_valid_uid = 1
mail_location = sdbox:{folder}/mail/%n
mail_fsync = optimized
mail_max_userip_connections = 20000
default_client_limit = 20000
passdb {{
  driver = static
  args = password=benchmark
}}
userdb {{
  driver = static
  args = uid={mail_user} gid={mail_user} home={folder}/mail/%n allow_all_users=yes
}}
namespace inbox {{
  inbox = yes
}}
service imap-login {{
  service_count = 0
  process_min_avail = 2
  chroot =
  inet_listener imap {{
    port = {places["imap"][1]}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service imap {{
  process_limit = 5000
}}
service lmtp {{
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {places["lmtp"][1]}
  }}
}}
{rootless}"""


def main() -> None:
    with tempfile.TemporaryDirectory() as name, dovecot(Path(name) / "dovecot") as target:
        print(f"Dovecot {target.roots[0]}: {target.places}", flush=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            print("ended")


if __name__ == "__main__":
    main()
