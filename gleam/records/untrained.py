"""The methods without training: the zero-filled image, and compressed sensing with its weight chosen on validation."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gleam.datasets.slices import Slices
from gleam.files import described, digest, write_json
from gleam.physics.baselines import Method, choose_lamda, zero_filled
from gleam.training.evaluation import evaluate
from gleam.training.identity import RESULTS_VERSION

Lamda = float | tuple[float, ...]


@dataclass(frozen=True)
class Untrained:
    """Zero-filling, and compressed sensing with the best of the weights that were tried.

    Attributes
    ----------
    methods : dict of str to callable
        "Zero-filled" and "CS", each :class:`gleam.physics.Batch` to images.
    lamda : float, or tuple of float
        The weight of compressed sensing, or one for each of its norms.
    tried : dict
        Mean nRMSE of every weight, or tuple of weights, on the validation slices of the search.
    validation_nrmse : float
        Mean nRMSE of compressed sensing on all validation slices.
    """

    methods: dict[str, Callable]
    lamda: Lamda
    tried: dict[Lamda, float]
    validation_nrmse: float

    @property
    def settings(self) -> dict[str, dict]:
        """What records keep of the choice, by method."""
        name = "lamdas" if isinstance(self.lamda, tuple) else "lamda"
        return {"CS": {name: self.lamda, "validation_nrmse": self.validation_nrmse}}

    @property
    def tried_text(self) -> str:
        """Weights that were tried and their nRMSE, such as "0.01 (0.1203), 0.02 (0.1184)".

        Of tuples of weights those that differ from the best one in one weight.
        """
        tried: dict[Any, float] = self.tried
        if isinstance(self.lamda, tuple):
            tried = {w: tried[w] for w in tried if sum(map(operator.ne, w, self.lamda)) == 1}
        return ", ".join(f"{_weights(w)} ({error:.4f})" for w, error in sorted(tried.items()))


def untrained(
    lamdas: Sequence[float] | Sequence[Sequence[float]],
    val: Slices,
    cache_dir: str,
    *,
    make: Callable[..., Method],
    n_slices: int = 8,
) -> Untrained:
    """Choose the weight of compressed sensing with :func:`gleam.baselines.choose_lamda`, once for these data.

    Parameters
    ----------
    lamdas, val, make, n_slices
        As in :func:`gleam.baselines.choose_lamda`.
    cache_dir : str
        Folder in which the result of the search is kept.

    Returns
    -------
    Untrained

    Raises
    ------
    ValueError
        As :func:`gleam.baselines.choose_lamda`, or if `make` is a local function, whose name is no key.
    """
    key = digest([RESULTS_VERSION, lamdas, described(make), n_slices, val.fingerprint])
    kept = Path(cache_dir, f"lamda-{key[:12]}.json")
    with suppress(OSError, ValueError, KeyError, TypeError):  # not there, or damaged: search again
        return _of(json.loads(kept.read_text()), make)
    lamda, tried = choose_lamda(lamdas, val, n_slices=n_slices, make=make)  # type: ignore[arg-type]  # as good as one
    error = evaluate(_compressed_sensing(make, lamda), val, scores=["nrmse"])["nrmse"].mean()
    # two lists, since keys of JSON are text
    found = {"lamda": lamda, "tried": [*tried], "errors": [*tried.values()], "validation_nrmse": float(error)}
    write_json(kept, found)
    return _of(found, make)


def _weights(lamda):
    return ", ".join(f"{w:.3g}" for w in (lamda if isinstance(lamda, tuple) else (lamda,)))


def _compressed_sensing(make, lamda):
    return make(*lamda) if isinstance(lamda, tuple) else make(lamda)


def _of(found, make):
    """What is kept, with lists of weights as the tuples that they were."""
    lamda, *tried = [tuple(w) if isinstance(w, list) else w for w in (found["lamda"], *found["tried"])]
    methods = {"Zero-filled": zero_filled, "CS": _compressed_sensing(make, lamda)}
    return Untrained(methods, lamda, dict(zip(tried, found["errors"], strict=True)), found["validation_nrmse"])
