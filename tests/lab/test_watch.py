"""A run seen from another terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_iris

import skpat
from skpat import PhysicalNetworkClassifier
from skpat.devices import SecondHarmonicLaser
from skpat.exceptions import JournalError
from skpat.lab import Journal, Session
from skpat.lab.watch import Status, draw, main, read_status

from .bench_device import BenchDevice
from .recorded_device import POOL, Counter


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a run that had two faults."""
    monkeypatch.setattr(BenchDevice, "_calls", 0)
    fit(tmp_path / "run.db", faults={3: "line", 5: "nan"})
    return tmp_path / "run.db"


def fit(path: Path, **about: object) -> PhysicalNetworkClassifier:
    X = np.random.RandomState(0).uniform(-1, 1, (40, 3))
    y = X[:, 0] > X[:, 1]
    network = PhysicalNetworkClassifier(
        BenchDevice(**about), max_iter=4, n_calibration_shots=40, random_state=0, journal=path, batch_size=10
    )
    return network.fit(X, y, X_val=X, y_val=y)


def test_how_a_run_stands(journal: Path) -> None:
    status = read_status(journal)
    assert status.device == "bench 1"
    assert status.title == "PhysicalNetworkClassifier, 40 rows"
    assert [epoch[:2] for epoch in status.epochs] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert status.shots == {"calibration": 80, "training": 160, "validation": 160}
    assert [kind for kind, _, _ in status.faults] == ["connection", "not_finite"]
    assert [epoch[4] for epoch in status.epochs] == sorted(epoch[4] for epoch in status.epochs)
    text = str(status)
    assert "run 1 | epoch 4/4 | loss " in text
    assert (
        "400 shots on record (calibration 80, training 160, validation 160) | 2 faults (connection 1, not_finite 1)"
        in text
    )


def test_what_was_replayed_counts_like_what_was_measured(tmp_path: Path) -> None:
    with Journal(tmp_path / "run.db") as opened:
        run = opened.run(BenchDevice(), "a fit", "a fit gone on with")
        run.note_epoch(1, 4, loss=0.5, score=None, shots=10, replayed=30, faults=0)
    (epoch,) = read_status(tmp_path / "run.db").epochs
    assert epoch[:5] == (1, 4, 0.5, None, 40)


def test_of_several_runs_the_one_that_moved_last_is_told(tmp_path: Path) -> None:
    device = Counter()
    with Journal(tmp_path / "run.db") as opened:
        sessions = [Session(device, journal=opened.run(device, f"fit {number}")) for number in (1, 2)]
        assert read_status(opened.path).run == 2  # begun last: none has moved
        for number in (1, 2, 1):
            sessions[number - 1].measure(number / 4 * POOL)
            sessions[number - 1].measure(number / 2 * POOL)
            assert read_status(opened.path).run == number
        assert read_status(opened.path, 2).shots == {"prediction": 2 * len(POOL)}
        for session in sessions:
            session.close()


