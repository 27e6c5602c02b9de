"""The HTTP application: one quart-trio app for each worker, served as ASGI.

Health and metrics come as callables, for this package knows nothing of processes. They and /health/live ask nobody
who calls; everything else is declared in blueprints and wants a token (routing.py). Every error has one shape,
`{"error", "code", "details"?}`, with the status that fits (errors.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from typing import Any, Final, TypeAlias

import msgspec
import structlog
from quart import Response, jsonify
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from wd_trio import __version__
from wd_trio.api import errors, openapi
from wd_trio.api.asgi import Incoming, Receive, Reply, Send, send_reply
from wd_trio.api.auth import ANY, Caller
from wd_trio.api.blueprints import addresses, authentication, mailboxes, messages, updates, users
from wd_trio.api.cors import Cors
from wd_trio.api.page import page
from wd_trio.api.router import Router
from wd_trio.api.routing import Endpoint, Route, Routes, quart_response
from wd_trio.api.schema import Request
from wd_trio.api.services import ApiServices

log = structlog.get_logger()

Verdict: TypeAlias = tuple[int, Mapping[str, object]]
"""A probe's: an HTTP status and the JSON object of the body."""
Probe: TypeAlias = Callable[[], Awaitable[Verdict]]

METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

about: Final = Routes("About")
BLUEPRINTS: Final = (
    users.routes,
    addresses.routes,
    mailboxes.routes,
    messages.routes,
    updates.routes,
    authentication.routes,
    about,
)


class Connection(TrioASGIHTTPConnection):
    """One request: answered by an endpoint of our own, else by Quart, which then sees none of its body."""

    app: Api

    async def __call__(self, receive: Receive, send: Send) -> None:
        app, scope = self.app, self.scope
        headers = scope["headers"]
        origin = b""
        if app.cors is not None:
            origin = app.cors.allowed(headers)
            send = app.cors.marking(origin, send)
        found = app.router.find(scope["raw_path"])
        if found is None:
            await super().__call__(_Bodiless(receive), send)
            return
        incoming = Incoming(scope, receive)
        target = found.target(incoming.method)
        if target is not None:
            endpoint, path = target
            await endpoint.serve(incoming, path, send)
            return
        reply = None
        if app.cors is not None and incoming.method == "OPTIONS":
            reply = app.cors.preflight(origin, headers, found.methods)
        await send_reply(reply or errors.http_answer(MethodNotAllowed(found.methods)), incoming, send)


class _Bodiless:
    """A receiver that gives an empty body and drops the one that comes."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._told = False

    async def __call__(self) -> Any:
        if not self._told:
            self._told = True
            return {"type": "http.request", "body": b"", "more_body": False}
        while (message := await self._receive())["type"] != "http.disconnect":
            pass
        return message


class Api(QuartTrio):
    """The app. Its own routes are in `router`, which Quart's dispatch never sees; WebSockets are in Quart's."""

    asgi_http_class = Connection
    cors: Cors | None = None

    def __init__(self) -> None:
        super().__init__("wd_trio.api", static_folder=None)
        self.router: Router[Endpoint] = Router()

    def install(self, routes: Routes, services: ApiServices) -> None:
        """Serve these routes."""
        for number, route in enumerate(routes.all):
            endpoint = Endpoint(route, services)
            if route.is_websocket:
                rule = route.path.replace("{", "<").replace("}", ">")
                self.add_websocket(rule, f"{route.tag}.{number}", _websocket_view(endpoint))
            else:
                self.router.add(route.method, route.path, endpoint)


def _websocket_view(endpoint: Endpoint) -> Callable[..., Awaitable[Response | None]]:
    async def view(**path: str) -> Response | None:
        return await endpoint.serve_websocket(path)

    return view


@about.route("GET", "/openapi.json", request=Request, response=None, access=ANY)
async def describe(request: Request, caller: Caller, services: ApiServices) -> Reply:
    """This API as an OpenAPI 3.1 document"""
    return Reply(_described())


@about.route("GET", "/docs", request=Request, response=None, access=ANY, media="text/html")
async def show_docs(request: Request, caller: Caller, services: ApiServices) -> Reply:
    """This API as a page to read, made of the same document"""
    return _page()


def all_routes() -> list[Route]:
    """Every declared route, in the order of the documentation."""
    return [route for blueprint in BLUEPRINTS for route in blueprint.all]


def create_app(
    *,
    ready: Probe,
    live: Probe,
    metrics: Callable[[], Awaitable[str]],
    services: ApiServices | None,
) -> Api:
    """The app over these services, with `GET /health`, `GET /health/live` and `GET /metrics` besides; without
    services these three alone."""
    app = Api()
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.config["RESPONSE_TIMEOUT"] = None  # streams bound themselves
    app.json.sort_keys = False  # type: ignore[attr-defined]  # the default provider has it; its base has not
    app.url_map.merge_slashes = False
    _add_probes(app, ready, live, metrics)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _error)
    if services is not None:
        options = services.options
        if options.cors_origins:
            app.cors = Cors(options.cors_origins)
        for blueprint in BLUEPRINTS:
            app.install(blueprint, services)
        if not options.access_control:
            log.warning("access control is off: every call of the API is root's")
    return app


def _add_probes(app: QuartTrio, ready: Probe, live: Probe, metrics: Callable[[], Awaitable[str]]) -> None:
    async def health() -> Response:
        return _reply(*await ready())

    async def health_live() -> Response:
        return _reply(*await live())

    async def metrics_text() -> Response:
        return Response(await metrics(), content_type=METRICS_TYPE)

    app.add_url_rule("/health", view_func=health, methods=["GET"])
    app.add_url_rule("/health/live", view_func=health_live, methods=["GET"])
    app.add_url_rule("/metrics", view_func=metrics_text, methods=["GET"])


@cache
def _page() -> Reply:
    return page(description())


@cache
def _described() -> bytes:
    return msgspec.json.encode(description())


def description() -> dict[str, Any]:
    """The OpenAPI document of all routes."""
    return openapi.document(all_routes(), version=__version__)


def _reply(status: int, body: Mapping[str, object]) -> Response:
    response = jsonify(body)
    response.status_code = status
    response.headers["Cache-Control"] = "no-store"
    return response


async def _http_error(error: HTTPException) -> Response:
    return quart_response(errors.http_answer(error))


async def _error(error: Exception) -> Response:
    return quart_response(errors.answer(error))
