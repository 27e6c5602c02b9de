"""The log: one line an event, in both forms; other libraries' words in it; secrets and locals never."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator

import pytest
import structlog

from wd_trio.config import Log
from wd_trio.ops import log as log_
from wd_trio.secret import Secret


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield io.StringIO()
    structlog.reset_defaults()
    root.handlers[:], root.level = before


def lines(out: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_json_is_one_object_a_line(out: io.StringIO) -> None:
    log_.configure(Log(level="info", format="json"), role="worker 3", stream=out)
    log = structlog.get_logger()
    log.debug("unheard")
    log.info("heard", count=1, secret=Secret("hush"))
    (event,) = lines(out)
    assert event["event"] == "heard"
    assert event["level"] == "info"
    assert event["pid"] == os.getpid()
    assert event["role"] == "worker 3"
    assert str(event["timestamp"]).endswith("Z")
    assert "hush" not in out.getvalue()


def test_other_libraries_go_the_same_way(out: io.StringIO) -> None:
    log_.configure(Log(level="info", format="json"), stream=out)
    logging.getLogger("hypercorn.error").info("Running on http://…")
    logging.getLogger("hypercorn.error").warning("trouble with %s", "a socket")
    (event,) = lines(out)
    assert (event["event"], event["level"]) == ("trouble with a socket", "warning")


def fail(password: str) -> None:
    if password:
        raise RuntimeError("too long")


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_no_locals(form: str, out: io.StringIO) -> None:
    log_.configure(Log(format=form), stream=out)
    try:
        fail("a pass" + "word")
    except RuntimeError:
        structlog.get_logger().exception("failed")
    assert "too long" in out.getvalue()
    assert "Traceback" in out.getvalue()
    assert "a pass" + "word" not in out.getvalue()


def test_auto_is_json_where_nobody_looks(out: io.StringIO) -> None:
    log_.configure(Log(format="auto"), stream=out)
    structlog.get_logger().info("heard")
    assert lines(out)[0]["event"] == "heard"
