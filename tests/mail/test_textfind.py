"""Texts in pieces: the finder and the text of HTML say the same however the pieces are cut."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from wd_trio.mail.htmltext import HtmlText
from wd_trio.mail.textfind import Finder, fold

# Letters that compose with their neighbours, fold to several, or change order.
ALPHABET = "aAe ßΣİ\u0301\u0308\u0323\u0327\u1100\u1161\u11a8\uac00ﬁ\u0344\u212b漢"
TEXTS = st.text(st.sampled_from(ALPHABET) | st.characters(exclude_categories=["Cs"]), max_size=60)


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    ends = sorted({min(cut, len(text)) for cut in cuts} | {len(text)})
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def found(pieces: list[str], needles: set[str]) -> set[str]:
    missing = set(needles)
    finder = Finder(missing)
    for number, piece in enumerate(pieces, 1):
        finder.feed(piece, last=number == len(pieces))
    return needles - missing


@given(
    TEXTS,
    st.lists(st.integers(0, 60), max_size=6),
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9))),
)
@example("xe\u0301y", [2], [(0, 4)])
@example("\u1100\u1161\u11a8", [1, 2], [(0, 3)])
def test_a_needle_is_found_however_a_text_is_cut(
    text: str, cuts: list[int], spans: list[tuple[int, int]]
) -> None:
    needles = {fold(text[start : start + size]) for start, size in spans} | {"a\u0301", "e", "ss"}
    needles.discard("")
    whole = {needle for needle in needles if needle in fold(text)}
    assert found(pieces_of(text, cuts), needles) == whole
    assert found(list(text) or [""], needles) == whole


def test_folding_is_for_comparing_without_case_and_form() -> None:
    for one, other in (
        ("STRASSE", "straße"),
        ("É", "e\u0301"),
        ("ΣΑΣ", "σας"),
        ("\u212bngstrom", "Ångstrom"),
        ("ﬁ", "FI"),
    ):
        assert fold(one) == fold(other)
    assert fold("é") != fold("e")
    assert fold("ASCII Text") == "ascii text"


def test_runs_of_accents_cost_no_more_than_other_text() -> None:
    """By the square of their length, each of these would take minutes."""
    for run in ("\u0301" * 200_000 + "\u0316" * 200_000, "\u0316\u0301" * 200_000, "\u0f73" * 200_000):
        assert found(["a" + run + "needle"], {"needle", "noodle"}) == {"needle"}
    assert fold("e" + "\u0316\u0301" * 30) == fold("e" + "\u0301\u0316" * 30)


def test_a_run_of_accents_takes_little_memory() -> None:
    finder = Finder({"x"})
    for _ in range(100):
        finder.feed("\u0301" * 1000, last=False)
    assert len(finder._held) < 100


def html_text(pieces: list[str]) -> str:
    reader = HtmlText()
    return "".join(
        reader.feed(piece, last=number == len(pieces)) for number, piece in enumerate(pieces, 1)
    ).strip()


TAGS = "<b>|</b>|<p>|<br/>|<!--|-->|<script>|</SCRIPT\t>|</style>|&amp;|&nbsp;|&lt;|&#65;|&|<|>|word|a| |\r\n"
MARKUP = st.lists(st.sampled_from([*TAGS.split("|"), "<style x>", "<a href='" + "u" * 50]), max_size=20).map(
    "".join
)


@given(MARKUP, st.lists(st.integers(0, 200), max_size=6))
def test_the_text_of_html_is_the_same_however_it_is_cut(markup: str, cuts: list[int]) -> None:
    assert html_text(pieces_of(markup, cuts)) == html_text([markup])
    assert html_text(list(markup) or [""]) == html_text([markup])


def test_the_text_of_html_is_what_a_reader_sees() -> None:
    for markup, text in (
        ("<p>one<p>two", "one two"),
        ("o<b>n</b>e <i>two</i>", "one two"),
        ("a<!-- <b> -->b", "ab"),
        ("a<style>p{}</style>b<SCRIPT>if (a < b) </SCRIPT>c", "a b c"),
        ("1 < 2 &amp;&amp; 3 > 2", "1 < 2 && 3 > 2"),
        ("a&nbsp;&nbsp;b \r\n c", "a b c"),
        ("open <a href='x", "open"),
        ("&lt;b&gt;", "<b>"),
        ("end <", "end <"),
    ):
        assert html_text([markup]) == text
