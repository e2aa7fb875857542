"""What several tests of devices share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from skpat.devices import frozen_model as room

from .frozen_network import built

pytest.register_assert_rewrite("tests.devices.device_checks", "tests.devices.wrapped_bench")  # failures show values


@pytest.fixture
def nothing_built() -> Iterator[None]:
    """The test begins with no frozen model in the process's store."""
    kept = dict(room._models)
    room._models.clear()
    built.clear()
    yield
    room._models.clear()
    room._models.update(kept)
