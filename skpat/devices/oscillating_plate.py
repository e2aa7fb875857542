"""A thin clamped plate driven by a voice coil, heard by a microphone: its large vibrations are nonlinear."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq
from sklearn.base import clone

from skpat.controls import ControlBatch
from skpat.devices.base import demand
from skpat.devices.simulated import SimulatedDevice, floating
from skpat.value_checks import is_int

__all__ = ["OscillatingPlate"]

_N_BEAM = 16  # beam functions in each direction of the Ritz basis
_MOST_MODES = 128  # with the longer side's share: beyond, the Ritz basis is too small
_CONSTANTS = ("thickness", "quality_factor", "nonlinearity", "force_per_volt")
_AIR_IMPEDANCE = 413.0  # Pa s/m, density times speed of sound at 20 degrees C


class OscillatingPlate(SimulatedDevice):
    r"""A clamped metal plate driven by a voice coil: modes coupled by the stretching of the plate.

    The drive voltage is a waveform of ``n_controls`` samples (the controls), in which data and weights follow each other;
    the voice coil pushes one point of the plate; a microphone close to another point listens (the outputs). With the
    deflection :math:`w = h \sum_m q_m(t)\,\phi_m(x, y)` in the modes of the linear plate, whose mean square is 1,

    .. math::

        \ddot q_m + \frac{\omega_m}{Q} \dot q_m + \omega_m^2 q_m
            + 6 \nu_\mathrm{nl} c^2 \Bigl(\sum_{kl} q_k S_{kl} q_l\Bigr) \sum_n S_{mn} q_n
            = \frac{G V(t)}{\rho h^2 a b}\, \phi_m(x_0, y_0),
        \qquad c = \frac{h}{a^2} \sqrt{\frac{E}{12 (1 - \nu^2) \rho}},

    with :math:`\omega_m = \lambda_m c`, :math:`S_{mn} = \frac{a}{b} \int \nabla \phi_m \cdot \nabla \phi_n\,dA`, for a plate of
    length :math:`a`, width :math:`b` and thickness :math:`h`. The cubic term is the gradient of the energy of stretching,
    :math:`\frac{3}{2} \nu_\mathrm{nl} c^2 (q^T S q)^2` per mass of the plate and :math:`h^2`.

    Parameters
    ----------
    n_controls : int, default=196
        Number of samples of the drive voltage, each held for ``1 / sample_rate``. A control is a voltage, -1 to 1 V.
    n_outputs : int, default=98
        Number of readings of the microphone, spread evenly over the drive; at most ``n_controls``.
    sample_rate : float, default=20.0
        Samples of the drive per ms (kHz).
    length, width : float, default=40.0, 32.0
        :math:`a` and :math:`b`, in mm.
    thickness : float, default=0.2
        :math:`h`, in mm. Frequencies are proportional to it.
    youngs_modulus : float, default=116.0
        :math:`E`, in GPa (titanium).
    poisson_ratio : float, default=0.32
        :math:`\nu`.
    density : float, default=4506.0
        :math:`\rho`, in kg/m^3.
    n_modes : int, default=16
        Number of modes kept, the lowest. At most 128 times the ratio of the shorter side to the longer one.
    quality_factor : float, default=50.0
        :math:`Q` of every mode, above 1/2. Infinity: no damping.
    nonlinearity : float, default=1.0
        :math:`\nu_\mathrm{nl}`, how firmly the edges hold against being pulled inwards: 1: not at all movable; 0: linear plate.
    force_per_volt : float, default=1.5
        :math:`G` of amplifier and voice coil, in N/V.
    thickness_error, quality_error : float, default=0.0
        What is wrong with this specimen: its thickness and its :math:`Q` are ``1 + error`` times what is stated. The stated
        ones are where :attr:`equations` begin.
    drive_position, pickup_position : tuple of float, default=(0.37, 0.42), (0.66, 0.29)
        Where the coil pushes and the microphone listens, in units of length and width, 0 to 1.
    n_steps : int, default=3
        Time steps in each sample. The error falls with the square of the step.
    noise : float, default=2.0
        Standard deviation of the noise of the microphone, for each output and shot, in Pa.
    gain_jitter : float, default=0.005
        Relative standard deviation of the gain of the amplifier from shot to shot. It enters before the plate.
    torch_device : str, default="cpu"
        Where the simulation runs.
    random_state : int, default=None
        Seed of the noise. None: fresh noise at every call.

    Attributes
    ----------
    bounds : ndarray of shape (n_controls, 2)
        -1 to 1 V for every sample.
    frequencies : ndarray of shape (n_modes,)
        Natural frequencies of the linear plate, errors included, in kHz.
    equations : (OscillatingPlate, tuple of str)
        The plate as it was designed, without errors, and the constants by which a specimen differs from it.
    seconds_per_shot : float or None
        Duration of the drive, and of the silence until the slowest mode has died away to 1 %. None without damping: it never
        does.

    Notes
    -----
    The modes are a Ritz approximation in products of 16 x 16 clamped-clamped beam functions, good to 0.1 % in frequency. The
    stretching is Berger's approximation for immovable edges: the tension is uniform, and grows with the mean square slope. The
    damping is viscous; the load of the air is left out.

    Time steps are Strang's: the driven, damped, linear modes exactly; the stretching as kicks in between. Without damping the
    energy is conserved, and grows by the work of the coil, to second order in the step. With the default parameters every
    legal waveform keeps the steps stable; a stronger drive, a thinner plate or more modes need more steps, and are refused when
    the motion overflows.

    An output is the sound pressure in front of the plate, taken as 413 Pa s/m (the plane-wave impedance of air) times the
    velocity of the plate there, averaged since the reading before. The plate is at rest when the drive begins.

    References
    ----------
    Leissa, J. Sound Vib. 31, 257 (1973), doi:10.1016/S0022-460X(73)80371-2, for the frequencies;
    Berger, J. Appl. Mech. 22, 465 (1955), for the stretching;
    Wright, Onodera et al., Nature 601, 549 (2022), doi:10.1038/s41586-021-04223-6, for the device.

    Examples
    --------
    >>> import numpy as np
    >>> from skpat.devices import OscillatingPlate
    >>> plate = OscillatingPlate(noise=0, gain_jitter=0)
    >>> plate.frequencies[:3].round(2)
    array([1.44, 2.52, 3.29])
    >>> click = np.zeros((2, 196))
    >>> click[:, 0] = 0.01, 1.0
    >>> weak, strong = plate.measure(click)
    >>> weak.shape, bool(np.allclose(strong, 100 * weak, atol=1))  # a linear plate would say True
    ((98,), False)
    """

    control_units = "V"
    output_units = "Pa"
    chunk_rows = 512

    def __init__(
        self,
        n_controls=196,
        n_outputs=98,
        *,
        sample_rate=20.0,
        length=40.0,
        width=32.0,
        thickness=0.2,
        youngs_modulus=116.0,
        poisson_ratio=0.32,
        density=4506.0,
        n_modes=16,
        quality_factor=50.0,
        nonlinearity=1.0,
        force_per_volt=1.5,
        thickness_error=0.0,
        quality_error=0.0,
        drive_position=(0.37, 0.42),
        pickup_position=(0.66, 0.29),
        n_steps=3,
        noise=2.0,
        gain_jitter=0.005,
        torch_device="cpu",
        random_state=None,
    ):
        self.n_controls = n_controls
        self.n_outputs = n_outputs
        self.sample_rate = sample_rate
        self.length = length
        self.width = width
        self.thickness = thickness
        self.youngs_modulus = youngs_modulus
        self.poisson_ratio = poisson_ratio
        self.density = density
        self.n_modes = n_modes
        self.quality_factor = quality_factor
        self.nonlinearity = nonlinearity
        self.force_per_volt = force_per_volt
        self.thickness_error = thickness_error
        self.quality_error = quality_error
        self.drive_position = drive_position
        self.pickup_position = pickup_position
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
        silence = float(np.log(100)) * self._real_quality / (np.pi * float(self.frequencies[0]))
        if not np.isfinite(silence):
            return None
        return 1e-3 * (self.n_controls / self.sample_rate + silence)

    @property
    def frequencies(self) -> np.ndarray:
        self._check_parameters()
        parameter, _, _ = _clamped_modes(self.length / self.width, self.n_modes)
        return parameter * float(self._speed(self._real_thickness)) / (2 * np.pi)

    @property
    def equations(self) -> Any:
        """The plate as it was designed: by how much this specimen differs is to be found."""
        designed = clone(self).set_params(thickness_error=0.0, quality_error=0.0)
        return designed, tuple(name for name in _CONSTANTS if 0 < getattr(self, name) < np.inf)

    @property
    def _real_thickness(self) -> float:
        return float(self.thickness * (1 + self.thickness_error))

    @property
    def _real_quality(self) -> float:
        return float(self.quality_factor * (1 + self.quality_error))

    def simulate(self, batch: ControlBatch, normal: torch.Tensor | None) -> torch.Tensor:
        """Play one waveform per row and read the microphone, in Pa."""
        controls = batch.dense()
        if normal is None:
            return self.forward(controls)
        return self.forward(controls * (1 + self.gain_jitter * normal[:, :1])) + self.noise * normal[:, 1:]

    def forward(self, controls: torch.Tensor, constants: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
        """The noise-free response, differentiable (once).

        Parameters
        ----------
        controls : tensor of shape (n_rows, n_controls)
            Samples of the drive voltage, in V.
        constants : dict of str to tensor, default=None
            Values in place of ``thickness``, ``quality_factor``, ``nonlinearity`` or ``force_per_volt`` (scalar tensors,
            same units; errors come on top).

        Returns
        -------
        tensor of shape (n_rows, n_outputs)
            Sound pressure, in Pa.

        Raises
        ------
        ValueError
            If ``constants`` names something that cannot be replaced, a parameter of the plate is not what it must be, or
            the motion overflows.
        """
        self._check_parameters()
        controls = floating(controls)
        value = self._constants(constants, controls)
        shape_at_pickup = torch.from_numpy(self._shapes_at(self.pickup_position)[None]).to(controls)
        read = torch.cat([shape_at_pickup, torch.zeros_like(shape_at_pickup)], dim=1)
        deflection = self._play(controls, value, read)[:, 0]  # in units of the thickness, (n_controls, n_rows)
        ends = np.arange(1, self.n_outputs + 1) * self.n_controls // self.n_outputs  # 1 sample or more between them
        at_ends = deflection[torch.from_numpy(ends - 1).to(controls.device)]
        moved = torch.diff(at_ends, dim=0, prepend=torch.zeros_like(at_ends[:1]))
        per_reading = torch.from_numpy(self.sample_rate / np.diff(ends, prepend=0)).to(controls)
        # mm / ms is m/s
        pressure = (moved * (_AIR_IMPEDANCE * value["thickness"].to(controls) * per_reading)[:, None]).T
        if not torch.isfinite(pressure.detach()).all() and torch.isfinite(controls.detach()).all():
            raise ValueError(
                f"'n_steps' of {type(self).__name__} must be larger for so strong a vibration: the steps became unstable. "
                f"Got {self.n_steps}. Use n_steps={2 * self.n_steps}, or a smaller force_per_volt."
            )
        return pressure

    def vibrate(
        self, controls: torch.Tensor, constants: dict[str, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The motion of the modes.

        Parameters
        ----------
        controls : tensor of shape (n_rows, n_controls)
            Samples of the drive voltage, in V.
        constants : dict of str to tensor, default=None
            As in :meth:`forward`.

        Returns
        -------
        displacement, velocity : tensors of shape (n_rows, n_controls, n_modes)
            At the end of every sample, in units of the thickness, and of the thickness per ms.
        """
        self._check_parameters()
        controls = floating(controls)
        value = self._constants(constants, controls)
        motion = self._play(controls, value, torch.eye(2 * self.n_modes).to(controls)).permute(2, 0, 1)
        displacement, velocity = motion[..., : self.n_modes], motion[..., self.n_modes :]
        pull = displacement @ torch.from_numpy(self._modes()[1]).to(controls)
        tension = (displacement * pull).sum(dim=-1, keepdim=True)
        # a step ends with half of the kick with which the next one would have begun
        velocity = velocity - 0.5 * self._kick(value).to(controls) * tension * pull
        return displacement, velocity * (self.n_steps * self.sample_rate)

    def energy(self, displacement: torch.Tensor, velocity: torch.Tensor) -> torch.Tensor:
        r"""Kinetic, bending and stretching energy.

        Parameters
        ----------
        displacement, velocity : tensors of shape (..., n_modes)
            From :meth:`vibrate`.

        Returns
        -------
        tensor of shape (...)
            In J.
        """
        self._check_parameters()
        parameter, stiffness = (torch.from_numpy(part).to(displacement) for part in self._modes())
        speed = float(self._speed(self._real_thickness))
        stretched = (displacement @ stiffness * displacement).sum(dim=-1)
        per_mass = 0.5 * (velocity.square() + (speed * parameter * displacement).square()).sum(dim=-1)
        per_mass = per_mass + 1.5 * self.nonlinearity * speed**2 * stretched.square()
        return self._mass(self._real_thickness) * self._real_thickness**2 * per_mass  # kg mm^2 / ms^2 = J

    def _play(self, controls: torch.Tensor, value: dict[str, torch.Tensor], read: torch.Tensor) -> torch.Tensor:
        """``read`` times (displacement, velocity per step) at the end of each sample, (n_controls, n_read, n_rows).

        Velocities are those before the kick.
        """
        _, stiffness = self._modes()
        step = self._linear_step(value)
        step = torch.cat([torch.from_numpy(stiffness).to(step) @ step[: self.n_modes], step])
        motion: torch.Tensor = _Motion.apply(
            controls.T, step.to(controls), self._kick(value).to(controls), read, self.n_steps
        )
        return motion

    def _linear_step(self, value: dict[str, torch.Tensor]) -> torch.Tensor:
        """The exact step of the linear plate, (2 n_modes, 2 n_modes + 1): from displacement, velocity and voltage."""
        speed = self._speed(value["thickness"]) / (self.n_steps * self.sample_rate)
        angle = speed * torch.from_numpy(self._modes()[0]).to(speed)
        loss = angle / (2 * value["quality_factor"])
        turn = angle * torch.sqrt(1 - 1 / (4 * value["quality_factor"] ** 2))
        decay = torch.exp(-loss)
        cos, sin = decay * torch.cos(turn), decay * torch.sin(turn) / turn
        push = 1e-3 * value["force_per_volt"] / (self._mass(value["thickness"]) * value["thickness"])
        push = push * torch.from_numpy(self._shapes_at(self.drive_position)).to(speed)
        push = push / (self.n_steps * self.sample_rate) ** 2  # thickness per step^2: N/kg is 10^-3 mm/ms^2
        from_rest = (1 - cos - loss * sin) / angle**2 * push
        above = [torch.diag(cos + loss * sin), torch.diag(sin), from_rest[:, None]]
        below = [torch.diag(-(angle**2) * sin), torch.diag(cos - loss * sin), (sin * push)[:, None]]
        return torch.cat([torch.cat(above, dim=1), torch.cat(below, dim=1)])

    def _kick(self, value: dict[str, torch.Tensor]) -> torch.Tensor:
        return 6 * value["nonlinearity"] * (self._speed(value["thickness"]) / (self.n_steps * self.sample_rate)) ** 2

    def _speed(self, thickness: Any) -> Any:
        """c, in 1/ms: GPa / (kg/m^3) is 10^9 (m/s)^2, and m/s are mm/ms."""
        material = np.sqrt(1e9 * self.youngs_modulus / (12 * (1 - self.poisson_ratio**2) * self.density))
        return material * thickness / self.length**2

    def _mass(self, thickness: Any) -> Any:
        """In kg."""
        return 1e-9 * self.density * thickness * self.length * self.width

    def _modes(self) -> tuple[np.ndarray, np.ndarray]:
        parameter, stiffness, _ = _clamped_modes(self.length / self.width, self.n_modes)
        return parameter, stiffness

    def _shapes_at(self, position: tuple[float, float]) -> np.ndarray:
        _, _, mixture = _clamped_modes(self.length / self.width, self.n_modes)
        x, y = (_beam_functions(np.array([place]))[0][:, 0] for place in position)
        return np.outer(x, y).ravel() @ mixture

    def _constants(self, constants: dict[str, torch.Tensor] | None, like: torch.Tensor) -> dict[str, torch.Tensor]:
        # a handful of numbers: in double precision, so that small differences in a step do not cancel
        value = {name: value.double() for name, value in self._replaceable(_CONSTANTS, constants, like).items()}
        value["thickness"] = value["thickness"] * (1 + self.thickness_error)
        value["quality_factor"] = value["quality_factor"] * (1 + self.quality_error)
        return value

    def _check_parameters(self) -> None:
        for name in ("n_controls", "n_steps", "n_modes"):
            demand(self, name, is_int(getattr(self, name), 1), "an int of at least 1")
        too_many = is_int(self.n_outputs) and self.n_outputs > self.n_controls
        most, mend = f"an int from 1 to n_controls ({self.n_controls})", "Use a longer drive for more readings."
        whole = is_int(self.n_outputs, 1)
        demand(self, "n_outputs", whole and not too_many, most, mend if too_many else None)
        for name in ("sample_rate", "length", "width", "thickness", "youngs_modulus", "density"):
            demand(self, name, 0 < getattr(self, name) < np.inf, "a finite number above 0")
        demand(self, "poisson_ratio", -1 < self.poisson_ratio <= 0.5, "above -1 and at most 0.5")
        demand(self, "quality_factor", self.quality_factor > 0.5, "above 0.5", "Use np.inf for no damping.")
        demand(self, "thickness_error", -1 < self.thickness_error < np.inf, "a finite number above -1")
        what = f"finite, and leave more than 0.5 of the quality_factor ({self.quality_factor})"
        demand(self, "quality_error", self._real_quality > 0.5 and self.quality_error < np.inf, what)
        demand(self, "nonlinearity", 0 <= self.nonlinearity < np.inf, "a finite number of at least 0")
        n_most = int(_MOST_MODES * min(self.length / self.width, self.width / self.length))
        most = f"at most {n_most} for a plate of {self.length} mm by {self.width} mm"
        demand(self, "n_modes", self.n_modes <= n_most, most, "Keep fewer modes, or make the plate squarer.")
        for name in ("drive_position", "pickup_position"):
            place = np.asarray(getattr(self, name), dtype=float)
            inside = place.shape == (2,) and bool(((place > 0) & (place < 1)).all())
            demand(self, name, inside, "a pair of numbers between 0 and 1")


