"""A published table of fabrication errors in photonic chips, with skpat: meshes of 64 ports read MNIST.

Each image is the 8 x 8 centre of its two-dimensional Fourier transform. Every phase of the chips has a fixed error
N(0, s) rad, or every splitter a fixed factor sqrt(1 +- N(0, e)); what the chips do is unknown to the method but for what
photodiodes show behind each mesh.

- error-free: trained and tested without errors;
- deployed: trained in silico without errors, tested on the chips with errors;
- nominal twin: physics-aware training, the twin has no errors;
- fitted twin: the same, the twin's errors are sought on the shots of the training, in parts of a step each;

and beside them the published figures (dual adaptive training: Zheng et al., Nature Machine Intelligence 5, 1119 (2023),
doi:10.1038/s42256-023-00723-4; one run, the best checkpoint on the test images): deployed,
physics-aware training of the last output only, and the best of all, which also measures between the meshes.

What differs from the published set-up: light passes the same chip three times (there: three chips, each with errors of its
own). It is detected behind every mesh, and what the photodiodes read sets the amplitudes and phases of the modulators before
the next (there: fields, with a nonlinearity at once). The phase and the square root of the amplitude of the transform, each
scaled to its range, set those of the first. Photodiodes have noise (1 %). Class scores are the means of six or seven ports
(``readout="bins"``). Nothing digital is trained but gains and offsets.

Images are plenty and the computer slow: training takes one step a batch, and no further ones without shots. The checkpoint of
the best epoch on 5,000 of the 60,000 training images is kept; the 10,000 test images are looked at once.

    python tests/benchmarks/mesh_errors.py --data-home DIR       # DIR/mnist.npz
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import numpy as np

from paper import load_mnist
from runs import add_arguments, read_results, run_cases
from skpat import ControlSplit, PhysicalNetworkClassifier
from skpat.devices import MachZehnderMesh
from skpat.exceptions import UselessTwinWarning
from skpat.training import PhysicsAware
from skpat.twins import PhysicsTwin

N_PORTS, N_VALIDATION = 64, 5000
# errors: (of phases in rad, of splitters); published accuracies: deployed, last output only, best
CASES: dict[str, tuple[float, float, tuple[float, float, float] | None]] = {
    "none": (0.0, 0.0, None),
    "phases 0.06": (0.06, 0.0, (86.6, 90.2, 95.5)),
    "phases 0.08": (0.08, 0.0, (69.1, 76.4, 92.1)),
    "phases 0.10": (0.10, 0.0, (59.7, 70.3, 87.0)),
    "splitters 0.10": (0.0, 0.10, (72.8, 73.8, 92.3)),
}
METHODS = ("deployed", "nominal twin", "fitted twin")


def features(images: np.ndarray) -> np.ndarray:
    """Square root of the amplitude, then the phase, of the lowest 8 x 8 spatial frequencies: (n, 128)."""
    spectrum = np.fft.fftshift(np.fft.fft2(images.astype(np.float64)), axes=(1, 2))[:, 10:18, 10:18].reshape(
        -1, N_PORTS
    )
    return np.concatenate([np.sqrt(np.abs(spectrum)), np.angle(spectrum)], axis=1).astype(np.float32)


def mesh(**errors: Any) -> MachZehnderMesh:
    """A chip without loss and activation, with a phase modulator at every port."""
    return MachZehnderMesh(N_PORTS, phase_modulators=True, nonlinearity=0.0, loss=0.0, **errors)


def train(chips: MachZehnderMesh, sought: list[str], draw: int, data: dict[str, np.ndarray], epochs: int) -> Any:
    """A network on these chips; its twin has no errors at first, and seeks those named."""
    network = PhysicalNetworkClassifier(
        chips,
        PhysicsTwin(mesh(), sought),
        control_split=ControlSplit(np.arange(2 * N_PORTS)),
        encoder="direct",
        readout="bins",
        n_layers=3,
        gradient=PhysicsAware(n_anchored_steps=0, pretrain=False),
        n_calibration_shots=0,
        batch_size=512,
        max_iter=epochs,
        learning_rate_init=0.03,
        alpha=0.0,
        random_state=draw,
    )
    order = np.random.RandomState(draw).permutation(len(data["x_train"]))
    X, y = features(data["x_train"]), data["y_train"]
    held_out, kept = order[:N_VALIDATION], order[N_VALIDATION:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UselessTwinWarning)  # of the nominal twin; the table says how good it is
        return network.fit(X[kept], y[kept], X_val=X[held_out], y_val=y[held_out])


def run(
    case: str, method: str, draw: int, data: dict[str, np.ndarray], epochs: int, ideal: dict[int, Any]
) -> dict[str, Any]:
    """One training, and the accuracy on the test images. ``ideal`` keeps the networks trained without errors."""
    of_phases, of_splitters, _ = CASES[case]
    errors = {"phase_error": of_phases, "splitter_error": of_splitters, "device_seed": draw}
    begun, processor = time.perf_counter(), time.process_time()
    if method == "deployed":  # the settings of a training without errors, on chips that have them
        if draw not in ideal:
            ideal[draw] = train(mesh(), [], draw, data, epochs)
        network = ideal[draw]
        network.device_.set_params(**errors)
    else:
        sought = ["phase_offsets" if of_phases else "splitter_offsets"] if method == "fitted twin" else []
        network = train(mesh(**errors), sought, draw, data, epochs)
    accuracy = network.score(features(data["x_test"]), data["y_test"])
    return {
        "case": case,
        "method": method,
        "draw": draw,
        "epochs": epochs,
        "accuracy": round(100 * float(accuracy), 2),
        "validation": round(100 * float(network.best_validation_score_ or 0.0), 2),
        "processor_seconds": round(time.process_time() - processor),
        "wall_seconds": round(time.perf_counter() - begun),
    }


def table(results: list[dict[str, Any]]) -> str:
    """The mean over the draws beside what was published."""
    lines = [f"{'errors':<16}{'method':<14}{'accuracy':>10}  draws"]
    for case, (*_, published) in CASES.items():
        for method in METHODS:
            found = [r["accuracy"] for r in results if (r["case"], r["method"]) == (case, method)]
            if found:
                lines.append(f"{case:<16}{method:<14}{np.mean(found):>8.2f} %  {found}")
        if published is not None:
            lines.append(
                f"{case:<16}{'published':<14}deployed {published[0]}, last output {published[1]}, best {published[2]}"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-home")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--draws", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=16)
    add_arguments(parser, "mesh_errors.jsonl", jobs=1)
    arguments = parser.parse_args()
    data = load_mnist(arguments.data_home)
    known = read_results(arguments.results)
    known = [result for result in known if result["epochs"] == arguments.epochs]
    done = {(r["case"], r["method"], r["draw"]) for r in known}
    ideal: dict[int, Any] = {}
    cases = [
        (case, method, draw, data, arguments.epochs, ideal)
        for draw in arguments.draws
        for case in arguments.cases
        for method in arguments.methods
        if (case, method, draw) not in done and (case != "none" or method == "deployed")
    ]
    known += run_cases(run, cases, arguments)
    print(table(known))


if __name__ == "__main__":
    main()
