"""The HTTP application: one quart-trio app for each worker, served by hypercorn.

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
from werkzeug.exceptions import HTTPException

from wd_trio import __version__
from wd_trio.api import errors, openapi
from wd_trio.api.asgi import BoundedConnection, BoundedRequest
from wd_trio.api.auth import ANY, Caller
from wd_trio.api.blueprints import addresses, authentication, mailboxes, messages, updates, users
from wd_trio.api.routing import Route, Routes
from wd_trio.api.schema import Request
from wd_trio.api.services import ApiServices

log = structlog.get_logger()

Reply: TypeAlias = tuple[int, Mapping[str, object]]
"""An HTTP status and the JSON object of the body."""
Probe: TypeAlias = Callable[[], Awaitable[Reply]]

METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
SLACK_BYTES: Final = 1 << 20

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


class Api(QuartTrio):
    asgi_http_class = BoundedConnection
    request_class = BoundedRequest


@about.route("GET", "/openapi.json", request=Request, response=None, access=ANY)
async def describe(request: Request, caller: Caller, services: ApiServices) -> Response:
    """This API as an OpenAPI 3.1 document"""
    return Response(_described(), content_type=errors.JSON_TYPE)


def all_routes() -> list[Route]:
    """Every declared route, in the order of the documentation."""
    return [route for blueprint in BLUEPRINTS for route in blueprint.all]


def create_app(
    *,
    ready: Probe,
    live: Probe,
    metrics: Callable[[], Awaitable[str]],
    services: ApiServices | None,
) -> QuartTrio:
    """The app over these services, with `GET /health`, `GET /health/live` and `GET /metrics` besides; without
    services these three alone."""
    app = Api("wd_trio.api", static_folder=None)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.config["RESPONSE_TIMEOUT"] = None  # streams bound themselves
    app.json.sort_keys = False  # type: ignore[attr-defined]  # the default provider has it; its base has not
    app.url_map.merge_slashes = False
    _add_probes(app, ready, live, metrics)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _error)
    if services is not None:
        options = services.options
        app.config["MAX_CONTENT_LENGTH"] = options.message_bytes * 4 // 3 + SLACK_BYTES  # base64 in JSON
        for blueprint in BLUEPRINTS:
            blueprint.install(app, services)
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
    return errors.http_answer(error)


async def _error(error: Exception) -> Response:
    return errors.answer(error)
