"""One hypothesis profile for the whole suite: the same examples in every run, and no clock."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes on two cores: more threads only wait for each other

from hypothesis import HealthCheck, settings

settings.register_profile(
    "skpat", max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("skpat")
