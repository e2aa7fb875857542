"""Thousands of damaged and forged files: every one is refused by its named error, or is a legal file.

Prints one JSON line per kind of file: how many had which outcome, and the longest time that one took. A "leak" is an error
that is not a named one, a device that was called while a file was opened, or planted code that ran; the script then ends
with status 1.

    python tests/benchmarks/mutated_files.py --files 10000
"""

from __future__ import annotations

import argparse
import io
import json
import pickle
import shutil
import sqlite3
import struct
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from skpat import Device, PhysicalNetworkClassifier, PhysicalNetworkRegressor, deployment
from skpat.controls import ControlBatch
from skpat.exceptions import DeploymentFileError, DeviceIdentityError, JournalError, SkpatError
from skpat.lab import Journal, Session
from skpat.lab.watch import read_status

TOO_LONG = 5.0  # seconds for one small file
planted: list[str] = []


def run_planted_code(where: str) -> str:
    """What no file may bring about."""
    planted.append(where)
    return where


class Planted:
    def __reduce__(self) -> tuple[Any, ...]:
        return run_planted_code, ("pickle",)


class Tanh(Device):
    """A device without torch that counts its calls."""

    n_controls, n_outputs = 6, 4
    bounds = np.tile([-1.0, 1.0], (6, 1))

    def __init__(self, gain=1.0):
        self.gain = gain
        self.calls = 0

    def identify(self) -> str:
        return "Tanh number 1"

    def measure(self, batch: ControlBatch) -> np.ndarray:
        self.calls += 1
        controls = np.asarray(batch)
        return np.tanh(self.gain * controls[:, :4] + controls[:, 2:])


def data() -> tuple[np.ndarray, np.ndarray]:
    X = np.random.default_rng(0).uniform(-1, 1, (40, 3))
    return X, X[:, 0] > X[:, 1]


# ---- deployment files ----


def deployment_files() -> list[bytes]:
    """Some whole files of several kinds."""
    X, y = data()
    shared: dict[str, Any] = {"n_calibration_shots": 20, "max_iter": 1, "random_state": 0}
    networks = [
        PhysicalNetworkClassifier(Tanh(), n_layers=2, skip="input", **shared).fit(X, np.where(y, "yes", "no")),
        PhysicalNetworkClassifier(Tanh(), encoder="direct", readout="bins", **shared).fit(X.astype(np.float32), y),
        PhysicalNetworkRegressor(Tanh(), n_units=2, **shared).fit(X, X[:, :2]),
    ]
    files = []
    with tempfile.TemporaryDirectory() as folder:
        for network in networks:
            network.deploy().save(f"{folder}/whole")
            files.append(Path(folder, "whole").read_bytes())
    return files


STRANGE: list[Any] = [
    None, True, False, 0, -1, 1, 2, 1.5, -0.0, 1e308, 10**6, 2**31, 2**63, 10**30, "", "x", "auto", "\ud800", "\x00", [], {},
    [[]], [1, 2], {"a": 1}, ["x"] * 50, float("nan"), float("inf"), "skpat deployment 2", "../../x", "f8", "O",
]  # fmt: skip


def strange(rng: np.random.Generator) -> Any:
    return STRANGE[rng.integers(len(STRANGE))]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every value within plain values."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in items for place in places(part, (*path, key)))]


