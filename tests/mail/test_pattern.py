"""LIST patterns, against a table and against an independent matcher."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wd_trio.mail.pattern import matches


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("*", "a/b", True),
        ("%", "a/b", False),
        ("%", "a", True),
        ("a/%", "a/b", True),
        ("a/%", "a/b/c", False),
        ("a*c", "a/b/c", True),
        ("%/%", "a/b", True),
        ("inbox", "INBOX", True),
        ("Inbox", "Inbox2", False),
        ("sent", "Sent", False),
        ("", "a", False),
        ("*%", "a/b", True),
        ("%*", "a/b", True),
    ],
)
def test_table(pattern: str, name: str, expected: bool) -> None:
    assert matches(pattern, name) is expected


@given(st.text("ab/*%", max_size=6), st.text("ab/", max_size=8))
def test_like_a_regular_expression(pattern: str, name: str) -> None:
    regex = "".join({"*": ".*", "%": "[^/]*"}.get(letter, re.escape(letter)) for letter in pattern)
    assert matches(pattern, name) is bool(re.fullmatch(regex, name))


def test_many_wildcards_cost_no_more_than_the_product() -> None:
    assert not matches("*a" * 200 + "b", "a" * 400)
