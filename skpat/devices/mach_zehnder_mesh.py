"""A photonic chip: a rectangular mesh of Mach-Zehnder interferometers with its flaws, read by photodiodes."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from sklearn.base import clone

from skpat.controls import ControlBatch
from skpat.devices import clements
from skpat.devices.base import demand
from skpat.devices.channel_range import channel_range, varies
from skpat.devices.noise import standard_normal
from skpat.devices.simulated import SimulatedDevice
from skpat.value_checks import is_int, is_number

__all__ = ["MachZehnderMesh"]

_LARGEST_SPLITTER_OFFSET = 0.999  # a splitter sends at most all of its light one way
_CONSTANTS = ("loss", "crosstalk", "nonlinearity", "activation_bias", "tap", "phase_offsets", "splitter_offsets")


class MachZehnderMesh(SimulatedDevice):
    r"""Laser light through modulators and a rectangular mesh of interferometers, with an electro-optic activation half way.

    Light enters every port, through a modulator that lets an amplitude between 0 and 1 pass. Each of the
    :math:`N (N - 1) / 2` interferometers acts on two neighbouring ports,

    .. math::

        T = B_2 P(\theta) B_1 P(\phi), \qquad P(\alpha) = \begin{pmatrix} e^{i \alpha} & 0 \\ 0 & 1 \end{pmatrix}, \qquad
        B = \tfrac{1}{\sqrt 2} \begin{pmatrix} \sqrt{1 + \epsilon} & i \sqrt{1 - \epsilon} \\ i \sqrt{1 - \epsilon} &
        \sqrt{1 + \epsilon} \end{pmatrix},

    and photodiodes read the power at each port (the outputs). Between the two halves of the mesh a part of the light at each
    port is detected, and modulates the rest:

    .. math::

        z \mapsto i \sqrt{1 - \alpha}\, e^{-i (g |z|^2 + \varphi_b) / 2} \cos\left( (g |z|^2 + \varphi_b) / 2 \right) z .

    The controls are, in this order, the modulators' amplitudes (:attr:`amplitude_index`), their phases if they have any
    (:attr:`input_phase_index`), the inner phases :math:`\theta` (:attr:`theta_index`) and the outer phases :math:`\phi`
    (:attr:`phi_index`) of the interferometers, column by column and from the top. Any of them may carry data. Phases behind
    the mesh are no controls: no photodiode sees them.

    Parameters
    ----------
    n_ports : int, default=16
        Number of ports :math:`N`, at least 2. The default has 256 controls.
    input_field : array-like of shape (n_ports,) or None, default=None
        Complex amplitudes of the light before the modulators, in sqrt(mW). None: 1 at every port.
    input_modulators : bool, default=True
        Whether each port has an amplitude modulator.
    phase_modulators : bool, default=False
        Whether each port also has a phase modulator before the mesh.
    nonlinearity : float, default=4.0
        Gain :math:`g` of the activation, in rad/mW. 0: no activation, and an ordinary mesh of ``n_ports`` columns; its gain is
        then no constant to be found.
    activation_bias : float, default=pi/2
        :math:`\varphi_b`, in rad. At pi weak light is blocked, at 0 it passes.
    tap : float, default=0.1
        :math:`\alpha`, the share of the power that is detected half way, 0 to 1.
    phase_error : float, default=0.0
        Standard deviation of a fixed error that is added to every phase of every interferometer, in rad. See
        ``phase_offsets``.
    splitter_error : float, default=0.0
        Standard deviation of the fixed :math:`\epsilon` of each splitter. See ``splitter_offsets``.
    loss : float, default=0.1
        Loss of power in every interferometer, in dB.
    crosstalk : float, default=0.0
        Thermal crosstalk :math:`c`, 0 to below 1: a phase shifter gets :math:`c^d` of the phase of the one :math:`d` places
        above or below it. See Notes.
    device_seed : int, default=0
        Which specimen this is: the fixed errors are a function of it and the number of ports alone.
    noise : float, default=0.01
        Standard deviation of the multiplicative noise of a photodiode, for each output and shot.
    shot_noise : float, default=0.003
        Standard deviation of the shot noise at 1 mW; it grows with the square root of the power.
    noise_floor : float, default=1e-3
        Standard deviation of the additive noise of a photodiode, in mW.
    torch_device : str, default="cpu"
        Where the simulation runs.
    random_state : int, default=None
        Seed of the noise. None: fresh noise at every call.

    Attributes
    ----------
    bounds : ndarray of shape (n_controls, 2)
        0 to 1 for amplitudes, 0 to 2 pi for phases.
    periodic : ndarray of shape (n_controls,)
        2 pi for phases, 0 for amplitudes, and with crosstalk also for :math:`\theta` and :math:`\phi`; see Notes.
    phase_offsets : ndarray of shape (n_ports * (n_ports - 1),)
        The fixed error of each phase of the interferometers, in the order of the controls.
    splitter_offsets : ndarray of shape (n_ports * (n_ports - 1),)
        The fixed :math:`\epsilon` of the first splitter of each interferometer, then of the second.

    Notes
    -----
    Exact for monochromatic light in single-mode waveguides without reflections. The activation stands behind the first
    ``n_ports // 2`` columns; it acts at once and its detectors are free of noise. Ports that no interferometer joins in a
    column pass it without loss.

    Crosstalk is heat: with :math:`c > 0` phases are heater settings, proportional to power, and a turn of 2 pi more is not the
    same setting. The inner and the outer phase shifters of a column are two columns of heaters which do not feel each other.
    The fixed errors are those of the waveguides: they heat no neighbour.

    Where all rows share the phases each half of the mesh is worked out once, and costs one matrix product for all rows.

    References
    ----------
    Clements, Humphreys, Metcalf, Kolthammer, Walmsley, Optica 3, 1460 (2016), doi:10.1364/OPTICA.3.001460, for the mesh;
    Williamson et al., IEEE J. Sel. Top. Quantum Electron. 26, 7700412 (2020), doi:10.1109/JSTQE.2019.2930455, for the
    activation.

    Examples
    --------
    A mesh set to a unitary matrix of one's choice:

    >>> import numpy as np
    >>> from skpat.devices import MachZehnderMesh
    >>> mesh = MachZehnderMesh(4, nonlinearity=0, loss=0, noise=0, shot_noise=0, noise_floor=0)
    >>> phases = MachZehnderMesh.decompose(np.fft.fft(np.eye(4), norm="ortho"))
    >>> controls = np.ones((1, mesh.n_controls))  # all modulators open
    >>> controls[:, mesh.theta_index], controls[:, mesh.phi_index] = phases.theta, phases.phi
    >>> abs(mesh.measure(controls)).round(6)  # equal amplitudes interfere at the first port
    array([[4., 0., 0., 0.]])
    """

    control_units = "of full amplitude, or rad"
    output_units = "mW"
    seconds_per_shot = 1e-4  # heaters settle in about that time
    chunk_rows = 256

    def __init__(
        self,
        n_ports=16,
        *,
        input_field=None,
        input_modulators=True,
        phase_modulators=False,
        nonlinearity=4.0,
        activation_bias=np.pi / 2,
        tap=0.1,
        phase_error=0.0,
        splitter_error=0.0,
        loss=0.1,
        crosstalk=0.0,
        device_seed=0,
        noise=0.01,
        shot_noise=0.003,
        noise_floor=1e-3,
        torch_device="cpu",
        random_state=None,
    ):
        self.n_ports = n_ports
        self.input_field = input_field
        self.input_modulators = input_modulators
        self.phase_modulators = phase_modulators
        self.nonlinearity = nonlinearity
        self.activation_bias = activation_bias
        self.tap = tap
        self.phase_error = phase_error
        self.splitter_error = splitter_error
        self.loss = loss
        self.crosstalk = crosstalk
        self.device_seed = device_seed
        self.noise = noise
        self.shot_noise = shot_noise
        self.noise_floor = noise_floor
        self.torch_device = torch_device
        self.random_state = random_state

    @staticmethod
    def decompose(matrix: np.ndarray) -> clements.MeshPhases:
        """The phases (theta, phi, output) that make a unitary matrix; see ``skpat.devices.clements.decompose``."""
        return clements.decompose(matrix)

    @staticmethod
    def unitary(theta: np.ndarray, phi: np.ndarray, output: np.ndarray | None = None) -> np.ndarray:
        """The matrix of a perfect mesh; see ``skpat.devices.clements.unitary``."""
        return clements.unitary(theta, phi, output)

    @property
    def n_interferometers(self) -> int:
        """Number of interferometers."""
        return self.n_ports * (self.n_ports - 1) // 2

    @property
    def n_controls(self) -> int:  # type: ignore[override]  # an attribute of the base class, derived here
        return self._first_phase + 2 * self.n_interferometers

    @property
    def n_outputs(self) -> int:  # type: ignore[override]  # an attribute of the base class, derived here
        return self.n_ports

    @property
    def amplitude_index(self) -> np.ndarray:
        """Channels of the modulators' amplitudes, shape (n_ports,), or (0,) without."""
        return np.arange(self.n_ports if self.input_modulators else 0)

    @property
    def input_phase_index(self) -> np.ndarray:
        """Channels of the modulators' phases, shape (n_ports,), or (0,) without."""
        return np.arange(len(self.amplitude_index), self._first_phase)

    @property
    def theta_index(self) -> np.ndarray:
        """Channels of the inner phases, shape (n_interferometers,)."""
        return np.arange(self._first_phase, self._first_phase + self.n_interferometers)

    @property
    def phi_index(self) -> np.ndarray:
        """Channels of the outer phases, shape (n_interferometers,)."""
        return self.theta_index + self.n_interferometers

    @property
    def bounds(self) -> np.ndarray:
        highest = np.full(self.n_controls, 2 * np.pi)
        highest[self.amplitude_index] = 1.0
        return np.column_stack([np.zeros_like(highest), highest])

    @property
    def periodic(self) -> np.ndarray:
        periods = np.full(self.n_controls, 2 * np.pi)
        periods[self.amplitude_index] = 0.0
        if self.crosstalk:  # a turn more heats the neighbours, too
            periods[self._first_phase :] = 0.0
        return periods

    @property
    def equations(self) -> Any:
        """The mesh as it was designed: what is wrong with this specimen is to be found."""
        designed = clone(self).set_params(phase_error=0.0, splitter_error=0.0)
        unknown = ("loss", "nonlinearity", "phase_offsets", "splitter_offsets")
        return designed, tuple(name for name in unknown if name != "nonlinearity" or self.nonlinearity)

    @property
    def phase_offsets(self) -> np.ndarray:
        return self.phase_error * self._specimen(0)

    @property
    def splitter_offsets(self) -> np.ndarray:
        offsets = self.splitter_error * self._specimen(1)
        return np.clip(offsets, -_LARGEST_SPLITTER_OFFSET, _LARGEST_SPLITTER_OFFSET)

    @property
    def n_noise_values(self) -> int:
        return self.n_ports if self.noise or self.shot_noise or self.noise_floor else 0

    @property
    def _first_phase(self) -> int:
        return self.n_ports * (bool(self.input_modulators) + bool(self.phase_modulators))

    def _specimen(self, kind: int) -> np.ndarray:
        numbers = standard_normal(int(self.device_seed), np.zeros(1, np.uint64), kind, 2 * self.n_interferometers)
        return numbers[0]

    def simulate(self, batch: ControlBatch, normal: torch.Tensor | None) -> torch.Tensor:
        """Send light through the chip once per row and read the photodiodes; in mW."""
        power = self.forward_batch(batch)
        if normal is None:
            return power
        variance = (self.noise * power) ** 2 + self.shot_noise**2 * power + self.noise_floor**2
        return power + variance.sqrt() * normal

    def forward(self, controls: torch.Tensor, constants: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
        """The noise-free response, differentiable.

        Parameters
        ----------
        controls : tensor of shape (n_rows, n_controls)
            Every row with phases of its own; :meth:`forward_batch` is faster where rows share them.
        constants : dict of str to tensor, default=None
            As in :meth:`forward_batch`.

        Returns
        -------
        tensor of shape (n_rows, n_ports)
            Power at each port, in mW.

        Raises
        ------
        ValueError
            As :meth:`forward_batch`.
        """
        return self.forward_batch(ControlBatch.from_dense(controls), constants)

    def forward_batch(self, batch: ControlBatch, constants: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
        """The noise-free response, differentiable in both parts of the batch.

        Parameters
        ----------
        batch : ControlBatch
            Its parts are tensors.
        constants : dict of str to tensor, default=None
            Values in place of ``loss``, ``crosstalk``, ``nonlinearity``, ``activation_bias``, ``tap`` (scalar tensors),
            ``phase_offsets`` or ``splitter_offsets`` (tensors of shape (2 * n_interferometers,)). A mesh built without
            activation takes no ``nonlinearity``.

        Returns
        -------
        tensor of shape (n_rows, n_ports)
            Power at each port, in mW.

        Raises
        ------
        ValueError
            If ``constants`` names something that cannot be replaced, or a parameter is not legal.
        """
        self._check_parameters()
        field = self._modulated(batch)
        value = self._values(constants, field.real)
        phases = channel_range(batch, self._first_phase, self.n_controls)
        turns, splitters = self._turns(phases, value, "crosstalk" in (constants or {})), self._splitters(value)
        shared = not varies(batch, self._first_phase, self.n_controls)
        if not shared:
            field = field.expand(self.n_ports, batch.n_rows)
        middle = self.n_ports // 2
        for first, last in ((0, middle), (middle, self.n_ports)) if self.nonlinearity else ((0, self.n_ports),):
            if shared:  # what the columns do to each port's light alone, then to all rows at once
                alone = torch.eye(self.n_ports, dtype=field.dtype, device=field.device)
                field = _through(alone, turns, splitters, first, last) @ field
            else:
                field = _through(field, turns, splitters, first, last)
            if last == middle:
                field = _activate(field, value)
        power = field.real.square() + field.imag.square()
        return power.T.expand(batch.n_rows, self.n_ports)

    def transfer_matrix(self, theta: Any, phi: Any, constants: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
        """What the mesh with its flaws does to fields, without the activation.

        Parameters
        ----------
        theta, phi : array-like or tensor of shape (n_interferometers,)
            In rad, as set: the fixed errors and the crosstalk come on top. In double precision unless both are of float32.
        constants : dict of str to tensor, default=None
            As in :meth:`forward_batch`.

        Returns
        -------
        complex tensor of shape (n_ports, n_ports)
        """
        self._check_parameters()
        phases = torch.cat([_as_phases(theta), _as_phases(phi)])[None].to(self.torch_device)
        value = self._values(constants, phases)
        alone = torch.eye(self.n_ports, dtype=_complex(phases.dtype), device=phases.device)
        turns = self._turns(phases, value, "crosstalk" in (constants or {}))
        return _through(alone, turns, self._splitters(value), 0, self.n_ports)

    def _values(self, constants: dict[str, torch.Tensor] | None, like: torch.Tensor) -> dict[str, torch.Tensor]:
        if "nonlinearity" in (constants or {}) and not self.nonlinearity:
            raise ValueError(
                f"'constants' of {type(self).__name__} must be without 'nonlinearity' where there is no activation. Got "
                f"nonlinearity={self.nonlinearity!r} in the constructor. Build the mesh with a nonlinearity above 0."
            )
        return self._replaceable(_CONSTANTS, constants, like)

    def _modulated(self, batch: ControlBatch) -> torch.Tensor:
        """The light that enters the mesh, (n_ports, n_rows) or (n_ports, 1): ports first, so that columns are slices."""
        n = self.n_ports
        amplitude = channel_range(batch, 0, n).T if self.input_modulators else batch.varying.new_ones((n, 1))
        field = amplitude.to(_complex(amplitude.dtype))
        if self.phase_modulators:
            field = field * _turn(channel_range(batch, self._first_phase - n, self._first_phase).T)
        if self.input_field is None:
            return field
        light = np.asarray(self.input_field, dtype=np.complex128)
        if light.shape != (n,):
            raise ValueError(
                f"'input_field' of MachZehnderMesh must have shape (n_ports,) = ({n},). Got {light.shape}. "
                "Use input_field=None for equal light at every port."
            )
        return field * torch.from_numpy(light[:, None].copy()).to(field)

    def _turns(
        self, phases: torch.Tensor, value: dict[str, torch.Tensor], crosstalk_is_sought: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """exp(i theta) and exp(i phi) as the light meets them, (n_interferometers, n_rows or 1)."""
        theta, phi = phases.T.split(self.n_interferometers)
        of_theta, of_phi = value["phase_offsets"][:, None].split(self.n_interferometers)
        if not self.crosstalk and not crosstalk_is_sought:  # the matrix has as many entries as there are pairs
            return _turn(theta + of_theta), _turn(phi + of_phi)
        distance, together = _neighbourhood(self.n_ports)
        reach = value["crosstalk"] ** torch.from_numpy(distance).to(phases)  # a power of 0 stays differentiable
        heated = reach * torch.from_numpy(together).to(phases)
        return _turn(heated @ theta + of_theta), _turn(heated @ phi + of_phi)

    def _splitters(self, value: dict[str, torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """What stays and what crosses over (times i) at the first and second splitters, (n_interferometers, 1) each."""
        passed = 10 ** (-value["loss"] / 20)
        coefficients = []
        for offset, factor in zip(
            value["splitter_offsets"][:, None].split(self.n_interferometers), (1.0, passed), strict=True
        ):
            kind = _complex(offset.dtype)
            stays, crosses = (factor * torch.sqrt((1 + sign * offset) / 2) for sign in (1, -1))
            coefficients.append((stays.to(kind), 1j * crosses.to(kind)))
        return coefficients

    def _check_parameters(self) -> None:
        for name, least in (("n_ports", 2), ("device_seed", None)):
            number = getattr(self, name)
            if not is_int(number, -np.inf if least is None else least):
                raise ValueError(
                    f"'{name}' of MachZehnderMesh must be an int{f' of at least {least}' if least else ''}. "
                    f"Got {number!r}. Use {name}={16 if least else 0}."
                )
        bias = self.activation_bias
        demand(self, "activation_bias", is_number(bias) and np.isfinite(bias), "a finite number")
        ranges = dict.fromkeys(
            ("nonlinearity", "phase_error", "splitter_error", "loss", "noise", "shot_noise", "noise_floor"), np.inf
        )
        for name, highest in (ranges | {"crosstalk": 1.0, "tap": 1.0}).items():
            number = getattr(self, name)
            if not is_number(number, 0, below=highest):
                raise ValueError(
                    f"'{name}' of MachZehnderMesh must be a number of at least 0 and below {highest:g}. "
                    f"Got {number!r}. Use {name}=0."
                )


def _through(
    field: torch.Tensor,
    turns: tuple[torch.Tensor, torch.Tensor],
    splitters: list[tuple[torch.Tensor, torch.Tensor]],
    first: int,
    last: int,
) -> torch.Tensor:
    """Fields (n_ports, n_rows) behind the columns from ``first`` up to ``last``."""
    n_ports = len(field)
    inner, outer = turns
    (stays_1, crosses_1), (stays_2, crosses_2) = splitters
    even, odd = field[0::2], field[1::2]  # apart, so that a column of interferometers acts on whole runs of rows
    columns = clements.mesh_columns(n_ports)
    begin = sum(map(len, columns[:first]))
    for column in range(first, last):
        n_pairs = len(columns[column])
        which = slice(begin, begin + n_pairs)
        begin += n_pairs
        shifted = column % 2
        upper, lower = (odd[:n_pairs], even[1 : 1 + n_pairs]) if shifted else (even[:n_pairs], odd)
        upper = upper * outer[which]
        upper, lower = _split(upper, lower, stays_1[which], crosses_1[which])
        upper = upper * inner[which]
        upper, lower = _split(upper, lower, stays_2[which], crosses_2[which])
        if shifted:
            even = torch.cat([even[:1], lower, even[1 + n_pairs :]])
            odd = torch.cat([upper, odd[n_pairs:]])
        else:
            even, odd = torch.cat([upper, even[n_pairs:]]), lower
    port = np.arange(n_ports)
    return torch.cat([even, odd])[port // 2 + (port % 2) * ((n_ports + 1) // 2)]


def _split(
    upper: torch.Tensor, lower: torch.Tensor, stays: torch.Tensor, crosses: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.addcmul(upper * stays, lower, crosses), torch.addcmul(lower * stays, upper, crosses)


def _activate(field: torch.Tensor, value: dict[str, torch.Tensor]) -> torch.Tensor:
    """i sqrt(1 - tap) exp(-i a / 2) cos(a / 2) z with a = g |z|^2 + bias; exp(-i a / 2) cos(a / 2) is (1 + exp(-i a)) / 2."""
    angle = value["nonlinearity"] * (field.real.square() + field.imag.square()) + value["activation_bias"]
    passed = torch.sqrt(1 - value["tap"]) / 2
    return field * torch.complex(passed * torch.sin(angle), passed * (1 + torch.cos(angle)))


def _as_phases(phases: Any) -> torch.Tensor:
    """float32 and float64 as they are, everything else in float64."""
    if isinstance(phases, torch.Tensor):
        return phases if phases.dtype in (torch.float32, torch.float64) else phases.double()
    array = np.asarray(phases)
    return torch.from_numpy(array.astype(np.float32 if array.dtype == np.float32 else np.float64))


def _turn(angle: torch.Tensor) -> torch.Tensor:
    return torch.complex(torch.cos(angle), torch.sin(angle))


def _complex(dtype: torch.dtype) -> torch.dtype:
    return torch.complex64 if dtype == torch.float32 else torch.complex128


@lru_cache(maxsize=4)
def _neighbourhood(n_ports: int) -> tuple[np.ndarray, np.ndarray]:
    """Distance of two interferometers, in places along a column, and whether they stand in the same column."""
    columns = clements.mesh_columns(n_ports)
    column = np.repeat(np.arange(n_ports), [len(ports) for ports in columns])
    port = np.concatenate(columns)
    together = column[:, None] == column
    return np.where(together, np.abs(port[:, None] - port) // 2, 0), together
