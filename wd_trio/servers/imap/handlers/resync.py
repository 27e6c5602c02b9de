"""What a client missed: SELECT … (QRESYNC …) and UID FETCH … (CHANGEDSINCE … VANISHED) (RFC 7162 §3.2.5, §3.2.6).

VANISHED (EARLIER) names what the client may have kept and is gone, and never a message that it has a number for: such
a one is told by VANISHED once that may be. The journal says what is gone since the client's modseq. Where it does not
reach back so far, everything is named of which the client speaks and which does not live: more than needed, perhaps,
and never less.
"""

from __future__ import annotations

from wd_trio.mail.numset import UidSet
from wd_trio.mail.view import View
from wd_trio.proto.imap import commands as c
from wd_trio.proto.imap import encode
from wd_trio.servers.imap.selected import Selected
from wd_trio.servers.imap.session import ImapSession

MODSEQ_BEFORE_ALL = -1


async def tell_missed(session: ImapSession, selected: Selected, resync: c.Resync) -> None:
    """After a mailbox was selected: what is gone, and the flags of what changed, among what the client knows. Nothing
    when it knows another incarnation of the mailbox."""
    view = selected.view
    if resync.uid_validity != view.uid_validity:
        return
    ever = UidSet([(1, view.uid_next - 1)])
    known = ever if resync.known is None else resync.known & ever
    # A modseq that the mailbox has not reached says nothing of what the client knows.
    modseq = resync.modseq if resync.modseq <= view.known else MODSEQ_BEFORE_ALL
    since = await session.services.messages.since(selected.place.mailbox_id, known & view.uids, modseq)
    gone = known if since.gone is None else known & since.gone
    await tell_gone(session, view, gone.between(matched_uid(view, resync.match) + 1, view.uid_next))
    async for rows in since.changed:
        selected.shown(rows.modseqs)  # of which some may be later than the opening
        for line in selected.new_keywords(rows.keywords.values()):
            session.write(line)
        session.write(encode.fetch_flags(view.seqs(rows.uids), rows, uid=True, flags=True, modseq=True))
        await session.flush_if_full()


async def tell_gone(session: ImapSession, view: View, gone: UidSet) -> None:
    """VANISHED (EARLIER) for those of `gone` that the client has no number for."""
    for line in encode.vanished(gone - view.uids, earlier=True):
        session.write(line)
        await session.flush_if_full()


def matched_uid(view: View, match: tuple[UidSet, UidSet]) -> int:
    """The highest uid of a client's samples that still has the number it had; 0 for none. Numbers only ever move
    down, so nothing at or below it is gone that the client had not heard of (RFC 7162 §3.2.5.2); and samples match up
    to one of them, and none behind it.
    """
    numbers, uids = match
    matching, beyond = 0, len(uids)
    while matching < beyond:
        middle = (matching + beyond) // 2
        if view.seq(uids.at(middle)) == numbers.at(middle):
            matching = middle + 1
        else:
            beyond = middle
    return uids.at(matching - 1) if matching else 0
