"""Addresses over the API."""

from __future__ import annotations

import pytest
from api_world import NOBODY, ApiWorld

from wd_trio.secret import Secret


async def test_a_users_addresses(world: ApiWorld) -> None:
    ann, anns = await world.user("ann")
    root, path = world.root, f"/users/{ann}/addresses"
    second = await root.post(path, address="Second@Example.ORG")
    third = await root.post(path, address="third@example.org", main="yes")
    listed = (await root.get(path))["results"]
    assert [(each["address"], each["main"]) for each in listed] == [
        ("ann@example.org", False),
        ("second@example.org", False),
        ("third@example.org", True),
    ]
    assert (await anns.get("/users/me/addresses"))["results"] == listed
    one = await anns.get(f"/users/me/addresses/{third['id']}")
    assert {"success": True, **listed[2]} == one
    assert (await root.get(f"/users/{ann}"))["address"] == "third@example.org"

    assert await root.refused("DELETE", f"{path}/{third['id']}") == (403, "ChangeNotAllowed")
    await root.put(f"{path}/{second['id']}", main=True)
    await root.put(f"{path}/{second['id']}", main=True)
    await root.delete(f"{path}/{third['id']}")
    assert await root.refused("GET", f"{path}/{third['id']}") == (404, "AddressNotFound")
    assert await root.refused("DELETE", f"{path}/{third['id']}") == (404, "AddressNotFound")
    assert await root.refused("PUT", f"{path}/{third['id']}", {"main": True}) == (404, "AddressNotFound")
    assert await root.refused("PUT", f"{path}/{second['id']}", {"main": False}) == (
        400,
        "InputValidationError",
    )
    assert (await root.get(f"/users/{ann}"))["address"] == "second@example.org"


async def test_the_first_address_is_the_main_one(world: ApiWorld) -> None:
    made = await world.root.post("/users", username="plain", password=False)
    await world.root.post(f"/users/{made['id']}/addresses", address="p@example.org")
    assert (await world.root.get(f"/users/{made['id']}"))["address"] == "p@example.org"


async def test_the_address_of_a_username_stays(world: ApiWorld) -> None:
    user = await world.services.users.create("u@example.org", Secret("x"), address="main@example.org")
    found = await world.root.get("/addresses/resolve/u@example.org")
    assert found["user"] == user.id
    refused = await world.root.refused("DELETE", f"/users/{user.id}/addresses/{found['id']}")
    assert refused == (403, "ChangeNotAllowed")


@pytest.mark.parametrize(
    ("user", "address", "status", "code"),
    [
        (None, "ben@example.org", 400, "AddressExistsError"),
        (None, "no address", 400, "InputValidationError"),
        (None, "a@b@", 400, "InputValidationError"),
        (NOBODY, "new@example.org", 404, "UserNotFound"),
    ],
)
async def test_addresses_that_cannot_be_added(
    world: ApiWorld, user: str | None, address: str, status: int, code: str
) -> None:
    ann, _ = await world.user("ann")
    await world.user("ben")
    refused = await world.root.refused("POST", f"/users/{user or ann}/addresses", {"address": address})
    assert refused == (status, code)


async def test_another_users_address_is_not_found_under_this_one(world: ApiWorld) -> None:
    ann, anns = await world.user("ann")
    await world.user("ben")
    bens = await world.root.get("/addresses/resolve/BEN@example.org")
    for caller, base in ((world.root, f"/users/{ann}"), (anns, "/users/me")):
        assert await caller.refused("GET", f"{base}/addresses/{bens['id']}") == (404, "AddressNotFound")
    for method, json in (("DELETE", None), ("PUT", {"main": True})):
        path = f"/users/{ann}/addresses/{bens['id']}"
        assert await world.root.refused(method, path, json) == (404, "AddressNotFound")
    await world.root.get("/addresses/resolve/ben@example.org")
    assert (await world.root.get(f"/users/{ann}"))["address"] == "ann@example.org"


async def test_a_users_token_reads_its_own_addresses_only(world: ApiWorld) -> None:
    ann, anns = await world.user("ann")
    ben, _ = await world.user("ben")
    own = (await anns.get("/users/me/addresses"))["results"][0]["id"]
    others = (await world.root.get(f"/users/{ben}/addresses"))["results"][0]["id"]
    calls = [
        ("GET", f"/users/{ben}/addresses", None),
        ("GET", f"/users/{ben}/addresses/{others}", None),
        ("POST", f"/users/{ann}/addresses", {"address": "x@example.org"}),
        ("POST", f"/users/{ben}/addresses", {"address": "x@example.org"}),
        ("PUT", f"/users/me/addresses/{own}", {"main": True}),
        ("DELETE", f"/users/{ann}/addresses/{own}", None),
        ("GET", "/addresses", None),
        ("GET", "/addresses/resolve/ben@example.org", None),
    ]
    for method, path, json in calls:
        assert await anns.refused(method, path, json) == (403, "MissingPrivileges"), path


async def test_all_addresses_by_page(world: ApiWorld) -> None:
    ids = {}
    for name in ("ann", "ben", "cleo"):
        ids[name], _ = await world.user(name)
    await world.root.post(f"/users/{ids['ben']}/addresses", address="b2@example.org")
    first = await world.root.get("/addresses", limit=2)
    assert (first["total"], first["page"], first["previousCursor"]) == (4, 1, False)
    assert [(each["address"], each["user"]) for each in first["results"]] == [
        ("ann@example.org", ids["ann"]),
        ("b2@example.org", ids["ben"]),
    ]
    second = await world.root.get("/addresses", limit=2, next=first["nextCursor"])
    assert [each["address"] for each in second["results"]] == ["ben@example.org", "cleo@example.org"]
    assert second["nextCursor"] is False
    back = await world.root.get("/addresses", limit=2, previous=second["previousCursor"])
    assert back["results"] == first["results"]
    some = await world.root.get("/addresses", query="B")
    assert (some["total"], len(some["results"])) == (2, 2)


async def test_resolving(world: ApiWorld) -> None:
    ann, _ = await world.user("ann")
    assert (await world.root.get("/addresses/resolve/Ann@Example.org"))["user"] == ann
    assert await world.root.refused("GET", "/addresses/resolve/x@example.org") == (404, "AddressNotFound")
    assert await world.root.refused("GET", "/addresses/resolve/nothing") == (400, "InputValidationError")
