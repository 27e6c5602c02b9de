"""Users over the API: shapes, faults, pages, and whom a token reaches."""

from __future__ import annotations

import pytest
import trio
from api_world import NOBODY, ApiWorld, Caller

from wd_trio.errors import NotFound
from wd_trio.ports.bus import Hint
from wd_trio.secret import Secret


async def test_create_show_change_delete(world: ApiWorld) -> None:
    root = world.root
    made = await root.post(
        "/users", username="Ann.B", password="secret", address="ann@example.org", name="Ann", quota=1000
    )
    path = f"/users/{made['id']}"
    shown = await root.get(path)
    created = shown.pop("created")
    assert created.startswith("20")
    assert created.endswith("Z")
    assert shown == {
        "success": True,
        "id": made["id"],
        "username": "ann.b",
        "name": "Ann",
        "address": "ann@example.org",
        "limits": {"quota": {"allowed": 1000, "used": 0}},
        "hasPasswordSet": True,
        "activated": True,
        "disabled": False,
        "suspended": False,
    }
    assert (await root.get("/users/resolve/ANN.B"))["id"] == made["id"]
    await root.put(
        path, name="Ännchen", quota="2000", disabled="yes", suspended="on", sess="s1", ip="192.0.2.7"
    )
    changed = await root.get(path)
    assert (changed["name"], changed["limits"]["quota"]["allowed"]) == ("Ännchen", 2000)
    assert (changed["disabled"], changed["suspended"]) == (True, True)
    await root.put(path, disabled="N")
    assert (await root.get(path))["disabled"] is False
    await root.delete(path)
    assert await root.refused("GET", path) == (404, "UserNotFound")
    assert await root.refused("DELETE", path) == (404, "UserNotFound")
    assert await root.refused("PUT", path, {"name": "x"}) == (404, "UserNotFound")
    assert await root.refused("PUT", f"{path}/logout") == (404, "UserNotFound")
    assert await root.refused("GET", "/users/resolve/ann.b") == (404, "UserNotFound")


async def test_a_user_without_password_or_address(world: ApiWorld) -> None:
    made = await world.root.post("/users", username="plain", password=False, emptyAddress=True)
    shown = await world.root.get(f"/users/{made['id']}")
    assert (shown["address"], shown["hasPasswordSet"]) == ("", False)


async def test_names_and_addresses_are_unique(world: ApiWorld) -> None:
    await world.user("ann")
    again = {"username": "ANN", "password": "x"}
    assert await world.root.refused("POST", "/users", again) == (400, "UserExistsError")
    other = {"username": "ben", "password": "x", "address": "Ann@EXAMPLE.org"}
    assert await world.root.refused("POST", "/users", other) == (400, "AddressExistsError")


async def test_all_faults_are_told_at_once(world: ApiWorld) -> None:
    answered = await world.root.call(
        "POST", "/users", {"password": 7, "quota": -1, "address": "x", "tags": ["a"], "language": "et"}
    )
    assert answered.status == 400
    assert answered.json["code"] == "InputValidationError"
    assert set(answered.json["details"]) == {"username", "password", "quota", "address", "tags", "language"}
    assert answered.json["details"]["username"] == "is required"
    assert answered.json["details"]["tags"] == "is not allowed"


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"username": "a b", "password": "x"}, "username"),
        ({"username": "a", "password": True}, "password"),
        ({"username": "a", "password": "\0"}, "password"),
        ({"username": "a", "password": "x", "address": "no address"}, "address"),
        ({"username": "a", "password": "x", "name": "a\nb"}, "name"),
        ({"username": "a", "password": "x", "address": "a@b.c", "emptyAddress": True}, "address"),
        ({"username": "a", "password": "x", "quota": 1.5}, "quota"),
        ({"username": "a", "password": "x", "quota": 1 << 60}, "quota"),
    ],
)
async def test_faults_of_one_field(world: ApiWorld, given: dict[str, object], field: str) -> None:
    answered = await world.root.call("POST", "/users", given)
    assert (answered.status, answered.json["code"]) == (400, "InputValidationError")
    assert set(answered.json["details"]) == {field}
    assert (await world.root.get("/users"))["total"] == 0


@pytest.mark.parametrize(
    "user_id", ["me", "a" * 23, "a" * 25, "A" * 24, "g" * 24, "%0a" + "a" * 24, "a" * 24 + "%0a"]
)
async def test_ids_are_24_hex_digits(world: ApiWorld, user_id: str) -> None:
    answered = await world.root.call("GET", f"/users/{user_id}")
    assert answered.status == 400
    assert set(answered.json["details"]) == {"user"}


