"""Looking at a device before it is trained: is its driver sound, and is it suitable?"""

from skpat._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "DeviceCheck": "skpat.inspection.findings",
        "DeviceReport": "skpat.inspection.device_report",
        "Finding": "skpat.inspection.findings",
        "characterize": "skpat.inspection.characterization",
        "check_device": "skpat.inspection.driver_check",
    },
)
