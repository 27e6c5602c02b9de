"""What tests of TLS share: a certificate."""

from __future__ import annotations

import pytest
from certificates import Pair, make_pair


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("certificates"))
