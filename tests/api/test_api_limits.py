"""How often tokens may call, and which pages of other origins."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio.testing
from api_world import ApiWorld, open_api_world

from wd_trio.api.limits import Buckets

HERE = "https://mail.example.org"


async def test_a_rate_and_its_bursts(mock_clock: trio.testing.MockClock) -> None:
    buckets = Buckets()
    waits = [buckets.take("a", per_s=2.0, burst_s=2.0) for _ in range(5)]
    assert waits == [0.0, 0.0, 0.0, 0.0, pytest.approx(0.5)]
    assert buckets.take("b", per_s=2.0, burst_s=2.0) == 0.0
    mock_clock.jump(0.25)
    assert buckets.take("a", per_s=2.0, burst_s=2.0) == pytest.approx(0.25)
    mock_clock.jump(0.3)
    assert buckets.take("a", per_s=2.0, burst_s=2.0) == 0.0
    assert buckets.take("a", per_s=2.0, burst_s=2.0) > 0.0
    mock_clock.jump(100)
    assert [buckets.take("a", per_s=2.0, burst_s=2.0) > 0 for _ in range(5)] == [False] * 4 + [True]


async def test_one_call_always_fits() -> None:
    buckets = Buckets()
    assert buckets.take("a", per_s=0.01, burst_s=1.0) == 0.0
    assert buckets.take("a", per_s=0.01, burst_s=1.0) == pytest.approx(100, rel=0.01)


async def test_the_table_is_bounded() -> None:
    buckets = Buckets(most=2)
    for key in ("a", "b", "a", "c"):
        buckets.take(key, per_s=1.0, burst_s=1.0)
    assert list(buckets._full_at_s) == ["a", "c"]


async def test_a_token_that_calls_too_often(tmp_path: Path, mock_clock: trio.testing.MockClock) -> None:
    async with open_api_world(tmp_path, options_requests_per_s=0.5, options_burst_s=4.0) as world:
        ann, anns = await world.user("ann")
        _, bens = await world.user("ben")
        for _ in range(2):
            await anns.get("/users/me")
        answered = await anns.call("GET", "/users/me")
        assert (answered.status, answered.json["code"]) == (429, "RateLimitedError")
        assert answered.headers["Retry-After"] == "2"
        assert await anns.refused("GET", "/nothing-there") == (404, "NotFound")
        await bens.get("/users/me")
        for _ in range(5):
            await world.root.get(f"/users/{ann}")
        mock_clock.jump(2)
        await anns.get("/users/me")


async def test_root_may_be_limited_too(tmp_path: Path) -> None:
    async with open_api_world(tmp_path, options_root_requests_per_s=0.1) as world:
        await world.root.get("/users")
        assert await world.root.refused("GET", "/users") == (429, "RateLimitedError")
        other = world.caller((await world.services.tokens.issue_root()).reveal())
        await other.get("/users")


# -- other origins


async def test_no_origin_is_let_in_by_default(world: ApiWorld) -> None:
    answered = await world.root.call("GET", "/users", headers={"Origin": HERE})
    assert answered.status == 200
    assert not [name for name, _ in answered.headers if name.lower().startswith("access-control")]
    asked = {"Origin": HERE, "Access-Control-Request-Method": "GET"}
    assert (await world.caller(None).call("OPTIONS", "/users", headers=asked)).status == 405


async def test_listed_origins(tmp_path: Path) -> None:
    async with open_api_world(tmp_path, options_cors_origins=(HERE,)) as world:
        asked = {"Origin": HERE, "Access-Control-Request-Method": "POST"}
        told = await world.caller(None).call("OPTIONS", "/users", headers=asked)
        assert (told.status, told.body) == (200, b"")
        assert told.headers["Access-Control-Allow-Origin"] == HERE
        assert told.headers["Access-Control-Allow-Methods"] == "GET, HEAD, POST"
        assert "Authorization" in told.headers["Access-Control-Allow-Headers"]
        assert "Access-Control-Allow-Credentials" not in told.headers
        for path, status in (("/users", 200), ("/users/nobody", 400), ("/nothing", 404), ("/health", 200)):
            answered = await world.root.call("GET", path, headers={"Origin": HERE})
            assert answered.status == status
            assert answered.headers["Access-Control-Allow-Origin"] == HERE
            assert answered.headers["Vary"] == "Origin"
        for headers in ({}, {"Origin": "https://evil.example"}, {"Origin": HERE + ".evil.example"}):
            answered = await world.root.call("GET", "/users", headers=headers)
            assert "Access-Control-Allow-Origin" not in answered.headers
            assert answered.headers["Vary"] == "Origin"
        strange = asked | {"Origin": "https://evil.example"}
        refused = await world.caller(None).call("OPTIONS", "/users", headers=strange)
        assert refused.status == 405
        plain = await world.caller(None).call("OPTIONS", "/users", headers={"Origin": HERE})
        assert plain.status == 405


async def test_any_origin(tmp_path: Path) -> None:
    async with open_api_world(tmp_path, options_cors_origins=("*",)) as world:
        answered = await world.root.call("GET", "/users", headers={"Origin": "https://any.example"})
        assert answered.headers["Access-Control-Allow-Origin"] == "https://any.example"
