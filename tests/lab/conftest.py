"""What several tests of the lab share."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from joblib.externals.loky import get_reusable_executor

from .bench_device import BenchDevice, forget_everybody


@pytest.fixture
def fresh_workers() -> Iterator[None]:
    """joblib's worker processes begin anew: those of other tests have other folders of locks."""
    get_reusable_executor().shutdown(wait=True)
    yield
    get_reusable_executor().shutdown(wait=True)


@pytest.fixture(scope="module")
def quick_collections() -> Iterator[None]:
    """The collections around every test look at what this test has made: all older objects are frozen."""
    yield
    gc.unfreeze()


@pytest.fixture
def bench_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Locks in a folder of the test's own, calls of the bench device counted from none, and no line left open."""
    monkeypatch.setenv("SKPAT_LOCK_DIR", str(tmp_path / "locks"))
    monkeypatch.setattr(BenchDevice, "_calls", 0)
    forget_everybody()
    gc.freeze()
    yield
    forget_everybody()
