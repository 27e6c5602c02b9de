"""Routes: declared once, beside their handlers, and turned into views of the app with all that surrounds a handler.

For each request: who calls, may they, the body under its cap, validation, the handler under its deadline, the answer,
the time it took. Everything that can be known of a route is found out when the app is made: the reader of its
request, its label, its converters; a request pays for none of it. Errors are turned into answers here, since what
Quart does with groups of them loses some.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, TypeVar, cast
from urllib.parse import parse_qsl

import msgspec
import structlog
import trio
from quart import Response, websocket
from quart import request as current_request
from quart_trio import QuartTrio
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge, RequestTimeout, UnsupportedMediaType

from wd_trio import telemetry
from wd_trio.api import errors
from wd_trio.api.auth import OWN, TOKEN_KEY, Caller, authenticate, permitted
from wd_trio.api.schema import Answer, Faults, Reader, Request
from wd_trio.api.services import ApiServices

log = structlog.get_logger()

PROTOCOL: Final = "api"
MANY_PARAMETERS: Final = 100
_JSON: Final = msgspec.json.Decoder()
_ENCODER: Final = msgspec.json.Encoder()

Handler: TypeAlias = Callable[[Any, Caller, ApiServices], Awaitable[Any]]
H = TypeVar("H", bound=Handler)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One declared route. `path` has its parameters in braces. `response` is None where the handler gives a whole
    quart Response of type `media`; `raw` names the content types whose body is left to the handler (`body_chunks`);
    `body_bytes` bounds any other body, None: as the options say. Without `deadline` the handler sees to its own."""

    method: str
    path: str
    request: type[Request]
    response: type[Answer] | None
    access: frozenset[str]
    tag: str
    media: str
    raw: tuple[str, ...]
    body_bytes: int | None
    deadline: bool
    handler: Handler

    @property
    def is_websocket(self) -> bool:
        return self.method == "WEBSOCKET"


@dataclass(slots=True)
class Routes:
    """The routes of one blueprint, in order of declaration."""

    tag: str
    all: list[Route] = field(default_factory=list)

    def route(
        self,
        method: str,
        path: str,
        *,
        request: type[Request],
        response: type[Answer] | None,
        access: frozenset[str],
        media: str = "application/json",
        raw: tuple[str, ...] = (),
        body_bytes: int | None = None,
        deadline: bool = True,
    ) -> Callable[[H], H]:
        """Declare `async def handler(request, caller, services)`, which returns a `response` or, where that is None,
        a quart Response."""

        def declare(handler: H) -> H:
            self.all.append(
                Route(
                    method=method,
                    path=path,
                    request=request,
                    response=response,
                    access=access,
                    tag=self.tag,
                    media=media,
                    raw=raw,
                    body_bytes=body_bytes,
                    deadline=deadline,
                    handler=handler,
                )
            )
            return handler

        return declare

    def websocket(
        self, path: str, *, request: type[Request], access: frozenset[str] = OWN
    ) -> Callable[[H], H]:
        """Declare a handler of WebSockets: it accepts and serves `quart.websocket`, and returns None at its end. What
        it raises before it accepts becomes an HTTP answer."""
        return self.route(
            "WEBSOCKET", path, request=request, response=None, access=access, media="", deadline=False
        )

    def install(self, app: QuartTrio, services: ApiServices) -> None:
        """Make views of all routes."""
        for number, route in enumerate(self.all):
            rule = route.path.replace("{", "<").replace("}", ">")
            endpoint = f"{self.tag}.{number}"
            if route.is_websocket:
                app.add_websocket(rule, endpoint, _websocket_view(route, services))
            else:
                app.add_url_rule(rule, endpoint, _view(route, services), methods=[route.method])


def body_chunks(most: int) -> AsyncIterator[bytes]:
    """The body of the current request as it comes, and no faster than it is read; 413 beyond `most` bytes."""
    announced = current_request.content_length
    if announced is not None and announced > most:
        raise RequestEntityTooLarge
    return _chunks(most)


async def _chunks(most: int) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in current_request.body:
        size += len(chunk)
        if size > most:
            raise RequestEntityTooLarge
        yield chunk


