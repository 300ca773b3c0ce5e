"""Scores: every trained network as far as it is, and what needs no training, on the test splits."""

from functools import partial

import gleam
from full_scale import plan
from full_scale.jobs import Job, work_through
from gleam import cost
from gleam.files import n_cores
from gleam.training.experiments import LONGER

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
    tables = {}
    for run in runs:  # tables of the same data share what needs no training
        tables.setdefault(run.acceleration, {})[run.experiment] = run
    tables = [list(table.values()) for table in tables.values()]
    found = [_zero_filled(setting, data, table) for table in tables]
    found += of_runs(setting, data, runs)
    return found + [_cs(setting, data, table) for table in tables if data.has("sigpy", "joblib")]


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
    return record is not None and (record.n_steps_done or 0) >= run.n_steps_done(setting)


def _score(setting, data, run):
    parts, network = data[run.kind, run.acceleration], run.trained(setting)
    table = gleam.evaluate(network, parts[-1], device=setting.device)
    found, settings = _cost(setting, run)
    settings |= run.case.describe() | {"n_iterations": run.n_iterations, "precision": run.strategy.precision}
    setting.save(
        run.experiment, run.method, table, parts, network=network, fit=run.fit(setting), cost=found, settings=settings
    )
    return f"step {run.n_steps_done(setting)}, {table['psnr'].mean():.2f} dB"


def _cost(setting, run):
    """The cost of a step in fp32, as the paper's, if it was measured, and what the record says about it."""
    method = "End-to-end" if run.method == LONGER else run.method
    found = setting.find(f"cost_{run.case_name}_fp32", method)
    return (cost.Cost(**found.cost), {"cost_precision": "fp32"}) if found else (None, {})


def _zero_filled(setting, data, table):
    seconds = setting.sizes.seconds.get("evaluation", 0)
    return _baseline(setting, table, "Zero-filled", seconds, partial(gleam.evaluate, gleam.baselines.zero_filled), data)


def _cs(setting, data, table):
    run, n_iterations = table[0], setting.sizes.cs_iterations
    if run.kind == "hearts":
        function = gleam.baselines.spatiotemporal(0.0, *TOTAL_VARIATION, n_iterations=n_iterations[1])
    else:
        function = gleam.baselines.wavelet(WAVELET.get(run.experiment, 0.01), n_iterations=n_iterations[0])
    evaluate = partial(_on_all_cores, function)
    return _baseline(setting, table, "CS", setting.sizes.seconds.get("cs", 0), evaluate, data, function.keywords)


def _on_all_cores(function, *arguments, **keywords):
    from joblib import parallel_config

    with parallel_config(n_jobs=n_cores()):
        return gleam.evaluate(function, *arguments, batch_size=4 * n_cores(), **keywords)


def _baseline(setting, table, method, seconds, evaluate, data, arguments=None):
    """A job that scores what needs no training, for all runs of ``table``, whose data are the same."""

    def score():
        parts = data[table[0].kind, table[0].acceleration]
        scores = evaluate(parts[-1], device=setting.device)
        for run in table:
            setting.save(run.experiment, method, scores, parts, settings={"arguments": arguments or {}})
        return f"{scores['psnr'].mean():.2f} dB"

    return Job(
        f"scores, {' and '.join(run.experiment for run in table)}, {method}", seconds, score,
        lambda: all(setting.find(run.experiment, method) for run in table), f"scores, {table[0].kind}, {method}",
    )  # fmt: skip
