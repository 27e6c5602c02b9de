"""Where an IMAP connection stands, as its slot tells it (servers/slots.py says by what rules).

A command's beginning is noted before its handler runs, and after the last byte of its reply was accepted the slot is
*settled*: the fields say what the client now knows. Most commands change none or only the view's integers, so what
the slot says already is remembered, and only what differs is written.

While several commands of one read are answered together, READING stays set until the last of them: replies that wait
in this process would be lost with it, and so nobody may go on with the one command in the slot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from wd_trio.proto.imap import commands as c
from wd_trio.servers.slots import TAG_BYTES, USER_AGENT_BYTES, Phase, Progress, Slot, Standing

if TYPE_CHECKING:
    from wd_trio.servers.imap.session import ImapSession

NUMBERS: Final[dict[type, int]] = {
    kind: number
    for number, kind in enumerate(
        (
            c.Capability,
            c.Noop,
            c.Logout,
            c.Id,
            c.Login,
            c.Authenticate,
            c.List,
            c.Namespace,
            c.Status,
            c.Select,
            c.Unselect,
            c.Close,
            c.Fetch,
            c.Store,
            c.Copy,
            c.Search,
            c.Create,
            c.Delete,
            c.Rename,
            c.Subscribe,
            c.Lsub,
            c.Check,
            c.Enable,
            c.GetQuota,
            c.GetQuotaRoot,
            c.SetQuota,
            c.Expunge,
            c.Append,
            c.Idle,
            c.StartTls,
        ),
        1,
    )
}
"""The number of each command in a slot. A new one goes to the end: another version may read what this one wrote."""

# An enum's own operators cost more than all the rest here.
_READING: Final = int(Progress.READING)
_BUSY: Final = int(Progress.BUSY)
_SAYING: Final = int(Progress.SAYING)
_FIXED: Final = int(Progress.FIXED)
_SECURE: Final = int(Standing.SECURE | Standing.INSIDE)

WRITING_KINDS: Final = frozenset(
    {c.Append, c.Close, c.Copy, c.Create, c.Delete, c.Expunge, c.Rename, c.Store, c.Subscribe}
)
"""What may change mail or mailboxes in a way that doing it twice, or saying NO to what was done, would show. Not
FETCH: \\Seen once set stays set. Not LIST, which may make the first mailboxes: they are there for the next one."""
_BUSY_WITH: Final = {
    kind: (number, _BUSY | int(Progress.WRITING) if kind in WRITING_KINDS else _BUSY)
    for kind, number in NUMBERS.items()
}
_BUSY_WITHOUT_NUMBER: Final = 0, _BUSY
EXPUNGE: Final = NUMBERS[c.Expunge]
SELECT: Final = NUMBERS[c.Select]
STORE: Final = NUMBERS[c.Store]
_MOST_SERIAL: Final = 0xFFFFFFFF
_NO_VIEW: Final = (0, 0, 0, 0, 0)


class Keeper:
    """Keeps the slot of one connection true."""

    __slots__ = ("_rest", "_serial", "_slot", "_view")

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self._serial = slot.serial
        self._rest: tuple[object, ...] = ()
        self._view = _NO_VIEW

    @property
    def serial(self) -> int:
        """The number of the command in progress, or of the last one."""
        return self._serial

    def begin(self, tag: str, kind: type, *, alone: bool) -> None:
        """A command is about to be handled. `alone`: nothing else was read, and nothing waits to be said."""
        slot = self._slot
        self._serial = serial = self._serial + 1 if self._serial < _MOST_SERIAL else 1
        number, progress = _BUSY_WITH.get(kind, _BUSY_WITHOUT_NUMBER)
        if len(tag) <= TAG_BYTES:
            slot.note_command(tag, number, serial)
        else:
            slot.serial = serial  # no later command may have it: an outcome would be taken for its own
            progress |= _FIXED
        kept = _SAYING if alone else _SAYING | _READING
        slot.progress = progress | (slot.progress & kept)

    def forget(self) -> None:
        """The session lets go of the connection: hold none of its objects, of which it holds this one."""
        self._rest = ()

    def settle(self, session: ImapSession, progress: int = 0) -> None:
        """Everything that was written has been accepted by the kernel: note what the client knows now, then what is
        in progress."""
        slot = self._slot
        selected = session.selected
        rest = (
            session.record,
            selected,
            session.idle_tag,
            session.condstore,
            session.qresync,
            session.engine.utf8,
            session.failed_logins,
            session.user_agent,
            selected is not None and selected.behind,
            session.waited,
        )
        view = selected.view.standing() if selected is not None else _NO_VIEW
        if rest != self._rest or view != self._view:
            slot.progress |= _SAYING  # what follows is not one write, whether anything was said or not
            if view != self._view:
                slot.note_view(*view)
                self._view = view
            if rest != self._rest:
                self._write_rest(session)
                self._rest = rest
        slot.progress = progress | _FIXED if len(session.idle_tag) > TAG_BYTES else progress

    def _write_rest(self, session: ImapSession) -> None:
        slot, record, selected = self._slot, session.record, session.selected
        flags = slot.standing & _SECURE
        for flag, is_set in (
            (Standing.CONDSTORE, session.condstore),
            (Standing.QRESYNC, session.qresync),
            (Standing.UTF8, session.engine.utf8),
            (Standing.IDLE, bool(session.idle_tag)),
            (Standing.SELECTED, selected is not None),
            (Standing.BEHIND, selected is not None and selected.behind),
            (Standing.READ_ONLY, selected is not None and selected.read_only),
        ):
            flags |= flag if is_set else 0
        slot.standing = flags
        slot.mailbox = selected.place.mailbox_id if selected is not None else ""
        slot.attempts = min(session.failed_logins, 255)
        slot.user_agent = cut(session.user_agent, USER_AGENT_BYTES)
        # Without IDLE the field is the command's, which may be in progress.
        if 0 < len(session.idle_tag) <= TAG_BYTES:
            slot.tag = session.idle_tag
        if record is not None:
            assert session.login is not None  # who has a session has logged in
            quota_bytes = session.login.quota_bytes
            slot.quota_bytes = -1 if quota_bytes is None else quota_bytes
            slot.session, slot.user, slot.created_ms = record.id, record.user_id, record.created_ms
            # Time that another task has begun to count goes on until the client is heard; one's own costs no writing.
            slot.until_s = session.until_s if session.waited else 0
            slot.phase = Phase.OPEN
        else:
            slot.until_s = session.until_s
            slot.phase = Phase.GREETED


def cut(text: str, most_bytes: int) -> str:
    """As much of a text as fits into so many octets of UTF-8."""
    return text.encode("utf-8", "replace")[:most_bytes].decode("utf-8", "ignore")
