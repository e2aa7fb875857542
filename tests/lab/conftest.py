"""What several tests of the lab share."""

from collections.abc import Iterator

import pytest
from joblib.externals.loky import get_reusable_executor


@pytest.fixture
def fresh_workers() -> Iterator[None]:
    """joblib's worker processes begin anew: those of other tests have other folders of locks."""
    get_reusable_executor().shutdown(wait=True)
    yield
    get_reusable_executor().shutdown(wait=True)
