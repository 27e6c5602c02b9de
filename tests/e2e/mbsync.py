"""mbsync, keeping a Maildir in step with an account of the server under test."""

from __future__ import annotations

from pathlib import Path

from peers import need, run
from served import Account, Served

MBSYNCRC = """\
FSync no

IMAPAccount wd
Host {host}
Port {port}
User {user}
Pass "{password}"
SSLType None
AuthMechs LOGIN

IMAPStore far
Account wd

MaildirStore near
SubFolders Verbatim
Path {folder}/mail/
Inbox {folder}/mail/INBOX

Channel all
Far :far:
Near :near:
Patterns INBOX "Sent Mail" Trash
Create Near
Sync All
Expunge Both
SyncState *
"""


class Mbsync:
    """A Maildir kept in step with the account."""

    def __init__(self, server: Served, user: Account, folder: Path) -> None:
        self._program = need("mbsync")
        self.mail = folder / "mail"
        self.mail.mkdir()
        self._rc = folder / "mbsyncrc"
        self._rc.write_text(
            MBSYNCRC.format(
                host=server.imap.host,
                port=server.imap.port,
                user=user.username,
                password=user.password,
                folder=folder,
            )
        )

    def sync(self) -> str:
        """Bring both sides in step; what mbsync did, in its own words."""
        return run([self._program, "--config", str(self._rc), "--verbose", "all"]).decode()

    def messages(self, box: str) -> list[Path]:
        return sorted(path for part in ("new", "cur") for path in (self.mail / box / part).glob("*"))

    def put(self, box: str, name: str, message: bytes) -> None:
        (self.mail / box / "cur" / name).write_bytes(message)
