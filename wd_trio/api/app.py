"""The HTTP application: one quart-trio app for each worker, served by hypercorn.

Health and metrics come as callables, for this package knows nothing of processes. Every error has one shape,
`{"error", "code"}`, with the status that fits; an unexpected one is logged and told in fixed words.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeAlias

import structlog
from quart import Response, jsonify
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from wd_trio.errors import Unavailable

log = structlog.get_logger()

Reply: TypeAlias = tuple[int, Mapping[str, object]]
"""An HTTP status and the JSON object of the body."""
Probe: TypeAlias = Callable[[], Awaitable[Reply]]

REQUEST_BYTES: Final = 1 << 20
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def create_app(*, ready: Probe, live: Probe, metrics: Callable[[], Awaitable[str]]) -> QuartTrio:
    """The app with `GET /health`, `GET /health/live` and `GET /metrics`, none of which asks who calls."""
    app = QuartTrio("wd_trio.api", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = REQUEST_BYTES
    app.json.sort_keys = False  # type: ignore[attr-defined]  # the default provider has it; its base has not

    async def health() -> Response:
        return _reply(*await ready())

    async def health_live() -> Response:
        return _reply(*await live())

    async def metrics_text() -> Response:
        return Response(await metrics(), content_type=METRICS_TYPE)

    app.add_url_rule("/health", view_func=health, methods=["GET"])
    app.add_url_rule("/health/live", view_func=health_live, methods=["GET"])
    app.add_url_rule("/metrics", view_func=metrics_text, methods=["GET"])
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Unavailable, _unavailable)
    app.register_error_handler(Exception, _unexpected)
    return app


def _reply(status: int, body: Mapping[str, object]) -> Response:
    response = jsonify(body)
    response.status_code = status
    response.headers["Cache-Control"] = "no-store"
    return response


async def _http_error(error: HTTPException) -> Response:
    response = _reply(
        error.code or 500, {"error": error.name, "code": error.name.replace(" ", "").replace("'", "")}
    )
    for name, value in error.get_headers():
        if name == "Allow":
            response.headers[name] = value
    return response


async def _unavailable(error: Unavailable) -> Response:
    log.warning("request not served", error=str(error), what=error.what)
    return _reply(503, {"error": "Service Unavailable", "code": "ServiceUnavailable"})


async def _unexpected(error: Exception) -> Response:
    log.error("request failed", exc_info=error)
    return _reply(500, {"error": "Internal Server Error", "code": "InternalServerError"})
