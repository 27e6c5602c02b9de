"""What became of messages since a modseq: in one crossing from the journal, else by a walk that forgets nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from delivery_house import House, open_house

from wd_trio.mail.content import prepare
from wd_trio.mail.model import DELETED, FLAGGED, FlagChange, NewMessage
from wd_trio.mail.numset import UidSet
from wd_trio.service.messages import MessageOptions, Messages

USER = "0" * 24
MESSAGES = 20
ALL = UidSet([(1, MESSAGES)])


def filled(house: House) -> tuple[str, int]:
    """A mailbox where, after the modseq given, uids 3 and 4 went and 5 … 7 and 19 changed."""
    prepared = prepare(b"Subject: x\r\n\r\n")
    messages = [NewMessage(prepared.content(), 1_800_000_000) for _ in range(MESSAGES)]
    appended = house.store.append(USER, "INBOX", messages, create=True)
    mailbox_id = appended.mailbox_id
    early = UidSet.of([1, 8])
    house.store.expunge(mailbox_id, UidSet.of([2]), marked_only=False)
    modseq = house.store.store_flags(mailbox_id, early, FlagChange("add", FLAGGED)).modseq
    house.store.expunge(mailbox_id, UidSet.of([3, 4]), marked_only=False)
    house.store.store_flags(mailbox_id, UidSet.of([5, 6, 7]), FlagChange("add", DELETED))
    house.store.store_flags(mailbox_id, UidSet.of([19]), FlagChange("add", FLAGGED))
    return mailbox_id, modseq


async def told(
    house: House, flag_rows: int, mailbox_id: str, uids: UidSet, modseq: int
) -> tuple[UidSet | None, list[list[int]]]:
    options = MessageOptions(flag_rows=flag_rows)
    service = Messages(
        gateway=house.gateway, store=house.store, hub=house.hub, intake=house.intake, options=options
    )
    since = await service.since(mailbox_id, uids, modseq)
    return since.gone, [list(rows.uids) async for rows in since.changed]


async def test_the_journal_tells_it_at_once(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        mailbox_id, modseq = filled(house)
        assert await told(house, 6, mailbox_id, ALL, modseq) == (UidSet.of([3, 4]), [[5, 6, 7, 19]])
        assert await told(house, 6, mailbox_id, UidSet([(6, 9)]), modseq) == (UidSet.of([3, 4]), [[6, 7]])
        assert await told(house, 6, mailbox_id, ALL, modseq + 3) == (UidSet(), [[]])


async def test_too_much_for_a_page_is_walked(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        mailbox_id, modseq = filled(house)
        gone, pages = await told(house, 4, mailbox_id, ALL, modseq)
        assert gone is None, "it does not say what it has not looked at to the end"
        assert len(pages) == MESSAGES // 4
        assert [uid for page in pages for uid in page] == [5, 6, 7, 19]


@pytest.mark.parametrize("beyond", [True, False])
async def test_a_modseq_that_the_journal_does_not_reach(beyond: bool, tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        mailbox_id, modseq = filled(house)
        if beyond:
            assert await told(house, 100, mailbox_id, ALL, modseq + 99) == (None, [[]])
            return
        assert house.store.trim_journal(older_than_s=-60, limit=10) == 1
        assert await told(house, 100, mailbox_id, ALL, modseq) == (None, [[5, 6, 7, 19]])
        living = [uid for uid in ALL if uid not in (2, 3, 4)]
        assert await told(house, 100, mailbox_id, ALL, -1) == (None, [living])