async def test_the_path_wins_over_query_and_body(world: ApiWorld) -> None:
    ann, _ = await world.user("ann")
    ben, _ = await world.user("ben")
    answered = await world.root.call(
        "PUT", f"/users/{ann}", {"user": ben, "name": "body"}, query={"user": ben, "name": "query"}
    )
    assert answered.status == 200
    assert (await world.root.get(f"/users/{ann}"))["name"] == "query"
    assert (await world.root.get(f"/users/{ben}"))["name"] == ""


async def test_pages_lead_both_ways(world: ApiWorld) -> None:
    for n in range(7):
        await world.services.users.create(f"user{n}", None)
    await world.services.users.create("other", None)
    root = world.root
    assert (await root.get("/users"))["total"] == 8
    first = await root.get("/users", limit=3, query="user")
    assert (first["total"], first["page"], first["previousCursor"], first["query"]) == (7, 1, False, "user")
    assert [each["username"] for each in first["results"]] == ["user0", "user1", "user2"]
    second = await root.get("/users", limit=3, query="user", next=first["nextCursor"])
    third = await root.get("/users", limit=3, query="user", next=second["nextCursor"])
    assert [each["username"] for each in third["results"]] == ["user6"]
    assert (third["page"], third["nextCursor"]) == (3, False)
    back = await root.get("/users", limit=3, query="user", previous=third["previousCursor"])
    assert (back["results"], back["page"]) == (second["results"], 2)
    start = await root.get("/users", limit=3, query="user", previous=back["previousCursor"])
    assert (start["results"], start["page"], start["previousCursor"]) == (first["results"], 1, False)
    shown = "id username name address quota hasPasswordSet activated disabled suspended created"
    assert set(first["results"][0]) == set(shown.split())


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "0"},
        {"limit": "251"},
        {"limit": "many"},
        {"next": "bm90aGluZw"},
        {"next": "!"},
        {"next": "WyJ4IiwxXQ"},  # ["x",1]: ours outside, nobody's inside
        {"previous": "WyJ4IiwxXQ"},
        {"next": "WyJ4IiwxXQ", "previous": "WyJ4IiwxXQ"},
        {"page": "-1"},
        {"forward": "x"},
    ],
)
async def test_bad_pages_are_faults(world: ApiWorld, query: dict[str, str]) -> None:
    assert await world.root.refused("GET", "/users", **query) == (400, "InputValidationError")


async def test_a_users_token_reaches_its_own_user_only(world: ApiWorld) -> None:
    ann, anns = await world.user("ann")
    ben, _ = await world.user("ben")
    assert (await anns.get(f"/users/{ann}"))["username"] == "ann"
    assert (await anns.get("/users/me"))["id"] == ann
    await anns.put("/users/me", name="Me")
    await anns.put("/users/me/logout")
    calls = [
        ("GET", f"/users/{ben}", None),
        ("GET", f"/users/{NOBODY}", None),
        ("PUT", f"/users/{ben}", {"name": "x"}),
        ("PUT", f"/users/{ben}/logout", None),
        ("DELETE", f"/users/{ben}", None),
        ("DELETE", f"/users/{ann}", None),
        ("PUT", f"/users/{ann}", {"quota": 0}),
        ("PUT", f"/users/{ann}", {"disabled": False}),
        ("PUT", "/users/me", {"suspended": False}),
        ("POST", "/users", {"username": "c", "password": "x"}),
        ("GET", "/users", None),
        ("GET", "/users/resolve/ben", None),
        ("POST", "/authenticate", {"username": "ben", "password": "x"}),
    ]
    for method, path, json in calls:
        assert await anns.refused(method, path, json) == (403, "MissingPrivileges"), path
    assert (await world.root.get(f"/users/{ben}"))["name"] == ""
    sneaky = await anns.call("PUT", "/users/me", {"name": "n", "user": ben}, query={"user": ben})
    assert sneaky.status == 200
    assert (await world.root.get(f"/users/{ben}"))["name"] == ""


async def test_the_existing_password_is_verified_first(world: ApiWorld) -> None:
    _, anns = await world.user("ann")
    wrong = {"existingPassword": "wrong", "password": "new", "name": "x"}
    assert await anns.refused("PUT", "/users/me", wrong) == (403, "AuthFailed")
    assert (await anns.get("/users/me"))["name"] == ""
    await anns.put("/users/me", existingPassword="secret of ann", password="new")
    logged = await world.root.post("/authenticate", username="ann", password="new")
    assert logged["username"] == "ann"


