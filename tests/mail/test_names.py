"""Names of mailboxes: one spelling of INBOX, one of every accent."""

from __future__ import annotations

import pytest

from wd_trio.errors import Invalid
from wd_trio.mail.names import MAX_LEVELS, MAX_NAME_BYTES, canonical, checked, fold_inbox


@pytest.mark.parametrize(
    ("name", "folded"),
    [
        ("inbox", "INBOX"),
        ("iNbOx/Work", "INBOX/Work"),
        ("INBOX/inbox", "INBOX/inbox"),
        ("inboxes", "inboxes"),
        ("Work/inbox", "Work/inbox"),
        (
            "\u0131nbox",
            "\u0131nbox",
        ),  # a dotless i, whose capital is I: ASCII letters alone fold (RFC 3501 §5.1)
        ("\u0131nbox/Work", "\u0131nbox/Work"),
        ("", ""),
    ],
)
def test_only_ascii_letters_make_an_inbox(name: str, folded: str) -> None:
    assert fold_inbox(name) == folded
    assert canonical(name) == folded


def test_accents_are_composed() -> None:
    assert canonical("Entwu\u0308rfe") == "Entw\u00fcrfe"
    assert canonical("inbox/u\u0308") == "INBOX/\u00fc"
    longer = "u\u0308" * MAX_NAME_BYTES
    assert canonical(longer) == longer, "too long to exist, not worth the work"


@pytest.mark.parametrize(
    "name",
    ["", "/a", "a/", "a//b", "a%", "*", "a\x7fb", "a\u200bb", "x" * 1001, "/".join("a" * (MAX_LEVELS + 1))],
)
def test_what_no_mailbox_may_be_called(name: str) -> None:
    with pytest.raises(Invalid):
        checked(name)


def test_what_a_mailbox_may_be_called() -> None:
    assert checked("inbox/\u0131nbox") == "INBOX/\u0131nbox"
    assert checked("/".join("a" * MAX_LEVELS)) == "/".join("a" * MAX_LEVELS)
