"""What the documentation shows is what happens."""

from __future__ import annotations

import doctest
import warnings
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
SLOW = {"tutorial.rst", "how_to_compare.rst", "how_to_images.rst", "how_to_search_splits.rst"}
PAGES = [
    pytest.param(page.name, marks=pytest.mark.slow if page.name in SLOW else ())
    for page in sorted(DOCS.glob("*.rst"))
    if ">>>" in page.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run_as_they_stand(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page == "how_to_instruments.rst":
        pytest.importorskip("pyvisa", reason="the page needs PyVISA")
    monkeypatch.setenv("SKPAT_LOCK_DIR", str(tmp_path / "locks"))
    monkeypatch.setenv("MPLBACKEND", "agg")
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = doctest.testfile(str(DOCS / page), module_relative=False, optionflags=flags, encoding="utf-8")
    assert found.attempted > 0
    assert found.failed == 0
