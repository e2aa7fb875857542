"""What a person sees of a run: a line for every epoch, and the same in the journal for those who watch."""

from __future__ import annotations

import time

from skpat.lab.session import Session
from skpat.training.loop import History
from skpat.training.trainer import Settings

__all__ = ["Progress", "ProgressInSilico", "in_words"]


class Progress:
    """Prints and records how a training stands. Called after each epoch.

    Parameters
    ----------
    session : Session
        Whose shots and faults are told.
    settings : Settings
        ``verbose=1`` prints.
    on_twin : bool, default=False
        Whether the validation scores are the twin's, of a training in silico.
    """

    def __init__(self, session: Session, settings: Settings, on_twin: bool = False):
        self.session = session
        self.settings = settings
        self.on_twin = on_twin
        self._begun = time.perf_counter()
        self._shots_before = session.ledger.total

    def __call__(self, epoch: int, history: History) -> None:
        ledger = self.session.ledger
        n_faults, n_replayed = sum(ledger.faults.values()), sum(ledger.replayed.values())
        score = history.validation_scores[-1] if history.validation_scores else None
        if self.session.journal is not None:
            self.session.journal.note_epoch(
                epoch + 1,
                self.settings.max_iter,
                loss=float(history.loss_curve[-1]),
                score=None if score is None else float(score),
                shots=ledger.total,
                replayed=n_replayed,
                faults=n_faults,
            )
        if self.settings.verbose:
            parts = [f"loss {history.loss_curve[-1]:.5f}"]
            parts += [f"validation score {score:.4f}{' on the twin' * self.on_twin}"] if score is not None else []
            parts.append(f"{ledger.total:,} shots")
            seconds = time.perf_counter() - self._begun
            parts.append(f"{(ledger.total - self._shots_before) / max(seconds, 1e-9):,.0f} shots/s")
            parts += [f"{n_replayed:,} replayed"] if n_replayed else []
            parts.append(_left(seconds, epoch, self.settings.max_iter))
            parts += [f"{n_faults} fault{'s' if n_faults > 1 else ''} survived"] if n_faults else []
            print(f"Epoch {epoch + 1}/{self.settings.max_iter}: {', '.join(parts)}", flush=True)


class ProgressInSilico:
    """Prints how a training on the twin stands that goes before the one on the device. Called after each epoch.

    Parameters
    ----------
    settings : Settings
        ``verbose=1`` prints.
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        self._begun = time.perf_counter()

    def __call__(self, epoch: int, history: History) -> None:
        if self.settings.verbose:
            left = _left(time.perf_counter() - self._begun, epoch, self.settings.max_iter)
            loss = history.loss_curve[-1]
            print(f"In silico {epoch + 1}/{self.settings.max_iter}: loss {loss:.5f}, {left}", flush=True)


def _left(seconds: float, epoch: int, max_iter: int) -> str:
    return f"{in_words(seconds / (epoch + 1) * (max_iter - epoch - 1))} left"


def in_words(seconds: float) -> str:
    """A time for people.

    Examples
    --------
    >>> from skpat.training.progress import in_words
    >>> in_words(3.2), in_words(75), in_words(9000)
    ('3 s', '1 min 15 s', '2 h 30 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
