"""The contract of documents: compare-and-set, unique indexes, pages."""

from __future__ import annotations

import pytest

from wd_trio import errors
from wd_trio.ports.documents import Collection, Delete, Document, Documents, Index, Insert, Update

PEOPLE = Collection("people", (Index("name", unique=True), Index("groups"), Index("city")))
PLACES = Collection("places", (Index("name", unique=True),))


def names(found: list[Document]) -> list[str]:
    return [document.data["name"] for document in found]


def test_insert_get_update_delete(documents: Documents) -> None:
    data = {"name": "ann", "nested": {"a": [1, 2.5, None, True, "ü"]}, "big": 1 << 53}
    documents.apply([Insert(PEOPLE, "1", data)])
    assert documents.get(PEOPLE, "1") == Document("1", 1, data)
    assert documents.get(PLACES, "1") is None
    documents.apply([Update(PEOPLE, "1", 1, {"name": "anna"})])
    assert documents.get(PEOPLE, "1") == Document("1", 2, {"name": "anna"})
    assert documents.find(PEOPLE, "name", "ann") == []
    assert names(documents.find(PEOPLE, "name", "anna")) == ["anna"]
    documents.apply([Delete(PEOPLE, "1", 2), Delete(PEOPLE, "absent")])
    assert documents.get(PEOPLE, "1") is None
    assert documents.find(PEOPLE, "name", "anna") == []


def test_a_changed_version_is_a_conflict(documents: Documents) -> None:
    documents.apply([Insert(PEOPLE, "1", {"name": "ann"})])
    documents.apply([Update(PEOPLE, "1", 1, {"name": "ann", "n": 1})])
    for operation in (Update(PEOPLE, "1", 1, {"name": "lost"}), Delete(PEOPLE, "1", 1)):
        with pytest.raises(errors.Conflict) as caught:
            documents.apply([operation])
        assert caught.value.what == "version"
    with pytest.raises(errors.NotFound):
        documents.apply([Update(PEOPLE, "gone", 1, {})])
    document = documents.get(PEOPLE, "1")
    assert document is not None
    assert (document.version, document.data["n"]) == (2, 1)


def test_unique_values_are_unique_in_their_collection(documents: Documents) -> None:
    documents.apply([Insert(PEOPLE, "1", {"name": "ann"}), Insert(PLACES, "1", {"name": "ann"})])
    documents.apply([Insert(PEOPLE, "2", {"name": "bob"}), Insert(PEOPLE, "3", {}), Insert(PEOPLE, "4", {})])
    for operation in (Insert(PEOPLE, "5", {"name": "ann"}), Update(PEOPLE, "2", 1, {"name": "ann"})):
        with pytest.raises(errors.Conflict) as caught:
            documents.apply([operation])
        assert caught.value.what == "name"
    with pytest.raises(errors.Conflict) as caught:
        documents.apply([Insert(PEOPLE, "1", {"name": "zoe"})])
    assert caught.value.what == "id"


def test_apply_is_all_or_nothing(documents: Documents) -> None:
    documents.apply([Insert(PEOPLE, "1", {"name": "ann"})])
    with pytest.raises(errors.Conflict):
        documents.apply(
            [
                Insert(PEOPLE, "2", {"name": "bob"}),
                Delete(PEOPLE, "1"),
                Update(PEOPLE, "2", 7, {"name": "bobby"}),
            ]
        )
    assert documents.get(PEOPLE, "2") is None
    assert names(documents.find(PEOPLE, "name", "ann")) == ["ann"]
    assert documents.find(PEOPLE, "name", "bob") == []


def test_a_unique_value_moves_within_one_apply(documents: Documents) -> None:
    documents.apply([Insert(PEOPLE, "1", {"name": "ann"}), Insert(PEOPLE, "2", {"name": "bob"})])
    documents.apply([Update(PEOPLE, "1", 1, {"name": "bob"}), Update(PEOPLE, "2", 1, {"name": "ann"})])
    assert [document.id for document in documents.find(PEOPLE, "name", "ann")] == ["2"]
    documents.apply([Insert(PEOPLE, "3", {"name": "bob"}), Delete(PEOPLE, "1")])
    assert [document.id for document in documents.find(PEOPLE, "name", "bob")] == ["3"]
    documents.apply([Delete(PEOPLE, "3"), Insert(PEOPLE, "3", {"name": "cid"})])
    assert documents.get(PEOPLE, "3") == Document("3", 1, {"name": "cid"})


def test_a_list_is_indexed_by_each_of_its_values(documents: Documents) -> None:
    documents.apply(
        [
            Insert(PEOPLE, "2", {"name": "bob", "groups": ["x"]}),
            Insert(PEOPLE, "1", {"name": "ann", "groups": ["x", "y", "x"]}),
            Insert(PEOPLE, "3", {"name": "cid", "groups": [], "city": None}),
        ]
    )
    assert names(documents.find(PEOPLE, "groups", "x")) == ["ann", "bob"]
    assert names(documents.find(PEOPLE, "groups", "x", limit=1)) == ["ann"]
    documents.apply([Update(PEOPLE, "1", 1, {"name": "ann", "groups": ["y", "z"]})])
    assert names(documents.find(PEOPLE, "groups", "x")) == ["bob"]
    assert names(documents.find(PEOPLE, "groups", "z")) == ["ann"]
    with pytest.raises(errors.Invalid):
        documents.apply([Insert(PEOPLE, "4", {"name": "dan", "groups": [7]})])
    with pytest.raises(errors.Invalid):
        documents.apply([Insert(PEOPLE, "4", {"name": 7})])