class Connection:
    """A connection with a session."""

    ip = "192.0.2.1"
    secure = True

    def __init__(self) -> None:
        self.kicked = trio.Event()

    async def log_in(self, world: ApiWorld, name: str) -> None:
        login = await world.services.auth.login(
            username=name, password=Secret(f"secret of {name}"), peer_ip=self.ip, protocol="imap"
        )
        await world.services.sessions.begin(
            login, protocol="imap", peer=self, kick=lambda _: self.kicked.set()
        )


@pytest.mark.parametrize(
    ("method", "rest", "json"),
    [
        ("PUT", "/logout", {"reason": "enough"}),
        ("PUT", "", {"password": "new"}),
        ("PUT", "", {"disabled": True}),
        ("PUT", "", {"suspended": True}),
        ("DELETE", "", None),
    ],
)
async def test_sessions_end(
    world: ApiWorld, nursery: trio.Nursery, method: str, rest: str, json: dict[str, object] | None
) -> None:
    ann, _ = await world.user("ann")
    await world.user("ben")
    anns, bens = Connection(), Connection()
    await anns.log_in(world, "ann")
    await bens.log_in(world, "ben")
    nursery.start_soon(world.services.sessions.run)
    assert (await world.root.call(method, f"/users/{ann}{rest}", json)).status == 200
    await anns.kicked.wait()
    assert not bens.kicked.is_set()


@pytest.mark.parametrize(("method", "write"), [("PUT", "update"), ("DELETE", "delete")])
async def test_sessions_end_when_the_request_is_cancelled_after_its_write(
    world: ApiWorld, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, method: str, write: str
) -> None:
    ann, _ = await world.user("ann")
    connection = Connection()
    await connection.log_in(world, "ann")
    nursery.start_soon(world.services.sessions.run)
    genuine = getattr(world.services.users, write)

    async def interrupted(*arguments: object) -> None:
        await genuine(*arguments)
        request.cancel()
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(world.services.users, write, interrupted)
    with trio.CancelScope() as request:
        await world.root.call(method, f"/users/{ann}", {"password": "new"} if method == "PUT" else None)
    assert request.cancelled_caught
    await connection.kicked.wait()


async def test_a_repeated_deletion_ends_sessions_that_are_left(
    world: ApiWorld, nursery: trio.Nursery
) -> None:
    ann, _ = await world.user("ann")
    connection = Connection()
    await connection.log_in(world, "ann")
    await world.services.users.delete(ann)
    nursery.start_soon(world.services.sessions.run)
    assert await world.root.refused("DELETE", f"/users/{ann}") == (404, "UserNotFound")
    await connection.kicked.wait()


async def test_no_session_ends_with_a_new_name(world: ApiWorld) -> None:
    ann, _ = await world.user("ann")
    hints: list[Hint] = []
    world.services.hub.listen(hints.append)
    await Connection().log_in(world, "ann")
    await world.root.put(f"/users/{ann}", name="x", disabled=False)
    assert {hint.kind for hint in hints} == {"account"}, "others look at the user again, and that is all"
    await world.root.put(f"/users/{ann}/logout")
    assert [hint.user_id for hint in hints if hint.kind == "kill"] == [ann]


async def test_a_suspended_user_gets_mail_but_no_log_in(world: ApiWorld) -> None:
    ann, _ = await world.user("ann")
    await world.root.put(f"/users/{ann}", suspended=True)
    await world.services.users.resolve("ann@example.org")
    asked = {"username": "ann", "password": "secret of ann"}
    assert await world.root.refused("POST", "/authenticate", asked) == (403, "AuthFailed")
    await world.root.put(f"/users/{ann}", suspended=False)
    await world.root.post("/authenticate", **asked)


async def test_budgets(world: ApiWorld) -> None:
    ann, anns = await world.user("ann")

    async def cost(caller: Caller, method: str, path: str) -> int:
        before = world.crossings()
        assert (await caller.call(method, path)).status == 200
        return world.crossings() - before

    assert await cost(world.root, "GET", f"/users/{ann}") == 1
    assert await cost(anns, "GET", f"/users/{ann}") == 2  # and its token
    assert await cost(anns, "GET", f"/users/{ann}") == 1
    assert await cost(world.root, "GET", "/users") == 1
    assert await cost(anns, "GET", f"/users/{ann}/addresses") == 1
    assert await cost(anns, "GET", "/authenticated") == 0
    assert await cost(world.root, "GET", "/addresses") == 1


async def test_deleting_takes_addresses_and_tokens_along(world: ApiWorld) -> None:
    ann, anns = await world.user("ann")
    await anns.get("/users/me")
    await world.root.delete(f"/users/{ann}")
    assert await anns.refused("GET", "/users/me") == (403, "InvalidToken")
    with pytest.raises(NotFound):
        await world.services.users.resolve("ann@example.org")
    assert (await world.root.get("/addresses"))["total"] == 0
