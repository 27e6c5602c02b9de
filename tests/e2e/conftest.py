"""The running server for end-to-end tests: one for each module, or one of its own for a test that hurts it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from served import Served, settings_of, write_config

ANYWHERE = "127.0.0.1:0"


def start(
    folder: Path,
    *,
    imap: str = ANYWHERE,
    lmtp: str = ANYWHERE,
    api: str = ANYWHERE,
    workers: int = 2,
    environ: Mapping[str, str] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Served:
    path = folder / "config.toml"
    write_config(path, settings_of(imap=imap, lmtp=lmtp, api=api, workers=workers, more=settings or {}))
    return Served(folder, path, environ or {})


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
