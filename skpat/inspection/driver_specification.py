"""Whether constructing, cloning, printing and pickling a device leave it and its parameters alone, and open nothing."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
from sklearn.base import clone

from skpat.devices.specification import OPEN_IT_LATER, copied_objects, device_name, lost_in_copy
from skpat.inspection.findings import Finding
from skpat.seeding import LARGEST_SEED

__all__ = ["check_specification"]


def check_specification(device: Any, rng: np.random.RandomState) -> tuple[Any, list[Finding]]:
    """Check that a device is a specification: plain parameters, with nothing behind them before it is opened.

    Parameters
    ----------
    device : Device
        Only copied; nothing is sent.
    rng : RandomState
        Seeds every ``random_state`` in the copy that is None.

    Returns
    -------
    copy : Device
        To measure on. The device itself if it cannot be copied, if the copy lacks what was set on it, or if it has an
        instrument of its own.
    findings : list of Finding
    """
    if not hasattr(device, "get_params"):
        return _plain_copy(device)
    findings = []
    before = device.get_params(deep=False)
    try:
        own = clone(device, safe=False)
    except Exception as error:
        findings.append(
            Finding(
                "clone",
                "failed",
                f"Cloning raised {type(error).__name__}: {error}",
                "__init__ must store its parameters as they are, under their own names, and do nothing else.",
            )
        )
        return device, [*findings, _check_pickle(device)]
    lost, copied = lost_in_copy(device, own), copied_objects(device, own)
    findings += [
        _check_parameters(device, own, before, lost, copied),
        _check_nothing_is_opened(device, before),
        _check_pickle(own),
    ]
    if lost or copied:  # its limits, say, or its instrument: nothing may be sent without them
        return device, findings
    seeds = {name: value for name, value in own.get_params(deep=True).items() if name.split("__")[-1] == "random_state"}
    own.set_params(**{name: int(rng.randint(LARGEST_SEED)) for name in sorted(seeds) if seeds[name] is None})
    return own, findings


def _plain_copy(device: Any) -> tuple[Any, list[Finding]]:
    mend = "Derive the driver from skpat.Device, so that it is copied by its parameters."
    try:
        return copy.deepcopy(device), [
            Finding("clone", "skipped", "It has no get_params: it is copied with all that it holds.", mend)
        ]
    except Exception as error:
        return device, [
            Finding("clone", "failed", f"It cannot be copied ({type(error).__name__}: {error}).", mend),
        ]


def _check_parameters(device: Any, own: Any, before: dict[str, Any], lost: list[str], copied: list[str]) -> Finding:
    mend = "__init__ must store its parameters as they are, under their own names."
    after = device.get_params(deep=False)
    if set(before) != set(after) or any(before[name] is not after[name] for name in before):
        return Finding("clone", "failed", "Cloning changes the parameters of the device.", mend)
    try:
        own.set_params(**own.get_params(deep=False))
        again = own.get_params(deep=False)
    except Exception as error:
        return Finding("clone", "failed", f"set_params(**get_params()) raised {type(error).__name__}: {error}", mend)
    if copied:
        said = f"A fit works with a copy, and a copy of {', '.join(copied)} would be measured in its place."
        return Finding("clone", "failed", said, OPEN_IT_LATER)
    changed = sorted(name for name in before if repr(again[name]) != repr(before[name]))
    if changed:
        return Finding("clone", "failed", f"The copy has other parameters: {', '.join(changed)}.", mend)
    if lost:
        mend = "Make each a parameter of __init__, or set it on the class: what is set on the object later no copy has."
        return Finding(
            "clone", "failed", f"The copy, which a fit works with, lacks what was set: {', '.join(lost)}.", mend
        )
    return Finding("clone", "passed", "A clone has the same parameters, and leaves those of the device alone.")


def _check_nothing_is_opened(device: Any, parameters: dict[str, Any]) -> Finding:
    """Construct, print, clone and take the state of a copy whose ``open`` and ``measure`` only count."""
    name, kind = device_name(device), type(device)
    calls: list[str] = []
    counting = type(
        kind.__name__,
        (kind,),
        {
            "open": lambda self: calls.append("open()"),
            "measure": lambda self, batch: calls.append("measure()"),
            "__module__": kind.__module__,
        },
    )
    mend = "Do nothing in __init__ but store the parameters; connect in open()."
    doing = "Constructing"
    try:
        probe = counting(**clone_parameters(parameters))
        extra = sorted(set(vars(probe)) - set(parameters))
        for doing in ("Printing", "Cloning", "Pickling") if not calls else ():
            if doing == "Printing":
                repr(probe)
            elif doing == "Cloning":
                clone(probe)
            else:
                probe.__reduce_ex__(4)
            if calls:
                break
    except Exception as error:
        return Finding("nothing opened", "failed", f"{doing} raised {type(error).__name__}: {error}", mend)
    if calls:
        return Finding("nothing opened", "failed", f"{doing} {name} calls {calls[0]}.", mend)
    held = [attribute for attribute in extra if _is_a_handle(getattr(probe, attribute, None))]
    if held:
        for attribute in held:
            _close(getattr(probe, attribute))
        return Finding(
            "nothing opened", "failed", f"Constructing {name} opens something: it holds {', '.join(held)}.", mend
        )
    if extra:
        return Finding(
            "nothing opened",
            "warning",
            f"__init__ sets more than its parameters: {', '.join(extra)}. Parameters set later do not reach it.",
            "Compute it when it is used, in a property or in open().",
        )
    return Finding("nothing opened", "passed", "Constructing, printing, cloning and pickling open nothing.")


def clone_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    """Parameters for another object of the class: copies, as scikit-learn's ``clone`` makes them."""
    copies = {}
    for name, value in parameters.items():
        try:
            copies[name] = clone(value, safe=False)
        except Exception:  # a function of a live instrument, say, is shared
            copies[name] = value
    return copies


def _is_a_handle(value: Any) -> bool:
    if any(hasattr(value, name) for name in ("fileno", "recv", "read_raw", "readinto")):
        return True
    try:
        pickle.dumps(value)
    except Exception:
        return True
    return False


def _close(handle: Any) -> None:
    try:
        handle.close()
    except Exception:  # it may be anything
        return


def _check_pickle(device: Any) -> Finding:
    try:
        pickle.loads(pickle.dumps(device))
    except Exception as error:
        return Finding(
            "pickle",
            "warning",
            f"It cannot be pickled ({type(error).__name__}: {error}): no search in several processes, and no saving.",
            "Define functions at the top of a module, and keep handles out of the parameters.",
        )
    return Finding("pickle", "passed", "It can be pickled.")
