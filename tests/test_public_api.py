"""What `import skpat` gives and costs, and that imports go downward only."""

from __future__ import annotations

import ast
import importlib
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import numpy as np
import pytest

import skpat

ROOT = Path(skpat.__file__).parent

PUBLIC = {
    "skpat": "ControlBatch ControlSplit Device PhysicalNetworkClassifier PhysicalNetworkRegressor as_device "
    "characterize check_device",
    "skpat.devices": "AnalogCircuit CoupledOscillators Device Drifting FrozenModel MachZehnderMesh NeuralTissue Noisy "
    "OscillatingPlate Quantized SecondHarmonicLaser as_device",
    "skpat.lab": "EpicsDevice Journal Ledger QcodesDevice Session VisaDevice adopt",
    "skpat.network": "PatchEncoder",
    "skpat.twins": "NeuralTwin PhysicsTwin ResidualTwin",
    "skpat.training": "Asymmetric DirectFeedbackAlignment EvolutionStrategy ExactGradient FiniteDifferences ForwardForward "
    "GradientEstimator InSilico InSilicoRefitted PhysicsAware SPSA SharpnessAware",
    "skpat.inspection": "DeviceCheck DeviceReport characterize check_device gradient_alignment compare_baselines "
    "BaselineComparison TrainingCurveDisplay TwinFidelityDisplay GradientAlignmentDisplay ControlMapDisplay "
    "DeviceResponseDisplay plan_comparison shots_scorer",
    "skpat.estimators": "PhysicalNetworkClassifier PhysicalNetworkRegressor",
}

# Floors, from the ground; the rooms of one floor stand side by side, and none knows another.
FLOORS = [
    ["exceptions", "row_keys", "seeding", "user_warning", "value_checks", "_lazy"],
    ["controls", "nested_parameters"],
    ["devices", "twins", "network"],
    ["lab"],
    ["training", "deployment"],
    ["estimators"],
    ["inspection"],
]


# ---- public names ----


@pytest.mark.parametrize("package", PUBLIC)
def test_the_public_names_are_there(package: str) -> None:
    module = importlib.import_module(package)
    assert set(PUBLIC[package].split()) <= set(module.__all__)
    for name in module.__all__:
        assert getattr(module, name).__name__ == name
    assert set(module.__all__) <= set(dir(module))


