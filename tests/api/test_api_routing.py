"""What surrounds every handler: bodies and their bounds, deadlines, and errors as answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from api_world import ROOT_TOKEN, Answered, ApiWorld, open_api_world
from quart import websocket
from quart.testing import WebsocketResponseError

from wd_trio import errors
from wd_trio.api.asgi import Reply
from wd_trio.api.auth import OWN, ROOT, Caller
from wd_trio.api.errors import TABLE
from wd_trio.api.routing import Routes
from wd_trio.api.schema import Done, Item, Request
from wd_trio.api.services import ApiServices


class Echo(Request, frozen=True):
    user: str | None = None
    text: str | None = None
    tags: list[str] | None = None


class Told(Item, frozen=True):
    text: str | None
    tags: list[str] | None


Doing = Callable[[], Awaitable[Any]]


def install(world: ApiWorld, doing: Doing | None = None) -> Routes:
    """A route that echoes, one that does what the test says, and one that takes raw bodies."""
    routes = Routes("Test")

    @routes.route("POST", "/echo", request=Echo, response=None, access=ROOT)
    async def echo(request: Echo, caller: Caller, services: ApiServices) -> Told:
        return Told(text=request.text, tags=request.tags)

    @routes.route("GET", "/do", request=Request, response=Done, access=OWN)
    async def do(request: Request, caller: Caller, services: ApiServices) -> Any:
        assert doing is not None
        return await doing()

    @routes.route("POST", "/raw", request=Echo, response=None, access=ROOT, raw=("message/rfc822",))
    async def raw(request: Echo, caller: Caller, services: ApiServices) -> Reply:
        sizes = []
        while (chunk := await caller.sent.chunk(10_000_000)) is not None:
            sizes.append(len(chunk))
        return Reply(f"{request.text} {sum(sizes)} {max(sizes)}".encode(), media="text/plain")

    @routes.websocket("/users/{user}/talk", request=Echo)
    async def talk(request: Echo, caller: Caller, services: ApiServices) -> None:
        await websocket.accept()
        await websocket.send(f"{request.user} {request.text}")

    world.app.install(routes, world.api)
    return routes


async def post(
    world: ApiWorld, data: bytes, content_type: str = "application/json", path: str = "/echo"
) -> Answered:
    return await world.root.call("POST", path, data=data, headers={"Content-Type": content_type})


@pytest.fixture
async def echoing(tmp_path: Path) -> Any:
    async with open_api_world(tmp_path, options_body_bytes=1000) as world:
        install(world)
        yield world


@pytest.mark.parametrize(
    "body", [b"{", b"[]x", b'{"text": "\xff"}', b'{"text": "\\ud800"}', b"[" * 900, b'{"text": 1e999}']
)
async def test_what_is_no_json(echoing: ApiWorld, body: bytes) -> None:
    answered = await post(echoing, body)
    assert (answered.status, answered.json) == (400, {"error": "Bad Request", "code": "BadRequest"})


@pytest.mark.parametrize("body", [b"[]", b"7", b"null", b'"text"'])
async def test_json_that_is_no_object(echoing: ApiWorld, body: bytes) -> None:
    answered = await post(echoing, body)
    assert (answered.status, answered.json["details"]) == (400, {"body": "is not a JSON object"})


async def test_bodies_are_merged_with_the_query(echoing: ApiWorld) -> None:
    sent = await echoing.root.call(
        "POST", "/echo?tags=a&tags=b&text=", {"text": "from the body", "tags": ["c"]}
    )
    assert sent.json == {"text": "from the body", "tags": ["a", "b"]}
    assert (await post(echoing, b"")).json == {"text": None, "tags": None}
    twice = await echoing.root.call("POST", "/echo?text=a&text=b")
    assert (twice.status, set(twice.json["details"])) == (400, {"text"})


@pytest.mark.parametrize("query", ["text=%ff", "&".join(f"k{n}=1" for n in range(200))])
async def test_bad_queries(echoing: ApiWorld, query: str) -> None:
    answered = await echoing.root.call("POST", f"/echo?{query}")
    assert (answered.status, set(answered.json["details"])) == (400, {"query"})


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "message/rfc822", ""]
)
async def test_json_says_that_it_is(echoing: ApiWorld, content_type: str) -> None:
    answered = await post(echoing, b'{"text": "x"}', content_type)
    assert (answered.status, answered.json["code"]) == (415, "UnsupportedMediaType")
    assert (await post(echoing, b'{"text": "x"}', "application/json; charset=utf-8")).status == 200


@pytest.mark.parametrize("announced", [True, False])
async def test_bodies_are_bounded(echoing: ApiWorld, announced: bool) -> None:
    body = b'{"text": "' + b"x" * 2000 + b'"}'
    headers = {"Content-Type": "application/json"} | ({"Content-Length": str(len(body))} if announced else {})
    answered = await echoing.root.call("POST", "/echo", data=body, headers=headers)
    assert (answered.status, answered.json["code"]) == (413, "RequestEntityTooLarge")


async def test_paths_and_methods(echoing: ApiWorld) -> None:
    for path in ("/nothing", "/users/", "/users//resolve", "/users/x/y/z"):
        assert (await echoing.root.call("GET", path)).json == {"error": "Not Found", "code": "NotFound"}
    wrong = await echoing.root.call("DELETE", "/echo")
    assert (wrong.status, wrong.json["code"]) == (405, "MethodNotAllowed")
    assert wrong.headers["Allow"] == "POST"
    assert (await echoing.root.call("OPTIONS", "/echo")).status == 405
    head = await echoing.root.call("HEAD", "/users")
    assert head.status == 200


async def test_answers_are_not_to_be_kept(echoing: ApiWorld) -> None:
    for path in ("/users", "/users/x", "/health"):
        assert (await echoing.root.call("GET", path)).headers["Cache-Control"] == "no-store"


# --- uploads ----------------------------------------------------------------------------------------------


async def test_raw_bodies_come_in_pieces(echoing: ApiWorld) -> None:
    async with echoing.app.test_client().request(
        "/raw?text=hello",
        method="POST",
        headers={"Authorization": f"Bearer {ROOT_TOKEN}", "Content-Type": "message/rfc822"},
    ) as connection:
        for _ in range(40):
            await connection.send(b"x" * 100_000)
        await connection.send_complete()
    response = await connection.as_response()
    text, size, largest = (await response.get_data(as_text=True)).split()
    assert (text, int(size)) == ("hello", 4_000_000)
    assert int(largest) <= 100_000


async def test_what_nobody_may_send_is_not_received(echoing: ApiWorld) -> None:
    """Nothing is asked for before the answer goes out; then it is dropped, so that nobody waits for room."""
    received = unwanted = 0

    async def receive() -> Any:
        nonlocal received
        await trio.lowlevel.checkpoint()
        received += 10_000
        return {"type": "http.request", "body": b"x" * 10_000, "more_body": True}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        nonlocal unwanted
        if not sent:
            unwanted = received
        while received < 100_000:
            await trio.lowlevel.checkpoint()
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.1"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/raw",
        "raw_path": b"/raw",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"message/rfc822")],
        "client": ("192.0.2.1", 1),
        "server": ("192.0.2.2", 80),
        "extensions": {},
    }
    await echoing.app(scope, receive, send)  # type: ignore[arg-type]  # a scope as plain dict
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == 403
    assert unwanted <= 10_000


# --- errors -----------------------------------------------------------------------------------------------


def raising(error: BaseException) -> Doing:
    async def do() -> None:
        raise error

    return do


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.NotFound("x", what="user"), 404, "UserNotFound"),
        (errors.NotFound("x", what="mailbox"), 404, "NoSuchMailbox"),
        (errors.NotFound("x", what="message"), 404, "MessageNotFound"),
        (errors.NotFound("x"), 404, "NotFound"),
        (errors.Conflict("x", what="mailbox"), 400, "MailboxExistsError"),
        (errors.Conflict("x", what="version"), 409, "Conflict"),
        (errors.Outdated("x"), 409, "Conflict"),
        (errors.Invalid("x", what="path"), 400, "InputValidationError"),
        (errors.Denied("x"), 403, "MissingPrivileges"),
        (errors.OverQuota("x"), 403, "OverQuotaError"),
        (errors.Limited("x"), 429, "RateLimitedError"),
        (errors.Unavailable("x"), 503, "ServiceUnavailable"),
        (trio.TooSlowError(), 503, "ServiceUnavailable"),
        (ExceptionGroup("x", [errors.NotFound("x", what="user")]), 404, "UserNotFound"),
        (ExceptionGroup("x", [ExceptionGroup("y", [errors.OverQuota("x")])]), 403, "OverQuotaError"),
        (ValueError("secret words"), 500, "InternalDatabaseError"),
        (
            ExceptionGroup("x", [errors.NotFound("x"), ValueError("secret words")]),
            500,
            "InternalDatabaseError",
        ),
    ],
)
async def test_errors_as_answers(world: ApiWorld, error: Exception, status: int, code: str) -> None:
    install(world, raising(error))
    answered = await world.root.call("GET", "/do")
    assert (answered.status, answered.json["code"]) == (status, code)
    assert b"secret words" not in answered.body
    assert ("Retry-After" in answered.headers) == (status in (429, 503))
    if status == 500:
        assert len(answered.json["details"]["request"]) == 16


def test_every_domain_error_has_an_answer() -> None:
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type)} - {errors.WdError}
    assert all(any(issubclass(kind, row) for row, _ in TABLE) for kind in kinds)


async def test_a_handler_has_its_time(world: ApiWorld, autojump_clock: trio.testing.MockClock) -> None:
    install(world, trio.sleep_forever)
    begun = trio.current_time()
    answered = await world.root.call("GET", "/do")
    assert (answered.status, answered.json["code"]) == (503, "ServiceUnavailable")
    assert 5.9 < trio.current_time() - begun < 6.2


async def test_a_body_has_its_time(echoing: ApiWorld, autojump_clock: trio.testing.MockClock) -> None:
    async with echoing.app.test_client().request(
        "/echo",
        method="POST",
        headers={"Authorization": f"Bearer {ROOT_TOKEN}", "Content-Type": "application/json"},
    ) as connection:
        await connection.send(b'{"text"')
        await trio.sleep(40)
        await connection.send_complete()
    assert (await connection.as_response()).status_code == 408


async def test_who_hangs_up_is_no_error(
    world: ApiWorld, capsys: pytest.CaptureFixture[str], nursery: trio.Nursery
) -> None:
    begun, ended = trio.Event(), trio.Event()

    async def do() -> None:
        begun.set()
        try:
            async with trio.open_nursery() as inner:
                inner.start_soon(trio.sleep_forever)
        finally:
            ended.set()

    install(world, do)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as calls:
            calls.start_soon(world.root.call, "GET", "/do")
            await begun.wait()
            scope.cancel()
    await ended.wait()
    assert "request failed" not in "".join(capsys.readouterr())


# --- WebSockets -------------------------------------------------------------------------------------------


async def test_a_websocket_has_the_same_guards(world: ApiWorld) -> None:
    install(world)
    ann, anns = await world.user("ann")
    ben, _ = await world.user("ben")
    client = world.app.test_client()

    async def refused(path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
        with pytest.raises(BaseExceptionGroup) as caught:
            async with client.websocket(path, headers=headers) as connection:
                await connection.receive()
        (error,) = caught.value.exceptions
        assert isinstance(error, WebsocketResponseError)
        body = await error.response.get_json()
        return error.response.status_code, body["code"]

    own = {"Authorization": f"Bearer {anns.token}"}
    assert await refused(f"/users/{ann}/talk") == (403, "InvalidToken")
    assert await refused(f"/users/{ben}/talk", own) == (403, "MissingPrivileges")
    assert await refused(f"/users/{ann}/talk?more=1", own) == (400, "InputValidationError")
    async with client.websocket(f"/users/me/talk?text=hello&accessToken={anns.token}") as connection:
        assert await connection.receive() == f"{ann} hello"
