"""Modified UTF-7: the RFC's examples, one spelling for each name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wd_trio.errors import Invalid
from wd_trio.mail import mutf7

PAIRS = [
    ("", ""),
    ("INBOX", "INBOX"),
    ("A & B", "A &- B"),
    ("&&", "&-&-"),
    ("~peter/mail/台北/日本語", "~peter/mail/&U,BTFw-/&ZeVnLIqe-"),
    ("é", "&AOk-"),
    ("é&é", "&AOk-&-&AOk-"),
    ("\U0001f4e7", "&2D3c5w-"),
    ("tab\there", "tab&AAk-here"),
]


@pytest.mark.parametrize(("name", "spelled"), PAIRS)
def test_known_spellings(name: str, spelled: str) -> None:
    assert mutf7.encode(name) == spelled
    assert mutf7.decode(spelled) == name
    assert mutf7.decode(spelled.encode()) == name


@pytest.mark.parametrize(
    "wrong",
    [
        "&",
        "a&AOk",
        "&AOk",
        "&AO-",
        "&A-",
        "&AOkA-",
        "&AOl-",
        "&AGE-",
        "&AOk-&AOk-",
        "&ACY-",
        "&AOk=-",
        "&AO/k-",
        "&2D0-",
        "&3OfYPQ-",
        "é",
        "\x01",
        "&!!!!-",
        "&\u00e9-",
        "&" * 5000,
    ],
)
def test_wrong_spellings_are_refused(wrong: str) -> None:
    with pytest.raises(Invalid):
        mutf7.decode(wrong)


def test_bytes_that_are_no_ascii_are_refused() -> None:
    with pytest.raises(Invalid):
        mutf7.decode(b"\xc3\xa9")


def test_a_lone_surrogate_has_no_spelling() -> None:
    with pytest.raises(Invalid):
        mutf7.encode("a\ud800")


@given(st.text())
def test_every_name_has_one_ascii_spelling(name: str) -> None:
    spelled = mutf7.encode(name)
    assert spelled.isascii()
    assert not spelled or spelled.isprintable()
    assert mutf7.decode(spelled) == name


@given(st.text("&-AOk,/=é2D+x ", max_size=12))
def test_what_decodes_encodes_to_itself(spelled: str) -> None:
    try:
        name = mutf7.decode(spelled)
    except Invalid:
        return
    assert mutf7.encode(name) == spelled
