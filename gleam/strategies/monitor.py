"""How often an inversion of memory-efficient learning was not accurate enough."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable


class InversionWarning(UserWarning):
    """An inversion was not accurate enough and was replaced by a recomputation."""


class Monitor:
    """Counts inversions, and those that were replaced by a recomputation."""

    def __init__(self):
        self.has_warned = False  # not cleared: one warning per strategy, however often its counts are read
        self._clear()

    def _clear(self):
        self.n_inversions, self.fallbacks, self.largest_error = 0, Counter(), 0.0

    def accept(self, error: float) -> None:
        """Count an inversion with this relative error."""
        self.n_inversions += 1
        self.largest_error = max(self.largest_error, error)

    def replace(self, i: int, reason: str) -> None:
        """Count an inversion of iteration `i` that was replaced; the first time, warn."""
        self.n_inversions += 1
        self.fallbacks[i] += 1
        if not self.has_warned:
            self.has_warned = True
            warnings.warn(
                f"iteration {i} could not be inverted ({reason}); its input was computed again from a checkpoint. This "
                "warning appears once; diagnostics() of the strategy and the history of a fit count all",
                InversionWarning,
                stacklevel=2,
            )

    def diagnostics(self) -> dict:
        """What happened since the last call.

        Returns
        -------
        dict
            `n_inversions`; `n_fallbacks`, how many were replaced; `fallbacks_at`, a list of [iteration of its module,
            how often]; `inversion_error`, the largest relative error that was accepted.
        """
        found = _diagnostics(self.n_inversions, self.fallbacks, self.largest_error)
        self._clear()
        return found


def combined(diagnostics: Iterable[dict]) -> dict:
    """The :meth:`Monitor.diagnostics` of several processes as one."""
    diagnostics = list(diagnostics)
    fallbacks: Counter[int] = Counter()
    for one in diagnostics:
        fallbacks.update(dict(one["fallbacks_at"]))
    n_inversions = sum(one["n_inversions"] for one in diagnostics)
    return _diagnostics(n_inversions, fallbacks, max(one["inversion_error"] for one in diagnostics))


def _diagnostics(n_inversions, fallbacks, error):
    return {
        "n_inversions": n_inversions,
        "n_fallbacks": fallbacks.total(),
        "fallbacks_at": sorted(map(list, fallbacks.items())),
        "inversion_error": error,
    }
