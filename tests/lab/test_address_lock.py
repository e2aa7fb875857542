"""A lock is let go of as a whole, and waiting for it leaves nothing open."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from skpat.exceptions import DeviceBusyError
from skpat.lab.address_lock import AddressLock


@pytest.fixture(autouse=True)
def _own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKPAT_LOCK_DIR", str(tmp_path))


@pytest.mark.skipif(sys.platform == "win32", reason="files are not inherited there")
def test_a_lock_is_free_although_a_forked_child_has_its_file_still() -> None:
    lock = AddressLock("TCPIP::rig")
    lock.acquire(0, print)
    assert lock._file is not None
    inherited = os.dup(lock._file)  # by a child that knows nothing of it
    lock.release()
    other = AddressLock("TCPIP::rig")
    other.acquire(0, print)
    other.release()
    os.close(inherited)


def test_waiting_in_vain_leaves_no_file_open() -> None:
    holder, told = AddressLock("TCPIP::rig"), []
    holder.acquire(0, print)
    before = lowest_free_number()
    for _ in range(3):
        with pytest.raises(DeviceBusyError):
            AddressLock("TCPIP::rig").acquire(0.03, told.append)
    assert len(told) == 3
    assert lowest_free_number() <= before
    holder.release()


def lowest_free_number() -> int:
    """The number that the next file gets."""
    file = os.open(os.devnull, os.O_RDONLY)
    os.close(file)
    return file
