"""The file of a deployed network holds all of it, names its device, and is refused if it is not whole."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import tempfile
import textwrap
import warnings
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from skpat import ControlSplit, PhysicalNetworkClassifier, PhysicalNetworkRegressor, deployment
from skpat.devices import SecondHarmonicLaser
from skpat.exceptions import DeploymentFileError, DeviceContractError, DeviceIdentityError
from skpat.lab import Session
from skpat.lab.array_file import read_arrays, write_arrays
from skpat.network import description
from skpat.network.description import network_from_dict, network_to_dict

from .benchmarks.mutated_files import fuzz_deployments, leaks
from .deployed_bank import SMALL, Bank, data, environment, trained


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "network.skpat"


# ---- all of it comes back ----


@pytest.mark.parametrize(
    "labels",
    [["no", "yes, perhaps"], [3, -7], [False, True], [2.0, 5.0], ["ä", "日本"]],
    ids=["str", "int", "bool", "float", "unicode"],
)
def test_classes_of_any_kind_come_back(labels: list[Any], path: Path) -> None:
    X, y = data()
    network = PhysicalNetworkClassifier(Bank(), **SMALL).fit(X, np.array(labels)[np.minimum(y, 1)])
    network.deploy().save(path)
    loaded = deployment.load(path, Bank())
    assert loaded.classes_.dtype == network.classes_.dtype
    np.testing.assert_array_equal(loaded.predict(X), network.predict(X))
    np.testing.assert_array_equal(loaded.decision_function(X), network.decision_function(X))


def test_feature_names_and_everything_else_survive_the_file(path: Path) -> None:
    X, y = data()
    network = PhysicalNetworkClassifier(Bank(), n_shots=3, **SMALL).fit(pd.DataFrame(X, columns=["a", "b", "c"]), y)
    network.deploy().save(path)
    loaded = deployment.load(path, Bank())
    assert loaded.feature_names_in_.tolist() == ["a", "b", "c"]
    assert loaded.n_features_in_ == 3
    loaded.predict(X)
    assert loaded.shots_["prediction"] == 3 * len(X)
    with np.load(path) as saved:  # it is an npz file
        np.testing.assert_array_equal(saved["weights/readout.coef"], network.weights_["readout.coef"])
    again = path.with_name("again")
    loaded_anew = deployment.load(path, Bank())
    loaded_anew.save(again)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("letter", ["x", "αβγ"])
def test_as_many_and_as_long_names_as_there_are_survive_the_file(letter: str, path: Path) -> None:
    rng, n = np.random.default_rng(0), 12_000
    names = [f"{letter * 30}{i}" for i in range(n)]
    X, y = pd.DataFrame(rng.normal(size=(20, n)), columns=names), np.arange(20) % 2
    network = PhysicalNetworkClassifier(Bank(), **SMALL).fit(X, y)
    network.deploy().save(path)
    loaded = deployment.load(path, Bank())
    assert loaded.feature_names_in_.tolist() == names
    with pytest.raises(ValueError, match="must have the columns"):
        loaded.predict(X.iloc[:, ::-1])
    again = path.with_name("n" * 255)  # as long as a name may be
    loaded.save(again)
    assert again.read_bytes() == path.read_bytes()


def test_one_long_name_among_many_does_not_make_a_large_file(path: Path) -> None:
    rng, n = np.random.default_rng(0), 3_000
    names = [f"{i}" for i in range(n - 1)] + ["x" * 70_000]
    X, y = pd.DataFrame(rng.normal(size=(20, n)), columns=names), np.arange(20) % 2
    PhysicalNetworkClassifier(Bank(), **SMALL).fit(X, y).deploy().save(path)
    assert path.stat().st_size < 1 << 20
    assert deployment.load(path, Bank()).feature_names_in_.tolist() == names


@pytest.mark.parametrize("names", [["x" * 1_048_000, "b", "c"], ["x" * 600_000, "b\0", "c"]])
def test_names_that_fill_the_text_and_names_that_no_array_keeps_survive_the_file(names: list[str], path: Path) -> None:
    deployed = trained().deploy()
    deployed.feature_names_in_ = np.array(names, dtype=object)
    deployed.save(path)
    assert deployment.load(path, Bank()).feature_names_in_.tolist() == names


def test_a_description_is_a_network_again() -> None:
    network = trained(
        n_layers=2, skip="input", encoder="direct", n_units=2, control_split=ControlSplit(fixed={1: 0.5})
    )._network
    plain = network_to_dict(network)
    again = network_to_dict(network_from_dict(plain, 1000))
    assert list(plain) == list(again)
    for name, value in plain.items():
        np.testing.assert_array_equal(again[name], value)


def test_an_encoder_with_parameters_is_described_by_them(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    class Patches:
        def __init__(self, patch_shape: Any = None):
            self.patch_shape = patch_shape

        def get_params(self, deep: bool = True) -> dict[str, Any]:
            return {"patch_shape": self.patch_shape}

    deployed = trained().deploy()
    deployed._network.made_with["encoder"] = Patches([3, 3])
    with pytest.raises(ValueError, match=r"encoder of a network to be saved must be one of \['auto'.*ENCODER_OBJECTS"):
        deployed.save(path)
    monkeypatch.setitem(description.ENCODER_OBJECTS, "patches", Patches)
    plain = network_to_dict(deployed._network)["encoder"]
    assert plain == {"name": "patches", "patch_shape": [3, 3]}
    assert description._encoder_from_plain(plain).patch_shape == [3, 3]


# ---- which device ----


class Other(Bank):
    """Another class."""


class MoreOutputs(Bank):
    n_outputs = 5


class MoreControls(Bank):
    n_controls = 8


class Millivolts(Bank):
    control_units = "mV"


@pytest.mark.parametrize(
    ("device", "message", "fatal"),
    [
        (
            Bank(gain=2.0),
            "differs in its gain. Nothing was sent. .* or for code that was edited, use load\\(..., any_device=True\\)",
            False,
        ),
        (Other(), r"differs in its class, its name\.", False),
        (MoreOutputs(), r"differs in its n_outputs \(5 here, 4 there\)", True),
        (MoreControls(), r"differs in its n_controls \(8 here, 6 there\)", True),
        (
            Bank(bounds=(-1.0, 2.0)),
            r"differs in its bounds \(\[-1.  2.\] here, \[-1.  1.\] there, in channel 0\)",
            True,
        ),
        (Bank(steps=0.5), r"differs in its control_steps \(0.5 here, 0.0 there, in channel 0\)", True),
        (Millivolts(), r"differs in its control_units \('mV' here, 'V' there\)", True),
    ],
)
def test_another_device_is_refused_and_the_difference_named(
    device: Bank, message: str, fatal: bool, path: Path
) -> None:
    trained().deploy().save(path)
    with pytest.raises(DeviceIdentityError, match=message):
        deployment.load(path, device)
    if fatal:
        with pytest.raises(DeviceIdentityError, match=message):
            deployment.load(path, device, any_device=True)
    else:
        X, _ = data()
        assert deployment.load(path, device, any_device=True).predict(X).shape == (60,)
    with pytest.raises(DeviceContractError, match=r"must be a skpat\.Device"):
        deployment.load(path, "cuda")


def test_the_seed_of_a_simulated_device_is_not_the_device(path: Path) -> None:
    trained(SecondHarmonicLaser(16, 12, n_steps=3, random_state=0)).deploy().save(path)
    deployment.load(path, SecondHarmonicLaser(16, 12, n_steps=3, random_state=5))
    with pytest.raises(DeviceIdentityError, match="differs in its noise"):
        deployment.load(path, SecondHarmonicLaser(16, 12, n_steps=3, noise=0.5))


def test_another_instrument_at_the_address_is_refused_before_it_measures(path: Path) -> None:
    trained(Bank(serial="maker, model, 17")).deploy().save(path)
    X, _ = data()
    same, other = (Bank(serial=f"maker, model, {number}") for number in (17, 18))
    same_bank = deployment.load(path, same, any_device=False)
    assert len(same_bank.predict(X)) == 60
    about, _ = take_apart(path)
    assert about["identity"] == "maker, model, 17"
    about["device"]["fingerprint"]["serial"] = deployment.device_description(other)["serial"]
    repack(path, about)
    with pytest.raises(
        DeviceIdentityError, match=r"must be the one that answered before, 'maker, model, 17'. Got .* 18'"
    ):
        deployment.load(path, other).predict(X)
    assert other.rows == 0
    assert len(deployment.load(path, other, any_device=True).predict(X)) == 60


def test_an_open_line_to_another_instrument_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKPAT_LOCK_DIR", str(tmp_path))

    class Addressed(Bank):
        address = "bench 7"

    device = Addressed(serial="one")
    batch = np.zeros((1, 6))
    with Session(device) as outer:
        outer.measure(batch)
        assert outer.identity == "one"
        with (
            Session(device, identity="two") as inner,
            pytest.raises(DeviceIdentityError, match=r"must be 'two'. Got 'one'. Nothing was sent"),
        ):
            inner.measure(batch)
        with Session(device, identity="one") as inner:
            inner.measure(batch)
        outer.measure(batch)
    assert device.rows == 3


# ---- the file ----


def take_apart(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    return json.loads(members.pop("about.json")), members


def repack(
    path: Path, about: Any, arrays: dict[str, np.ndarray | bytes] | None = None, **options: Any
) -> dict[str, bytes]:
    """Write a file anew with other plain values or other arrays, all checksums right."""
    _, members = take_apart(path)
    for name, value in (arrays or {}).items():
        if isinstance(value, np.ndarray):
            npy = io.BytesIO()
            np.lib.format.write_array(npy, value, allow_pickle=True)
            value = npy.getvalue()
        members[f"{name}.npy"] = value
    text = about if isinstance(about, bytes) else json.dumps(about).encode()
    with zipfile.ZipFile(path, "w", **options) as file:
        for name, content in {"about.json": text, **members}.items():
            file.writestr(name, content)
    return members


def change(*place: str, to: Any) -> Callable[[Path], Any]:
    """Another plain value in the file."""

    def act(path: Path) -> None:
        about, _ = take_apart(path)
        part = about
        for key in place[:-1]:
            part = part[key]
        part[place[-1]] = to
        repack(path, about)

    return act


def put(name: str, value: Any) -> Callable[[Path], Any]:
    """Another array in the file."""
    return lambda path: repack(path, take_apart(path)[0], {name: value})


def text(content: bytes) -> Callable[[Path], Any]:
    return lambda path: repack(path, content)


def header(text: str, version: tuple[int, int] = (1, 0), body: bytes = b"\0" * 8) -> bytes:
    encoded = text.encode()
    return b"\x93NUMPY" + bytes(version) + len(encoded).to_bytes(2, "little") + encoded + body


def with_end(content: bytes, place: int, new: bytes) -> bytes:
    start = len(content) - 22 + place
    return content[:start] + new + content[start + len(new) :]


def append(path: Path, name: str) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as file:
        warnings.simplefilter("ignore")  # the name is there already
        file.writestr(name, b"")


def without(name: str) -> Callable[[Path], Any]:
    def act(path: Path) -> None:
        about, members = take_apart(path)
        with zipfile.ZipFile(path, "w") as file:
            for other, content in {"about.json": json.dumps(about).encode(), **members}.items():
                if other != name:
                    file.writestr(other, content)

    return act


def zip64(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-22] + b"PK\6\7" + b"\0" * 16 + content[-22:])


def claims_more(path: Path) -> None:
    content = path.read_bytes()
    entry = content.rindex(b"PK\1\2") + 20  # where the table of contents states the sizes of the last member
    path.write_bytes(content[:entry] + b"\xff\xff\xff\x7f" * 2 + content[entry + 8 :])


def named_twice(path: Path) -> None:
    change("feature_names", to=["a", "b", "c"])(path)
    put("feature_names", np.array(["a", "b", "c"]))(path)


NAN = np.full((4, 3), np.nan)
FORGED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "nothing": (lambda path: path.unlink(), "there is no such file"),
    "folder": (lambda path: (path.unlink(), path.mkdir()), "there is no such file"),
    "empty": (lambda path: path.write_bytes(b""), "it is no npz file, or its end is missing"),
    "text": (lambda path: path.write_text("weights\n" * 40), "it is no npz file, or its end is missing"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-9]), "its end is missing"),
    "many": (lambda path: path.write_bytes(with_end(path.read_bytes(), 10, b"\xff\xff")), "contents is too long"),
    "long": (lambda path: path.write_bytes(with_end(path.read_bytes(), 12, b"\xff" * 4)), "contents is too long"),
    "claims": (claims_more, "its members claim more bytes than there are"),
    "zip64": (zip64, "it is a zip64 file"),
    "twice": (lambda path: append(path, "classes.npy"), "two members have one name"),
    "script": (lambda path: append(path, "run.py"), "the member 'run.py' is no array"),
    "stranger": (put("extra", np.zeros(1)), "it must hold classes, or the targets' mean and scale"),
    "bomb": (lambda path: repack(path, {}, compression=zipfile.ZIP_DEFLATED), "the member 'about.json' is compressed"),
    "no json": (without("about.json"), "it has no member 'about.json'"),
    "long json": (text(b" " * (1 << 21)), "longer than 1,048,576 bytes"),
    "no text": (text(b"\xff"), "UnicodeDecodeError"),
    "half json": (text(b'{"format": '), "JSONDecodeError"),
    "deep json": (text(b"[" * 100_000), "RecursionError"),
    "list": (text(b"[]"), "holds no names"),
    "nan": (text(b'{"format": NaN}'), "NaN is no number"),
    "repeated": (text(b'{"a": 1, "a": 2}'), "a name is given twice"),
    "surrogate": (change("identity", to="\ud800"), "'about.json' holds what is no character"),
    "version": (change("format", to="skpat deployment 2"), "must be of format 'skpat deployment 1'. Got 'skpat deployment 2'"),
    "unknown": (change("more", to=1), "it must state"),
    "n_shots": (change("n_shots", to=10**9), "'n_shots' must be an int from 1 to 65,536"),
    "one shot": (change("n_shots", to=True), "'n_shots' must be an int from 1 to 65,536"),
    "n_before": (change("n_before", to=-1), "'n_before' must be an int of at least 0"),
    "identity": (change("identity", to=5), "'identity' must be a string or null"),
    "names": (change("feature_names", to=["a"]), "'feature_names' must be a name for each feature"),
    "names twice": (named_twice, "'feature_names' must be stated once"),
    "names no text": (put("feature_names", np.zeros(3)), "'feature_names' must be strings"),
    "names too few": (put("feature_names", np.array(["a"])), "'feature_names' must be a name for each feature"),
    "ndim": (change("target_ndim", to=1), "'target_ndim' of a classifier must be null"),
    "device": (change("device", to={}), "'device' must state"),
    "device words": (change("device", "name", to=3), "'device' must state strings"),
    "fingerprint": (change("device", "fingerprint", to={"a": 1}), "'fingerprint' must hold strings"),
    "wiring": (change("network", "more", to=1), "the network must be described by"),
    "wiring twice": (change("network", "bounds", to=1), "must state each part of the network once"),
    "features": (change("network", "n_features", to=True), "'n_features' must be an int from 1 to 16,777,216. Got True"),
    "targets": (change("network", "n_targets", to=-3), "'n_targets' must be an int from 1"),
    "outputs": (change("network", "n_outputs", to=10**7), "Got a wiring that needs more"),
    "wide": (change("network", "n_features", to=10**6), "Got a wiring that needs more"),
    "layers": (change("network", "n_layers", to=2), "it must hold the weights"),
    "encoder": (change("network", "encoder", to="pickle"), "'encoder' must be one of"),
    "readout": (change("network", "readout", to=["bins"]), "'readout' must be one of"),
    "skip": (change("network", "skip", to="x"), "'skip' must be one of"),
    "no channels": (put("network/input_index", np.empty(0, np.int64)), "the channels must each be an input, a weight"),
    "channels": (put("network/input_index", np.array([0, 0, 99])), "the channels must each be an input, a weight"),
    "index": (put("network/input_index", np.array([0.5])), "'input_index' must be an array of 1 dimensions and kind 'i'"),
    "bounds": (put("network/bounds", np.tile([1.0, 1.0], (6, 1))), "pairs of a lower bound and a higher one"),
    "wide bounds": (put("network/bounds", np.tile([-1e308, 1e308], (6, 1))), "'bounds' must not lie too far apart"),
    "infinite": (put("network/bounds", np.tile([0.0, np.inf], (6, 1))), "'network/bounds.npy' must hold finite numbers"),
    "steps": (put("network/control_steps", -np.ones(6)), "'control_steps' must be a number of at least 0"),
    "fixed": (put("network/fixed_values", np.ones(2)), "'fixed_values' must be one number within the bounds"),
    "shape": (put("weights/encoder.coef", np.ones((3, 2))), r"'encoder.coef' must have shape \(3, 3\). Got \(3, 2\)"),
    "whole numbers": (put("weights/encoder.coef", np.ones((3, 3), int)), "its weights must be floats"),
    "mixed": (put("weights/encoder.coef", np.ones((3, 3), np.float32)), "its weights must be floats"),
    "scale": (put("weights/encoder.scale", np.zeros(3)), "'encoder.scale' must be above 0"),
    "not finite": (put("weights/readout.coef", NAN), "must hold finite numbers only"),
    "group": (put("code/x", np.ones(1)), "it must not hold 'code/x'"),
    "classes": (put("classes", np.array(["a"])), r"'classes' must have shape \(3,\)"),
    "same classes": (put("classes", np.array([1, 1, 2])), "'classes' must differ from each other"),
    "object": (put("classes", np.array([os.system, 1, 2], dtype=object)), "must hold numbers, booleans or strings, not"),
    "pickle": (put("classes", pickle.dumps(7)), "ValueError"),
    "record": (put("classes", np.zeros(3, dtype=[("a", float)])), "must hold numbers, booleans or strings"),
    "dates": (put("classes", np.zeros(3, dtype="M8[s]")), "must hold numbers, booleans or strings"),
    "half bool": (
        put("classes", header("{'descr': '|b1', 'fortran_order': False, 'shape': (8,), }", body=b"\7" * 8)),
        "must hold booleans",
    ),
    "no character": (
        put("classes", header("{'descr': '<U2', 'fortran_order': False, 'shape': (1,), }", body=b"\xff" * 8)),
        "must hold characters",
    ),
    "npy 2": (put("classes", header("{}", (2, 0))), "must be of npy version 1.0"),
    "fortran": (
        put("classes", header("{'descr': '<f8', 'fortran_order': True, 'shape': (1,), }")),
        "a shape or an order that is never written",
    ),
    "huge": (
        put("classes", header("{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,), }")),
        "must hold 1099511627776 values of 8 bytes. Got 8 bytes",
    ),
    "negative": (
        put("classes", header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }")),
        "a shape or an order that is never written",
    ),
    "code": (put("classes", header("__import__('os').abort()")), "ValueError"),
}  # fmt: skip


@cache
def whole_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        trained().deploy().save(f"{folder}/whole")
        return Path(folder, "whole").read_bytes()


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_file_is_refused_by_one_named_error(name: str, path: Path) -> None:
    forge, message = FORGED[name]
    path.write_bytes(whole_file())
    forge(path)
    device = Bank()
    with pytest.raises(DeploymentFileError, match=message) as caught:
        deployment.load(path, device)
    assert str(caught.value).startswith(
        f"{str(path)!r} must be a deployed network, as save(path) writes it. Got a file"
    )
    assert "Nothing was sent to the device." in str(caught.value)
    assert device.rows == device.opened == 0


@pytest.mark.parametrize(
    ("forge", "message"),
    [
        (change("target_ndim", to=3), "'target_ndim' must be 1 or 2"),
        (change("target_ndim", to=True), "'target_ndim' must be 1 or 2"),
        (change("multilabel", to=True), "'multilabel' of a regressor must be false"),
        (change("target_ndim", to=1), "'target_ndim' must be 2 for several targets"),
        (put("targets/mean", np.zeros(3)), "'targets/mean' must be 2 numbers"),
        (put("targets/scale", -np.ones(2)), "'targets/scale' must not be below 0"),
    ],
)
def test_a_forged_file_of_a_regressor_is_refused(forge: Callable[[Path], Any], message: str, path: Path) -> None:
    X, _ = data()
    PhysicalNetworkRegressor(Bank(), **SMALL).fit(X, X[:, :2]).deploy().save(path)
    forge(path)
    with pytest.raises(DeploymentFileError, match=message):
        deployment.load(path, Bank())


def test_a_file_longer_than_any_network_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(path, "wb") as file:
        file.truncate((1 << 30) + 1)
    with pytest.raises(DeploymentFileError, match="it is longer than 1,073,741,824 bytes"):
        deployment.load(path, Bank())


def test_mutated_deployment_files_give_named_errors_only() -> None:
    counts, _ = fuzz_deployments(270, seed=1)
    assert leaks(counts) == []
    assert counts["refused as a file"] > 200


# ---- writing ----


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deployed = trained().deploy()
    deployed.save(path)
    whole = path.read_bytes()
    written = [0]
    real = zipfile.ZipFile.writestr

    def stops(self: zipfile.ZipFile, *arguments: Any, **options: Any) -> None:
        written[0] += 1
        if written[0] == 4:
            raise KeyboardInterrupt
        real(self, *arguments, **options)

    monkeypatch.setattr(zipfile.ZipFile, "writestr", stops)
    with pytest.raises(KeyboardInterrupt):
        trained(gain := Bank(gain=3.0)).deploy().save(path)
    assert gain.gain == 3.0
    assert path.read_bytes() == whole
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_process_killed_while_it_saves_leaves_the_old_file(path: Path) -> None:
    trained().deploy().save(path)
    whole = path.read_bytes()
    code = f"""
        import os, sys, pathlib, pickle
        import numpy as np
        from skpat.lab import array_file
        calls = []
        real = np.lib.format.write_array
        def kill(*arguments, **options):
            calls.append(1)
            if len(calls) == 3:
                os._exit(9)
            real(*arguments, **options)
        np.lib.format.write_array = kill
        array_file.write_arrays({str(path)!r}, {{}}, {{name: np.zeros(9) for name in "abcd"}})
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 9, done.stderr
    assert path.read_bytes() == whole
    deployment.load(path, Bank())


