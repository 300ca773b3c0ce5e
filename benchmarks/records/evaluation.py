"""Scores: every trained network as far as it is, and what needs no training, on the test splits."""

from functools import partial

import gleam
from gleam import cost
from records import plan
from records.jobs import Job, work_through

# weight of the l1 norm in the paper, by experiment; weights of total variation in space and in time
WAVELET = {"mridata_pgd_R12": 0.07, "mridata_pgd_R16": 0.06, "mridata_modl_R4": 0.12, "mridata_modl_R16": 0.06}
WAVELET |= {"fastmri_pgd": 0.001}
TOTAL_VARIATION = (0.05, 0.01)


def work(setting, data, *, chosen, after):
    """Score every row of every table, as far as it can be here; (names of failures, names of what is left)."""
    every = [run for group in plan.groups(setting) for run in group if chosen(run.name)]
    failed, left = [], []
    for kind in dict.fromkeys(run.kind for run in every if data.can_make(run.kind)):
        runs = [run for run in every if run.kind == kind]
        jobs = [job for job in _jobs(setting, data, runs) if not job.is_done()]
        if jobs:
            found = data.get_ready(kind, [run.acceleration for run in runs])
            found = (found[0], [job.name for job in jobs]) if any(found) else work_through(jobs, setting, after=after)
            failed, left = failed + found[0], left + found[1]
    return failed, left


def _jobs(setting, data, runs):
    tables = {run.experiment: run for run in runs}.values()
    found = [_baseline(setting, data, run, "Zero-filled", gleam.baselines.zero_filled) for run in tables]
    found += of_runs(setting, data, runs)
    return found + [_baseline(setting, data, run, "CS", _cs(setting, run)) for run in tables if data.has("sigpy")]


def of_runs(setting, data, runs):
    """One job for each of ``runs`` that has a checkpoint; done if its record is of as many steps."""
    return [of_run(setting, data, run) for run in runs if run.fit(setting)]


def of_run(setting, data, run):
    """A job that scores one run, as far as it is."""
    return Job(
        f"scores, {run.name}", setting.sizes.seconds.get("evaluation", 0), partial(_score, setting, data, run),
        partial(_is_scored, setting, run), f"scores, {run.case_name}, N = {run.n_iterations}",
    )  # fmt: skip


def _is_scored(setting, run):
    record = setting.find(run.experiment, run.method)
    return record is not None and record.n_steps_done == run.n_steps_done(setting)


def _score(setting, data, run):
    parts, network = data[run.kind, run.acceleration], run.trained(setting)
    table = gleam.evaluate(network, parts[-1], device=setting.device)
    found, settings = _cost(setting, run)
    setting.save(
        run.experiment, run.method, table, parts, network=network, fit=run.fit(setting), cost=found,
        settings=run.case.describe() | {"n_iterations": run.n_iterations} | settings,
    )  # fmt: skip
    return f"step {run.n_steps_done(setting)}, {table['psnr'].mean():.2f} dB"


def _cost(setting, run):
    """The cost of a step in fp32, as the paper's, if it was measured, and what the record says about it."""
    method = "End-to-end" if run.method == plan.LONGER else run.method
    found = setting.find(f"cost_{run.case_name}_fp32", method)
    return (cost.Cost(**found.cost), {"cost_precision": "fp32"}) if found else (None, {})


def _baseline(setting, data, run, method, function):
    """A job that scores what needs no training, on the data of ``run``."""
    seconds = setting.sizes.seconds.get("evaluation", 0)
    if method == "CS":
        seconds = setting.sizes.seconds.get("cs", 0)
    return Job(
        f"scores, {run.experiment}, {method}", seconds,
        partial(_score_baseline, setting, data, run, method, function),
        partial(setting.find, run.experiment, method), f"scores, {run.kind}, {method}",
    )  # fmt: skip


def _score_baseline(setting, data, run, method, function):
    parts = data[run.kind, run.acceleration]
    table = gleam.evaluate(function, parts[-1], device=setting.device)
    settings = {"arguments": getattr(function, "keywords", {})}
    setting.save(run.experiment, method, table, parts, settings=settings)
    return f"{table['psnr'].mean():.2f} dB"


def _cs(setting, run):
    if run.kind == "hearts":
        return gleam.baselines.spatiotemporal(0.0, *TOTAL_VARIATION, n_iterations=setting.sizes.cs_iterations[1])
    return gleam.baselines.wavelet(WAVELET[run.experiment], n_iterations=setting.sizes.cs_iterations[0])