def _view(route: Route, services: ApiServices) -> Callable[..., Awaitable[Response]]:
    reader = Reader(route.request)
    seconds = telemetry.request_seconds.labels(PROTOCOL, f"{route.method} {route.path}")
    options = services.options
    body_bytes = route.body_bytes or options.body_bytes

    async def serve(path: dict[str, Any]) -> Response:
        request = current_request
        query, token = _query(request.query_string)
        client = request.scope.get("client")
        caller = await authenticate(services, request.headers, token, client[0] if client else "")
        if "user" in path:
            path["user"] = permitted(caller, route.access, path["user"])
        else:
            permitted(caller, route.access, None)
        given: dict[str, Any] = {}
        if route.method != "GET" and not (route.raw and request.mimetype in route.raw):
            with trio.move_on_after(options.body_s) as slow:
                given = await _body(body_bytes)
            if slow.cancelled_caught:
                raise RequestTimeout
        given.update(query)
        given.update(path)
        asked = reader.read(given)
        with trio.fail_after(options.request_s if route.deadline else float("inf")):
            answer = await route.handler(asked, caller, services)
        if isinstance(answer, Response):
            return answer
        return Response(_ENCODER.encode(answer), 200, _NO_STORE, content_type=errors.JSON_TYPE)

    async def view(**path: str) -> Response:
        begun = trio.current_time()
        try:
            return await _answered(serve, path)
        finally:
            seconds.observe(trio.current_time() - begun)

    return view


def _websocket_view(route: Route, services: ApiServices) -> Callable[..., Awaitable[Response | None]]:
    reader = Reader(route.request)

    async def serve(path: dict[str, Any]) -> Response | None:
        query, token = _query(websocket.query_string)
        client = websocket.scope.get("client")
        caller = await authenticate(services, websocket.headers, token, client[0] if client else "")
        query.update(path)
        if "user" in path:
            query["user"] = permitted(caller, route.access, path["user"])
        else:
            permitted(caller, route.access, None)
        await route.handler(reader.read(query), caller, services)
        return None

    async def view(**path: str) -> Response | None:
        return await _answered(serve, path)

    return view


T = TypeVar("T")


async def _answered(serve: Callable[[dict[str, Any]], Awaitable[T]], path: dict[str, Any]) -> T | Response:
    """What `serve` answers, or the answer to what it raises. A group in which somebody was cancelled goes on: there
    is nobody to answer any more, but what else is in it shall not be lost."""
    try:
        return await serve(path)
    except Exception as error:
        return errors.answer(error)
    except BaseExceptionGroup as group:
        others = group.split(trio.Cancelled)[1]
        if others is not None:
            log.exception("request failed while it was cancelled", exc_info=others)
        raise


def _query(raw: bytes) -> tuple[dict[str, Any], str]:
    """The parameters of a query, a list for each that comes several times, and the token among them."""
    if not raw:
        return {}, ""
    try:
        pairs = parse_qsl(
            raw.decode("ascii"), encoding="utf-8", errors="strict", max_num_fields=MANY_PARAMETERS
        )
    except ValueError as error:
        raise Faults({"query": "is not a query of UTF-8"}) from error
    query: dict[str, Any] = {}
    for name, value in pairs:
        before = query.get(name)
        if before is None:
            query[name] = value
        elif isinstance(before, list):
            before.append(value)
        else:
            query[name] = [before, value]
    token = query.pop(TOKEN_KEY, "")
    return query, token if isinstance(token, str) else ""


async def _body(most: int) -> dict[str, Any]:
    """The JSON object in the current request's body, none where there is no body."""
    content = b"".join([chunk async for chunk in body_chunks(most)])
    if not content:
        return {}
    if current_request.mimetype != errors.JSON_TYPE:
        raise UnsupportedMediaType
    try:
        given = _JSON.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest("no JSON") from error
    if not isinstance(given, dict):
        raise Faults({"body": "is not a JSON object"})
    return cast(dict[str, Any], given)


_NO_STORE: Final = {"Cache-Control": "no-store"}
