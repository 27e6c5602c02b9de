"""The log: structlog to standard error, one event a line, the same for every process of the tree.

JSON for machines, a console form for people; "auto" asks whether standard error is a terminal. The standard
library's logging (hypercorn's) goes the same way. Each line has the time in UTC, the level, the process id and, in
a worker, its slot. Tracebacks never show local variables, and a Secret prints as stars wherever it turns up.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import Any, Final, TextIO

import structlog
from structlog.typing import EventDict, Processor

from wd_trio import config

QUIET: Final = ("hypercorn.error", "quart.app", "asyncio", "pymongo")
"""Libraries that tell at "info" what nobody needs to know, or at "debug" the mail that they store."""


def configure(options: config.Log, *, role: str = "", stream: TextIO | None = None) -> None:
    """Send all logging of this process to `stream` (standard error); `role` is told in each line."""
    out = stream if stream is not None else sys.stderr
    console = options.format == "console" or (options.format == "auto" and out.isatty())
    level = logging.getLevelNamesMapping()[options.level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _who(role),
    ]
    last: list[Processor] = (
        [
            structlog.dev.ConsoleRenderer(
                colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=repr)]
    )
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def _who(role: str) -> Callable[[Any, str, EventDict], EventDict]:
    pid = os.getpid()

    def add(_logger: Any, _method: str, event: EventDict) -> EventDict:
        event["pid"] = pid
        if role:
            event["role"] = role
        return event

    return add
