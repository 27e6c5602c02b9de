"""The API of the running server, over HTTP."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from typing import Any

import pytest
from served import WAIT_S, Served

TOKEN = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def server(start_server: Callable[..., Served]) -> Served:
    return start_server(settings={"api": {"access_token": TOKEN}, "limits": {"message_bytes": 65536}})


class Http:
    """One connection that is kept alive; each call tells status, body and whether the connection stays."""

    def __init__(self, server: Served, token: str = TOKEN) -> None:
        self._http = http.client.HTTPConnection(server.api.host, server.api.port, timeout=WAIT_S)
        self._token = token

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        self._http.request(method, path, None if body is None else json.dumps(body), headers)
        response = self._http.getresponse()
        return response.status, json.loads(response.read())

    def close(self) -> None:
        self._http.close()


def test_a_users_life(server: Served) -> None:
    root = Http(server)
    status, made = root.call(
        "POST", "/users", {"username": "ann", "password": "secret", "address": "ann@example.org"}
    )
    assert (status, made["success"]) == (200, True)
    status, told = root.call(
        "POST", "/authenticate", {"username": "ann", "password": "secret", "token": True}
    )
    assert (status, told["id"]) == (200, made["id"])
    anns = Http(server, told["token"])
    others = [Http(server, told["token"]) for _ in range(8)]  # of every worker
    for each in (anns, *others):
        assert each.call("GET", "/users/me")[1]["address"] == "ann@example.org"
    assert anns.call("PUT", "/users/me", {"password": "new"}) == (200, {"success": True})
    refused = {"error": "Invalid accessToken value", "code": "InvalidToken"}
    assert anns.call("GET", "/users/me") == (403, refused)
    assert root.call("DELETE", f"/users/{made['id']}") == (200, {"success": True})
    assert root.call("GET", f"/users/{made['id']}")[1]["code"] == "UserNotFound"
    for each in (root, anns, *others):
        each.close()


def test_faults_and_bounds(server: Served) -> None:
    root = Http(server)
    status, told = root.call("POST", "/users", {"quota": "much"})
    assert (status, set(told["details"])) == (400, {"username", "password", "quota"})
    status, told = root.call("POST", "/users", {"username": "x" * 2_000_000, "password": "x"})
    assert (status, told["code"]) == (413, "RequestEntityTooLarge")
    root.close()
    stranger = Http(server, "0" * 40)
    assert stranger.call("GET", "/users")[0] == 403
    assert stranger.call("GET", "/openapi.json")[0] == 403
    stranger.close()
    again = Http(server)
    status, described = again.call("GET", "/openapi.json")
    assert (status, described["openapi"]) == (200, "3.1.0")
    again.close()


def test_logging_out_ends_imap(server: Served) -> None:
    import imaplib

    account = server.add_user()
    root = Http(server)
    user = root.call("GET", f"/users/resolve/{account.username}")[1]["id"]
    client = imaplib.IMAP4(server.imap.host, server.imap.port, WAIT_S)
    client.login(account.username, account.password)
    assert root.call("PUT", f"/users/{user}/logout") == (200, {"success": True})
    line = client.readline()
    while line and not line.startswith(b"* BYE"):
        line = client.readline()
    assert line.startswith(b"* BYE")
    client.shutdown()
    root.close()


def test_requests_are_counted_by_route(server: Served) -> None:
    root = Http(server)
    for n in range(3):
        root.call("GET", f"/users/{n:024x}")
    root.close()
    name = 'wildduck_request_duration_seconds_count{command="GET /users/{user}",protocol="api"}'
    assert server.metric(name) == 3


def test_without_access_control_the_log_warns(start_server: Callable[..., Served]) -> None:
    server = start_server(workers=1, settings={"api": {"access_control": False}})
    server.log.wait("access control is off: every call of the API is root's")
    status, body = server.get("/users")
    assert (status, json.loads(body)["total"]) == (200, 0)