class _Motion(torch.autograd.Function):
    """The steps in time, with their adjoint: thousands of small operations, which autograd would each write down.

    A state is (pull S q, displacement q, velocity v, voltage), one column a row of controls. A kick takes
    kick (q S q) S q from the velocity.
    """

    @staticmethod
    def forward(ctx, drive, step, kick, read, n_steps):
        n_samples, n_rows = drive.shape
        n, kick = step.shape[0] // 3, float(kick)
        needs_gradient = any(ctx.needs_input_grad)
        n_kept = n_samples * n_steps + 1 if needs_gradient else 2
        state = drive.new_empty(n_kept, 3 * n + 1, n_rows)
        state[0] = 0
        pull, displacement, velocity = (state[:, n * i : n * (i + 1)].unbind() for i in range(3))
        before, after = state[:, n:].unbind(), state[:, : 3 * n].unbind()
        both, voltage = state[:, n : 3 * n].unbind(), state[:, 3 * n].unbind()
        products, tension = drive.new_empty(n, n_rows), drive.new_empty(1, n_rows)
        out = drive.new_empty(n_samples, read.shape[0], n_rows)
        here = 0
        for sample, volts in enumerate(drive.unbind()):
            for _ in range(n_steps):
                there = (here + 1) % n_kept
                voltage[here].copy_(volts)
                torch.mul(displacement[here], pull[here], out=products)
                torch.sum(products, dim=0, keepdim=True, out=tension)
                velocity[here].addcmul_(tension, pull[here], value=-kick)
                torch.mm(step, before[here], out=after[there])
                here = there
            torch.mm(read, both[here], out=out[sample])
        if needs_gradient:
            ctx.save_for_backward(state, step, read)
            ctx.n_steps, ctx.kick = n_steps, kick
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out):
        state, step, read = ctx.saved_tensors
        n_all, n_rows, n = len(state) - 1, state.shape[2], step.shape[0] // 3
        pull, displacement = state[:, :n].unbind(), state[:, n : 2 * n].unbind()
        tension = (state[:-1, :n] * state[:-1, n : 2 * n]).sum(dim=1, keepdim=True)
        bend = (-ctx.kick * tension).unbind()
        grad_state = state.new_zeros(n_all + 1, 3 * n + 1, n_rows)  # of the state before the kick
        grad_state[ctx.n_steps :: ctx.n_steps, n : 2 * n] = read[:, :n].T @ grad_out
        of_velocity = (read[:, n:].T @ grad_out).unbind() if read[:, n:].any() else None
        if of_velocity is not None:
            grad_state[-1, 2 * n : 3 * n] = of_velocity[-1]
        grad_pull, grad_displacement, grad_velocity = (grad_state[:, n * i : n * (i + 1)].unbind() for i in range(3))
        grad_after, grad_before = grad_state[:, : 3 * n].unbind(), grad_state[:, n:].unbind()
        work = state.new_empty(n_all, 1, n_rows)
        works = work.unbind()
        back = step.T.contiguous()
        products = state.new_empty(n, n_rows)
        for i in range(n_all - 1, -1, -1):
            grad_before[i].addmm_(back, grad_after[i + 1])
            torch.mul(grad_velocity[i], pull[i], out=products)
            torch.sum(products, dim=0, keepdim=True, out=works[i])
            grad_displacement[i].addcmul_(works[i], pull[i], value=-ctx.kick)
            torch.mul(bend[i], grad_velocity[i], out=grad_pull[i])
            grad_pull[i].addcmul_(works[i], displacement[i], value=-ctx.kick)
            if of_velocity is not None and i and i % ctx.n_steps == 0:  # the velocity was read before the kick
                grad_velocity[i].add_(of_velocity[i // ctx.n_steps - 1])
        needs_drive, needs_step, needs_kick, _, _ = ctx.needs_input_grad
        grad_drive = grad_step = grad_kick = None
        if needs_drive:
            grad_drive = grad_state[:-1, -1].reshape(-1, ctx.n_steps, n_rows).sum(dim=1)
        if needs_step:
            grad_step = torch.bmm(grad_state[1:, : 3 * n], state[:-1, n:].transpose(1, 2)).sum(dim=0)
        if needs_kick:
            grad_kick = -(work * tension).sum()
        return grad_drive, grad_step, grad_kick, None, None


@lru_cache(maxsize=1)
def _beam_roots() -> np.ndarray:
    """The first roots of cosh(b) cos(b) = 1 after zero."""
    middles = (np.arange(_N_BEAM) + 1.5) * np.pi
    return np.array([brentq(lambda b: np.cos(b) - 1 / np.cosh(b), m - 0.1, m + 0.1, xtol=1e-14) for m in middles])


def _beam_functions(place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Clamped-clamped beam functions of mean square 1 on (0, 1), and their slopes, (_N_BEAM, n_places)."""
    root = _beam_roots()[:, None]
    x = root * (place - 0.5)
    even = (np.arange(_N_BEAM) % 2 == 0)[:, None]
    # symmetric quotients: the usual form is a difference of huge numbers
    cos, sin, cosh, sinh = np.cos(root / 2), np.sin(root / 2), np.cosh(root / 2), np.sinh(root / 2)
    value = np.where(even, np.cos(x) / cos - np.cosh(x) / cosh, np.sin(x) / sin - np.sinh(x) / sinh)
    slope = np.where(even, -np.sin(x) / cos - np.sinh(x) / cosh, np.cos(x) / sin - np.cosh(x) / sinh)
    return value, root * slope


@lru_cache(maxsize=16)
def _clamped_modes(aspect: float, n_modes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ritz modes of a clamped plate, of length a and width a / aspect.

    Returns the frequency parameters omega a^2 sqrt(rho h / D), (n_modes,); the matrix S, (n_modes, n_modes); and the modes
    as mixtures of products of beam functions, (_N_BEAM^2, n_modes).
    """
    place, weight = np.polynomial.legendre.leggauss(6 * _N_BEAM)
    _, slope = _beam_functions((place + 1) / 2)
    slopes = (slope * weight / 2) @ slope.T
    one = np.eye(_N_BEAM)
    fourth = np.diag(_beam_roots() ** 4)
    bending = np.kron(fourth, one) + aspect**4 * np.kron(one, fourth) + 2 * aspect**2 * np.kron(slopes, slopes)
    stretching = np.kron(slopes, one) + aspect**2 * np.kron(one, slopes)
    squares, mixture = np.linalg.eigh(bending)  # the products are orthonormal: the mass matrix is one
    mixture = mixture[:, :n_modes]
    return np.sqrt(squares[:n_modes]), mixture.T @ stretching @ mixture, mixture
