"""Scores of a reconstruction on every slice of a data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from gleam import execution, metrics, physics
from gleam.datasets.slices import Slices
from gleam.files import whole_number
from gleam.networks import protocol
from gleam.physics.batch import Batch
from gleam.strategies.greedy import EndToEnd
from gleam.training.faults import check_scorable

SCORES = {"nrmse": metrics.nrmse, "psnr": metrics.psnr, "ssim": metrics.ssim, "ssim_object": metrics.ssim_object}


def reconstruct(method: nn.Module | Callable[[Batch], Tensor], batch: Batch) -> Tensor:
    """Reconstruct a mini-batch, without gradients and in fp32, whatever precision the network was trained in.

    Parameters
    ----------
    method : Module or callable
        A network, or one of :mod:`gleam.baselines`.
    batch : Batch

    Returns
    -------
    Tensor, shape (batch, [time,] y, x)
        The images, in the units of the batch.
    """
    with torch.no_grad(), execution.using("fp32", device_type=batch.target.device.type):
        if not isinstance(method, nn.Module):
            return method(batch)
        method.eval()  # for example dropout off
        network: Any = method
        batch = protocol.setup(method, batch)
        return protocol.image(method, EndToEnd().propagate(network.iterations, network.start(batch), batch), batch)


def evaluate(
    method: nn.Module | Callable[[Batch], Tensor],
    data: Slices,
    *,
    device: str | torch.device = "cpu",
    batch_size: int = 8,
    scores: Sequence[str] = tuple(SCORES),
    part: tuple[int, int] | None = None,
) -> pd.DataFrame:
    """Score a reconstruction on every slice of a data set.

    Parameters
    ----------
    method : Module or callable
        A network, or one of :mod:`gleam.baselines`.
    data : Slices
        The data set, or anything with the same `batches`, `index` and `subjects`.
    device : str or device
        Where to reconstruct.
    batch_size : int
        Slices at a time.
    scores : sequence of str
        Some of nrmse, psnr (in dB), ssim and ssim_object (:mod:`gleam.metrics`).
    part : (int, int), optional
        (i, n) takes every n-th batch from the i-th on.

    Returns
    -------
    DataFrame
        One row per slice: subject, slice, and the scores. Scores are of magnitudes, in the units of the file; those of
        a batch of your own without `scale` are in its units.

    Raises
    ------
    ValueError, TypeError
        If there is no such device, if a slice has no target, an empty one, or values that are not finite, or if `data`
        are no such slices.
    """
    device, tables = execution.checked_device(device), []
    batch_size = whole_number(batch_size, "batch_size")
    if not hasattr(data, "batches"):
        raise TypeError(
            f"evaluate takes slices with `batches`, `index` and `subjects`, such as gleam.datasets.files gives, not a "
            f"{type(data).__name__}; for one batch use gleam.reconstruct and gleam.metrics"
        )
    for indices, batch in data.batches(batch_size, part) if part else data.batches(batch_size):
        check_scorable(data, indices, batch)
        batch = batch.to(device)
        scale = physics.per_example(batch.scale, batch.target) if hasattr(batch, "scale") else 1
        images = reconstruct(method, batch) * scale, batch.target * scale
        table = {name: SCORES[name](*images).tolist() for name in scores}
        files, numbers = zip(*(data.index[i] for i in indices), strict=True)
        tables.append(
            pd.DataFrame({"subject": [data.subjects[f] for f in files], "slice": numbers, **table}, index=indices)
        )
    return pd.concat(tables).sort_index() if tables else pd.DataFrame(columns=["subject", "slice", *scores])
