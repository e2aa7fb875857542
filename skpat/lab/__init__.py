"""Between estimator and device: session (bounds, batching, faults), journal (record and replay), ledger (what it cost),
and adapters to instruments."""

from skpat._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "AdoptedDevice": "skpat.lab.adopted",
        "EpicsDevice": "skpat.lab.epics_device",
        "Journal": "skpat.lab.journal",
        "Ledger": "skpat.lab.ledger",
        "QcodesDevice": "skpat.lab.qcodes_device",
        "Session": "skpat.lab.session",
        "SimulatedInstrument": "skpat.lab.simulator",
        "VisaDevice": "skpat.lab.visa_device",
        "adopt": "skpat.lab.adopted",
    },
)
