"""The running server for end-to-end tests: one for each module, or one of its own for a test that hurts it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from served import Served, start


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that the tests of a module share; it ends cleanly or the module fails."""
    served = start(tmp_path_factory.mktemp("server"))
    try:
        yield served.wait_ready()
    finally:
        status = served.stop()
    assert status == 0


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Starts a server and waits until it is ready; whatever still runs at the end is stopped."""
    running: list[Served] = []

    def begin(*, ready: bool = True, **options: Any) -> Served:
        served = start(tmp_path, **options)
        running.append(served)
        return served.wait_ready() if ready else served

    yield begin
    for served in running:
        served.stop()
