"""Between estimator and device: the session (bounds, batching, averaging) and the ledger (what it cost)."""

from skpat._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {"Ledger": "skpat.lab.ledger", "Session": "skpat.lab.session"})
