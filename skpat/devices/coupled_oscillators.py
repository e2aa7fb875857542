"""Coupled nonlinear oscillators: every coupling is a control, and a thousand of them need no copy per row."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from sklearn.base import clone

from skpat.controls import ControlBatch
from skpat.devices.base import demand
from skpat.devices.channel_range import channel_range, varies
from skpat.devices.noise import standard_normal
from skpat.devices.simulated import SimulatedDevice
from skpat.value_checks import is_int, is_number

__all__ = ["CoupledOscillators"]

_ENTRIES = 2**18  # of coupling matrices that stand side by side where the couplings differ from row to row


class CoupledOscillators(SimulatedDevice):
    r"""Pendulum-like oscillators, each coupled to all others, released from rest and read a moment later.

    The amplitudes :math:`q_i` obey

    .. math::

        \ddot q_i = -\sin q_i + \sum_j J_{ij} (\sin q_j - \sin q_i) + e_i, \qquad q_i(0) = x_i, \quad \dot q_i(0) = 0,

    with symmetric couplings :math:`J_{ij}` and constant drives :math:`e_i`. The controls are, in this order, the initial
    amplitudes :math:`x_i` (:attr:`amplitude_index`), the couplings :math:`J_{ij}` with :math:`i < j`, row by row
    (:attr:`coupling_index`), and the drives :math:`e_i` (:attr:`drive_index`); any of them may carry data. The outputs are
    amplitudes at the end. Time is in units of the inverse angular frequency :math:`1 / \omega_0` of one weak oscillator alone.

    Parameters
    ----------
    n_oscillators : int, default=24
        Number of oscillators :math:`n`; there are :math:`n (n + 3) / 2` controls. The default has 324, which a learned twin
        can still hold; a thousand oscillators have 501,500.
    n_measured : int or None, default=None
        How many oscillators are read, the last ones. None: all.
    duration : float, default=0.5
        Time from the release to the reading, in :math:`1 / \omega_0`. 0: the initial amplitudes are read.
    n_steps : int, default=5
        Runge-Kutta steps. The error falls with the fourth power of the step.
    max_amplitude : float, default=pi
        Initial amplitudes lie between this and its negative, in rad. Below 1 the oscillators are nearly linear.
    max_coupling : float, default=4.0
        Couplings lie between this and its negative, in :math:`\omega_0^2`.
    max_drive : float, default=4.0
        Drives lie between this and its negative, in rad :math:`\omega_0^2`.
    nonlinearity_error : float, default=0.0
        :math:`\eta`: the real oscillators have :math:`\sin((1 + \eta) q)` wherever the equation has :math:`\sin q`.
    coupling_error : float, default=0.0
        Standard deviation of a fixed error that is added to every coupling, in :math:`\omega_0^2`. See
        ``coupling_offsets``.
    device_seed : int, default=0
        Which specimen this is: the fixed errors are a function of it and the number of oscillators alone.
    input_noise : float, default=0.02
        Standard deviation of the error in setting an initial amplitude, for each oscillator and shot, in rad.
    noise : float, default=0.005
        Standard deviation of the reading, for each output and shot, in rad.
    torch_device : str, default="cpu"
        Where the simulation runs.
    random_state : int, default=None
        Seed of the noise. None: fresh noise at every call.

    Attributes
    ----------
    bounds : ndarray of shape (n_controls, 2)
        As the maxima above say.
    coupling_offsets : ndarray of shape (n_couplings,)
        The fixed error of each coupling.

    Notes
    -----
    The coupling is computed as :math:`\sum_j J_{ij} (\sin q_j - \sin q_i) = (A \sin q)_i + \sin q_i` with
    :math:`A = J - \mathrm{diag}(1 + \sum_j J_{ij})`: one matrix product for all rows where they share the couplings.
    Memory then grows with :math:`n^2` plus the rows' own numbers, never with their product. Where couplings differ from row
    to row each row needs a matrix of its own, and few rows are taken at a time.

    The force on the amplitudes is not a gradient, yet there is an energy: with :math:`M = -A`, which is symmetric,
    :math:`\ddot q = -M \sin q + e`, and where :math:`M` has an inverse

    .. math::

        E = \tfrac12 \dot q^T M^{-1} \dot q + \sum_i (1 - \cos q_i) - e^T M^{-1} q

    is conserved, since :math:`M^{-1} \ddot q = -\sin q + M^{-1} e`. (With a nonlinearity error, :math:`\cos((1 + \eta) q_i) /
    (1 + \eta)` in place of the cosine.) :math:`M^{-1}` has the part of a mass; negative couplings may make it indefinite, and
    then amplitudes grow.

    Classical fourth-order Runge-Kutta, in the precision of the controls. Stable while the fastest normal mode, of squared
    frequency :math:`\max |\lambda(M)|`, turns by less than 2.8 rad in a step: a thousand oscillators with strong couplings of
    one sign need small couplings or more steps.

    References
    ----------
    Wright, Onodera et al., Nature 601, 549 (2022), doi:10.1038/s41586-021-04223-6, and the code published with it, for the
    system and its errors.

    Examples
    --------
    >>> import numpy as np
    >>> from skpat import ControlSplit
    >>> from skpat.devices import CoupledOscillators
    >>> oscillators = CoupledOscillators(3, input_noise=0, noise=0)
    >>> oscillators.amplitude_index, oscillators.coupling_index, oscillators.drive_index
    (array([0, 1, 2]), array([3, 4, 5]), array([6, 7, 8]))
    >>> swung = np.array([[1.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0]])  # the first pulls the second, J_01 = 2
    >>> oscillators.measure(swung).round(3)
    array([[0.704, 0.19 , 0.   ]])

    The data set the amplitudes, the couplings and drives are trained:

    >>> split = ControlSplit(oscillators.amplitude_index)
    """

    control_units = "natural units"
    output_units = "rad"
    chunk_rows = 1024  # with a thousand oscillators building the matrix costs nothing beside that many rows

    def __init__(
        self,
        n_oscillators=24,
        n_measured=None,
        *,
        duration=0.5,
        n_steps=5,
        max_amplitude=np.pi,
        max_coupling=4.0,
        max_drive=4.0,
        nonlinearity_error=0.0,
        coupling_error=0.0,
        device_seed=0,
        input_noise=0.02,
        noise=0.005,
        torch_device="cpu",
        random_state=None,
    ):
        self.n_oscillators = n_oscillators
        self.n_measured = n_measured
        self.duration = duration
        self.n_steps = n_steps
        self.max_amplitude = max_amplitude
        self.max_coupling = max_coupling
        self.max_drive = max_drive
        self.nonlinearity_error = nonlinearity_error
        self.coupling_error = coupling_error
        self.device_seed = device_seed
        self.input_noise = input_noise
        self.noise = noise
        self.torch_device = torch_device
        self.random_state = random_state

    @property
    def n_couplings(self) -> int:
        """Number of pairs of oscillators."""
        return self.n_oscillators * (self.n_oscillators - 1) // 2

    @property
    def n_controls(self) -> int:  # type: ignore[override]  # an attribute of the base class, derived here
        return 2 * self.n_oscillators + self.n_couplings

    @property
    def n_outputs(self) -> int:  # type: ignore[override]  # an attribute of the base class, derived here
        return self.n_oscillators if self.n_measured is None else self.n_measured

    @property
    def amplitude_index(self) -> np.ndarray:
        """Channels of the initial amplitudes, shape (n_oscillators,)."""
        return np.arange(self.n_oscillators)

    @property
    def coupling_index(self) -> np.ndarray:
        """Channels of the couplings, shape (n_couplings,): J_01, J_02, ..., J_12, ... as ``np.triu_indices(n, 1)``."""
        return np.arange(self.n_oscillators, self.n_oscillators + self.n_couplings)

    @property
    def drive_index(self) -> np.ndarray:
        """Channels of the drives, shape (n_oscillators,)."""
        return np.arange(self.n_controls - self.n_oscillators, self.n_controls)

    @property
    def bounds(self) -> np.ndarray:
        largest = np.empty(self.n_controls)
        largest[: self.n_oscillators] = self.max_amplitude
        largest[self.n_oscillators :] = self.max_coupling
        largest[self.n_controls - self.n_oscillators :] = self.max_drive
        return np.column_stack([-largest, largest])

    @property
    def equations(self) -> Any:
        """The oscillators as they were designed; the errors of the couplings are too many to be found."""
        designed = clone(self).set_params(nonlinearity_error=0.0, coupling_error=0.0)
        return designed, ("nonlinearity_error",)

    @property
    def coupling_offsets(self) -> np.ndarray:
        if not self.coupling_error:
            return np.zeros(self.n_couplings)
        return self.coupling_error * _fixed_numbers(int(self.device_seed), self.n_couplings)

    @property
    def n_noise_values(self) -> int:
        return (self.n_oscillators if self.input_noise else 0) + (self.n_outputs if self.noise else 0)

    def forward(self, controls: torch.Tensor, constants: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
        """The noise-free response, differentiable.

        Parameters
        ----------
        controls : tensor of shape (n_rows, n_controls)
            Every row with couplings of its own; :meth:`forward_batch` is the way where rows share them.
        constants : dict of str to tensor, default=None
            As in :meth:`forward_batch`.

        Returns
        -------
        tensor of shape (n_rows, n_outputs)
            Final amplitudes, in rad.

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
            Its parts are tensors. The array of all controls is never built.
        constants : dict of str to tensor, default=None
            Values in place of ``duration``, ``nonlinearity_error`` (scalar tensors) or ``coupling_offsets`` (tensor of
            shape (n_couplings,)).

        Returns
        -------
        tensor of shape (n_rows, n_outputs)
            Final amplitudes, in rad.

        Raises
        ------
        ValueError
            If ``constants`` names something that cannot be replaced, or a parameter is not legal.
        """
        return self.propagate(batch, constants)[0][:, self.n_oscillators - self.n_outputs :]

    def simulate(self, batch: ControlBatch, normal: torch.Tensor | None) -> torch.Tensor:
        """Release the oscillators once per row and read them; in rad."""
        if normal is None:
            return self.forward_batch(batch)
        n_kicks = self.n_oscillators if self.input_noise else 0
        kick = self.input_noise * normal[:, :n_kicks] if n_kicks else None
        outputs = self.propagate(batch, kick=kick)[0][:, self.n_oscillators - self.n_outputs :]
        return outputs + self.noise * normal[:, n_kicks:] if self.noise else outputs

    def propagate(
        self,
        batch: ControlBatch | torch.Tensor,
        constants: dict[str, torch.Tensor] | None = None,
        *,
        velocity: torch.Tensor | None = None,
        kick: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Amplitudes and velocities of all oscillators at the end.

        Parameters
        ----------
        batch : ControlBatch of tensors, or tensor of shape (n_rows, n_controls)
        constants : dict of str to tensor, default=None
            As in :meth:`forward_batch`.
        velocity : tensor of shape (n_rows, n_oscillators), default=None
            Initial velocities, in rad omega0. None: at rest.
        kick : tensor of shape (n_rows, n_oscillators), default=None
            Added to the initial amplitudes, in rad.

        Returns
        -------
        amplitude, velocity : tensors of shape (n_rows, n_oscillators)
        """
        self._check_parameters()
        batch = ControlBatch.from_dense(batch)
        names = ("duration", "nonlinearity_error", "coupling_offsets")
        value = self._replaceable(names, constants, batch.varying)
        n, n_rows = self.n_oscillators, batch.n_rows
        together = max(1, _ENTRIES // n**2) if varies(batch, n, n + self.n_couplings) else max(n_rows, 1)
        pieces = []
        for start in range(0, max(n_rows, 1), together):
            rows = slice(start, start + together)
            start_velocity, start_kick = (part if part is None else part[rows] for part in (velocity, kick))
            pieces.append(self._evolve(batch.rows(rows), value, start_velocity, start_kick))
        if len(pieces) == 1:
            return pieces[0]
        amplitudes, velocities = zip(*pieces, strict=True)
        return torch.cat(amplitudes), torch.cat(velocities)

    def _evolve(
        self,
        batch: ControlBatch,
        value: dict[str, torch.Tensor],
        velocity: torch.Tensor | None,
        kick: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Runge-Kutta for q'' = force(q): the slopes of q are put in, so that two states need no four slopes each."""
        n = self.n_oscillators
        q = channel_range(batch, 0, n).expand(batch.n_rows, n)
        if kick is not None:
            q = q + kick
        v = torch.zeros_like(q) if velocity is None else velocity
        matrix = _force_matrix(channel_range(batch, n, n + self.n_couplings) + value["coupling_offsets"], n)
        drive = channel_range(batch, n + self.n_couplings, self.n_controls)
        inner = 1 + value["nonlinearity_error"]

        def force(amplitude: torch.Tensor) -> torch.Tensor:
            sine = torch.sin(inner * amplitude)
            if len(matrix) == 1:
                return torch.addmm(drive, sine, matrix[0])
            return torch.baddbmm(drive.unsqueeze(2), matrix, sine.unsqueeze(2)).squeeze(2)

        h = value["duration"] / self.n_steps
        for _ in range(self.n_steps):
            a1 = force(q)
            halfway = q + (h / 2) * v
            a2 = force(halfway)
            a3 = force(halfway + (h**2 / 4) * a1)
            onward = q + h * v
            a4 = force(onward + (h**2 / 2) * a2)
            middle = a2 + a3
            q = onward + (h**2 / 6) * (a1 + middle)
            v = v + (h / 6) * (a1 + 2 * middle + a4)
        return q, v

    def _check_parameters(self) -> None:
        for name in ("n_oscillators", "n_steps"):
            demand(self, name, is_int(getattr(self, name), 1), "an int of at least 1")
        n, n_read = self.n_oscillators, self.n_measured
        demand(self, "n_measured", n_read is None or is_int(n_read, 1), "an int of at least 1, or None for all")
        most = f"at most n_oscillators = {n}, or None for all"
        demand(self, "n_measured", n_read is None or n_read <= n, most)
        for name in ("max_amplitude", "max_coupling", "max_drive"):
            value = getattr(self, name)
            demand(self, name, is_number(value, 0, below=np.inf) and value > 0, "a finite number above 0")
        error = self.nonlinearity_error
        demand(
            self, "nonlinearity_error", is_number(error, -1, below=np.inf) and error > -1, "a finite number above -1"
        )
        for name in ("duration", "input_noise", "noise", "coupling_error"):
            demand(self, name, is_number(getattr(self, name), 0, below=np.inf), "a finite number of at least 0")
        demand(self, "device_seed", is_int(self.device_seed), "an int: the same specimen at every call")


def _force_matrix(couplings: torch.Tensor, n: int) -> torch.Tensor:
    """J - diag(1 + row sums of J), shape (n_settings, n, n), of couplings of shape (n_settings, n (n - 1) / 2)."""
    i, j = torch.triu_indices(n, n, 1, device=couplings.device)
    matrix = couplings.new_zeros((len(couplings), n, n))
    matrix[:, i, j] = couplings
    matrix = matrix + matrix.transpose(1, 2)
    return matrix - torch.diag_embed(1 + matrix.sum(2))


@lru_cache(maxsize=4)
def _fixed_numbers(seed: int, n_values: int) -> np.ndarray:
    """Standard normal numbers, a function of the seed and their number alone."""
    return standard_normal(seed, np.zeros(1, dtype=np.uint64), 0, n_values)[0]
