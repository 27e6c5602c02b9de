from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from api_world import ApiWorld, open_api_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[ApiWorld]:
    async with open_api_world(tmp_path) as made:
        yield made
