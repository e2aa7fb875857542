"""What stands in the file of a deployed network, every value checked before it is used."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np

from skpat.lab.array_file import LARGEST_ABOUT, LARGEST_FILE, read_arrays, refused
from skpat.lab.other_device import STATED_OF_DEVICE
from skpat.network.description import network_from_dict, weight_shapes
from skpat.network.forward import Network

__all__ = ["FORMAT", "MOST_SHOTS", "as_array_if_too_long", "read_deployment"]

FORMAT = "skpat deployment 1"
MOST_SHOTS = 1 << 16  # of a row: a forged file must not use a device up


def as_array_if_too_long(names: list[str]) -> np.ndarray | None:
    """Names of features as an array, where they are too many for the text, and numpy keeps them whole; else None."""
    if (
        len(json.dumps(names, indent=1)) <= LARGEST_ABOUT // 2
        or 4 * max(map(len, names)) * len(names) > LARGEST_FILE // 2
    ):
        return None
    array = np.array(names)
    return array if array.tolist() == names else None


def read_deployment(path: str | os.PathLike[str]) -> tuple[Network, dict[str, Any], dict[str, Any]]:
    """What :meth:`skpat.deployment.DeployedNetwork.save` has written.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    network : Network
    parts : dict
        The other arguments of a DeployedNetwork.
    device : dict
        The device of the training: ``name``, ``fingerprint`` (a dict of hashes) and units.

    Raises
    ------
    DeploymentFileError
        Whatever is wrong with the file.
    """
    about, arrays = read_arrays(path)
    try:
        network, parts = _understand(about, arrays)
        return network, parts, _check_device_entry(about["device"])
    except Exception as error:  # whatever stands in the file, it is the file's fault
        raise refused(path, str(error)) from error


def _understand(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> tuple[Network, dict[str, Any]]:
    """The network and what else a DeployedNetwork is made of, every value checked; ValueError if something is wrong."""
    if about.get("format") != FORMAT:
        raise ValueError(f"it must be of format {FORMAT!r}. Got {about.get('format')!r:.80}")
    known = {"format", "network", "target_ndim", "feature_names", "n_shots", "n_before", "identity", "device"}
    _check(
        set(about) - {"multilabel"} == known and isinstance(about["network"], dict), f"it must state {sorted(known)}"
    )
    groups: dict[str, dict[str, np.ndarray]] = {"network": {}, "weights": {}, "targets": {}, "": {}}
    for name, array in arrays.items():
        group, _, short = name.rpartition("/")
        _check(group in groups, f"it must not hold {name!r:.80}")
        groups[group][short] = array
    _check(not set(groups["network"]) & set(about["network"]), "it must state each part of the network once")
    n_weights = sum(array.size for array in groups["weights"].values())
    network = network_from_dict(about["network"] | groups["network"], n_weights)
    weights = groups["weights"]
    _check_weights(network, weights, n_weights)
    names, n_features = about["feature_names"], network.made_with["n_features"]
    if "feature_names" in groups[""]:
        _check(names is None, "'feature_names' must be stated once")
        array = groups[""].pop("feature_names")
        _check(array.ndim == 1 and array.dtype.kind == "U", "'feature_names' must be strings")
        names = array.tolist()
    _check(
        names is None or (_is_list_of_str(names) and len(names) == n_features),
        "'feature_names' must be a name for each feature, or null",
    )
    _check(_is_count(about["n_shots"], 1, MOST_SHOTS), f"'n_shots' must be an int from 1 to {MOST_SHOTS:,}")
    _check(_is_count(about["n_before"], 0, 1 << 60), "'n_before' must be an int of at least 0")
    _check(about["identity"] is None or isinstance(about["identity"], str), "'identity' must be a string or null")
    parts: dict[str, Any] = {"weights": weights, "feature_names": names}
    parts |= {name: about[name] for name in ("n_shots", "n_before", "identity")}
    multilabel = about.get("multilabel", False)
    _check(type(multilabel) is bool, "'multilabel' must be true or false")
    _check(not multilabel or not groups["targets"], "'multilabel' of a regressor must be false")
    parts["multilabel"] = multilabel
    return network, parts | _targets(about["target_ndim"], groups, network.made_with["n_targets"])


def _check_weights(network: Network, weights: dict[str, np.ndarray], n_weights: int) -> None:
    shapes = weight_shapes(network, n_weights)
    _check(set(weights) == set(shapes), f"it must hold the weights {sorted(shapes)[:40]}. Got {sorted(weights)[:40]}")
    dtypes = {array.dtype for array in weights.values()}
    _check(dtypes <= {np.dtype(np.float64), np.dtype(np.float32)} and len(dtypes) == 1, "its weights must be floats")
    for name, array in weights.items():
        _check(array.shape == shapes[name], f"{name!r} must have shape {shapes[name]}. Got {array.shape}")
        _check(not name.endswith(".scale") or bool((array > 0).all()), f"{name!r} must be above 0")


def _targets(ndim: Any, groups: dict[str, dict[str, np.ndarray]], n_targets: int) -> dict[str, Any]:
    """Classes, or the scale of the targets."""
    if set(groups[""]) == {"classes"} and not groups["targets"]:
        classes = groups[""]["classes"]
        _check(ndim is None, "'target_ndim' of a classifier must be null")
        _check(classes.shape == (n_targets,), f"'classes' must have shape {(n_targets,)}. Got {classes.shape}")
        _check(len(set(classes.tolist())) == n_targets, "'classes' must differ from each other")
        return {"classes": classes}
    targets = groups["targets"]
    _check(not groups[""] and set(targets) == {"mean", "scale"}, "it must hold classes, or the targets' mean and scale")
    _check(ndim in (1, 2) and type(ndim) is int, "'target_ndim' must be 1 or 2")
    _check(ndim == 2 or n_targets == 1, "'target_ndim' must be 2 for several targets")
    for name, array in targets.items():
        _check(
            array.shape == (n_targets,) and array.dtype == np.float64, f"'targets/{name}' must be {n_targets} numbers"
        )
    _check(bool((targets["scale"] >= 0).all()), "'targets/scale' must not be below 0")
    return {"target_mean": targets["mean"], "target_scale": targets["scale"], "target_ndim": ndim}


def _check_device_entry(stated: Any) -> dict[str, Any]:
    expected = {"name", "fingerprint", *STATED_OF_DEVICE}
    _check(isinstance(stated, dict) and set(stated) == expected, f"'device' must state {sorted(expected)}")
    _check(_is_list_of_str([stated[name] for name in ("name", *STATED_OF_DEVICE)]), "'device' must state strings")
    hashes = stated["fingerprint"]
    _check(isinstance(hashes, dict) and _is_list_of_str(list(hashes.values())), "'fingerprint' must hold strings")
    return stated


def _is_list_of_str(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _is_count(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _check(right: bool, rule: str) -> None:
    if not right:
        raise ValueError(rule)
