"""Reading messages as the API shows them: pages of a mailbox, one message, its texts, its bytes, its attachments.

Everything names a user and a mailbox by id, and finds only what is that user's. A page is one crossing whatever is
on it: it brings what was rendered at delivery and parses no body. What is streamed comes in pieces of at most
256 KiB, so a message of any size costs the same memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from wd_trio.errors import Invalid, NotFound
from wd_trio.mail import charset
from wd_trio.mail.model import Columns, Mailbox, MessagePage, MessageRow
from wd_trio.mail.parts import Leaf, PartTable
from wd_trio.mail.render import Body
from wd_trio.mail.rope import Rope
from wd_trio.mail.transfer import Feed, decoder
from wd_trio.ports.gateway import Gateway
from wd_trio.ports.mail import MailStore
from wd_trio.service.mailboxes import owned
from wd_trio.service.messages import Messages
from wd_trio.service.steps import Steps

TEXT_BYTES: Final = 2 << 20
"""Of the texts of a message, together and as they are encoded, so much is shown."""


class Reading:
    """Use cases that change nothing. All raise NotFound (what="mailbox" or "message") and Unavailable."""

    def __init__(self, *, gateway: Gateway, store: MailStore, messages: Messages) -> None:
        self._gateway = gateway
        self._store = store
        self._messages = messages

    async def mailboxes(self, user_id: str) -> list[Mailbox]:
        """The mailboxes of a user in order of path; none for one who has none, or who is not there."""
        return await self._gateway.run(self._store.list_mailboxes, user_id)

    async def mailbox(self, user_id: str, mailbox_id: str) -> Mailbox:
        """A mailbox of this very user."""
        return await self._gateway.run(owned, self._store, user_id, mailbox_id)

    async def page(
        self,
        user_id: str,
        mailbox_id: str,
        columns: Columns,
        *,
        newest_first: bool = True,
        beyond: int = 0,
        unseen: bool = False,
        limit: int = 20,
    ) -> MessagePage:
        """Messages of a mailbox in order of uid, past `beyond` (0: from the end); one crossing."""
        return await self._gateway.run(
            self._store.page,
            user_id,
            mailbox_id,
            columns,
            newest_first=newest_first,
            beyond=beyond,
            unseen=unseen,
            limit=limit,
        )

    async def message(self, user_id: str, mailbox_id: str, uid: int, columns: Columns) -> MessageRow:
        """One message; one crossing."""
        page = await self.page(user_id, mailbox_id, columns, newest_first=False, beyond=uid - 1, limit=1)
        if not page.rows or page.rows[0].uid != uid:
            raise NotFound(f"mailbox {mailbox_id} has no message {uid}", what="message")
        return page.rows[0]

    def source(self, row: MessageRow) -> Steps[bytes]:
        """The bytes of a message read with Columns.ROPE."""
        return self._messages.stream(row, _rope(row), 0, row.size)

    def content(self, row: MessageRow, body: Body) -> Steps[bytes]:
        """A body of a message read with Columns.ROPE and PARTS, its transfer encoding undone. NotFound
        (what="attachment") when the message has no such part."""
        leaf = _leaf(row, body)
        pieces = self._messages.stream(row, _rope(row), leaf.start, leaf.stop)
        feed = _decoder(leaf.encoding)
        over = False

        async def next_piece() -> bytes | None:
            nonlocal over
            while not over:
                piece = await anext(pieces, None)
                over = piece is None
                data = feed(piece or b"", over)
                if data:
                    return data
            return None

        return Steps(next_piece)

    async def texts(self, row: MessageRow, bodies: Sequence[Body]) -> list[str]:
        """The texts of these bodies in order, cut where they are more than TEXT_BYTES together. The row was read
        with Columns.ROPE and PARTS."""
        rope = _rope(row)
        left = TEXT_BYTES
        texts: list[str] = []
        for body in bodies:
            leaf = _leaf(row, body)
            stop = min(leaf.stop, leaf.start + left)
            left -= stop - leaf.start
            pieces = [piece async for piece in self._messages.stream(row, rope, leaf.start, stop)]
            data = _decoder(leaf.encoding)(b"".join(pieces), True)
            texts.append(charset.decode(data, leaf.charset, cut=stop < leaf.stop))
        return texts


def _rope(row: MessageRow) -> Rope:
    return Rope.decode(row.rope or b"")


def _leaf(row: MessageRow, body: Body) -> Leaf:
    leaf = PartTable.decode(row.parts or b"").leaf(body.part)
    if leaf is None:
        raise NotFound(f"no part {body.part}", what="attachment")
    return leaf


def _decoder(encoding: str) -> Feed:
    """An encoding that nobody knows is given as it is (RFC 2045 §6.4: as application/octet-stream)."""
    try:
        return decoder(encoding)
    except Invalid:
        return decoder("binary")
