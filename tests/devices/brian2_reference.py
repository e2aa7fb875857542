"""A network of integrate-and-fire neurons in Brian2: python brian2_reference.py problem.npz spikes.npz

A process of its own, because Brian2 changes logging, warnings and preferences for whoever imports it.
"""

import importlib.abc
import importlib.machinery
import sys

import numpy as np


class WithoutPtp(importlib.abc.MetaPathFinder, importlib.machinery.SourceFileLoader):
    """Brian2 2.9, the last for Python 3.11, reads ndarray.ptp, which numpy 2.4 has no more (repaired in 2.10)."""

    name_of_the_module = "brian2.units.fundamentalunits"

    def __init__(self):
        super().__init__(self.name_of_the_module, "")

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.name_of_the_module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        self.path, spec.loader = spec.origin, self
        return spec

    def get_code(self, fullname):
        return compile(self.get_data(self.path).replace(b"np.ndarray.ptp", b"np.ptp"), self.path, "exec")


if __name__ == "__main__":
    if not hasattr(np.ndarray, "ptp"):
        sys.meta_path.insert(0, WithoutPtp())
    import brian2
    from brian2 import Mohm, ms, mV, nA

    problem = np.load(sys.argv[1])
    brian2.prefs.codegen.target = "numpy"  # needs no compiler
    dt = float(problem["dt"]) * ms
    group = brian2.NeuronGroup(
        len(problem["weights"]),
        """
        dv/dt = (-v + R * (excitatory + inhibitory + injected(t, i))) / tau_m : volt (unless refractory)
        dexcitatory/dt = -excitatory / tau_e : amp
        dinhibitory/dt = -inhibitory / tau_i : amp
        """,
        threshold="v >= theta",
        reset="v = 0 * volt",
        # Brian2 counts from the beginning of the step in which the neuron spiked, skpat from its end
        refractory=float(problem["refractory"]) * ms + dt,
        method="exact",
        dt=dt,
        namespace={
            "R": float(problem["resistance"]) * Mohm,
            "theta": float(problem["threshold"]) * mV,
            "tau_m": float(problem["tau_membrane"]) * ms,
            "tau_e": float(problem["tau_excitatory"]) * ms,
            "tau_i": float(problem["tau_inhibitory"]) * ms,
            "injected": brian2.TimedArray(problem["current"] * nA, dt=dt),
        },
    )
    parts = [group]
    for name, chosen in (("excitatory", problem["weights"] > 0), ("inhibitory", problem["weights"] < 0)):
        synapses = brian2.Synapses(group, group, "w : amp", on_pre=f"{name}_post += w", dt=dt)
        pre, post = np.nonzero(chosen)
        synapses.connect(i=pre, j=post)
        synapses.w = problem["weights"][chosen] * nA
        synapses.delay = float(problem["delay"]) * ms
        parts.append(synapses)
    spikes, voltage = brian2.SpikeMonitor(group), brian2.StateMonitor(group, "v", record=True, when="end")
    brian2.Network(*parts, spikes, voltage).run(len(problem["current"]) * dt)
    np.savez(
        sys.argv[2], step=np.round(spikes.t / dt), neuron=np.asarray(spikes.i), voltage=np.asarray(voltage.v / mV).T
    )