def test_an_undeclared_index_is_a_key_error(documents: Documents) -> None:
    with pytest.raises(KeyError):
        documents.find(PEOPLE, "age", "7")
    with pytest.raises(KeyError):
        documents.page(PEOPLE, "age")


def test_pages_come_in_order_and_join(documents: Documents) -> None:
    cities = ["Bern", "Aarau", "Chur", "Bern", "Bern", "Basel", "Zug"]
    documents.apply(
        [Insert(PEOPLE, str(n), {"name": f"n{n}", "city": city}) for n, city in enumerate(cities)]
    )
    seen: list[str] = []
    after: str | None = None
    while True:
        page = documents.page(PEOPLE, "city", after=after, limit=2)
        assert page.total == 7
        assert len(page.documents) <= 2
        seen += [document.id for document in page.documents]
        after = page.next
        if after is None:
            break
    assert seen == ["1", "5", "0", "3", "4", "2", "6"]


def test_pages_go_back_as_they_came(documents: Documents) -> None:
    names_ = [f"{city}{n}" for city in ("Bern", "Chur", "Basel") for n in range(7)] + ["Chu", "Chus", "D"]
    documents.apply([Insert(PLACES, str(n), {"name": name}) for n, name in enumerate(names_)])
    for prefix in ("", "Chur", "D"):
        pages = [documents.page(PLACES, "name", prefix=prefix, limit=3)]
        assert pages[0].previous is None
        while pages[-1].next is not None:
            pages.append(documents.page(PLACES, "name", prefix=prefix, after=pages[-1].next, limit=3))
        back = [pages[-1]]
        while back[-1].previous is not None:
            back.append(documents.page(PLACES, "name", prefix=prefix, before=back[-1].previous, limit=3))
            assert back[-1].next is not None
            assert back[-1].total == len([name for name in names_ if name.startswith(prefix)])
        assert [page.documents for page in reversed(back)] == [page.documents for page in pages]


def test_a_cursor_outside_of_the_prefix_shows_nothing_else(documents: Documents) -> None:
    documents.apply([Insert(PLACES, str(n), {"name": name}) for n, name in enumerate("abcd")])
    low = documents.page(PLACES, "name", limit=1).next
    high = documents.page(PLACES, "name", limit=3).next
    for page in (
        documents.page(PLACES, "name", prefix="b", before=high),
        documents.page(PLACES, "name", prefix="b", after=low),
    ):
        assert [document.data["name"] for document in page.documents] == ["b"]
    assert documents.page(PLACES, "name", prefix="b", before=low).documents == ()
    with pytest.raises(errors.Invalid):
        documents.page(PLACES, "name", before="no cursor")


def test_pages_of_a_prefix(documents: Documents) -> None:
    values = ["a", "ab", "abc", "ab\U0010ffff", "ab\U0010ffffz", "ac", "b", "A", "ab\x00", "\ud7ff", "\ue000"]
    documents.apply([Insert(PLACES, str(n), {"name": name}) for n, name in enumerate(values)])
    for prefix in ("", "a", "ab", "ab\U0010ffff", "z", "\ud7ff", "\U0010ffff"):
        expected = sorted(name for name in values if name.startswith(prefix))
        page = documents.page(PLACES, "name", prefix=prefix, limit=50)
        assert [document.data["name"] for document in page.documents] == expected
        assert (page.total, page.next) == (len(expected), None)
    first = documents.page(PLACES, "name", prefix="ab", limit=2)
    second = documents.page(PLACES, "name", prefix="ab", after=first.next, limit=50)
    together = [*first.documents, *second.documents]
    assert [document.data["name"] for document in together] == sorted(
        name for name in values if name.startswith("ab")
    )


def test_a_cursor_never_leads_out_of_the_prefix(documents: Documents) -> None:
    documents.apply(
        [Insert(PLACES, str(n), {"name": name}) for n, name in enumerate(["a1", "a2", "b1", "c1"])]
    )
    before, behind = (documents.page(PLACES, "name", after=None, limit=n).next for n in (1, 3))
    for cursor, expected in ((before, ["b1"]), (behind, [])):
        page = documents.page(PLACES, "name", prefix="b", after=cursor)
        assert [document.data["name"] for document in page.documents] == expected


@pytest.mark.parametrize("cursor", ["", "!", "bm8", "x" * 99, "WzEsMl0", "é"])
def test_a_cursor_of_someone_elses_is_invalid(documents: Documents, cursor: str) -> None:
    with pytest.raises(errors.Invalid):
        documents.page(PLACES, "name", after=cursor)


def test_hostile_names_are_values_like_others(documents: Documents) -> None:
    hostile = ["x' OR '1'='1", "%", "_", "a\x00b", "a", '{"$ne": 1}', "'; DROP TABLE documents; --"]
    documents.apply([Insert(PLACES, str(n), {"name": name}) for n, name in enumerate(hostile)])
    for name in hostile:
        assert names(documents.find(PLACES, "name", name)) == [name]
    with pytest.raises(errors.Invalid):
        documents.find(PLACES, "name", "\udcff")
