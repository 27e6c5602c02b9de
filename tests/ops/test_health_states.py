"""Readiness and liveness over a real gateway whose engine hangs, fails or works."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from wd_trio.adapters.bridge import Gateway, LaneOptions
from wd_trio.adapters.sqlite.database import SqliteDatabase
from wd_trio.adapters.sqlite.store import SqliteStore
from wd_trio.api.app import create_app
from wd_trio.errors import Unavailable
from wd_trio.ops import health as health_
from wd_trio.ops.health import Health
from wd_trio.ports.gateway import reads


class HungStore(SqliteStore):
    """A store whose engine answers nothing until it is let go."""

    def __init__(self, database: SqliteDatabase) -> None:
        super().__init__(database)
        self.let_go = threading.Event()

    @reads("store")
    def ping(self) -> None:
        self.let_go.wait(30)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[SqliteDatabase]:
    made = SqliteDatabase(tmp_path / "mail.db")
    yield made
    made.close()


@pytest.fixture
async def gateway(database: SqliteDatabase) -> AsyncIterator[Gateway]:
    lanes = [
        LaneOptions(name="store.write", group=database.group),
        LaneOptions(name="store.read", threads=2, abandon=True),
        LaneOptions(name="work"),
    ]
    async with Gateway(lanes) as made:
        yield made


async def test_all_is_well(gateway: Gateway, database: SqliteDatabase) -> None:
    health = Health(gateway=gateway, pings={"store": SqliteStore(database).ping})
    for probe in (health.ready, health.live):
        status, body = await probe()
        assert status == 200
        assert body["status"] == "healthy"
        assert body["success"] is True
        assert str(body["timestamp"]).endswith("Z")
        assert body["version"]


async def test_an_engine_that_hangs_is_unready_but_alive(
    gateway: Gateway, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_, "READY_S", 0.05)
    store = HungStore(database)
    health = Health(gateway=gateway, pings={"store": store.ping})
    for _ in range(10):  # more than the lane has threads
        status, body = await health.ready()
        assert (status, body["status"], body["error"]) == (503, "unhealthy", "store too slow")
    assert (await health.live())[0] == 200
    store.let_go.set()


async def test_an_engine_that_is_gone_is_unready_but_alive(
    gateway: Gateway, database: SqliteDatabase
) -> None:
    health = Health(gateway=gateway, pings={"store": SqliteStore(database).ping})
    database.close()
    status, body = await health.ready()
    assert (status, body["error"]) == (503, "store unavailable")
    assert (await health.live())[0] == 200


async def test_on_the_way_out_it_is_draining(gateway: Gateway, database: SqliteDatabase) -> None:
    health = Health(gateway=gateway, pings={"store": SqliteStore(database).ping})
    health.draining = True
    status, body = await health.ready()
    assert (status, body["error"]) == (503, "draining")
    assert (await health.live())[0] == 200


async def test_without_a_gateway_it_is_not_alive(database: SqliteDatabase) -> None:
    health = Health(
        gateway=Gateway([LaneOptions(name="work")]), pings={"store": SqliteStore(database).ping}
    )  # never opened
    assert (await health.live())[0] == 503


# --- the application


async def test_routes_and_errors_have_one_shape(gateway: Gateway, database: SqliteDatabase) -> None:
    health = Health(gateway=gateway, pings={"store": SqliteStore(database).ping})

    async def no_metrics() -> str:
        raise Unavailable("nobody answers")

    async def broken() -> tuple[int, dict[str, object]]:
        raise RuntimeError("a secret detail")

    client = create_app(ready=health.ready, live=broken, metrics=no_metrics, services=None).test_client()
    expected = {
        "/health": (200, None),
        "/health/live": (500, {"error": "Internal error", "code": "InternalDatabaseError"}),
        "/metrics": (503, {"error": "The service is unavailable", "code": "ServiceUnavailable"}),
        "/nowhere": (404, {"error": "Not Found", "code": "NotFound"}),
    }
    for path, (status, body) in expected.items():
        response = await client.get(path)
        assert response.status_code == status
        told = await response.get_json()
        details = told.pop("details", None)  # the request's id, where the log says more
        assert (details is not None) == (status == 500)
        assert body is None or told == body
        assert response.headers["Cache-Control"] == "no-store"
    response = await client.delete("/health")
    assert response.status_code == 405
    assert (await response.get_json())["code"] == "MethodNotAllowed"
    assert "GET" in response.headers["Allow"]
