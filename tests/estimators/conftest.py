"""A bank that counts what reaches it, for every test anew."""

from __future__ import annotations

import pytest

from tests.estimators.small_network import Watched


@pytest.fixture
def watched() -> Watched:
    Watched.sent.clear()
    Watched.opened.clear()
    return Watched()