@pytest.mark.parametrize("package", PUBLIC)
def test_a_name_that_is_not_there_is_an_attribute_error(package: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'Lazer'"):
        importlib.import_module(package).Lazer  # noqa: B018


def in_a_fresh_interpreter(code: str, *path: Path) -> str:
    """What a new Python prints, with ``path`` to import from."""
    setup = f"import sys; sys.path[:0] = {[str(p) for p in (ROOT.parent, *path)]!r}\n"
    done = subprocess.run([sys.executable, "-c", setup + textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_skpat_imports_neither_torch_nor_the_lab() -> None:
    found = in_a_fresh_interpreter(
        """
        import skpat, skpat.devices, skpat.lab, skpat.twins, skpat.training, skpat.estimators, skpat.inspection
        print([name for name in ("torch", "numpy", "sklearn", "skpat.lab.session") if name in sys.modules])
        skpat.ControlSplit, skpat.Device, skpat.as_device, skpat.PhysicalNetworkClassifier, skpat.lab.Session
        skpat.check_device, skpat.characterize
        print("torch" in sys.modules)
        """
    )
    assert found.split("\n") == ["[]", "False"]


NUMPY_DEVICE = '''
import numpy as np
from skpat import Device


class NumpyBank(Device):
    """Products of neighbouring voltages: a lab's own device, at the top of a module, without torch."""

    n_controls, n_outputs = 8, 4
    bounds = np.tile([-1.0, 1.0], (8, 1))

    def measure(self, batch):
        voltages = np.asarray(batch)
        return np.tanh(voltages[:, ::2] * voltages[:, 1::2])
'''


def test_predicting_with_a_numpy_device_imports_no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numpy_bank_for_a_test.py").write_text(NUMPY_DEVICE)
    monkeypatch.syspath_prepend(tmp_path)
    device = importlib.import_module("numpy_bank_for_a_test").NumpyBank()
    X = np.random.default_rng(0).random((40, 3))
    classifier = skpat.PhysicalNetworkClassifier(device, n_calibration_shots=50, max_iter=2, random_state=0)
    classifier.fit(X, X[:, 0] > X[:, 1])
    assert "torch" in sys.modules  # training needs it, so its absence below says something
    (tmp_path / "classifier.pickle").write_bytes(pickle.dumps(classifier))
    np.save(tmp_path / "X.npy", X)
    found = in_a_fresh_interpreter(
        f"""
        import pickle, pathlib, numpy as np
        folder = pathlib.Path({str(tmp_path)!r})
        classifier = pickle.loads((folder / "classifier.pickle").read_bytes())
        np.save(folder / "scores.npy", classifier.decision_function(np.load(folder / "X.npy")))
        print("torch" in sys.modules)
        """,
        tmp_path,
    )
    assert found == "False"
    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), classifier.decision_function(X))


# ---- imports go downward only ----


def is_module(name: str) -> bool:
    path = ROOT.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def imported(source: str, package: str) -> Iterator[str]:
    """Every module of skpat that a file of ``package`` imports: anywhere in it, for types only, or by a lazy name."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            members = [f"{base}.{alias.name}" for alias in node.names]
            names = [member if is_module(member) or base == "skpat" else base for member in members]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("skpat."):
            names = [node.value] if is_module(node.value) else []
        yield from (name for name in names if name.split(".")[0] == "skpat")


def wrong_edges(source: str, package: str, room: str) -> list[str]:
    """The imports of a file that do not go down: from its own floor or above, or from the roof (``import skpat``)."""
    floor = {name: level for level, names in enumerate(FLOORS) for name in names}
    rooms = {name: [*name.split("."), ""][1] for name in imported(source, package)}
    return [name for name, other in rooms.items() if other != room and not floor.get(other, 99) < floor[room]]


FILES = {".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path for path in sorted(ROOT.rglob("*.py"))}


def package_of(module: str) -> str:
    return module.rpartition(".")[0]


@pytest.mark.parametrize("module", [name for name in FILES if name != "skpat.__init__"])
def test_imports_go_downward_only(module: str) -> None:
    room = module.split(".")[1]
    assert any(room in names for names in FLOORS), f"{room} stands on no floor; add it to DESIGN.md and to FLOORS"
    assert wrong_edges(FILES[module].read_text(), package_of(module), room) == []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("controls", "import skpat.training.loop as loop"),
        ("devices", "from skpat.lab import Session"),
        ("devices", "from skpat.twins.base import Twin"),  # sideways
        ("exceptions", "from skpat._lazy import attach"),  # sideways, on the ground
        ("twins", "def fit():\n    from skpat.lab.session import Session"),
        ("network", "if TYPE_CHECKING:\n    from skpat.training.trainer import Trainer"),
        ("lab", "from ..estimators import base"),
        ("lab", "from ..estimators.base import PhysicalNetwork"),
        ("training", "from skpat import estimators"),
        ("training", "from skpat import ControlSplit"),  # the roof
        ("training", "import skpat"),
        ("devices", "attach(__name__, {'Session': 'skpat.lab.session'})"),
        ("lab", "from skpat.attic import junk"),  # a room that is on no floor
    ],
)
def test_a_planted_wrong_edge_is_seen(room: str, source: str) -> None:
    assert len(wrong_edges(source, f"skpat.{room}", room)) == 1


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("lab", "from skpat.controls import ControlBatch"),
        ("lab", "from skpat import controls"),
        ("lab", "from . import ledger"),
        ("lab", "from .ledger import Ledger"),
        ("lab", "from ..controls import ControlBatch"),
        ("lab", "import numpy, torch"),
        ("lab", "'skpat.as_device'"),
    ],
)
def test_a_downward_edge_is_let_pass(room: str, source: str) -> None:
    assert wrong_edges(source, f"skpat.{room}", room) == []


def test_no_file_imports_in_a_circle() -> None:
    graph = {module: set(imported(path.read_text(), package_of(module))) for module, path in FILES.items()}
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError
    assert order.index("skpat.exceptions") < order.index("skpat.controls") < order.index("skpat.lab.session")
