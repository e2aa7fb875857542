"""A transistor between two resonant circuits: voltages in, voltages out, the same circuit as an ngspice netlist."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch

from skpat.controls import ControlBatch
from skpat.devices.base import demand
from skpat.devices.simulated import SimulatedDevice, floating
from skpat.value_checks import is_int

__all__ = ["AnalogCircuit"]

_THERMAL_VOLTAGE = 1.380649e-23 * 300.15 / 1.602176634e-19  # kT/q at 27 degrees C, SPICE's temperature
_MOST_ITERATIONS = 100

_CONSTANTS = (
    "source_resistance",
    "inductance",
    "capacitance",
    "base_resistance",
    "base_emitter_capacitance",
    "base_collector_capacitance",
    "collector_resistance",
    "collector_capacitance",
    "output_inductance",
    "output_capacitance",
    "load_resistance",
    "bias",
    "supply",
    "saturation_current",
    "forward_gain",
    "reverse_gain",
)


class AnalogCircuit(SimulatedDevice):
    r"""A bipolar transistor driven through one resonant circuit and read through another.

    A voltage source plays the controls as a waveform, in which data and weights follow each other; a digitiser reads the
    voltage over the load (the outputs)::

        source -- R_s -- L_1 -+- R_b -+- base          supply -- R_c -+- collector -- L_2 -+- output
                              |       |                               |                    |
                             C_1     C_be, C_bc to the collector     C_c                C_2, R_load

    The emitter, the capacitors and the load go to ground. The transistor obeys Ebers and Moll's equations, in the transport
    form,

    .. math::

        I_C &= I_S (e^{V_{BE}/V_T} - e^{V_{BC}/V_T}) - \tfrac{I_S}{\beta_R} (e^{V_{BC}/V_T} - 1), \\
        I_B &= \tfrac{I_S}{\beta_F} (e^{V_{BE}/V_T} - 1) + \tfrac{I_S}{\beta_R} (e^{V_{BC}/V_T} - 1),

    with :math:`V_T = kT/q` at 27 degrees C.

    Parameters
    ----------
    n_controls : int, default=100
        Number of samples of the source's voltage, joined by straight lines. A control is a voltage, -1 to 1 V, added to the
        bias.
    n_outputs : int, default=50
        Number of readings of the output, spread evenly over the drive; at most ``n_controls``.
    sample_rate : float, default=200.0
        Samples of the drive per ms (kHz).
    source_resistance : float, default=0.3
        :math:`R_s`, in kOhm.
    inductance : float, default=11.0
        :math:`L_1`, in mH.
    capacitance : float, default=10.0
        :math:`C_1`, in nF. With :math:`L_1` it resonates at 15 kHz.
    base_resistance : float, default=10.0
        :math:`R_b`, in kOhm.
    base_emitter_capacitance, base_collector_capacitance : float, default=0.1, 0.01
        :math:`C_{be}` and :math:`C_{bc}`, in nF; they do not depend on the voltage.
    collector_resistance : float, default=1.0
        :math:`R_c`, in kOhm.
    collector_capacitance : float, default=1.0
        :math:`C_c`, in nF.
    output_inductance : float, default=22.0
        :math:`L_2`, in mH.
    output_capacitance : float, default=2.2
        :math:`C_2`, in nF. With :math:`L_2` it resonates at 23 kHz.
    load_resistance : float, default=22.0
        In kOhm.
    bias : float, default=0.5
        Constant part of the source's voltage, in V.
    supply : float, default=5.0
        In V.
    saturation_current : float, default=10.0
        :math:`I_S`, in fA.
    forward_gain, reverse_gain : float, default=100.0, 2.0
        :math:`\beta_F` and :math:`\beta_R`.
    n_steps : int, default=2
        Time steps in each sample of the drive. The error, some 0.5 % at 2, falls with the square of the step.
    noise : float, default=0.01
        Standard deviation of the noise of the digitiser, for each output and shot, in V.
    gain_jitter : float, default=0.005
        Relative standard deviation of the amplitude of the source from shot to shot; the bias does not change.
    torch_device : str, default="cpu"
        Where the simulation runs.
    random_state : int, default=None
        Seed of the noise. None: fresh noise at every call.

    Attributes
    ----------
    bounds : ndarray of shape (n_controls, 2)
        -1 to 1 V for every sample.
    seconds_per_shot : float or None
        Duration of the drive, and of the pause until the slowest mode of the circuit, linear about its operating point, has
        died away to 1 %: every row begins at rest. None: it never does, the circuit oscillates by itself.

    Notes
    -----
    A step is exact for resistors, inductors, capacitors and source (a matrix exponential), and takes the currents of the
    junctions for straight lines in time (exponential time differencing, implicit, of second order): with the transistor off
    there is no error at all. What is unknown in a step are the two junction voltages; Newton's method finds them for all rows
    at once, with the exponentials' growth limited as in SPICE, until they no longer change to the working precision. Gradients
    are those of the solution, not of the iterations.

    The circuit is at its operating point when the drive begins; the source goes from the bias to the first sample in the first
    ``1 / sample_rate``, and reaches sample k after k + 1 of them. :meth:`netlist` gives the same circuit to ngspice.

    References
    ----------
    Ebers and Moll, Proc. IRE 42, 1761 (1954), for the transistor;
    Cox and Matthews, J. Comput. Phys. 176, 430 (2002), doi:10.1006/jcph.2002.6995, for exponential time differencing;
    Yeh, Abel and Smith, IEEE Trans. Audio Speech Lang. Process. 18, 728 (2010), doi:10.1109/TASL.2009.2033978, for solving
    for the junctions alone;
    Wright, Onodera et al., Nature 601, 549 (2022), doi:10.1038/s41586-021-04223-6, for the device.

    Examples
    --------
    >>> import numpy as np
    >>> from skpat.devices import AnalogCircuit
    >>> circuit = AnalogCircuit(noise=0, gain_jitter=0)
    >>> voltages = circuit.measure(np.stack([np.zeros(100), np.full(100, 0.5), np.ones(100)]))
    >>> voltages.shape, voltages[:, -1].round(1)  # off, on, saturated
    ((3, 50), array([4.8, 1.8, 0.1]))
    """

    control_units = "V"
    output_units = "V"
    chunk_rows = 1024  # small operations: many rows hide their overhead

    def __init__(
        self,
        n_controls=100,
        n_outputs=50,
        *,
        sample_rate=200.0,
        source_resistance=0.3,
        inductance=11.0,
        capacitance=10.0,
        base_resistance=10.0,
        base_emitter_capacitance=0.1,
        base_collector_capacitance=0.01,
        collector_resistance=1.0,
        collector_capacitance=1.0,
        output_inductance=22.0,
        output_capacitance=2.2,
        load_resistance=22.0,
        bias=0.5,
        supply=5.0,
        saturation_current=10.0,
        forward_gain=100.0,
        reverse_gain=2.0,
        n_steps=2,
        noise=0.01,
        gain_jitter=0.005,
        torch_device="cpu",
        random_state=None,
    ):
        self.n_controls = n_controls
        self.n_outputs = n_outputs
        self.sample_rate = sample_rate
        self.source_resistance = source_resistance
        self.inductance = inductance
        self.capacitance = capacitance
        self.base_resistance = base_resistance
        self.base_emitter_capacitance = base_emitter_capacitance
        self.base_collector_capacitance = base_collector_capacitance
        self.collector_resistance = collector_resistance
        self.collector_capacitance = collector_capacitance
        self.output_inductance = output_inductance
        self.output_capacitance = output_capacitance
        self.load_resistance = load_resistance
        self.bias = bias
        self.supply = supply
        self.saturation_current = saturation_current
        self.forward_gain = forward_gain
        self.reverse_gain = reverse_gain
        self.n_steps = n_steps
        self.noise = noise
        self.gain_jitter = gain_jitter
        self.torch_device = torch_device
        self.random_state = random_state

    @property
    def bounds(self) -> np.ndarray:
        return np.tile([-1.0, 1.0], (self.n_controls, 1))

    @property
    def n_noise_values(self) -> int:
        return 1 + self.n_outputs if self.noise or self.gain_jitter else 0

    @property
    def seconds_per_shot(self) -> float | None:  # type: ignore[override]  # an attribute of the base class, derived here
        self._check_parameters()
        tau = _slowest_decay(tuple(float(getattr(self, name)) for name in _CONSTANTS), type(self).__name__)
        return None if tau is None else 1e-3 * self.n_controls / self.sample_rate + 1e-6 * float(np.log(100)) * tau

    def simulate(self, batch: ControlBatch, normal: torch.Tensor | None) -> torch.Tensor:
        """Play one waveform per row and read the output, in V."""
        controls = batch.dense()
        if normal is None:
            return self.forward(controls)
        return self.forward(controls * (1 + self.gain_jitter * normal[:, :1])) + self.noise * normal[:, 1:]

    def forward(self, controls: torch.Tensor, constants: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
        """The noise-free response, differentiable (once).

        Parameters
        ----------
        controls : tensor of shape (n_rows, n_controls)
            Samples of the source's voltage without the bias, in V.
        constants : dict of str to tensor, default=None
            Values in place of any resistance, inductance, capacitance, gain, ``bias``, ``supply`` or ``saturation_current``
            (scalar tensors, same units).

        Returns
        -------
        tensor of shape (n_rows, n_outputs)
            Voltage over the load, in V.

        Raises
        ------
        ValueError
            If ``constants`` names something that cannot be replaced, a parameter of the circuit is not what it must be, or
            the junction voltages are not found.
        """
        ends = np.arange(1, self.n_outputs + 1) * self.n_controls // self.n_outputs
        return self.transient(controls, constants)[:, torch.from_numpy(ends - 1).to(controls.device), 5]

    def transient(self, controls: torch.Tensor, constants: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
        """Currents and voltages of the circuit at the end of every sample.

        Parameters
        ----------
        controls : tensor of shape (n_rows, n_controls)
            Samples of the source's voltage without the bias, in V.
        constants : dict of str to tensor, default=None
            As in :meth:`forward`.

        Returns
        -------
        tensor of shape (n_rows, n_controls, 6)
            Current of the first inductor (mA), voltages of the first capacitor, of the base and of the collector (V), current
            of the second inductor (mA), voltage of the output (V).
        """
        self._check_parameters()
        controls = floating(controls)
        rates, inputs, bias = self._network(constants, controls)
        junctions = _junctions_of(rates)
        rest, voltages = _operating_point(rates, inputs, bias, junctions, type(self).__name__)
        step, of_start, of_end = _linear_step(rates, inputs, 1e3 / (self.sample_rate * self.n_steps))  # us
        # rows: state, then both junction voltages, before the junctions' currents at the end of the step are added
        both = torch.cat([torch.eye(6).to(junctions), junctions])
        constant = both @ (bias * (of_start + of_end)[:, :1] + (of_start + of_end)[:, 1:2])
        from_drive = both @ torch.cat([of_start[:, :1], of_end[:, :1]], dim=1)
        drive = self._interpolate(controls.T)
        pairs = torch.stack([drive[:-1], drive[1:]], dim=1)
        source = torch.matmul(from_drive.to(controls), pairs) + constant.to(controls)
        states: torch.Tensor = _Transient.apply(
            source,
            (both @ torch.cat([step, of_start[:, 2:]], dim=1)).to(controls),
            of_end[:, 2:].to(controls),
            (junctions @ of_end[:, 2:]).to(controls),
            rest.to(controls),
            voltages.to(controls),
            self.n_steps,
            type(self).__name__,
        )
        return states.permute(2, 0, 1)

    def netlist(self, controls: Any) -> str:
        """The circuit and its drive for ngspice, with a transient analysis that prints the output at the end of every sample.

        Parameters
        ----------
        controls : array-like of shape (n_controls,)
            Samples of the source's voltage without the bias, in V.

        Returns
        -------
        str
            For ``ngspice -b``. The node of the output is ``out``.

        Raises
        ------
        ValueError
            If ``controls`` has another shape.
        """
        self._check_parameters()
        row = np.asarray(controls, dtype=float)
        if row.shape != (self.n_controls,):
            raise ValueError(
                f"'controls' of {type(self).__name__}.netlist must be one row, of shape ({self.n_controls},). "
                f"Got shape {row.shape}. Use netlist(batch[0])."
            )
        hop = 1e-3 / self.sample_rate
        points = [f"0 {self.bias:.12g}"] + [f"{(k + 1) * hop:.12g} {self.bias + v:.12g}" for k, v in enumerate(row)]
        duration = self.n_controls * hop
        lines = [
            "* A transistor between two resonant circuits",
            "Vsource in 0 PWL(" + "\n+ ".join(points) + ")",
            f"Rs in n1 {self.source_resistance:.12g}k",
            f"L1 n1 n2 {self.inductance:.12g}m",
            f"C1 n2 0 {self.capacitance:.12g}n",
            f"Rb n2 base {self.base_resistance:.12g}k",
            f"Cbe base 0 {self.base_emitter_capacitance:.12g}n",
            f"Cbc base collector {self.base_collector_capacitance:.12g}n",
            "Q1 collector base 0 transistor",
            f"Vsupply supply 0 {self.supply:.12g}",
            f"Rc supply collector {self.collector_resistance:.12g}k",
            f"Cc collector 0 {self.collector_capacitance:.12g}n",
            f"L2 collector out {self.output_inductance:.12g}m",
            f"C2 out 0 {self.output_capacitance:.12g}n",
            f"Rload out 0 {self.load_resistance:.12g}k",
            f".model transistor NPN(IS={self.saturation_current:.12g}f",
            f"+ BF={self.forward_gain:.12g} BR={self.reverse_gain:.12g})",
            ".options reltol=1e-6 abstol=1e-13 vntol=1e-8 numdgt=9 interp",
            f".tran {hop:.12g} {duration:.12g} 0 {hop / 50:.12g}",
            ".print tran v(out)",
            ".end",
        ]
        return "\n".join(lines) + "\n"

    def _network(
        self, constants: dict[str, torch.Tensor] | None, like: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """dx/dt = rates x + inputs (source voltage, 1, exp V_BE/V_T, exp V_BC/V_T), and the bias.

        In V, mA and us, thus kOhm, mH and nF; in double precision, since the matrices are few and small.
        """
        value = {name: number.double() for name, number in self._replaceable(_CONSTANTS, constants, like).items()}
        zero = torch.zeros_like(value["bias"])
        current = 1e-12 * value["saturation_current"]  # fA
        at_base, at_collector = current / value["forward_gain"], current / value["reverse_gain"]
        base_conductance = 1 / value["base_resistance"]
        c_be, c_bc = value["base_emitter_capacitance"], value["base_collector_capacitance"]
        c_c = value["collector_capacitance"]
        # currents that flow into the base and collector nodes, by (i1, v1, vb, vc, i2, vo) and by (vs, 1, e_be, e_bc)
        into_base = [zero, base_conductance, -base_conductance, zero, zero, zero]
        into_collector = [zero, zero, zero, -1 / value["collector_resistance"], zero - 1, zero]
        base_input = [zero, at_base + at_collector, -at_base, -at_collector]
        supplied = value["supply"] / value["collector_resistance"]
        collector_input = [zero, supplied - at_collector, -current, current + at_collector]
        determinant = (c_be + c_bc) * (c_c + c_bc) - c_bc**2  # of the capacitances of the two nodes

        def of_nodes(base: list[torch.Tensor], collector: list[torch.Tensor]) -> list[list[torch.Tensor]]:
            pairs = list(zip(base, collector, strict=True))
            return [
                [((c_c + c_bc) * b + c_bc * c) / determinant for b, c in pairs],
                [(c_bc * b + (c_be + c_bc) * c) / determinant for b, c in pairs],
            ]

        l1, c1, l2, c2 = (
            value[name] for name in ("inductance", "capacitance", "output_inductance", "output_capacitance")
        )
        rates = [
            [-value["source_resistance"] / l1, -1 / l1, zero, zero, zero, zero],
            [1 / c1, -base_conductance / c1, base_conductance / c1, zero, zero, zero],
            *of_nodes(into_base, into_collector),
            [zero, zero, zero, 1 / l2, zero, -1 / l2],
            [zero, zero, zero, zero, 1 / c2, -1 / (value["load_resistance"] * c2)],
        ]
        nothing = [zero, zero, zero, zero]
        inputs = [[1 / l1, zero, zero, zero], nothing, *of_nodes(base_input, collector_input), nothing, nothing]
        return *(torch.stack([torch.stack(row) for row in rows]) for rows in (rates, inputs)), value["bias"]

    def _interpolate(self, samples: torch.Tensor) -> torch.Tensor:
        """The drive at every step, (n_controls * n_steps + 1, n_rows), from rest."""
        ends = torch.cat([torch.zeros_like(samples[:1]), samples])
        part = torch.arange(1, self.n_steps + 1).to(samples) / self.n_steps
        between = torch.lerp(ends[:-1, None], ends[1:, None], part[:, None])
        return torch.cat([ends[:1], between.flatten(0, 1)])

    def _check_parameters(self) -> None:
        for name in ("n_controls", "n_steps"):
            demand(self, name, is_int(getattr(self, name), 1), "an int of at least 1")
        too_many = is_int(self.n_outputs) and self.n_outputs > self.n_controls
        most, mend = f"an int from 1 to n_controls ({self.n_controls})", "Use a longer drive for more readings."
        whole = is_int(self.n_outputs, 1)
        demand(self, "n_outputs", whole and not too_many, most, mend if too_many else None)
        for name in ("sample_rate", *(name for name in _CONSTANTS if name not in ("bias", "supply"))):
            demand(self, name, 0 < getattr(self, name) < np.inf, "a finite number above 0")
        for name in ("bias", "supply"):
            demand(self, name, np.isfinite(getattr(self, name)), "a finite number")


class _Transient(torch.autograd.Function):
    """The steps in time and their adjoint. A state holds (x, exp V_BE/V_T, exp V_BC/V_T), one column a row of controls."""

    @staticmethod
    def forward(ctx, source, step, push, feedback, rest, voltages, n_steps, name):
        n_all, _, n_rows = source.shape
        n_kept = n_all + 1 if any(ctx.needs_input_grad) else 2
        state = source.new_empty(n_kept, 8, n_rows)
        state[0, :6], state[0, 6:] = rest[:, None], voltages.exp()[:, None]
        v = before = voltages[:, None].expand(2, n_rows)
        junctions = _Junctions(feedback, name)
        out = source.new_empty(n_all // n_steps, 6, n_rows)
        for i, constant in enumerate(source.unbind()):
            here, there = state[i % n_kept], state[(i + 1) % n_kept]
            linear = torch.addmm(constant, step, here)
            v, before = junctions.solve(linear[6:], junctions.guess(v, before)), v
            torch.exp(v, out=there[6:])
            torch.addmm(linear[:6], push, there[6:], out=there[:6])
            if (i + 1) % n_steps == 0:
                out[i // n_steps] = there[:6]
        if n_kept > 2:
            ctx.save_for_backward(state, step, push, feedback)
            ctx.n_steps = n_steps
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out):
        state, step, push, feedback = ctx.saved_tensors
        n_all, n_rows = len(state) - 1, state.shape[2]
        e = state[1:, 6:]
        # v = linear + feedback exp(v): of exp(v), with respect to linear, transposed
        slope = _adjugate(feedback, e).transpose(1, 2) * (e / _determinant(feedback, e))[:, None]
        slopes = slope.unbind()
        grad = state.new_zeros(8, n_rows)
        grads = state.new_empty(n_all, 8, n_rows)
        of_states, of_voltages = grads[:, :6].unbind(), grads[:, 6:].unbind()
        back, pulled = step.T.contiguous(), push.T.contiguous()
        for i in range(n_all - 1, -1, -1):
            if (i + 1) % ctx.n_steps == 0:
                torch.add(grad[:6], grad_out[i // ctx.n_steps], out=of_states[i])
            else:
                of_states[i].copy_(grad[:6])
            torch.sum(slopes[i] * torch.addmm(grad[6:], pulled, of_states[i]), dim=1, out=of_voltages[i])
            grad = torch.mm(back, grads[i])
        needs_step, needs_push, needs_feedback, needs_rest, needs_voltages = ctx.needs_input_grad[1:6]
        across = e.transpose(1, 2)
        grad_step = torch.bmm(grads, state[:-1].transpose(1, 2)).sum(dim=0) if needs_step else None
        grad_push = torch.bmm(grads[:, :6], across).sum(dim=0) if needs_push else None
        grad_feedback = torch.bmm(grads[:, 6:], across).sum(dim=0) if needs_feedback else None
        grad_rest = grad[:6].sum(dim=1) if needs_rest else None
        grad_voltages = (grad[6:] * state[0, 6:]).sum(dim=1) if needs_voltages else None
        return grads, grad_step, grad_push, grad_feedback, grad_rest, grad_voltages, None, None


class _Junctions:
    """Newton's method for v = linear + feedback exp(v), with v (2, n_rows) the junction voltages over V_T."""

    def __init__(self, feedback: torch.Tensor, name: str) -> None:
        self.name = name
        (bb, bc), (cb, cc) = feedback.double().tolist()
        self.product = bb * cc - bc * cb
        # where an exponential begins to outweigh the rest: from there on steps grow only as a logarithm
        self.knee = -feedback.diagonal().abs().log()[:, None]
        self.tolerance = torch.finfo(feedback.dtype).eps ** 0.4  # the error left is half its square
        # one product of matrices gives, of (exp v, exp v again, v): what is missing, that mixed, the determinant less a term
        wide = torch.tensor([[1, 0], [0, 1], [-cc, bc], [cb, -bb]], dtype=torch.float64)
        matrix = torch.zeros(5, 5, dtype=torch.float64)
        matrix[:4, :2] = wide @ torch.tensor([[bb, bc], [cb, cc]], dtype=torch.float64)
        matrix[4, :2] = torch.tensor([-bb, -cc], dtype=torch.float64)
        matrix[:4, 3:] = -wide
        self.matrix, self.wide = matrix.to(feedback), torch.nn.functional.pad(wide, (0, 0, 0, 1)).to(feedback)
        self.one = torch.tensor([0, 0, 0, 0, 1]).to(feedback)[:, None]

    def solve(self, linear: torch.Tensor, guess: torch.Tensor) -> torch.Tensor:
        """The solution. A row stops on its own, whatever the others need."""
        constant = torch.addmm(self.one, self.wide, linear)
        terms, combined = torch.empty_like(constant), torch.empty_like(constant)
        e, first, second, again, swapped, v = terms[:2], terms[:1], terms[1:2], terms[2:3], terms[1:3], terms[3:]
        change, mixed, determinant = combined[:2], combined[2:4], combined[4:]
        v.copy_(guess)
        moving = None
        for _ in range(_MOST_ITERATIONS):
            torch.exp(v, out=e)
            again.copy_(first)
            torch.addmm(constant, self.matrix, terms, out=combined)
            determinant.addcmul_(first, second, value=self.product)
            change.addcmul_(swapped, mixed).div_(determinant)
            knee = torch.maximum(v, self.knee)
            above = (v - knee).add_(change)
            limited = torch.minimum(above, above.relu().log1p_()).add_(knee)
            v.copy_(limited if moving is None else torch.where(moving, limited, v))
            unfinished = change.abs_().amax(dim=0) > self.tolerance
            moving = unfinished if moving is None else unfinished & moving
            if not moving.any():
                return v
        raise ValueError(
            f"'n_steps' of {self.name} must be larger for so fast a circuit: the junction voltages were not found in "
            f"{_MOST_ITERATIONS} iterations. Use twice as many steps, or larger capacitances at the transistor."
        )

    def guess(self, v: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """From the last two solutions, on a straight line, which must not lead up an exponential."""
        return torch.minimum(2 * v - before, torch.maximum(v, self.knee))


def _junctions_of(rates: torch.Tensor) -> torch.Tensor:
    """Both junction voltages over V_T, of a state: (2, 6)."""
    junctions = torch.zeros((2, 6), dtype=rates.dtype, device=rates.device)
    junctions[:, 2], junctions[1, 3] = 1 / _THERMAL_VOLTAGE, -1 / _THERMAL_VOLTAGE
    return junctions


@lru_cache(maxsize=64)
def _slowest_decay(constants: tuple[float, ...], name: str) -> float | None:
    """In us, the time constant of the slowest linear mode about the operating point. None: one of them grows."""
    circuit = AnalogCircuit(**dict(zip(_CONSTANTS, constants, strict=True)))
    rates, inputs, bias = circuit._network(None, torch.zeros((), dtype=torch.float64))
    junctions = _junctions_of(rates)
    _, voltages = _operating_point(rates, inputs, bias, junctions, name)
    about_rest = rates + inputs[:, 2:] @ (voltages.exp()[:, None] * junctions)
    slowest = float(torch.linalg.eigvals(about_rest).real.max())
    return -1 / slowest if slowest < 0 else None


def _determinant(feedback: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
    """Of 1 - feedback diag(e), (..., 1, n_rows), for e (..., 2, n_rows)."""
    diagonal = 1 - feedback.diagonal()[:, None] * e
    return diagonal.prod(dim=-2, keepdim=True) - feedback[0, 1] * feedback[1, 0] * e.prod(dim=-2, keepdim=True)


def _adjugate(feedback: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
    """Of 1 - feedback diag(e), (..., 2, 2, n_rows), for e (..., 2, n_rows)."""
    be, bc = e.unbind(dim=-2)
    above = torch.stack([1 - feedback[1, 1] * bc, feedback[0, 1] * bc], dim=-2)
    below = torch.stack([feedback[1, 0] * be, 1 - feedback[0, 0] * be], dim=-2)
    return torch.stack([above, below], dim=-3)


def _operating_point(
    rates: torch.Tensor, inputs: torch.Tensor, bias: torch.Tensor, junctions: torch.Tensor, name: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """State (6,) and junction voltages over V_T (2,) of the circuit at rest."""
    steady = -torch.linalg.solve(rates, inputs)
    linear = bias * steady[:, 0] + steady[:, 1]
    of_junctions, feedback = steady[:, 2:], junctions @ steady[:, 2:]
    with torch.no_grad():
        v = _Junctions(feedback, name).solve((junctions @ linear)[:, None], torch.zeros_like(feedback[:, :1]))
    e = v.exp()
    # one more step of Newton's, from the solution, has the gradients of the solution
    missing = (junctions @ linear)[:, None] + feedback @ e - v
    inverse = (_adjugate(feedback, e) / _determinant(feedback, e)[None]).detach()
    v = (v + (inverse * missing).sum(dim=1))[:, 0]
    return linear + of_junctions @ v.exp(), v


def _linear_step(
    rates: torch.Tensor, inputs: torch.Tensor, duration: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Matrices of the exact step x_1 = step x_0 + of_start p_0 + of_end p_1 for inputs p that go in a straight line."""
    n, m = inputs.shape
    slopes = torch.zeros((m, n + 2 * m)).to(rates)
    slopes[:, n + m :] = torch.eye(m)
    scale = inputs.detach().abs().amax(dim=0)  # the saturation current is small beside the rounding of the others
    scaled = torch.cat([rates, inputs / scale], dim=1) * duration
    whole = [torch.nn.functional.pad(scaled, (0, m)), slopes, torch.zeros_like(slopes)]
    exponential = torch.linalg.matrix_exp(torch.cat(whole))
    of_end = exponential[:n, n + m :] * scale
    return exponential[:n, :n], exponential[:n, n : n + m] * scale - of_end, of_end
