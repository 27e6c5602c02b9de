"""Routes: declared once, beside their handlers, and turned into endpoints with all that surrounds a handler.

For each request: who calls, may they, the body under its cap, validation, the handler under its deadline, the answer,
the time it took. Everything that can be known of a route is found out when the app is made: the reader of its
request, its label, its metrics; a request pays for none of it. Errors are turned into answers here, since what Quart
does with groups of them loses some.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, TypeVar, cast
from urllib.parse import parse_qsl

import msgspec
import structlog
import trio
from quart import Response, websocket
from werkzeug.exceptions import BadRequest, RequestTimeout, UnsupportedMediaType

from wd_trio import telemetry
from wd_trio.api import errors
from wd_trio.api.asgi import JSON_TYPE, ClientGone, Incoming, Reply, Send, send_reply
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
    Reply of type `media`; `raw` names the content types whose body is left to the handler (`Incoming.chunk`);
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
        a Reply."""

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


class Endpoint:
    """A route over services: serves its requests."""

    def __init__(self, route: Route, services: ApiServices) -> None:
        self._route = route
        self._services = services
        self._reader = Reader(route.request)
        self._label = f"{route.method} {route.path}"
        self._seconds = telemetry.request_seconds.labels(PROTOCOL, self._label)
        self._body_bytes = route.body_bytes or services.options.body_bytes
        self._deadline_s = services.options.request_s if route.deadline else float("inf")

    async def serve(self, incoming: Incoming, path: dict[str, Any], send: Send) -> None:
        """Answer one request; nobody, when its client has gone."""
        begun = trio.current_time()
        tally = telemetry.open_tally(PROTOCOL)
        try:
            reply = await _answered(self._reply(incoming, path))
            self._seconds.observe(trio.current_time() - begun)
            await send_reply(reply, incoming, send)
        except ClientGone:
            return
        finally:
            tally.count(self._label)

    async def serve_websocket(self, path: dict[str, Any]) -> Response | None:
        """Serve Quart's current WebSocket; an answer instead when it is refused."""
        incoming = Incoming(websocket.scope, websocket.receive)
        tally = telemetry.open_tally(PROTOCOL)
        try:
            reply = await _answered(self._handshaken(incoming, path))
        finally:
            tally.count(self._label)
        return None if reply is None else quart_response(reply)

    async def _reply(self, incoming: Incoming, path: dict[str, Any]) -> Reply:
        query, token = _query(incoming.query)
        caller = await self._caller(incoming, token, path)
        given: dict[str, Any] = {}
        if self._route.method != "GET" and incoming.media not in self._route.raw:
            with trio.move_on_after(self._services.options.body_s) as slow:
                given = await _body(incoming, self._body_bytes)
            if slow.cancelled_caught:
                raise RequestTimeout
        given.update(query)
        given.update(path)
        asked = self._reader.read(given)
        with trio.CancelScope(deadline=trio.current_time() + self._deadline_s) as scope:
            answer = await self._route.handler(asked, caller, self._services)
        if scope.cancelled_caught:
            raise trio.TooSlowError
        return answer if isinstance(answer, Reply) else Reply(_ENCODER.encode(answer))

    async def _handshaken(self, incoming: Incoming, path: dict[str, Any]) -> None:
        query, token = _query(incoming.query)
        caller = await self._caller(incoming, token, path)
        query.update(path)
        await self._route.handler(self._reader.read(query), caller, self._services)

    async def _caller(self, incoming: Incoming, token: str, path: dict[str, Any]) -> Caller:
        """Who calls, and may do this; `me` in the path becomes an id."""
        caller = await authenticate(self._services, incoming, token)
        if "user" in path:
            path["user"] = permitted(caller, self._route.access, path["user"])
        else:
            permitted(caller, self._route.access, None)
        return caller


def quart_response(reply: Reply) -> Response:
    """An answer at hand as Quart's."""
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in reply.headers}
    return Response(cast(bytes, reply.body), reply.status, headers, content_type=reply.media)


T = TypeVar("T")


async def _answered(serving: Coroutine[Any, Any, T]) -> T | Reply:
    """What `serving` answers, or the answer to what it raises. A group in which somebody was cancelled goes on: there
    is nobody to answer any more, but what else is in it shall not be lost."""
    try:
        return await serving
    except ClientGone:
        raise
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


async def _body(incoming: Incoming, most: int) -> dict[str, Any]:
    """The JSON object in the body of a request, empty where there is no body."""
    pieces: list[bytes] = []
    while (piece := await incoming.chunk(most)) is not None:
        pieces.append(piece)
    if not pieces:
        return {}
    if incoming.media != JSON_TYPE:
        raise UnsupportedMediaType
    try:
        given = _JSON.decode(b"".join(pieces))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest("no JSON") from error
    if not isinstance(given, dict):
        raise Faults({"body": "is not a JSON object"})
    return cast(dict[str, Any], given)
