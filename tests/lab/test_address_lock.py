"""A lock is let go of as a whole, and waiting for it leaves nothing open."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from skpat import as_device
from skpat.exceptions import DeviceBusyError
from skpat.lab import Session, address_lock
from skpat.lab.address_lock import AddressLock, keep_fresh, normal_address


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


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be removed there")
def test_the_lock_of_a_file_that_was_removed_keeps_nobody_out_and_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    lock, removed = AddressLock("TCPIP::rig"), []
    try_lock = address_lock._try_lock

    def removed_meanwhile(file: int) -> bool:
        if not removed:
            removed.append(file)
            lock.path.unlink()
        return try_lock(file)

    before = lowest_free_number()
    monkeypatch.setattr(address_lock, "_try_lock", removed_meanwhile)
    lock.acquire(0, print)
    monkeypatch.setattr(address_lock, "_try_lock", try_lock)
    with pytest.raises(DeviceBusyError):  # whoever comes next finds the file that is locked
        AddressLock("TCPIP::rig").acquire(0, print)
    lock.release()
    assert lowest_free_number() <= before


def test_a_lock_that_is_held_shows_a_sign_of_life_every_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(address_lock.time, "monotonic", lambda: now[0])
    lock = AddressLock("TCPIP::rig")
    lock.acquire(0, print)
    for passed, fresh in ((3500.0, False), (200.0, True), (3500.0, False), (200.0, True)):
        os.utime(lock.path, (0, 0))
        now[0] += passed
        keep_fresh()
        assert (lock.path.stat().st_mtime > 0) == fresh
    lock.release()
    os.utime(lock.path, (0, 0))
    now[0] += 1e6
    keep_fresh()
    assert lock.path.stat().st_mtime == 0


def test_a_measurement_is_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(address_lock.time, "monotonic", lambda: now[0])
    device = as_device(np.tanh, n_controls=2, n_outputs=2, bounds=(-1, 1), address="TCPIP::rig")
    with Session(device) as session:
        session.measure(np.zeros((1, 2)))
        path = AddressLock("TCPIP::rig").path
        os.utime(path, (0, 0))
        now[0] += 4000
        session.measure(np.zeros((1, 2)))
        assert path.stat().st_mtime > 0


@pytest.mark.parametrize(
    "spellings",
    [
        ("GPIB0::5::INSTR", "gpib::5::instr", "GPIB::5", "GPIB0::5"),
        ("TCPIP0::192.168.0.7::inst0::INSTR", "TCPIP::192.168.0.7::INSTR", "tcpip::192.168.0.7"),
        ("TCPIP0::[fe80::1]::inst0::INSTR", "TCPIP::[FE80::1]::INSTR", "TCPIP::[fe80::1]"),
        ("USB0::0x1234::0x5678::SN1::0::INSTR", "USB::0x1234::0x5678::SN1::INSTR", "USB::0x1234::0x5678::SN1"),
        ("ASRL1::INSTR", "asrl1::instr"),
        ("TCPIP0::host::5025::SOCKET", "TCPIP::HOST::5025::SOCKET"),
        ("GPIB1::5::3::INSTR", "GPIB1::5::3"),
        ("lab::bench", "LAB::bench"),
        ("bench 42",),
    ],
)
def test_one_place_has_one_spelling(spellings: tuple[str, ...]) -> None:
    assert len({normal_address(spelling) for spelling in spellings}) == 1


@pytest.mark.parametrize(
    "known", ["GPIB::5", "TCPIP::192.168.0.7", "USB::0x1234::0x5678::SN1", "TCPIP::HOST::5025::SOCKET"]
)
def test_the_spelling_in_full_is_that_of_visa(known: str) -> None:
    to_canonical_name = pytest.importorskip("pyvisa.rname").to_canonical_name
    assert normal_address(known) == normal_address(to_canonical_name(known))
    others = {"GPIB0::6", "TCPIP::192.168.0.8", "GPIB2::5", "TCPIP::HOST::5026::SOCKET", "USB::0x1234::0x5678::SN1::1"}
    assert normal_address(known) not in map(normal_address, others)


def lowest_free_number() -> int:
    """The number that the next file gets."""
    file = os.open(os.devnull, os.O_RDONLY)
    os.close(file)
    return file


def test_a_folder_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(file: int) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(address_lock, "_try_lock", refused)
    with pytest.raises(
        OSError, match=r"lock of TCPIP::rig must .* No locks available in .* Set SKPAT_LOCK_DIR to a folder"
    ):
        AddressLock("TCPIP::rig").acquire(0, print)
