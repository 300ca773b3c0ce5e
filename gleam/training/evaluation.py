"""Scores of a reconstruction on every slice of a data set."""

import pandas as pd
import torch

from gleam import execution, metrics, physics
from gleam.strategies.base import EndToEnd

SCORES = {"nrmse": metrics.nrmse, "psnr": metrics.psnr, "ssim": metrics.ssim, "ssim_object": metrics.ssim_object}


def reconstruct(method, batch):
    """Image (batch, [time,] y, x) that a network or one of :mod:`gleam.baselines` makes of ``batch``; no gradient.

    In fp32, in whatever precision the network was trained.
    """
    with torch.no_grad(), execution.using("fp32", device_type=batch.target.device.type):
        if not isinstance(method, torch.nn.Module):
            return method(batch)
        method.eval()
        return EndToEnd().propagate(method.iterations, method.start(batch), batch)


def evaluate(method, data, *, device="cpu", batch_size=8, scores=tuple(SCORES), part=None):
    """Score a network or one of :mod:`gleam.baselines` on every slice of ``data``.

    Scores are of magnitudes, in the units of the file. ``part=(i, n)`` takes every n-th batch from the i-th on. Returns
    a table with one row per slice: subject, slice, and the ``scores`` (nrmse, psnr in dB, ssim, ssim_object).
    """
    device, tables = execution.checked_device(device), []
    for indices, batch in data.batches(batch_size, part) if part else data.batches(batch_size):
        batch = batch.to(device)
        scale = physics.per_example(batch.scale, batch.target)
        images = reconstruct(method, batch) * scale, batch.target * scale
        table = {name: SCORES[name](*images).tolist() for name in scores}
        files, numbers = zip(*(data.index[i] for i in indices), strict=True)
        tables.append(
            pd.DataFrame({"subject": [data.subjects[f] for f in files], "slice": numbers, **table}, index=indices)
        )
    return pd.concat(tables).sort_index() if tables else pd.DataFrame(columns=["subject", "slice", *scores])
