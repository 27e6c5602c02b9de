"""Documents in MongoDB beyond the contract: any JSON comes back as it was, writers race, indexes lead to pages."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from cluster_house import fresh_mongo
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mongo_store_support import round_trips
from pymongo.collection import Collection as MongoCollection

from wd_trio import errors
from wd_trio.adapters.mongo_redis.documents import PREFIX, MongoDocuments
from wd_trio.adapters.mongo_redis.mongo import Mongo
from wd_trio.ports.documents import Collection, Delete, Document, Index, Insert, Update
from wd_trio.ports.ids import new_id

THINGS = Collection("things", (Index("name", unique=True), Index("tags"), Index("city")))

names = st.one_of(
    st.sampled_from(["$ref", "$id", "$db", "$set", "a.b", ".", "$", "", "_id", "a\0b", "text"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
)
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.integers(-(1 << 31), 1 << 31),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def mongo() -> Mongo:
    return fresh_mongo(time.time)


@pytest.fixture
def documents(mongo: Mongo) -> MongoDocuments:
    return MongoDocuments(mongo)


def kinds(value: Any) -> Any:
    """The shape of a value, so that 1, 1.0 and True differ."""
    if isinstance(value, dict):
        return {name: kinds(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [kinds(inner) for inner in value]
    return type(value), value


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.dictionaries(names, values, max_size=4), more=st.dictionaries(names, values, max_size=4))
def test_any_json_comes_back_as_it_was(
    documents: MongoDocuments, data: dict[str, Any], more: dict[str, Any]
) -> None:
    id_ = new_id()
    for shape in (data, more):
        shape.pop("name", None)
        shape.pop("tags", None)
        shape.pop("city", None)
    documents.apply([Insert(THINGS, id_, data | {"tags": [id_]})])
    (found,) = documents.find(THINGS, "tags", id_)
    assert kinds(found.data) == kinds(data | {"tags": [id_]})
    assert list(found.data) == list(data | {"tags": [id_]})
    documents.apply([Update(THINGS, id_, 1, more)])
    changed = documents.get(THINGS, id_)
    assert changed is not None
    assert kinds(changed.data) == kinds(more)
    assert documents.find(THINGS, "tags", id_) == []


def test_deep_values_come_back(documents: MongoDocuments) -> None:
    deep: Any = "ground"
    for _ in range(300):
        deep = {"in": [deep]}
    documents.apply([Insert(THINGS, "1", {"deep": deep})])
    found = documents.get(THINGS, "1")
    assert found is not None
    assert found.data == {"deep": deep}


def test_operators_find_plain_values_in_plain_sight(mongo: Mongo, documents: MongoDocuments) -> None:
    documents.apply([Insert(THINGS, "1", {"name": "ann", "quota": {"bytes": 1 << 40}})])
    found = mongo.database[PREFIX + "things"].find_one({"data.quota.bytes": {"$gt": 1 << 39}})
    assert found is not None
    assert found["data"]["name"] == "ann"


def test_what_is_too_large_is_invalid(documents: MongoDocuments) -> None:
    with pytest.raises(errors.Invalid):
        documents.apply([Insert(THINGS, "1", {"text": "x" * (17 << 20)})])
    assert documents.get(THINGS, "1") is None


def test_one_of_racing_writers_wins(documents: MongoDocuments) -> None:
    documents.apply([Insert(THINGS, "1", {"n": 0}), Insert(THINGS, "2", {"n": 0})])
    won: list[int] = []

    def count_up(which: int) -> None:
        for _ in range(10):
            while True:
                one, two = documents.get(THINGS, "1"), documents.get(THINGS, "2")
                assert one is not None
                assert two is not None
                operations = [
                    Update(THINGS, old.id, old.version, {"n": old.data["n"] + 1}) for old in (one, two)
                ]
                try:
                    documents.apply(operations if which % 2 else operations[::-1])
                except errors.Conflict as error:
                    assert error.what == "version"  # noqa: PT017  # any other fault ends the thread and the count
                else:
                    won.append(which)
                    break

    threads = [threading.Thread(target=count_up, args=(which,)) for which in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 30
    for id_ in ("1", "2"):
        found = documents.get(THINGS, id_)
        assert found is not None
        assert (found.version, found.data) == (31, {"n": 30})


@pytest.mark.parametrize("operation", [Update(THINGS, "1", 1, {"n": 2}), Delete(THINGS, "1", 1)])
def test_a_document_made_anew_beside_a_write_is_a_conflict(
    mongo: Mongo, documents: MongoDocuments, monkeypatch: pytest.MonkeyPatch, operation: Update | Delete
) -> None:
    """Another process removes the document and makes it again, just when this one finds it missing."""
    find_one = MongoCollection.find_one

    def made_anew(self: MongoCollection[Any], *args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(MongoCollection, "find_one", find_one)
        MongoDocuments(mongo).apply([Insert(THINGS, "1", {"n": 1})])
        return find_one(self, *args, **kwargs)

    documents.apply([Insert(THINGS, "2", {})])
    monkeypatch.setattr(MongoCollection, "find_one", made_anew)
    with pytest.raises(errors.Conflict) as caught:
        documents.apply([operation])
    assert caught.value.what == "version"
    assert documents.get(THINGS, "1") == Document("1", 1, {"n": 1})


def test_racing_inserts_of_one_unique_value_leave_one(documents: MongoDocuments) -> None:
    outcomes: list[str] = []

    def insert(number: int) -> None:
        try:
            documents.apply([Insert(THINGS, f"a{number}", {"name": "it"}), Insert(THINGS, f"b{number}", {})])
        except errors.Conflict as error:
            outcomes.append(error.what)
        else:
            outcomes.append("inserted")

    threads = [threading.Thread(target=insert, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["inserted", *["name"] * 4]
    (winner,) = documents.find(THINGS, "name", "it")
    others = [number for number in range(5) if documents.get(THINGS, f"b{number}") is not None]
    assert others == [int(winner.id[1:])]


def test_round_trips(documents: MongoDocuments) -> None:
    documents.ensure([THINGS])
    with round_trips() as made:
        documents.apply([Insert(THINGS, "1", {"name": "ann"})])
        documents.apply([Update(THINGS, "1", 1, {"name": "anna"})])
        documents.get(THINGS, "1")
        documents.find(THINGS, "name", "anna")
        documents.apply([Delete(THINGS, "1")])
    assert made == {"mongodb": 5}
    with round_trips() as made:
        documents.apply([Insert(THINGS, "1", {"name": "ann"}), Insert(THINGS, "2", {})])
    assert made == {"mongodb": 2}


@pytest.mark.parametrize("field", ["name", "city"])
def test_pages_and_finds_walk_their_index(mongo: Mongo, documents: MongoDocuments, field: str) -> None:
    documents.apply([Insert(THINGS, str(n), {"name": f"n{n:03}", "city": f"c{n:03}"}) for n in range(200)])
    mongo.database.command("profile", 2)
    try:
        first = documents.page(THINGS, field, limit=5)
        documents.page(THINGS, field, after=first.next, limit=5)
        later = documents.page(THINGS, field, prefix=field[0] + "1", limit=5)
        documents.page(THINGS, field, before=later.next, limit=5)
        documents.find(THINGS, field, f"{field[0]}007")
    finally:
        mongo.database.command("profile", 0)
    finds = list(mongo.database["system.profile"].find({"op": "query", "ns": {"$regex": "things$"}}))
    mongo.database.drop_collection("system.profile")
    assert len(finds) == 5
    for find in finds:
        assert find["docsExamined"] <= 12, find["planSummary"]
        assert not find.get("hasSortStage"), find["planSummary"]
