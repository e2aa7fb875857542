"""The physical world: the contract of a device and one file per simulated system."""

from skpat._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Device": "skpat.devices.base",
        "FunctionDevice": "skpat.devices.function",
        "IdentityDevice": "skpat.devices.identity",
        "SecondHarmonicLaser": "skpat.devices.second_harmonic_laser",
        "as_device": "skpat.devices.function",
    },
)
