"""The API's octets: counted on the way through, which changes nothing of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from wd_trio import telemetry
from wd_trio.ops.metered import metered


def counted(direction: str) -> float:
    labels = {"protocol": "api", "direction": direction}
    return telemetry.REGISTRY.get_sample_value("wildduck_bytes_total", labels) or 0.0


@pytest.mark.parametrize(
    ("arrives", "leaves", "counts"),
    [
        ({"type": "http.request", "body": b"abc"}, {"type": "http.response.body", "body": b"defgh"}, (3, 5)),
        ({"type": "http.disconnect"}, {"type": "http.response.start", "status": 200}, (0, 0)),
        (
            {"type": "websocket.receive", "text": "ab", "bytes": None},
            {"type": "websocket.send", "bytes": b"abc"},
            (2, 3),
        ),
    ],
)
async def test_octets_are_counted_both_ways(
    arrives: Mapping[str, Any], leaves: Mapping[str, Any], counts: tuple[int, int]
) -> None:
    seen: list[object] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope, await receive()))
        await send(leaves)

    async def receive() -> Mapping[str, Any]:
        return arrives

    async def send(message: Mapping[str, Any]) -> None:
        seen.append(message)

    before = counted("in"), counted("out")
    await metered(app)("scope", receive, send)
    assert seen == [("scope", arrives), leaves]
    assert (counted("in") - before[0], counted("out") - before[1]) == counts
