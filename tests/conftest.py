"""One hypothesis profile for the whole suite: the same examples in every run, and no clock. Interrupts that arrive."""

import os
import signal
import threading

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes on two cores: more threads only wait for each other

from hypothesis import HealthCheck, settings

settings.register_profile(
    "skpat", max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("skpat")


def pytest_configure() -> None:
    """A shell starts what runs in the background with interrupts ignored, and the programs that tests start inherit that."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
