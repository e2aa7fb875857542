"""In what another device differs from the one that a network was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from skpat.network.forward import Network

__all__ = ["STATED_OF_DEVICE", "channel_differences", "stated_differences", "stated_of"]

STATED_OF_DEVICE = ("control_units", "output_units")


def channel_differences(network: Network, device: Any, bounds: np.ndarray) -> list[str]:
    """In what a device with these bounds differs from what a network can send to and read from, in words."""
    found = []
    here = {"n_controls": len(bounds), "n_outputs": int(device.n_outputs)}
    there = {"n_controls": len(network.bounds), "n_outputs": network.n_outputs}
    found += [f"its {name} ({here[name]} here, {there[name]} there)" for name in here if here[name] != there[name]]
    if here["n_controls"] != there["n_controls"]:
        return found
    steps = getattr(device, "control_steps", None)
    columns = {
        "bounds": (bounds, network.bounds),
        "control_steps": (np.broadcast_to(0.0 if steps is None else steps, len(bounds)), network.control_steps),
    }
    for name, (mine, theirs) in columns.items():
        wrong = np.flatnonzero((mine != theirs).reshape(len(bounds), -1).any(axis=1))
        if len(wrong):
            channel = int(wrong[0])
            found.append(f"its {name} ({mine[channel]} here, {theirs[channel]} there, in channel {channel})")
    return found


def stated_of(device: Any) -> dict[str, str]:
    """What a device states of the meaning of its numbers."""
    return {name: str(getattr(device, name, "")) for name in STATED_OF_DEVICE}


def stated_differences(stated: Mapping[str, str], device: Any) -> list[str]:
    """In what a device states something else, in words."""
    pairs = {name: (here, stated[name]) for name, here in stated_of(device).items()}
    return [f"its {name} ({here!r} here, {there!r} there)" for name, (here, there) in pairs.items() if here != there]
