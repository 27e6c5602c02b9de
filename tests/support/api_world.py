"""The API over real services in one process: the app, and a client that speaks JSON with a token."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import trio

from wd_trio.api.app import Api as App
from wd_trio.api.app import create_app
from wd_trio.api.services import ApiServices
from wd_trio.config import Api, Auth, Config, Store
from wd_trio.ops.boot import Services, api_services, open_services
from wd_trio.secret import Secret

ROOT_TOKEN = "0123456789abcdef0123456789abcdef01234567"
NOBODY = "f" * 24


@dataclass
class Answered:
    status: int
    headers: Any
    body: bytes
    json: Any


class Caller:
    """Calls with one token; None sends none."""

    def __init__(self, app: App, token: str | None) -> None:
        self._app = app
        self.token = token

    async def call(
        self,
        method: str,
        path: str,
        json: Any = None,
        *,
        query: dict[str, Any] | None = None,
        data: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answered:
        sent = dict(headers or {})
        if self.token is not None:
            sent["Authorization"] = f"Bearer {self.token}"
        raw_path = quote(
            path.partition("?")[0], safe="/%"
        ).encode()  # the test client's own would lose line ends
        given: dict[str, Any] = {"headers": sent, "scope_base": {"raw_path": raw_path}}
        if json is not None:
            given["json"] = json
        if query is not None:
            given["query_string"] = query
        if data is not None:
            given["data"] = data
        response = await self._app.test_client().open(path, method=method, **given)
        body = await response.get_data(as_text=False)
        is_json = response.mimetype == "application/json"
        return Answered(
            response.status_code, response.headers, body, await response.get_json() if is_json else None
        )

    async def get(self, path: str, **query: Any) -> Any:
        return await self._good(await self.call("GET", path, query=query or None))

    async def post(self, path: str, **json: Any) -> Any:
        return await self._good(await self.call("POST", path, json))

    async def put(self, path: str, **json: Any) -> Any:
        return await self._good(await self.call("PUT", path, json))

    async def delete(self, path: str) -> Any:
        return await self._good(await self.call("DELETE", path))

    async def _good(self, answered: Answered) -> Any:
        assert (answered.status, answered.json["success"]) == (200, True), answered
        return answered.json

    async def refused(self, method: str, path: str, json: Any = None, **query: Any) -> tuple[int, str]:
        """Status and code of a call that fails, in the one shape that failures have."""
        answered = await self.call(method, path, json, query=query or None)
        assert answered.status >= 400, answered
        assert set(answered.json) - {"details"} == {"error", "code"}
        return answered.status, answered.json["code"]


@dataclass
class ApiWorld:
    services: Services
    app: App
    api: ApiServices

    @property
    def root(self) -> Caller:
        return Caller(self.app, ROOT_TOKEN)

    def caller(self, token: str | None) -> Caller:
        return Caller(self.app, token)

    async def user(self, name: str) -> tuple[str, Caller]:
        """A user's id, and its own caller."""
        user = await self.services.users.create(
            name, Secret(f"secret of {name}"), address=f"{name}@example.org"
        )
        token = await self.services.tokens.issue(user.id, user.auth_version)
        return user.id, Caller(self.app, token.reveal())

    def crossings(self) -> int:
        """Calls that have crossed the gateway, on any lane."""
        lanes = self.services.gateway.statistics().lanes
        return sum(sum(lane.results.values()) for lane in lanes)


async def _healthy() -> tuple[int, dict[str, object]]:
    return 200, {"status": "healthy"}


async def _metrics() -> str:
    return "# none\n"


@asynccontextmanager
async def open_api_world(
    folder: Path, *, access_control: bool = True, **changes: Any
) -> AsyncIterator[ApiWorld]:
    """`changes` are made to the API's services, or to its options with the prefix `options_`."""
    config = Config(
        store=Store(url=f"sqlite:{folder / 'mail.db'}"),
        auth=Auth(argon2_time_cost=1, argon2_memory_kib=8, failure_delay_s=0.0),
        api=Api(access_token=Secret(ROOT_TOKEN), access_control=access_control),
    )
    async with open_services(config, server="test", worker="test/w1") as services:
        made: ApiServices = api_services(services, config)
        options = {
            name.removeprefix("options_"): changes.pop(name)
            for name in list(changes)
            if name.startswith("options_")
        }
        made = replace(made, options=replace(made.options, **options), **changes)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(services.hub.run)
            yield ApiWorld(
                services, create_app(ready=_healthy, live=_healthy, metrics=_metrics, services=made), made
            )
            nursery.cancel_scope.cancel()