def test_the_next_run_of_a_journal_is_told_with_its_name_and_its_faults(
    journal: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = read_status(journal)
    following = [first, replace(first, run=2, title="the next one", faults=[("shape", "two rows are missing", 0.0)])]

    def look(*_: object) -> Status:
        if not following:
            raise KeyboardInterrupt
        return following.pop(0)

    monkeypatch.setattr("skpat.lab.watch.read_status", look)
    assert main([str(journal), "--interval", "0"]) == 0
    first_run, next_run = capsys.readouterr().out.split("bench 1: the next one\n")
    assert "connection: the line is dead" in first_run
    assert "run 2 | epoch 4/4" in next_run
    assert "shape: two rows are missing" in next_run


def test_the_command_prints_once_and_saves_a_figure(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = journal.with_suffix(".png")
    assert main([str(journal), "--once", "--save", str(picture)]) == 0
    assert main([str(journal), "--once", "--save", str(picture.with_name("without_a_kind"))]) == 0
    assert picture.with_name("without_a_kind.png").read_bytes()[:4] == picture.read_bytes()[:4] == b"\x89PNG"
    assert not list(picture.parent.glob(".*unfinished*"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "bench 1: PhysicalNetworkClassifier, 40 rows"
    assert "epoch 4/4" in lines[1]
    assert lines[2].endswith("connection: the line is dead")
    assert picture.stat().st_size > 5000


def test_the_figure_shows_loss_score_and_faults(journal: Path) -> None:
    figure = draw(read_status(journal))
    left, right = figure.axes
    assert left.get_xlabel() == "shots"
    assert len(left.lines[0].get_xdata()) == 4
    assert right.get_ylabel() == "validation score"
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["loss", "validation score", "2 faults"]


def test_a_training_on_the_twin_is_drawn_against_epochs(tmp_path: Path) -> None:
    X, y = load_iris(return_X_y=True)
    network = PhysicalNetworkClassifier(
        SecondHarmonicLaser(12, 6, n_steps=2), gradient="in_silico", n_calibration_shots=50, max_iter=4, random_state=0,
        journal=tmp_path / "run.db",
    )  # fmt: skip
    network.fit(X, y, X_val=X, y_val=y)
    axes, right = draw(read_status(tmp_path / "run.db")).axes
    assert axes.get_xlabel() == "epoch"
    for drawn in (axes, right):
        assert list(drawn.lines[0].get_xdata()) == [1, 2, 3, 4]


def test_a_figure_of_a_run_that_has_only_begun_is_empty_but_there(tmp_path: Path) -> None:
    from skpat.lab import Journal, Session

    with Journal(tmp_path / "run.db") as record:
        Session(BenchDevice(), journal=record).measure(np.full((2, 4), 0.5))
        assert len(draw(read_status(tmp_path / "run.db")).axes) == 1


def test_a_file_that_is_missing_or_foreign_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(JournalError, match=r"There is no journal .*run\.db yet\. A fit with journal="):
        read_status(tmp_path / "run.db")
    assert main([str(tmp_path / "run.db"), "--once"]) == 1
    (tmp_path / "thesis.txt").write_text("It was a dark and stormy night. " * 100)
    with pytest.raises(JournalError, match="is no journal of skpat"):
        read_status(tmp_path / "thesis.txt")
    assert main([str(tmp_path / "thesis.txt"), "--once"]) == 1
    assert "is no journal" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--interval", "-1"], "'interval' must be a number of seconds, at least 0. Got -1.0"),
        (["--interval", "nan"], "'interval' must be a number of seconds, at least 0. Got nan"),
        (["--once", "--save", "nowhere/run.png"], "'save' must be a place for a figure. Got 'nowhere/run.png'"),
        (["--once", "--save", "run.xyz"], "'save' must be a place for a figure. Got 'run.xyz'"),
    ],
)
def test_wrong_options_are_told(
    options: list[str], message: str, journal: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(journal.parent)
    with pytest.raises(SystemExit, match="2"):
        main([str(journal), *options])
    assert message in capsys.readouterr().err


def test_a_run_that_is_not_there_is_named(journal: Path) -> None:
    with pytest.raises(JournalError, match="has no run 7"):
        read_status(journal, run=7)
    with pytest.raises(JournalError, match="has no run 10000000000000000000000"):
        read_status(journal, run=10**22)


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_another_terminal_sees_the_run_while_it_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    watcher = subprocess.Popen(
        [sys.executable, "-m", "skpat.lab.watch", str(path), "--interval", "0.05"],
        env=os.environ | {"PYTHONPATH": str(Path(skpat.__file__).parents[1])},
        stdout=subprocess.PIPE,
        text=True,
    )
    seen: list[str] = []
    assert watcher.stdout is not None
    reader = threading.Thread(target=lambda: seen.extend(watcher.stdout))
    reader.start()
    time.sleep(1)  # it waits for the file
    fit(path, pause=0.02)
    deadline = time.monotonic() + 30
    while not any("epoch 4/4" in line for line in seen) and time.monotonic() < deadline:
        time.sleep(0.05)
    watcher.send_signal(signal.SIGINT)
    assert watcher.wait(30) == 0
    reader.join(30)
    watcher.stdout.close()
    epochs = [line.split("epoch ")[1][0] for line in seen if "epoch " in line]
    assert epochs == sorted(epochs)
    assert len(set(epochs)) > 1
    assert epochs[-1] == "4"


def test_a_run_without_epochs_is_drawn_in_words(journal: Path) -> None:
    status = replace(read_status(journal), epochs=[], ended=1.0)
    (axes,) = draw(status).axes
    (said,) = (text.get_text() for text in axes.texts)
    assert said.splitlines() == ["run 1", "ended", *str(status).split(" | ")[2:]]


UNREACHABLE = 77
READ_AN_ARCHIVE = """
import os, sys
from pathlib import Path
import numpy as np
from skpat.exceptions import JournalError
from skpat.lab import Journal, Session
from skpat.lab.watch import read_status
from tests.lab.recorded_device import POOL, Counter

folder = Path(sys.argv[1])
if os.getuid() == 0:  # to whom nothing is forbidden
    os.setuid(65534)
    if not os.access(folder, os.R_OK):
        os._exit(int(sys.argv[2]))
status = read_status(folder / "run.db")
with Journal(folder / "run.db") as journal:
    outputs = journal.to_arrays()["outputs"]
    assert journal._own is None  # opened anew for each question: somebody may begin to write
assert sum(status.shots.values()) == len(outputs) == len(POOL)
for name, message in (("run.db", "cannot be written to"), ("new.db", "May its folder be written to?")):
    try:
        Session(Counter(), journal=folder / name).measure(1 - POOL)
    except JournalError as error:
        assert message in str(error), error
    else:
        raise AssertionError(name)
assert os.listdir(folder) == ["run.db"]
"""


def test_a_run_in_a_folder_that_may_not_be_written_to() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "archive"
        folder.mkdir()
        with Journal(folder / "run.db") as journal:
            Session(Counter(), journal=journal).measure(POOL)
        (folder / "run.db").chmod(0o444)
        folder.chmod(0o555)
        folder.parent.chmod(0o755)
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        try:
            reader = subprocess.run(
                [sys.executable, "-c", READ_AN_ARCHIVE, str(folder), str(UNREACHABLE)], env=environment
            )
        finally:
            folder.chmod(0o755)
    if reader.returncode == UNREACHABLE:
        pytest.skip("the folder of temporary files is closed to other users")
    assert reader.returncode == 0
