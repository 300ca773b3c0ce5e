"""The arguments of :func:`gleam.fit`: numbers of Python, whoever gives them, and a sentence for what makes no sense."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

from torch import nn

from gleam.datasets.slices import Slices
from gleam.files import finite_number, whole_number


def check_kinds(network: nn.Module, splits: dict[str, Slices], functions: dict[str, Callable | None]) -> None:
    """Check what is no number: the network, the data sets by name, and the functions, which may be None.

    Raises ValueError or TypeError, with the name of the argument.
    """
    if missing := [name for name in ("iterations", "start") if not hasattr(network, name)]:
        raise ValueError(
            f"network is a {type(network).__name__} without {missing[0]}; expected `iterations`, an nn.ModuleList, and "
            "start(batch), as those of gleam.unrolled and gleam.adapt have"
        )
    for name, value in functions.items():
        if value is not None and not callable(value):
            raise ValueError(f"{name}={value!r} is no function; see gleam.fit for what it is called with")
    for name, split in splits.items():
        if not hasattr(split, "fingerprint"):
            raise TypeError(
                f"{name} is a {type(split).__name__}; expected slices, such as those of gleam.datasets.files, or an "
                "object with training_batch, batches, index, subjects and fingerprint"
            )
        if hasattr(split, "index") and not len(split.index):
            raise ValueError(f"{name} has no slices; a run needs some to train on and some to validate on")


def settings(
    *,
    n_steps: int,
    batch_size: int,
    learning_rate: float | Sequence[float] = 1e-4,
    final_learning_rate: float | Sequence[float] | None = None,
    n_warmup_steps: int = 0,
    weight_decay: float = 1e-4,
    seed: int = 0,
    validate_every: int | None = None,
    n_accumulated: int = 1,
    max_seconds: float | None = None,
    **_: Any,
) -> dict[str, Any]:
    """The arguments of :func:`gleam.fit` that decide the result, as numbers of Python: they are part of a run's name.

    Raises ValueError, with the name of the argument, if one makes no sense; other arguments are not looked at.
    """
    if max_seconds is not None and not (isinstance(max_seconds, Real) and max_seconds > 0):
        raise ValueError(f"max_seconds={max_seconds!r} must be greater than 0")
    n_steps, rate = whole_number(n_steps, "n_steps"), _rates(learning_rate, "learning_rate")
    if not all(one > 0 for one in (rate if isinstance(rate, list) else [rate])):
        raise ValueError(f"learning_rate={learning_rate!r} must be greater than 0")
    final = rate if final_learning_rate is None else _rates(final_learning_rate, "final_learning_rate")
    every = max(1, math.ceil(n_steps / 10)) if validate_every is None else validate_every
    n_accumulated = whole_number(n_accumulated, "n_accumulated")
    return {
        "n_steps": n_steps,
        "batch_size": whole_number(batch_size, "batch_size"),
        "learning_rate": rate,
        "final_learning_rate": final,
        "n_warmup_steps": whole_number(n_warmup_steps, "n_warmup_steps", 0),
        "weight_decay": finite_number(weight_decay, "weight_decay"),
        "seed": whole_number(seed, "seed", 0),
        "validate_every": whole_number(every, "validate_every"),
        # what is as usual is not named, so that runs from before keep their names
        **({"n_accumulated": n_accumulated} if n_accumulated > 1 else {}),
    }


def _rates(value, name):
    """One learning rate, or a list of them, one per module."""
    if isinstance(value, list | tuple):
        return [float(finite_number(rate, name)) for rate in value]
    try:
        return finite_number(value, name)
    except ValueError as error:
        raise ValueError(str(error).replace("a number", "a number, or a list of numbers with one per module")) from None


def check_rates(settings: dict[str, Any], n_modules: int) -> None:
    """ValueError if a list of learning rates has another length than there are modules."""
    for name in ("learning_rate", "final_learning_rate"):
        if isinstance(settings[name], list) and len(settings[name]) != n_modules:
            raise ValueError(f"{name} has {len(settings[name])} rates for {n_modules} modules; expected one each")


def check_masks(*splits: Slices) -> None:
    """Make the masks of every shape of training and validation before training; ValueError if one cannot be met."""
    for data, n_masks in zip(splits, (splits[0].n_masks, len(splits[1].shapes)), strict=True):
        kinds = [(tuple(shape[2:]), measured) for shape, measured in zip(data.shapes, data.measured, strict=True)]
        for size, measured in dict.fromkeys(kinds):
            data.masks(size, n_masks, measured)
