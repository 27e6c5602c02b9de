"""The selected mailbox of a session: its view, its subscription, and what they make of news.

A hint that joins on to what the view knows is told from the hint itself; anything else asks the store for the
changes since. Lines come one at a time, so that a large expunge is told in constant memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from wd_trio.mail.model import FlagRow, Opened
from wd_trio.mail.numset import UidSet
from wd_trio.mail.view import ExistsUpdate, ExpungeUpdate, Told, VanishedUpdate, View
from wd_trio.proto.imap import encode
from wd_trio.service.changes import ChangeHub, Subscription
from wd_trio.service.messages import Messages, Place


class Selected:
    """One selected mailbox. `read_only` is EXAMINE's."""

    def __init__(
        self,
        opened: Opened,
        uids: UidSet,
        *,
        read_only: bool,
        hub: ChangeHub,
        on_change: Callable[[], None],
        view: View | None = None,
    ) -> None:
        """`view`: of a client that selected the mailbox before; else it is told of `uids` now."""
        mailbox = opened.mailbox
        modseq = mailbox.highest_modseq
        self.read_only = read_only
        self._keywords_told = view is None
        if view is None:
            view = View(Told(mailbox.uid_validity, mailbox.uid_next, modseq, modseq), uids)
        self.view = view
        self.subscription: Subscription = hub.subscribe(
            mailbox.id, on_change, known_modseq=self.view.known, user_id=mailbox.user_id
        )
        self.place = Place(mailbox.user_id, mailbox.id, self.subscription)
        self._keywords = set(opened.keywords.split())
        self._standing = self.view.settled
        self._shown = 0
        self._told_vanished = False

    @property
    def keywords(self) -> list[str]:
        """Those of the mailbox, as far as this session knows: what FLAGS is to tell."""
        return sorted(self._keywords)

    def close(self) -> None:
        self.subscription.close()

    async def refresh(self, messages: Messages) -> None:
        """Bring the view up to date with the subscription's news; no engine is asked where hints suffice.
        Outdated or NotFound when the numbers cannot be kept."""
        if not self.subscription:
            return
        hints, ask = self.subscription.take()
        for hint in hints:
            if not hint.modseq:
                ask = True  # it was emptied, renamed or deleted: only the store can say
            elif hint.modseq > self.view.known and not (hint.changes and self.view.absorb(hint.changes)):
                ask = True
        if not ask:
            return
        try:
            async for changes in messages.changes_since(self.place.mailbox_id, self.view.known):
                self.view.absorb(changes)
        except BaseException:
            self.subscription.ask_store = True  # what was taken and not told is asked for the next time
            raise

    def shown(self, modseqs: Iterable[int]) -> None:
        """FETCH responses told the client these modseqs."""
        self._shown = max(self._shown, max(modseqs, default=0))

    @property
    def behind(self) -> bool:
        """Whether the client knows more than it believes, since VANISHED said it."""
        return self._told_vanished

    def be_behind(self) -> None:
        self._standing, self._told_vanished = 0, True

    def stand(self, *, by_uid: bool) -> int:
        """Call before each tagged reply: the HIGHESTMODSEQ to tell the client, 0 for none.

        At a tagged reply a client that is told none takes the highest modseq of the FETCH responses for its own
        (RFC 7162 §3.2.4). That is too much while a change below is still untold: an expunge that must wait, or what
        others did and nobody has asked for yet. It is too little where VANISHED said what is gone (`by_uid`).
        """
        settled, believed = self.view.settled, max(self._standing, self._shown)
        correct = believed > settled or (by_uid and self._told_vanished and believed < settled)
        self._standing, self._shown, self._told_vanished = settled if correct else believed, 0, False
        return settled if correct else 0

    def tell(self, *, may_expunge: bool, modseq: bool, by_uid: bool = False) -> Iterator[bytes]:
        """The untagged lines for what is still untold, modseqs of flags where the client follows them; what is gone
        `by_uid` where it enabled QRESYNC."""
        if not self.view.news:
            return
        for update in self.view.tell(may_expunge=may_expunge, by_uid=by_uid):
            if isinstance(update, ExpungeUpdate):
                yield encode.expunge(update.seq)
            elif isinstance(update, VanishedUpdate):
                self._told_vanished = True
                yield from encode.vanished(update.uids)
            elif isinstance(update, ExistsUpdate):
                yield encode.exists(update.count)
            else:
                yield from self.new_keywords((update.row.keywords,))
                self.shown((update.row.modseq,))
                yield self.flags_line(update.seq, update.row, uid=True, modseq=modseq)

    @staticmethod
    def flags_line(seq: int, row: FlagRow, *, uid: bool, modseq: bool, flags: bool = True) -> bytes:
        """`* n FETCH (UID … FLAGS (…) MODSEQ (…))`, of which UID where the client asked by uid or did not ask at
        all, MODSEQ where it follows them."""
        items = [b"UID %d" % row.uid] if uid else []
        if flags:
            items.append(b"FLAGS " + encode.flags_list(row.flags, row.keywords))
        if modseq:
            items.append(encode.modseq(row.modseq))
        return encode.fetch_line(seq, b" ".join(items))

    def new_keywords(self, texts: Iterable[str]) -> Iterator[bytes]:
        """A fresh FLAGS response where messages' keywords hold such as the client has not been told of. One that goes
        on from a slot may have been told of any or none: it hears of all once more, with the first that it is shown.
        """
        words = {word for text in texts if text for word in text.split()}
        if words - self._keywords or (words and not self._keywords_told):
            self._keywords |= words
            self._keywords_told = True
            yield encode.flags([*encode.SYSTEM_FLAG_NAMES, *self.keywords])
