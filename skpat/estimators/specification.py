"""From parameters to the objects of a fit: the device, the split, the twin and the gradient it really uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import clone

from skpat.controls import ChannelSplit, ControlSplit
from skpat.devices.specification import (
    channel_periods,
    check_device_specification,
    copy_to_work_with,
    device_name,
    slow_channels,
)
from skpat.exceptions import ControlBoundsError, ControlSplitError, DeviceContractError
from skpat.lab.limits import Limits
from skpat.lab.other_device import channel_differences, stated_differences, stated_of
from skpat.seeding import seeded_copy
from skpat.twins.base import Twin
from skpat.user_warning import warn_user

if TYPE_CHECKING:
    from skpat.network.forward import Network
    from skpat.training import GradientEstimator

__all__ = [
    "GRADIENTS",
    "Specification",
    "changed_since",
    "construction",
    "default_device",
    "default_twin",
    "float_types",
    "prepare",
    "refuse_changes",
    "replacement",
    "specify",
]

_STEPS_OF_FLOAT32 = 1e5  # within a channel's bounds; with fewer a training sees its steps
_STEPS_IN_ONE = 16  # of the channel itself, if it has steps

GRADIENTS = {
    "physics_aware": "PhysicsAware",
    "in_silico": "InSilico",
    "exact": "ExactGradient",
    "spsa": "SPSA",
    "in_silico_refitted": "InSilicoRefitted",
    "finite_differences": "FiniteDifferences",
    "evolution_strategy": "EvolutionStrategy",
    "forward_forward": "ForwardForward",
    "asymmetric": "Asymmetric",
    "direct_feedback_alignment": "DirectFeedbackAlignment",
    "sharpness_aware": "SharpnessAware",
}
_BUILT_IN = (
    "device",
    "twin",
    "control_split",
    "gradient",
    "n_layers",
    "n_units",
    "encoder",
    "skip",
    "readout",
)  # parameters that only a new network can take


@dataclass
class Specification:
    """What one fit works with: its own copies, seeded."""

    device: Any
    bounds: np.ndarray
    split: ChannelSplit
    twin: Any
    gradient: Any


def default_device() -> Any:
    """The device of ``device=None``: a small simulated laser."""
    from skpat.devices.second_harmonic_laser import SecondHarmonicLaser

    return SecondHarmonicLaser()


def default_twin(device: Any, torch_device: str = "cpu") -> Any:
    """The twin of ``twin=None``: the device's equations where it states them, else one learned from measurements. Its tensors
    live with those of the training, ``torch_device``. Whether equations get a correction is decided by the calibration.

    Raises
    ------
    DeviceContractError
        If ``device.equations`` is neither None nor a pair.
    """
    equations = getattr(device, "equations", None)
    if equations is None:
        from skpat.twins.neural_twin import NeuralTwin

        return NeuralTwin(torch_device=torch_device)
    from skpat.twins.physics_twin import PhysicsTwin

    if (
        not isinstance(equations, (tuple, list))
        or len(equations) != 2
        or not hasattr(equations[0], "forward")
        or isinstance(equations[0], type)
    ):
        raise DeviceContractError(
            f"'equations' of {device_name(device)} must be None or a simulated device with the names of its constants that are "
            f"to be found. Got {equations!r}. Use equations=(MachZehnderMesh(), ['phase_offsets']), for example."
        )
    model = equations[0]
    if torch_device != "cpu" and hasattr(model, "torch_device"):
        model = clone(model).set_params(torch_device=torch_device)
    return PhysicsTwin(model, equations[1] if isinstance(equations[1], str) else list(equations[1]))


def specify(
    device: Any,
    control_split: Any,
    twin: Any,
    gradient: Any,
    rng: np.random.RandomState,
    torch_device: str = "cpu",
) -> Specification:
    """Check the parameters and make a fit's own copies. Nothing is opened.

    Parameters
    ----------
    device, control_split, twin, gradient
        The estimator's parameters.
    rng : RandomState
        Seeds every ``random_state`` in the copies that is None.
    torch_device : str, default="cpu"
        Where the twin of ``twin=None`` lives.

    Raises
    ------
    DeviceContractError, ControlSplitError, ControlBoundsError, NoExactGradientError, ValueError
        If a parameter is not what it must be.
    """
    device = default_device() if device is None else device
    bounds = check_device_specification(device)
    if not isinstance(control_split, (str, ControlSplit)):
        raise ControlSplitError(
            f"'control_split' must be a ControlSplit or the name of a layout. Got {control_split!r}. "
            f"Use control_split=ControlSplit(layout={control_split if isinstance(control_split, list) else '...'})."
        )
    split = ControlSplit(control_split) if isinstance(control_split, str) else control_split
    twin = default_twin(device, torch_device) if twin is None else twin
    if not isinstance(twin, Twin):
        raise ValueError(
            f"'twin' must be a twin such as skpat.twins.NeuralTwin(), or None. Got {twin!r}. "
            "Use twin=None for the device's equations where it states them, else a twin learned from measurements. One of "
            "your own is a subclass of skpat.twins.Twin."
        )
    if type(twin).module_ is Twin.module_:
        raise ValueError(
            f"'twin' must define the property module_. Got {twin!r}, which does not. "
            "Add a property that returns the torch module which fit has made, see skpat.twins.Twin."
        )
    gradient = make_gradient(gradient)
    gradient.check_device(device)
    own = copy_to_work_with(device, lambda: seeded_copy(device, rng))
    split, twin, gradient = (seeded_copy(part, rng) for part in (split, twin, gradient))
    channels = split.resolve(own.n_controls)
    _check_fixed(own, channels, bounds)
    _warn_of_slow_data(own, channels)
    return Specification(own, bounds, channels, twin, gradient)


def replacement(
    device: Any, trained_on: Any, network: Network, gradient: GradientEstimator, rng: np.random.RandomState
) -> Any:
    """A working copy of another device, to which a trained network is to be adapted. Nothing is opened.

    Parameters
    ----------
    device : Device or None
        An estimator's parameter.
    trained_on : Device
    network : Network
        Made for that one: channels, outputs and units must be the same.
    gradient : GradientEstimator
    rng : RandomState
        Seeds every ``random_state`` in the copy that is None.

    Raises
    ------
    DeviceContractError, NoExactGradientError, ValueError
        If it is no device, or one with other channels or outputs.
    """
    device = default_device() if device is None else device
    found = channel_differences(network, device, check_device_specification(device))
    found += stated_differences(stated_of(trained_on), device)
    kinds = {"periodic": channel_periods, "slow_controls": slow_channels}
    if not found:
        found = [f"its {name}" for name, of in kinds.items() if not np.array_equal(of(device), of(trained_on))]
    if found:
        raise ValueError(
            f"Another 'device' for a trained network must have the channels, outputs and units of {device_name(trained_on)}. "
            f"Got {device_name(device)}, which differs in {', '.join(found)}. Nothing was sent. Fit a clone(estimator): it "
            "begins anew."
        )
    gradient.check_device(device)
    return copy_to_work_with(device, lambda: seeded_copy(device, rng))


def float_types(made: Specification | None = None) -> tuple[type, ...]:
    """In which precision rows may be trained on: float32, if they come so, unless it is too coarse for a channel.

    Between 5.000 and 5.001 GHz float32 knows two thousand numbers.

    Parameters
    ----------
    made : Specification, default=None
        None: nothing is known of the channels.
    """
    if made is not None:
        moving = np.setdiff1d(np.arange(len(made.bounds)), made.split.fixed_index)
        low, high = made.bounds[moving].T
        step = np.finfo(np.float32).eps * np.maximum(np.abs(low), np.abs(high))
        stated = getattr(made.device, "control_steps", None)
        own = np.broadcast_to(np.asarray(0.0 if stated is None else stated, dtype=float), len(made.bounds))[moving]
        if ((high - low < _STEPS_OF_FLOAT32 * step) & (own < _STEPS_IN_ONE * step)).any():
            return (np.float64,)
    return np.float64, np.float32


def make_gradient(gradient: Any) -> Any:
    """The gradient estimator of that name; an object passes unchanged."""
    import skpat.training

    if isinstance(gradient, str) and gradient in GRADIENTS:
        return getattr(skpat.training, GRADIENTS[gradient])()
    if isinstance(gradient, skpat.training.GradientEstimator):
        return gradient
    names = ", ".join(map(repr, GRADIENTS))
    is_class = isinstance(gradient, type) and issubclass(gradient, skpat.training.GradientEstimator)
    use = f"gradient={gradient.__name__}(...)" if is_class else "gradient='physics_aware', the default"
    raise ValueError(
        f"'gradient' must be one of {names}, or a skpat.training.GradientEstimator. Got {gradient!r}. Use {use}."
    )


def prepare(made: Specification, bounds: np.ndarray, torch_device: Any, dtype: np.dtype) -> None:
    """What would go wrong after shots have been taken shall go wrong before the first; the twin is told of its channels.

    Parameters
    ----------
    made : Specification
    bounds : ndarray of shape (n_controls, 2)
        Of the channels, as the network keeps them.
    torch_device : str
        Where the tensors of the training shall live.
    dtype : numpy dtype
        Of the training.

    Raises
    ------
    TwinError, ValueError
        If the twin cannot learn this device or its parameters are wrong, or if torch has no such place in this precision.
    """
    twin = {"twin": made.twin} if made.gradient.uses_twin else {}
    _check_places(torch_device, dtype, device=made.device, **twin)
    if not twin:
        return
    made.twin.learn_specification(bounds, channel_periods(made.device))
    made.twin.check(int(made.device.n_controls), int(made.device.n_outputs))


def construction(estimator: Any) -> dict[str, Any]:
    """The parameters that a network is built from, nested ones with them; of objects with parameters the class."""
    return {
        name: type(value) if hasattr(value, "get_params") else value
        for name, value in estimator.get_params(deep=True).items()
        if name.partition("__")[0] in _BUILT_IN
    }


def changed_since(estimator: Any, built_from: dict[str, Any]) -> list[str]:
    """The parameters that a network is built from and that are others now, nested ones by their long names."""
    now = construction(estimator)
    missing = object()
    known = sorted(now.keys() | built_from.keys())
    return [name for name in known if not _same(now.get(name, missing), built_from.get(name, missing))]


def refuse_changes(estimator: Any, built_from: dict[str, Any], *, but: str | None = None) -> None:
    """What goes on with a network cannot take other parameters of it than it was built from: it would ignore them.

    Parameters
    ----------
    estimator : PhysicalNetwork
    built_from : dict
        From :func:`construction`.
    but : str, default=None
        A parameter that may have changed.

    Raises
    ------
    ValueError
        That names them. Nothing has been sent.
    """
    changed = [name for name in changed_since(estimator, built_from) if name.partition("__")[0] != but]
    if changed:
        outermost = [name for name in changed if "__" not in name or name.rpartition("__")[0] not in changed]
        names = ", ".join(map(repr, outermost))
        of_device = all(name.partition("__")[0] == "device" for name in changed)
        carry_over = " To another device of the same make recalibrate carries a network over." if of_device else ""
        raise ValueError(
            "What goes on with a fitted network (warm_start=True, partial_fit, recalibrate) must have the parameters that it "
            f"was built from. Got others since: {names}. Nothing was sent. Set them back, or fit a clone(estimator): it begins "
            f"anew.{carry_over}"
        )


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    try:
        alike = type(one) is type(other)
        return alike and bool(np.array_equal(one, other) or (isinstance(one, float) and np.isnan([one, other]).all()))
    except Exception:  # whatever a value of the user's raises when it is compared
        return False


def _check_places(torch_device: Any, dtype: np.dtype, **parts: Any) -> None:
    places = {"torch_device": torch_device}
    for whose, part in parts.items():
        for name, place in part.get_params(deep=True).items() if hasattr(part, "get_params") else ():
            if name.split("__")[-1] == "torch_device":
                places[f"{whose}__{name}"] = place
    for name, place in places.items():
        if place == "cpu":
            continue
        import torch

        try:
            torch.from_numpy(np.zeros(1, dtype=dtype)).to(place)
        except (AssertionError, NotImplementedError, RuntimeError, TypeError) as error:  # torch's, for what it lacks
            reason = str(error).partition("\n")[0].removesuffix(".")
            raise ValueError(
                f"'{name}' must be a place where torch can put tensors of {dtype}. Got {place!r}: {reason}. "
                f"Use {name}='cpu', a torch that is built for the GPU, or X of another precision."
            ) from error


def _warn_of_slow_data(device: Any, split: ChannelSplit) -> None:
    """A channel that needs time to settle gets it only if all rows of a call share it."""
    data = np.intersect1d(slow_channels(device), split.input_index)
    if len(data):
        warn_user(
            f"The 'slow_controls' of {device_name(device)} must carry weights, which all rows of a call share. Got data on "
            f"{len(data)} of them (channel {data[0]}{', ...' if len(data) > 1 else ''}): they move with every row, and nothing "
            "waits until they have settled. Use control_split=ControlSplit(layout=[...]) with the channels for the data."
        )


def _check_fixed(device: Any, split: ChannelSplit, bounds: np.ndarray) -> None:
    index, values, limits = split.fixed_index, split.fixed_values, Limits(device)
    low, high = bounds[index].T
    for must, wrong, legal in (
        ("lie within the bounds", ~((values >= low) & (values <= high)), lambda i: f"bounds {low[i]:g} to {high[i]:g}"),
        ("be at whole steps", limits.between_steps(values, index), lambda i: limits.step_of(int(index[i]))),
    ):
        if wrong.any():
            i = int(np.argmax(wrong))
            raise ControlBoundsError(
                f"'fixed' must {must} of {device_name(device)}. Got {values[i]:g} for channel {index[i]} ({legal(i)}). Nothing "
                "was sent.",
                channel=int(index[i]),
                value=float(values[i]),
            )
