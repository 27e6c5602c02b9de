"""Log-in over the API, tokens, and who gets through without one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from api_world import ROOT_TOKEN, ApiWorld, open_api_world

from wd_trio.secret import random_token
from wd_trio.service.users import TOKENS

GUARDED = [
    ("GET", "/users"),
    ("POST", "/users"),
    ("GET", "/users/me"),
    ("PUT", "/users/me/logout"),
    ("GET", "/addresses"),
    ("POST", "/authenticate"),
    ("DELETE", "/authenticate"),
    ("GET", "/authenticated"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
]


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize(
    "token", [None, "", "wrong", "0" * 40, ROOT_TOKEN.upper(), ROOT_TOKEN + "0", "é" * 40]
)
async def test_no_way_in_without_a_token(world: ApiWorld, method: str, path: str, token: str | None) -> None:
    for way in ("bearer", "header", "query"):
        headers = {} if token is None or way == "query" else {"X-Access-Token": token}
        if token is not None and way == "bearer":
            headers = {"Authorization": f"Bearer {token}"}
        query = {"accessToken": token} if token is not None and way == "query" else None
        answered = await world.caller(None).call(method, path, headers=headers, query=query)
        assert answered.status == 403
        assert answered.json == {"error": "Invalid accessToken value", "code": "InvalidToken"}


async def test_health_and_metrics_ask_nobody(world: ApiWorld) -> None:
    for path in ("/health", "/health/live", "/metrics"):
        assert (await world.caller(None).call("GET", path)).status == 200


async def test_three_ways_to_say_a_token(world: ApiWorld) -> None:
    nobody = world.caller(None)
    for headers, query in (
        ({"Authorization": f"bEARER {ROOT_TOKEN}"}, None),
        ({"X-Access-Token": ROOT_TOKEN}, None),
        ({}, {"accessToken": ROOT_TOKEN}),
    ):
        answered = await nobody.call("GET", "/authenticated", headers=headers, query=query)
        assert answered.json == {"success": True, "role": "root", "user": None}


async def test_every_documented_route_wants_a_token(world: ApiWorld) -> None:
    described = await world.root.call("GET", "/openapi.json")
    for path, methods in described.json["paths"].items():
        for method, operation in methods.items():
            if "101" in operation["responses"]:
                continue  # a WebSocket's handshake is no call
            answered = await world.caller(None).call(method.upper(), path.replace("{user}", "me"))
            assert (answered.status, answered.json["code"]) == (403, "InvalidToken"), (method, path)


async def test_log_in_and_out(world: ApiWorld) -> None:
    ann, _ = await world.user("ann")
    asked = {"username": "Ann@example.org", "password": "secret of ann"}
    told = await world.root.post("/authenticate", **asked, protocol="webmail", scope="imap", ip="192.0.2.9")
    assert told == {
        "success": True,
        "id": ann,
        "username": "ann",
        "address": "ann@example.org",
        "scope": "imap",
        "require2fa": False,
        "requirePasswordChange": False,
    }
    token = (await world.root.post("/authenticate", **asked, token=True))["token"]
    anns = world.caller(token)
    assert await anns.get("/authenticated") == {"success": True, "role": "user", "user": ann}
    await anns.delete("/authenticate")
    assert await anns.refused("GET", "/authenticated") == (403, "InvalidToken")
    assert await anns.refused("DELETE", "/authenticate") == (403, "InvalidToken")
    assert await world.root.refused("DELETE", "/authenticate") == (403, "MissingPrivileges")


async def test_only_the_hash_of_a_token_is_kept(world: ApiWorld) -> None:
    ann, anns = await world.user("ann")
    found = await world.services.gateway.run(world.services.documents.find, TOKENS, "user", ann)
    assert anns.token is not None
    assert [each.data["hash"] for each in found] == [hashlib.sha256(anns.token.encode()).hexdigest()]
    assert anns.token not in str(found)


@pytest.mark.parametrize(
    ("username", "password"),
    [("ann", "wrong"), ("nobody", "secret of ann"), ("ann\0", "x"), ("ann", "\ud800")],
)
async def test_wrong_credentials_look_alike(world: ApiWorld, username: str, password: str) -> None:
    await world.user("ann")
    asked = {"username": username, "password": password}
    if password == "\ud800":
        answered = await world.root.call(
            "POST",
            "/authenticate",
            data=b'{"username":"ann","password":"\\ud800"}',
            headers={"Content-Type": "application/json"},
        )
        assert answered.status == 400
        return
    answered = await world.root.call("POST", "/authenticate", asked)
    assert (answered.status, answered.json) == (403, {"error": "Authentication failed", "code": "AuthFailed"})


async def test_failures_are_counted_for_the_users_own_address(world: ApiWorld) -> None:
    await world.user("ann")
    wrong = {"username": "ann", "password": "wrong", "ip": "192.0.2.66"}
    while (told := await world.root.refused("POST", "/authenticate", wrong))[0] == 403:
        pass
    assert told == (429, "RateLimitedError")
    answered = await world.root.call("POST", "/authenticate", wrong)
    assert int(answered.headers["Retry-After"]) > 0
    elsewhere = {"username": "ann", "password": "secret of ann", "ip": "192.0.2.67"}
    await world.root.post("/authenticate", **elsewhere)


async def test_a_new_password_ends_tokens(world: ApiWorld) -> None:
    ann, anns = await world.user("ann")
    _, bens = await world.user("ben")
    await anns.get("/users/me")
    await bens.get("/users/me")
    await anns.put("/users/me", password="new")
    assert await anns.refused("GET", "/users/me") == (403, "InvalidToken")
    await bens.get("/users/me")
    told = await world.root.post("/authenticate", username="ann", password="new", token=True)
    again = world.caller(told["token"])
    assert (await again.get("/users/me"))["id"] == ann
    await world.root.put(f"/users/{ann}", disabled=True)
    assert await again.refused("GET", "/users/me") == (403, "InvalidToken")


async def test_roots_second_token(world: ApiWorld) -> None:
    token = (await world.services.tokens.issue_root()).reveal()
    other = world.caller(token)
    assert (await other.get("/users"))["total"] == 0
    await other.delete("/authenticate")
    assert await other.refused("GET", "/users") == (403, "InvalidToken")


async def test_without_access_control_every_call_is_roots(tmp_path: Path) -> None:
    async with open_api_world(tmp_path, access_control=False) as world:
        _, anns = await world.user("ann")
        assert (await world.caller(None).get("/users"))["total"] == 1
        assert (await anns.get("/users/me"))["username"] == "ann"
        assert await anns.refused("GET", "/users") == (403, "MissingPrivileges")
        assert await world.caller(random_token()).refused("GET", "/users") == (403, "InvalidToken")