def test_what_cannot_be_read_again_is_not_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"'a' must hold numbers, booleans or strings. Got dtype object"):
        write_arrays(path, {}, {"a": np.array([None])})
    with pytest.raises(ValueError, match=r"must hold at most 1,073,741,824 bytes .* Got 8,589,93"):
        write_arrays(path, {}, {"a": np.broadcast_to(0.0, 1 << 30)})
    with pytest.raises(ValueError, match=r"'a' must hold characters. Got half of a pair"):
        write_arrays(path, {}, {"a": np.array(["fine", "\udcff"])})
    with pytest.raises(ValueError, match=r"Strings must hold characters. Got half of a pair"):
        write_arrays(path, {"a": ["\udcff"]}, {})
    with pytest.raises(ValueError, match=r"must take at most 1,048,576 bytes. Got 1,048,588"):
        write_arrays(path, {"a": "x" * (1 << 20)}, {})
    with pytest.raises(FileNotFoundError, match="nowhere"):
        trained().deploy().save(path.parent / "nowhere" / "file")
    with pytest.raises(ValueError, match=r"'n_shots' must be at most 65,536 to be saved\. Got 70,000"):
        trained().set_params(n_shots=70_000).deploy().save(path)
    deployed = trained().deploy()
    deployed.classes_ = np.array([1, None, "x"], dtype=object)
    with pytest.raises(ValueError, match="Classes must be numbers, booleans or strings to be saved"):
        deployed.save(path)
    assert not path.exists()
    deployed.classes_ = np.array(["x", "y", "z"], dtype=object)
    deployed.save(path)
    assert deployment.load(path, Bank()).classes_.tolist() == ["x", "y", "z"]


def test_as_many_arrays_are_written_as_are_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skpat.lab.array_file._MOST_MEMBERS", 3)
    arrays = {name: np.arange(3) for name in "abc"}
    with pytest.raises(ValueError, match="in 3 arrays"):
        write_arrays(path, {}, arrays)
    del arrays["c"]
    write_arrays(path, {"x": 1}, arrays)
    assert read_arrays(path)[1].keys() == arrays.keys()


@pytest.mark.parametrize(("about", "n_arrays"), [({"a": "x" * 9_000}, 2), ({}, 40)])
def test_what_stands_beside_the_numbers_counts_for_the_size_of_a_file(
    about: dict[str, str], n_arrays: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = {f"{i}": np.zeros(1) for i in range(n_arrays)}
    write_arrays(path, about, arrays)
    monkeypatch.setattr("skpat.lab.array_file.LARGEST_FILE", path.stat().st_size - 1)
    with pytest.raises(ValueError, match="A file must hold at most"):
        write_arrays(path, about, arrays)
