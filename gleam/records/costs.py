"""Tables of training steps: what they cost, how near they come to the limits of a device, and number formats."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from gleam.cost.roofline import TimedStep, Work
from gleam.cost.timing import Cost, paired_ratio
from gleam.records.archive import archived
from gleam.records.measures import SEEDS
from gleam.records.scores import MISSING, minus
from gleam.records.storage import Record
from gleam.records.tables import ARCHIVED, THIS_BUILD, markdown_table

FULL_SCALE_STEPS = {  # experiments of `make records`, and the methods of each that a table shows
    "ladder_pgd2d": "PGD 2D",
    "ladder_modl2d": "MoDL 2D",
    "cost_pgd3d_fast": "PGD 3D",
    "cost_modl3d_fast": "MoDL 3D",
}
RUNGS = ("Plain PyTorch, fp32", "tf32", "bf16", "bf16, captured", "bf16, compiled, captured", "GLEAM")
FORMATS = ("fp32", "tf32", "bf16")


def cost_report(
    costs: Mapping[str, Cost],
    title: str,
    name: str,
    *,
    base: str = "End-to-end",
    ratios: Mapping[str, float] | None = None,
    paper: pd.DataFrame | None = None,
) -> str:
    """Table of the time and memory of a training step with each method, also as ratios to those of one of them.

    Parameters
    ----------
    costs : dict
        Of method to cost, from one call of :func:`gleam.cost.measure`.
    title : str
        What the caption says first.
    name : str
        Label of the table.
    base : str
        The method to compare with.
    ratios : dict, optional
        Of method to its time over that of `base`. Default: medians of paired ratios.
    paper : DataFrame, optional
        The paper's seconds_per_step and memory_gb, with the method as index, for two more columns of ratios.

    Returns
    -------
    str
        MyST.
    """
    own, rows = costs[base], {}
    for method, cost in costs.items():
        time = ratios[method] if ratios else paired_ratio(cost, own)
        rows[method] = {
            "Seconds": f"{cost.seconds_per_step:.3f}",
            "Time, relative": f"{time:.2f}",
            "Peak (MB)": f"{cost.peak_bytes / 1e6:.2f}",
            "Times less": f"{own.peak_bytes / cost.peak_bytes:.1f}",
        }
        if paper is not None:
            seconds, gigabytes = paper["seconds_per_step"], paper["memory_gb"]
            known = method in paper.index  # the paper has no row for some of ours
            rows[method]["Paper: time"] = f"{seconds[method] / seconds[base]:.2f}" if known else MISSING
            rows[method]["Paper: times less"] = f"{gigabytes[base] / gigabytes[method]:.1f}" if known else MISSING
    how = (
        f"Relative time: over {base}, the median of paired ratios. Times less: memory of {base} over the method's. "
        f"Memory: {own.memory_kind} ({own.device})."
    )
    return markdown_table(rows, f"{title}. {how}", name)


def work_table(steps: Mapping[str, TimedStep], limits: Mapping[str, float]) -> pd.DataFrame:
    """Work and rates of steps, and how near they come to `limits` of :func:`gleam.roofline.limits`, as text."""
    # one unit for all rows, so that they can be compared
    unit, prefix = (1e12, "T") if min((s.work.flops for s in steps.values()), default=0) > 1e12 else (1e9, "G")
    rows = {
        name: {
            "Milliseconds": f"{1e3 * step.seconds:.1f}",
            f"{prefix}FLOP": f"{step.work.flops / unit:.2f}",
            f"{prefix}B moved": f"{step.work.bytes / unit:.2f}",
            "FLOP per byte": f"{step.work.intensity:.1f}",
            f"{prefix}FLOP/s": f"{step.flops_per_second / unit:.1f}",
            f"{prefix}B/s": f"{step.bytes_per_second / unit:.2f}",
            "Of its limit": f"{100 * step.share(limits):.0f} %",
        }
        for name, step in steps.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("Step")


def archived_steps(folder: str | Path) -> tuple[dict[str, TimedStep], Record | None]:
    """Steps at the paper's sizes that were timed on a GPU and archived.

    Parameters
    ----------
    folder : path
        Holds a folder for each device, as results/ does.

    Returns
    -------
    steps : dict
        Of "network: method" to :class:`gleam.roofline.TimedStep`; empty if nothing is archived.
    device : Record or None
        What their device can do: its measures are those of :func:`gleam.roofline.limits`.
    """
    device, steps = archived(folder, "limits").get("Device"), {}
    if device is None:
        return {}, None
    for experiment, network in FULL_SCALE_STEPS.items():
        found = archived(folder, experiment)
        for method in filter(found.__contains__, RUNGS):
            run: Any = found[method]
            # the work of some steps was not counted; another device has other limits
            if "flops_per_step" in run.measures and run.environment["device"] == device.environment["device"]:
                work = Work(run.measures["flops_per_step"], run.measures["bytes_per_step"])
                steps[f"{network}: {method}"] = TimedStep(work, run.cost["seconds_per_step"], run.settings["precision"])
    return steps, device


def formats_table(psnr: Mapping[tuple[int, str], float], folder: str | Path, experiment: str) -> pd.DataFrame:
    """PSNR of trainings by seed and number format, archived ones above those of this build, and the shift by bf16.

    Parameters
    ----------
    psnr : dict
        Of (seed, format) to dB, in this build.
    folder : path
        Holds a folder for each device, as results/ does.
    experiment : str
        Of the archived runs, without the seed: <experiment>_seed0, ... A seed without fp32 or bf16 is left out.

    Returns
    -------
    DataFrame
        Text.
    """
    runs = {seed: archived(folder, f"{experiment}_seed{seed}") for seed in SEEDS}
    archive: dict[Any, Any] = {(seed, f): found[f].value("psnr") for seed, found in runs.items() for f in found}
    rows = {}
    for block, scores in {ARCHIVED: archive, THIS_BUILD: psnr}.items():
        for seed in sorted({seed for seed, _ in scores}):
            if {(seed, "fp32"), (seed, "bf16")} <= scores.keys():
                row = {f: f"{scores[seed, f]:.2f}" if (seed, f) in scores else MISSING for f in FORMATS}
                shift = minus(f"{scores[seed, 'bf16'] - scores[seed, 'fp32']:+.3f}")
                rows[block, seed] = row | {"Shift by bf16": shift}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["", "Seed"])
