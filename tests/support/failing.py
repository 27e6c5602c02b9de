"""The server, with workers in which something fails on SIGUSR1: run with the program's own arguments."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import trio

from wd_trio.config_load import load
from wd_trio.ops import serving, worker
from wd_trio.ops.children import ChildOptions

WORKER = "worker"


async def fail(_janitor: object) -> None:
    """In place of the janitor's work."""
    with trio.open_signal_receiver(signal.SIGUSR1) as signals:
        await anext(signals)
        raise RuntimeError("a defect")


if __name__ == "__main__":
    if sys.argv[1] == WORKER:
        del sys.argv[1]
        worker.Janitor.run = fail  # type: ignore[method-assign,assignment]  # that is what this is for
        sys.exit(worker.main())
    config = load(Path(sys.argv[-1]), os.environ)
    options = ChildOptions(command=(sys.executable, __file__, WORKER))
    sys.exit(serving.serve(config, child_options=options))
