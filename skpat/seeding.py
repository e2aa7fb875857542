"""Clones whose random parts are seeded from one generator."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import clone

__all__ = ["LARGEST_SEED", "seeded_copy"]

LARGEST_SEED = np.iinfo(np.int32).max


def seeded_copy(part: Any, rng: np.random.RandomState) -> Any:
    """A clone, so that a fit never changes what the user passed; seeded like scikit-learn seeds sub-estimators.

    Parameters
    ----------
    part : object
        What has no parameters is copied as it is.
    rng : RandomState
        Every ``random_state`` that is None gets a number from it. One is drawn also where it is not needed: a stable sequence.

    Examples
    --------
    >>> import numpy as np
    >>> from skpat.devices import SecondHarmonicLaser
    >>> from skpat.seeding import seeded_copy
    >>> seeded_copy(SecondHarmonicLaser(random_state=3), np.random.RandomState(0)).random_state
    3
    """
    copy = clone(part, safe=False)
    if not hasattr(copy, "get_params"):
        return copy
    params = copy.get_params(deep=True)
    names = sorted(name for name in params if name.split("__")[-1] == "random_state")
    seeds = {name: int(rng.randint(LARGEST_SEED)) for name in names}
    return copy.set_params(**{name: seed for name, seed in seeds.items() if params[name] is None})
