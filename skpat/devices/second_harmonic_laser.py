"""A shaped femtosecond pulse in a chi(2) crystal, read by a spectrometer: the default device."""

from __future__ import annotations

import numpy as np
import torch
from scipy.fft import next_fast_len

from skpat.controls import ControlBatch
from skpat.devices.base import demand
from skpat.devices.simulated import SimulatedDevice, floating
from skpat.value_checks import is_int, is_number

__all__ = ["SecondHarmonicLaser"]


class SecondHarmonicLaser(SimulatedDevice):
    r"""Second-harmonic generation by a shaped broadband pulse, with pump depletion and group-velocity walk-off.

    A pulse shaper sets the spectral amplitudes of a broadband pulse (the controls); the pulse crosses a chi(2)
    crystal; a spectrometer measures the second harmonic (the outputs). With :math:`A_1` the field of the fundamental in
    the frame that moves with it, and :math:`i A_2` that of the second harmonic, both in units of the peak of
    the fully open pulse,

    .. math::

        \partial_z A_1 &= -\kappa A_1^* A_2, \\
        \partial_z A_2 &= -\delta\,\partial_t A_2 + i \Delta k A_2 + \kappa A_1^2 .

    Parameters
    ----------
    n_controls : int, default=100
        Number of spectral channels of the pulse shaper. A control is the amplitude that its channel lets
        through, 0 to 1.
    n_outputs : int, default=50
        Number of spectrometer bins; they cover the whole second harmonic (twice the width of the fundamental). Of
        more than ``2 * n_controls`` bins, which are finer than the grid, some see nothing.
    bandwidth : float, default=20.0
        Width of the shaped spectrum, in THz. The source is Gaussian with this full width at half maximum.
    length : float, default=0.2
        Length of the crystal, in mm. Above zero.
    walk_off : float, default=200.0
        Group-velocity mismatch :math:`\delta`, in fs/mm (about that of BBO between 800 and 400 nm).
    phase_mismatch : float, default=0.0
        :math:`\Delta k` at the centre, in rad/mm.
    chirp : float, default=5000.0
        Group-delay dispersion of the pulse before the crystal, in fs^2 (the shaper's and the lenses' glass).
    coupling : float, default=25.0
        :math:`\kappa` at the peak amplitude of the fully open pulse without chirp, in 1/mm: without walk-off that peak converts
        :math:`\tanh^2(\kappa L)` of its power. Above zero.
    n_steps : int, default=6
        Steps of the split-step method along the crystal. The error falls with the square of the step.
    noise : float, default=0.02
        Standard deviation of the spectrometer's multiplicative noise, for each bin and shot.
    noise_floor : float, default=1e-4
        Standard deviation of the spectrometer's additive noise, in output units.
    energy_jitter : float, default=0.02
        Relative standard deviation of the pulse energy from shot to shot. It enters before the crystal.
    torch_device : str, default="cpu"
        Where the simulation runs.
    random_state : int, default=None
        Seed of the noise. None: fresh noise at every call.

    Attributes
    ----------
    bounds : ndarray of shape (n_controls, 2)
        0 to 1 for every channel.

    Notes
    -----
    Strang splitting: the linear part exactly in the frequency domain, the local exchange of energy by one
    fourth-order Runge-Kutta step; second order in the step together. The energy :math:`\int |A_1|^2 + |A_2|^2` is conserved
    to the accuracy of the Runge-Kutta step. It is proportional to :math:`N_1 + 2 N_2`, with the numbers of photons: two of the
    fundamental make one of the harmonic (Manley-Rowe). The grid has three points a channel, so that products of the fields do
    not wrap around. A batch is computed in the precision of its controls.

    An output is the energy in a bin in percent of that of the fully open pulse.

    References
    ----------
    Boyd, *Nonlinear Optics*, 4th ed., section 2.7 (doi:10.1016/C2015-0-05510-1), for the equations;
    Wright, Onodera et al., Nature 601, 549 (2022), doi:10.1038/s41586-021-04223-6, for the device.

    Examples
    --------
    >>> import numpy as np
    >>> from skpat.devices import SecondHarmonicLaser
    >>> laser = SecondHarmonicLaser(noise=0, noise_floor=0, energy_jitter=0)
    >>> spectrum = laser.measure(np.ones((1, 100)))
    >>> spectrum.shape, bool(30 < spectrum.sum() < 100)
    ((1, 50), True)
    """

    control_units = "of full amplitude"
    output_units = "% of full pulse energy"
    chunk_rows = 128  # the fields of a chunk stay in the processor's cache

    def __init__(
        self,
        n_controls=100,
        n_outputs=50,
        *,
        bandwidth=20.0,
        length=0.2,
        walk_off=200.0,
        phase_mismatch=0.0,
        chirp=5000.0,
        coupling=25.0,
        n_steps=6,
        noise=0.02,
        noise_floor=1e-4,
        energy_jitter=0.02,
        torch_device="cpu",
        random_state=None,
    ):
        self.n_controls = n_controls
        self.n_outputs = n_outputs
        self.bandwidth = bandwidth
        self.length = length
        self.walk_off = walk_off
        self.phase_mismatch = phase_mismatch
        self.chirp = chirp
        self.coupling = coupling
        self.n_steps = n_steps
        self.noise = noise
        self.noise_floor = noise_floor
        self.energy_jitter = energy_jitter
        self.torch_device = torch_device
        self.random_state = random_state

    @property
    def bounds(self) -> np.ndarray:
        return np.tile([0.0, 1.0], (self.n_controls, 1))

    @property
    def n_noise_values(self) -> int:
        return 1 + 2 * self.n_outputs if self.noise or self.noise_floor or self.energy_jitter else 0

    def simulate(self, batch: ControlBatch, normal: torch.Tensor | None) -> torch.Tensor:
        """Send one pulse per row and read the spectrometer; in percent of the energy of the fully open pulse."""
        controls = batch.dense()
        if normal is None:
            return self.forward(controls)
        if self.energy_jitter:
            controls = controls * (1 + self.energy_jitter * normal[:, :1]).clamp_(min=0).sqrt_()
        spectrum = self.forward(controls)
        of_signal, of_floor = normal[:, 1 : 1 + self.n_outputs], normal[:, 1 + self.n_outputs :]
        return spectrum * (1 + self.noise * of_signal) + self.noise_floor * of_floor

    def forward(self, controls: torch.Tensor, constants: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
        """The noise-free response, differentiable.

        Parameters
        ----------
        controls : tensor of shape (n_rows, n_controls)
            Spectral amplitudes.
        constants : dict of str to tensor, default=None
            Values in place of ``length``, ``walk_off``, ``phase_mismatch``, ``chirp`` or ``coupling`` (scalar
            tensors, same units).

        Returns
        -------
        tensor of shape (n_rows, n_outputs)
            Energy per bin, in percent of the energy of the fully open pulse.

        Raises
        ------
        ValueError
            If ``constants`` names something that cannot be replaced, or a parameter of the laser is not what it must be.
        """
        _, harmonic = self.propagate(controls, constants)
        n = self.n_controls
        energy = harmonic.real.square() + harmonic.imag.square()
        energy = torch.cat([energy[:, -n:], energy[:, :n]], dim=1)  # ascending frequency, 2 n_controls grid points
        return energy @ torch.from_numpy(self._binning()).to(energy)

    def propagate(
        self, controls: torch.Tensor, constants: dict[str, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The fields behind the crystal.

        Parameters
        ----------
        controls : tensor of shape (n_rows, n_controls)
            Spectral amplitudes.
        constants : dict of str to tensor, default=None
            As in :meth:`forward`.

        Returns
        -------
        fundamental, harmonic : complex tensors of shape (n_rows, n_grid)
            Spectra in the order of the discrete Fourier transform; the sum of squares is 1 for the energy of the
            fully open pulse.
        """
        self._check_parameters()
        controls = floating(controls)
        names = ("length", "walk_off", "phase_mismatch", "chirp", "coupling")
        value = self._replaceable(names, constants, controls)
        frequency, source, peak = self._grid()
        complex_dtype = torch.complex64 if controls.dtype == torch.float32 else torch.complex128
        n_grid, n = len(frequency), self.n_controls
        spectrum = torch.zeros((len(controls), n_grid), dtype=complex_dtype, device=controls.device)
        angular = 2e-3 * np.pi * (np.arange(n) - n // 2) * (self.bandwidth / n)  # rad/fs from the centre
        phase = torch.from_numpy(0.5 * angular**2).to(controls) * value["chirp"]
        shaped = controls * torch.from_numpy(source).to(controls) * torch.exp(1j * phase.to(complex_dtype))
        spectrum[:, : n - n // 2] = shaped[:, n // 2 :]
        spectrum[:, n_grid - n // 2 :] = shaped[:, : n // 2]
        step = value["length"] / self.n_steps
        unit = value["coupling"] * step * (n_grid / peak)  # fields in units in which a step has length and coupling 1
        a = torch.fft.ifft(spectrum) * unit
        per_mm = value["phase_mismatch"] + value["walk_off"] * torch.from_numpy(2e-3 * np.pi * frequency).to(controls)
        turn = torch.exp(1j * (per_mm * step).to(complex_dtype))
        b = torch.zeros_like(a)
        harmonic = b
        for i in range(self.n_steps):
            a, b = _exchange(a, b)
            harmonic = torch.fft.fft(b)
            if i < self.n_steps - 1:
                b = torch.fft.ifft(harmonic * turn)
        # Strang: half a linear step before the first exchange (nothing there yet) and half a one after the last
        harmonic = harmonic * torch.exp(0.5j * (per_mm * step).to(complex_dtype))
        return torch.fft.fft(a) / unit, harmonic / unit

    def _grid(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Frequencies (n_grid,) in THz, the source's amplitudes (n_controls,), and its peak in time."""
        n = self.n_controls
        n_grid = next_fast_len(3 * n)
        spacing = self.bandwidth / n
        offset = (np.arange(n) - (n - 1) / 2) * spacing
        source = np.exp(-2 * np.log(2) * (offset / self.bandwidth) ** 2)
        source /= np.sqrt(np.sum(source**2))  # the fully open pulse has energy 1
        return np.fft.fftfreq(n_grid, 1 / (n_grid * spacing)), source, float(source.sum())

    def _binning(self) -> np.ndarray:
        """The matrix (2 n_controls, n_outputs) that adds grid points up to bins, in percent."""
        position = (np.arange(2 * self.n_controls) + 0.5) * self.n_outputs / (2 * self.n_controls)
        return 100.0 * (np.floor(position)[:, None] == np.arange(self.n_outputs))

    def _check_parameters(self) -> None:
        for name in ("n_controls", "n_outputs", "n_steps"):
            demand(self, name, is_int(getattr(self, name), 1), "an int of at least 1")
        for name in ("bandwidth", "length", "coupling"):
            value = getattr(self, name)
            demand(self, name, is_number(value, 0, below=np.inf) and value > 0, "a finite number above 0")
        for name in ("walk_off", "phase_mismatch", "chirp"):
            value = getattr(self, name)
            demand(self, name, is_number(value) and bool(np.isfinite(value)), "a finite number")
        for name in ("noise", "noise_floor", "energy_jitter"):
            demand(self, name, is_number(getattr(self, name), 0, below=np.inf), "a finite number of at least 0")


def _exchange(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One Runge-Kutta step of length 1 of a' = -conj(a) b, b' = a^2, at every point in time on its own."""
    x, y = torch.addcmul(a, a.conj(), b, value=-0.5), torch.addcmul(b, a, a, value=0.5)
    x2, y2 = torch.addcmul(a, x.conj(), y, value=-0.5), torch.addcmul(b, x, x, value=0.5)
    x3, y3 = torch.addcmul(a, x2.conj(), y2, value=-1.0), torch.addcmul(b, x2, x2, value=1.0)
    # the stages hold a + k1/2, a + k2/2 and a + k3: their combination saves the slopes themselves
    a_next = (torch.add(x, x2, alpha=2.0) + x3 - a) * (1 / 3)
    b_next = (torch.add(y, y2, alpha=2.0) + y3 - b) * (1 / 3)
    return torch.addcmul(a_next, x3.conj(), y3, value=-1 / 6), torch.addcmul(b_next, x3, x3, value=1 / 6)