def with_change(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = with_change(copy[path[0]], path[1:], new)
    return copy


def members_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as members:
        return {name: members.read(name) for name in members.namelist()}


def packed(members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two members of one name
        with zipfile.ZipFile(out, "w", compression) as file:
            for name, content in members:
                file.writestr(zipfile.ZipInfo(name), content, compress_type=compression)
    return out.getvalue()


def flip_bits(content: bytes, rng: np.random.Generator) -> bytes:
    out = bytearray(content)
    for place in rng.integers(len(out), size=rng.integers(1, 9)):
        out[place] ^= 1 << int(rng.integers(8))
    return bytes(out)


def cut(content: bytes, rng: np.random.Generator) -> bytes:
    start, end = sorted(int(place) for place in rng.integers(len(content) + 1, size=2))
    return (content[:end], content[start:], content[:start] + content[end:], content + content[start:end])[
        rng.integers(4)
    ]


def overwrite(content: bytes, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(len(content)))
    new = rng.bytes(int(rng.integers(1, 64))) if rng.random() < 0.7 else b"\xff" * 8
    return content[:start] + new + content[start + len(new) :]


def swap_members(content: bytes, rng: np.random.Generator) -> bytes:
    """Members exchanged, dropped, repeated, renamed, added or compressed; all checksums right."""
    members = list(members_of(content).items())
    one, other = (int(i) for i in rng.integers(len(members), size=2))
    name, body = members[one]
    way = rng.integers(7)
    if way == 0:
        members[one], members[other] = (name, members[other][1]), (members[other][0], body)
    elif way == 1:
        del members[one]
    elif way == 2:
        members.append((name, body))
    elif way == 3:
        members[one] = (("../" + name, "/etc/x.npy", name.upper(), "weights/.npy", "a" * 500)[rng.integers(5)], body)
    elif way == 4:
        members.append((("weights/more.npy", "run.py", "network/n_layers.npy", "x/")[rng.integers(4)], body))
    elif way == 5:
        return packed(members, zipfile.ZIP_DEFLATED)
    else:  # zeros that are little when compressed
        members[one] = name, b"\x00" * (1 << 20)
        return packed(members, zipfile.ZIP_DEFLATED)
    return packed(members)


def edit_json(content: bytes, rng: np.random.Generator) -> bytes:
    """Values of another type, huge, negative, NaN, missing, too many or nested too deep; all checksums right."""
    members = members_of(content)
    about = json.loads(members["about.json"])
    paths = places(about)
    path = paths[rng.integers(len(paths))]
    way = rng.integers(6)
    if way == 4 and path:
        parent = about
        for key in path[:-1]:
            parent = parent[key]
        del parent[path[-1]]
    elif way == 5:
        text = (b"[" * 100_000, b'{"a":' * 50_000, b"9" * 5_000, b"\xff\xfe", b"", b'{"format": 1, "format": 2}')
        return packed(list((members | {"about.json": text[rng.integers(6)]}).items()))
    else:
        about = with_change(about, path, strange(rng))
    members["about.json"] = json.dumps(about).encode()
    return packed(list(members.items()))


def forged_npy(body: bytes, rng: np.random.Generator) -> bytes:
    array = np.load(io.BytesIO(body))
    payload = pickle.dumps(Planted())
    shapes = [(2**40,), (-1,), (2**31, 2**31), (0,), array.shape[::-1], (*array.shape, 1), (), (True,), (10**30,), "x"]
    dtypes = [
        "|O", array.dtype.str, "<f2", ">f8", "<c16", "<M8[s]", "|V8", "<U1000000", "|S0", "<i8", "|b1", [("a", "<f8")],
        "(3,)f8", "<f4", "<u8", "nonsense",
    ]  # fmt: skip
    header = {
        "descr": dtypes[rng.integers(len(dtypes))] if rng.random() < 0.7 else array.dtype.str,
        "fortran_order": bool(rng.random() < 0.2) if rng.random() < 0.9 else "yes",
        "shape": shapes[rng.integers(len(shapes))] if rng.random() < 0.5 else array.shape,
    }
    text = repr(header) if rng.random() < 0.8 else "__import__('builtins').print('planted')"
    text = text if rng.random() < 0.95 else "(" * 9_000
    encoded = text.encode() + b"\n"
    magic = b"\x93NUMPY" + bytes([[1, 0], [1, 0], [1, 0], [2, 0], [3, 0], [9, 9]][rng.integers(6)])
    data = payload if rng.random() < 0.4 else array.tobytes()
    return magic + struct.pack("<H", len(encoded) & 0xFFFF) + encoded + data


def forge_array(content: bytes, rng: np.random.Generator) -> bytes:
    """An array of another type, shape or content, or a pickle; all checksums right."""
    members = members_of(content)
    names = [name for name in members if name.endswith(".npy")]
    name = names[rng.integers(len(names))]
    array = np.load(io.BytesIO(members[name]))
    way = rng.integers(4)
    if way == 0:
        members[name] = pickle.dumps(Planted())
    elif way == 1:
        members[name] = forged_npy(members[name], rng)
    else:
        if way == 2 and array.size and array.dtype.kind in "fi":
            array = array.copy()
            new = [np.nan, np.inf, -1, 0, 1e300, 2**31, 5][rng.integers(7)]
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                array.flat[rng.integers(array.size)] = np.float64(new).astype(array.dtype)
        else:
            array = np.array([Planted()], dtype=object) if rng.random() < 0.5 else array.astype("<U4")
        npy = io.BytesIO()
        np.lib.format.write_array(npy, array, version=(1, 0), allow_pickle=True)
        members[name] = npy.getvalue()
    return packed(list(members.items()))


def forge_ends(content: bytes, rng: np.random.Generator) -> bytes:
    """The records from which a reader of zip files learns how much there is."""
    out = bytearray(content)
    way = rng.integers(4)
    if way == 0:  # number of members, size and place of the table
        start = len(out) - 22 + int(rng.integers(4, 20))
        out[start : start + 2] = rng.bytes(2)
    elif way == 1:  # sizes in the table of contents
        start = content.index(b"PK\1\2")
        entries = [start]
        while (start := content.find(b"PK\1\2", start + 1)) > 0:
            entries.append(start)
        at = entries[rng.integers(len(entries))] + int(rng.choice([8, 10, 20, 24, 28, 30, 32, 42]))
        out[at : at + 4] = [b"\xff\xff\xff\xff", b"\xff\xff\xff\x3f", b"\0\0\0\0"][rng.integers(3)]
    elif way == 2:  # a zip64 file's records
        locator = b"PK\6\7" + struct.pack("<IQI", 0, int(rng.integers(len(out))), 1)
        return content[:-22] + locator + content[-22:]
    else:
        return content[:-2] + struct.pack("<H", 10) + rng.bytes(int(rng.integers(0, 20)))
    return bytes(out)


DEPLOYMENT = (flip_bits, cut, overwrite, swap_members, edit_json, edit_json, forge_array, forge_array, forge_ends)


def deployment_outcome(path: Path) -> str:
    """What becomes of a file."""
    device = Tanh()
    try:
        loaded = deployment.load(path, device)
    except DeploymentFileError:
        return "refused as a file"
    except DeviceIdentityError:
        return "refused as another device's"
    finally:
        if device.calls or planted:
            raise AssertionError(f"the device was called {device.calls} times, planted code ran: {planted}")
    X = np.random.default_rng(1).uniform(-1, 1, (2, loaded.n_features_in_))
    try:
        with np.errstate(all="ignore"):
            loaded.predict(X)
    except SkpatError as error:  # finite weights can still give settings that are no numbers: they are not sent
        return f"loaded, then {type(error).__name__}"
    return "loaded"


# ---- journals ----


def journals(folder: Path) -> list[Path]:
    """A journal that was closed, and one as a crash leaves it."""
    closed, crashed = folder / "closed.db", folder / "crashed.db"
    rows = np.random.default_rng(0).uniform(-1, 1, (20, 6))
    for path in (closed, folder / "open.db"):
        journal = Journal(path)
        with Session(Tanh(), journal=journal) as session:
            session.measure(rows[:3], purpose="calibration")
            session.measure(ControlBatch(rows[:, 1:], np.arange(1, 6), rows[0, :1], np.array([0])), purpose="training")
            run = session.journal
            assert run is not None
            run.seed(lambda: 7)
            run.check_identity("Tanh number 1")
            run.note_epoch(1, 5, loss=0.5, score=None, shots=23, replayed=0, faults=0)
            run.note_fault("connection", "no answer")
        if path != closed:
            for ending in ("", "-wal"):
                shutil.copy(f"{path}{ending}", f"{crashed}{ending}")
        journal.close()
    return [closed, crashed]


def edit_rows(path: Path, rng: np.random.Generator) -> None:
    """A value of another type in a table, or a table that is not what it was."""
    columns = {
        "about": "name value",
        "runs": "signature title seed started",
        "settings": "digest varying_index shared_index shared dtype",
        "batches": "run setting purpose shot n_rows controls_dtype outputs_dtype row_keys varying outputs time",
        "epochs": "run epoch max_iter loss score shots replayed faults time",
        "faults": "run kind message time",
    }
    table = list(columns)[rng.integers(len(columns))]
    names = columns[table].split()
    column = names[rng.integers(len(names))]
    values: list[Any] = [
        None, -1, 0, 1, 2**62, 1e308, float("inf"), float("nan"), "", "x", "O", "f8,f8", "<f4", b"", b"\xff" * 7, "(((", 10**9,
        rng.bytes(8), rng.bytes(64), b"\xff" * 8, "[]", '{"a": 1}', "null", "\x00",
    ]  # fmt: skip
    file = sqlite3.connect(path, isolation_level=None)
    try:
        way = rng.integers(8)
        if way == 0:
            file.execute(f"DROP TABLE {table}")
            if rng.random() < 0.5:
                file.execute(f"CREATE TABLE {table} (x)")
        elif way == 1:
            file.execute(f"DELETE FROM {table} WHERE rowid = 1")
        elif way == 2:  # text that is none
            file.execute(f"UPDATE OR IGNORE {table} SET {column} = CAST(x'ff80fe' AS TEXT)")
        elif way == 3:
            other = names[rng.integers(len(names))]
            file.execute(f"UPDATE OR IGNORE {table} SET {column} = {other}")
        else:
            which = "" if rng.random() < 0.5 else " WHERE rowid = 1"
            file.execute(f"UPDATE OR IGNORE {table} SET {column} = ?{which}", (values[rng.integers(len(values))],))
    except sqlite3.Error:
        pass
    finally:
        file.close()


def journal_outcome(path: Path) -> str:
    """What becomes of a journal: it is watched, exported, and a run goes on with it."""
    rows = np.random.default_rng(0).uniform(-1, 1, (20, 6))
    found = []

    def go_on() -> None:
        with Session(Tanh(), journal=journal, wait=1.0) as session:
            assert session.journal is not None
            np.random.RandomState(session.journal.seed(lambda: 1))
            outputs = session.measure(rows)
            assert outputs.shape == (20, 4), "answers that are none"
            if not np.array_equal(outputs, Tanh().measure(rows)):
                found.append("changed")

    journal = Journal(path)
    acts: list[Callable[[], Any]] = [
        lambda: str(read_status(path)),
        lambda: journal.about,
        journal.to_arrays,
        go_on,
        go_on,
    ]
    try:
        for act in acts:
            try:
                act()
                found.append("taken")
            except (JournalError, DeviceIdentityError):
                found.append("refused")
    finally:
        journal.close()
    if "changed" in found:  # SQLite notices damage to its own structure only
        return "an answer is another one"
    return "taken" if "refused" not in found else "refused" if "taken" not in found else "refused in part"


# ---- all of it ----


def fuzz_deployments(n_files: int, seed: int) -> tuple[Counter, float]:
    """Outcomes of so many mutated deployment files, and the longest time of one."""
    whole, counts, longest = deployment_files(), Counter[str](), 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network"
        for number in range(n_files):
            rng = np.random.default_rng((seed, number))
            mutate = DEPLOYMENT[number % len(DEPLOYMENT)]
            path.write_bytes(mutate(whole[number // len(DEPLOYMENT) % len(whole)], rng))
            longest = max(longest, _outcome(counts, deployment_outcome, path, f"{mutate.__name__} {number}"))
    return counts, longest


def fuzz_journals(n_files: int, seed: int) -> tuple[Counter, float]:
    """Outcomes of so many mutated journals, and the longest time of one."""
    counts, longest = Counter[str](), 0.0
    with tempfile.TemporaryDirectory() as folder:
        sources = journals(Path(folder))
        path = Path(folder) / "run.db"
        for number in range(n_files):
            rng = np.random.default_rng((seed, number))
            source = sources[number // 8 % 2]
            for ending in ("", "-wal", "-shm"):
                Path(f"{path}{ending}").unlink(missing_ok=True)
                if Path(f"{source}{ending}").exists():
                    shutil.copy(f"{source}{ending}", f"{path}{ending}")
            mutate = (flip_bits, flip_bits, cut, overwrite)[number % 4]
            if number % 8 < 4:
                edit_rows(path, rng)
                mutate_name = "edit_rows"
            else:
                victim = Path(f"{path}-wal") if source.name == "crashed.db" and number % 3 == 0 else path
                victim.write_bytes(mutate(victim.read_bytes(), rng))
                mutate_name = mutate.__name__
            longest = max(longest, _outcome(counts, journal_outcome, path, f"{mutate_name} {number}"))
    return counts, longest


def _outcome(counts: Counter, act: Callable[[Path], str], path: Path, case: str) -> float:
    begun = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = act(path)
    except Exception as error:
        planted.clear()
        found = f"leak: {type(error).__name__}: {str(error)[:80]} ({case})"
    counts[found] += 1
    seconds = time.perf_counter() - begun
    if seconds > TOO_LONG:
        counts[f"leak: {seconds:.0f} s ({case})"] += 1
    return seconds


def leaks(counts: Counter) -> list[str]:
    return [outcome for outcome in counts if outcome.startswith("leak")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=["deployment", "journal"])
    asked = parser.parse_args()
    failed = False
    fuzzes = {"deployment": fuzz_deployments, "journal": fuzz_journals}
    for kind in asked.kinds:
        fuzz = fuzzes[kind]
        begun = time.perf_counter()
        counts, longest = fuzz(asked.files, asked.seed)
        taken = time.perf_counter() - begun
        figures = {"files": asked.files, "seconds": round(taken, 1), "longest": round(longest, 3)}
        print(json.dumps({"kind": kind, **figures, "outcomes": dict(counts.most_common(40))}), flush=True)
        failed |= bool(leaks(counts))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
