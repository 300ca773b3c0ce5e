"""Records of what was just trained or measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from gleam.cost.timing import Cost
from gleam.datasets.slices import Slices
from gleam.files import digest
from gleam.records.storage import Record, environment, save
from gleam.training.checkpoints import Fit
from gleam.training.evaluation import evaluate
from gleam.training.identity import RESULTS_VERSION, attributes


def record(
    experiment: str,
    method: str,
    table: pd.DataFrame | None = None,
    data: tuple[Slices, ...] = (),
    *,
    profile: str = "",
    network: nn.Module | None = None,
    fit: Fit | None = None,
    cost: Cost | None = None,
    settings: dict | None = None,
    measures: dict | None = None,
    device: str | torch.device = "cpu",
) -> Record:
    """Make the record of one method in one experiment.

    Parameters
    ----------
    experiment, method : str
        Names, from which the path of the file is made.
    table : DataFrame, optional
        What :func:`gleam.evaluate` returned; None if nothing was evaluated.
    data : tuple of Slices
        (train, val, test).
    profile : str
        Profile of the build.
    network, fit, cost : optional
        Those of a trained method.
    settings : dict, optional
        What was chosen besides the settings of `fit`.
    measures : dict, optional
        Of name to number: whatever else was measured.
    device : str or device
        Where it ran.

    Returns
    -------
    Record
    """
    # the last data are those of the test
    described = {"is_phantom": data[-1].is_phantom} | {part.name: part.describe() for part in data} if data else {}
    return Record(
        experiment,
        method,
        [] if table is None else table.to_dict("records"),
        described,
        profile=profile,
        settings={**(fit.settings if fit else {}), **(settings or {})},
        cost=asdict(cost) if cost else None,
        n_parameters=sum(p.numel() for p in network.parameters()) if network else None,
        history=fit.history if fit else [],
        n_steps_done=fit.n_steps_done if fit else None,
        measures=dict(measures or {}),
        environment=environment(device),
        results_version=RESULTS_VERSION,
        network=network_settings(network) if network else {},
    )


def network_settings(network: nn.Module) -> dict:
    """How a network was made: function and arguments, or its class and a digest of the numbers that its parts hold."""
    if recipe := getattr(network, "recipe", None):
        return {"function": recipe["function"], **recipe["arguments"]}
    # a digest, since every layer has several
    return {"function": type(network).__qualname__, "attributes": digest(attributes(network))[:12]}


def evaluate_all(
    experiment: str,
    methods: dict[str, Callable | Record],
    data: tuple[Slices, ...],
    folder: str | Path,
    *,
    fits: dict[str, Fit] | None = None,
    costs: dict[str, Cost] | None = None,
    settings: dict[str, dict] | None = None,
    profile: str = "",
    device: str | torch.device = "cpu",
) -> dict[str, Record]:
    """Score every method of an experiment on the test split and save its record.

    Parameters
    ----------
    experiment : str
        Its name.
    methods : dict
        Of name to a network, to one of :mod:`gleam.baselines`, or to the :class:`Record` of another experiment with the
        same data, which is copied.
    data : tuple of Slices
        (train, val, test).
    folder : path
        Records are saved as <folder>/<experiment>/<method>.json.
    fits, costs, settings : dict, optional
        Of name to an argument of :func:`record`, for the methods that have it.
    profile, device
        As in :func:`record`.

    Returns
    -------
    dict
        Of name to :class:`Record`.
    """
    found = {}
    for name, method in methods.items():
        if isinstance(method, Record):
            found[name] = replace(method, experiment=experiment)
        else:
            found[name] = record(
                experiment,
                name,
                evaluate(method, data[-1], device=device),
                data,
                profile=profile,
                network=method if isinstance(method, nn.Module) else None,
                fit=(fits or {}).get(name),
                cost=(costs or {}).get(name),
                settings=(settings or {}).get(name),
                device=device,
            )
        save(found[name], folder)
    return found
