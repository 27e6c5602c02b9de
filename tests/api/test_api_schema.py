"""Reading requests: what texts become, and that every fault is told."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st
from msgspec import Meta

from wd_trio.api.fields import Id, Limit
from wd_trio.api.paging import turn_of
from wd_trio.api.schema import Faults, Item, Paging, Reader, Request, decode_cursor, encode_cursor

ID = "0123456789abcdef01234567"


class Inner(Item, frozen=True):
    size: int


class Sample(Request, frozen=True):
    user: Id
    is_on: bool | None = None
    off: Annotated[bool, Meta(description="x")] = False
    limit: Limit = 20
    tags: list[str] | None = None
    kind: Literal["a", "b"] = "a"
    secret: Annotated[str, Meta(max_length=5)] | bool = False
    inner: Inner | None = None


READER = Reader(Sample)


def faults_of(**given: Any) -> dict[str, str]:
    with pytest.raises(Faults) as caught:
        READER.read(given)
    return caught.value.details


@pytest.mark.parametrize("word", ["Y", "y", "yes", "YES", "on", "1", "true", "True", True, 1])
def test_words_for_yes(word: object) -> None:
    read = READER.read({"user": ID, "isOn": word, "off": word})
    assert (read.is_on, read.off) == (True, True)


@pytest.mark.parametrize("word", ["N", "no", "off", "0", "false", "FALSE", False, 0])
def test_words_for_no(word: object) -> None:
    read = READER.read({"user": ID, "isOn": word, "off": word})
    assert (read.is_on, read.off) == (False, False)


@pytest.mark.parametrize("word", ["maybe", "", "10", 2, [], {}, "ye\u017f"])
def test_words_for_neither(word: object) -> None:
    assert set(faults_of(user=ID, isOn=word)) == {"isOn"}


def test_texts_become_numbers_and_lists() -> None:
    read = READER.read({"user": ID, "limit": "250", "tags": "one", "secret": "hello", "inner": {"size": "7"}})
    assert (read.limit, read.tags, read.secret, read.inner) == (250, ["one"], "hello", Inner(size=7))
    assert READER.read({"user": ID, "tags": ["a", "b"]}).tags == ["a", "b"]


def test_every_fault_is_told() -> None:
    faults = faults_of(
        isOn="maybe", limit=0, tags=[1], kind="c", secret="too long", inner={"size": "x"}, other=1, is_on=True
    )
    assert set(faults) == {
        "user", "isOn", "limit", "tags[0]", "kind", "secret", "inner.size", "other", "is_on"
    }  # fmt: skip
    assert faults["user"] == "is required"
    assert faults["other"] == "is not allowed"
    assert "<= 250" in faults_of(user=ID, limit=251)["limit"]


def test_faults_are_bounded() -> None:
    many = faults_of(**{f"key{n}" * 1000: n for n in range(1000)})
    assert len(many) <= 102
    assert all(len(name) <= 310 and len(text) <= 310 for name, text in many.items())


@drawn(
    st.dictionaries(
        st.sampled_from(
            ["user", "isOn", "off", "limit", "tags", "kind", "secret", "inner", "sess", "x", "y"]
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(ID),
            lambda inner: (
                st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
            ),
            max_leaves=3,
        ),
    )
)
def test_a_request_is_read_or_its_faults_name_what_is_wrong(given: dict[str, Any]) -> None:
    """Without the fields that were named the same request has no faults, but for the required ones."""
    try:
        read = READER.read(dict(given))
    except Faults as error:
        named = {name.partition("[")[0].partition(".")[0] for name in error.details}
        assert named
        good = {name: value for name, value in given.items() if name not in named}
        READER.read({"user": ID} | good)
    else:
        assert msgspec.structs.asdict(read)["user"] == given["user"]


@drawn(st.tuples(st.text(), st.integers(0, 1 << 40)))
def test_cursors(position: tuple[str, int]) -> None:
    try:
        cursor = encode_cursor(position)
    except UnicodeEncodeError:
        return
    assert decode_cursor(cursor, "next", tuple[str, int]) == position


@pytest.mark.parametrize(
    "cursor", ["", "a", "%%%", "bm90aGluZw", encode_cursor([1]), encode_cursor({"a": 1}), "é"]
)
def test_what_is_no_cursor(cursor: str) -> None:
    with pytest.raises(Faults) as caught:
        decode_cursor(cursor, "next", tuple[str, int])
    assert set(caught.value.details) == {"next"}


def test_turns() -> None:
    turn = turn_of(Paging(page=4))
    assert (turn.after, turn.before, turn.page) == (None, None, 4)
    bounds = turn.bounds(total=9, previous="p", next="n")
    forward = turn_of(Paging(next=str(bounds["next_cursor"]), page=77))
    assert (forward.after, forward.before, forward.page) == ("n", None, 5)
    back = turn_of(Paging(previous=str(bounds["previous_cursor"])))
    assert (back.after, back.before, back.page) == (None, "p", 3)
    ends = turn.bounds(total=9, previous=None, next=None)
    assert (ends["previous_cursor"], ends["next_cursor"]) == (False, False)
