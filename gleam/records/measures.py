"""The ratios by which a full-scale run is judged, computed from its archived records alone.

A ratio of times is the median over rounds of paired ratios (:func:`gleam.cost.paired_ratio`), so both methods must come
from one call of :func:`gleam.cost.measure`.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gleam.cost.timing import paired_ratio
from gleam.records.archive import newest_date
from gleam.records.schema import FULL_SCALE
from gleam.records.storage import Record, load

PLAIN = "Plain PyTorch, fp32"
TIMED = ("cost_pgd2d_fp32", "cost_pgd2d_fast", "cost_modl2d_fp32", "cost_modl2d_fast")
SEEDS = (0, 1, 2)

Runs = dict[tuple[str, str], Record]  # of (experiment, method), for one device


def measure(folder: str | Path) -> dict[str, float | None]:
    """Every measure of `MEASURES`, in that order.

    Parameters
    ----------
    folder : path
        Holds one folder per device. Each measure is taken from the newest device folder that has it; a folder counts if
        it holds `limits/device.json` or a full-scale record of a GPU.

    Returns
    -------
    dict
        Of name to number, None if no record has it.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If a file is not a record; the message names it.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; expected the one that holds a folder for each device")
    devices: list[Runs] = []
    for path in sorted(path for path in Path(folder).iterdir() if path.is_dir()):
        found = [record for record in map(load, sorted(path.glob("*/*.json"))) if record.profile == FULL_SCALE]
        runs = {(record.experiment, record.method): record for record in found}
        # a record that names no device counts as a CPU's
        on_gpu = any(not record.environment.get("device", "CPU").startswith("CPU") for record in found)
        devices += [runs] if on_gpu or ("limits", "Device") in runs else []
    devices.sort(key=newest_date, reverse=True)
    return {
        name: next((value for value in map(of_device, devices) if value is not None), None)
        for name, of_device in MEASURES.items()
    }


def share_of_bf16_peak(runs: Runs, *, ladder: str) -> float | None:
    """FLOP per second of the fastest bf16 step over the measured rate of bf16 matrix products."""
    step: Any = fastest_bf16(_rungs(runs, ladder))
    limits = runs.get(("limits", "Device"))
    n_operations = _value(step, "flops_per_step")
    limit = _value(limits, "bf16_flops_per_second")
    return n_operations / step.cost["seconds_per_step"] / limit if n_operations and limit else None


def speedup_over_eager_fp32(runs: Runs, *, ladder: str) -> float | None:
    """Time of the plain eager step over that of the fastest bf16 step."""
    return _time_ratio(runs.get((ladder, PLAIN)), fastest_bf16(_rungs(runs, ladder)))


def memory_ratio(runs: Runs, *, experiment: str) -> float | None:
    """Peak memory, end to end over GLEAM."""
    peaks = [_value(runs.get((experiment, method)), "peak_bytes") for method in ("End-to-end", "GLEAM")]
    return peaks[0] / peaks[1] if all(peaks) else None


def time_ratio(runs: Runs, *, experiment: str, method: str, other: str) -> float | None:
    """Time of a step of `method` over that of `other`."""
    return _time_ratio(runs.get((experiment, method)), runs.get((experiment, other)))


def largest_time_ratio(runs: Runs, *, experiments: Sequence[str], method: str, other: str) -> float | None:
    """The largest of several :func:`time_ratio`; None if one of them is missing, since it might be the largest."""
    ratios: list[Any] = [time_ratio(runs, experiment=e, method=method, other=other) for e in experiments]
    return None if None in ratios else max(ratios)


def psnr_shift(runs: Runs, *, experiment: str, method: str, other: str) -> float | None:
    """PSNR (dB) of `method` minus that of `other`, mean over the seeds; None if a record is missing.

    Both must have been trained for the same number of steps, otherwise None.
    """
    shifts = []
    for seed in SEEDS:
        pair: list[Any] = [runs.get((f"{experiment}_seed{seed}", name)) for name in (method, other)]
        a, b = pair
        if None in (_value(a, "psnr"), _value(b, "psnr")) or a.n_steps_done != b.n_steps_done:
            return None
        shifts.append(a.value("psnr") - b.value("psnr"))
    return statistics.mean(shifts)


MEASURES = {
    "pgd2d_share_of_bf16_peak": partial(share_of_bf16_peak, ladder="ladder_pgd2d"),
    "pgd2d_speedup_over_eager_fp32": partial(speedup_over_eager_fp32, ladder="ladder_pgd2d"),
    "modl2d_speedup_over_eager_fp32": partial(speedup_over_eager_fp32, ladder="ladder_modl2d"),
    "memory_ratio_pgd2d": partial(memory_ratio, experiment="cost_pgd2d_fp32"),
    "memory_ratio_modl2d": partial(memory_ratio, experiment="cost_modl2d_fp32"),
    "memory_ratio_modl3d": partial(memory_ratio, experiment="cost_modl3d_fp32"),
    "gleam_over_end_to_end": partial(largest_time_ratio, experiments=TIMED, method="GLEAM", other="End-to-end"),
    "checkpointed_over_gleam": partial(
        time_ratio, experiment="cost_modl2d_fp32", method="Checkpointing", other="GLEAM"
    ),
    "bf16_psnr_shift_db": partial(psnr_shift, experiment="precision_pgd2d", method="bf16", other="fp32"),
}


def fastest_bf16(rungs: Iterable[Record]) -> Record | None:
    """The record of the fastest bf16 step in an ablation (`rungs`: its records); None if no such step was timed."""
    bf16 = (record for record in rungs if record.method.startswith("bf16"))
    timed: list[Any] = [record for record in bf16 if _value(record, "seconds_per_step")]
    return min(timed, key=lambda record: record.cost["seconds_per_step"], default=None)


def _rungs(runs, ladder):
    return [record for (experiment, _), record in runs.items() if experiment == ladder]


def _value(record, name):
    return None if record is None else record.value(name)


def _time_ratio(record, other):
    """Median of the paired ratios; None unless both have the seconds of equally many rounds."""
    seconds = [(record.cost or {}).get("step_seconds") if record else None for record in (record, other)]
    if not all(seconds) or len(seconds[0]) != len(seconds[1]):  # rounds of two runs are no pairs
        return None
    return paired_ratio(*(SimpleNamespace(step_seconds=times) for times in seconds))
