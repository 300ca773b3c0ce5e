"""Training: the short runs that compare number formats, then the tables' networks, table by table."""

from functools import partial

import gleam
from full_scale import evaluation, plan
from full_scale.jobs import Job, work_through

AT_ONCE = 1e-3  # seconds after which a call of gleam.fit shall return: at its next validation


def work(setting, data, *, chosen, after):
    """Train until everything is done or the time is over; (names of what failed, names of what is left).

    ``chosen(name)`` says whether an experiment is wanted; ``after()`` is called after each slice.
    """
    failed, left = _precision_runs(setting, data, chosen, after)
    for group in plan.groups(setting):
        turns = Turns(setting, data, [run for run in group if chosen(run.name) and data.can_make(run.kind)], after)
        turns.work()
        failed, left = failed + turns.failed, left + turns.left()
    return failed, left


def _precision_runs(setting, data, chosen, after):
    """Each trains and is scored on a part of the test split at once."""
    bound, jobs = setting.sizes.seconds.get("evaluation", 0), []
    runs = plan.precision_runs(setting)
    for run in runs:
        seconds = run.training.n_steps * run.training.seconds + bound
        is_done, kind = partial(setting.find, run.experiment, run.method), f"precision, {run.method}"
        if chosen(run.name) and not is_done():
            jobs.append(Job(run.name, seconds, partial(_precision, setting, data, run), kind=kind))
    if jobs:
        failed, left = data.get_ready("knees", [run.acceleration for run in runs])
        if failed or left:
            return failed, [job.name for job in jobs]
    return work_through(jobs, setting, after=after)


def _precision(setting, data, run):
    parts = data[run.kind, run.acceleration]
    network, fit = train(setting, data, run)
    table = gleam.evaluate(network, parts[-1], device=setting.device, part=(0, setting.sizes.precision_part))
    settings = run.case.describe() | {"precision": run.strategy.precision, "n_iterations": run.n_iterations}
    setting.save(run.experiment, run.method, table, parts, network=network, fit=fit, settings=settings)
    return f"{fit.n_steps_done} steps, {table['psnr'].mean():.3f} dB"


def train(setting, data, run, **limits):
    """(network, :class:`gleam.Fit`) after training ``run``, up to the limits of :func:`gleam.fit`."""
    training, network = run.training, run.network()
    parts = data[run.kind, run.acceleration]
    own = {"n_steps": training.n_steps, "validate_every": training.validate_every, "seed": run.seed}
    fit = gleam.fit(
        network, parts[0], parts[1], run.strategy, run_dir=run.folder(setting), device=setting.device, name=run.name,
        **run.definition.training | own, **limits,
    )  # fmt: skip
    return network, fit


class Turns:
    """The runs of one group, in slices of as many steps as lie between two validations; the least advanced is next.

    Before the group is left its runs are scored, as far as they are.
    """

    def __init__(self, setting, data, runs, after):
        self.setting, self.data, self.runs, self.after = setting, data, runs, after
        self.failed = []

    def work(self):
        """Train until nothing is to do or nothing fits."""
        if self.unfinished() and self.has_data():
            waiting = self.unfinished()
            while waiting:
                run = min(waiting, key=lambda run: run.n_steps_done(self.setting) / run.training.n_steps)
                if not self.train(run):
                    waiting.remove(run)
                waiting = [run for run in waiting if run in self.unfinished()]
            self.score()

    def unfinished(self):
        """Runs that are to be trained still."""
        return [run for run in self.runs if run.name not in self.failed and not self._is_done(run)]

    def _is_done(self, run):
        """Whether the run is at its end, here or, by its record, on another machine that kept the checkpoint."""
        record = self.setting.find(run.experiment, run.method)
        return run.is_done(self.setting) or (record and (record.n_steps_done or 0) >= run.training.n_steps)

    def left(self):
        """Names of runs that are not finished."""
        return [run.name for run in self.unfinished()]

    def has_data(self):
        """Whether the data of the runs are there, or can be made in time."""
        failed, left = self.data.get_ready(self.runs[0].kind, [run.acceleration for run in self.unfinished()])
        self.failed += failed
        return not (failed or left)

    def train(self, run):
        """Train ``run`` up to its next validation, if there is time; whether there was."""
        job = self.slice(run)
        if self.setting.clock.left - self.reserve(run) < job.expected_seconds(self.setting):
            return False
        failed, _ = work_through([job], self.setting, after=self.after)
        self.failed += [run.name for _ in failed]
        return True

    def slice(self, run):
        """A job that trains ``run`` up to its next validation."""
        training = run.training
        bound = training.validate_every * training.seconds + self.setting.sizes.seconds.get("evaluation", 0)
        words = f"training, {run.name}"
        return Job(words, bound, partial(self._slice, run), kind=words, keeps_compiled=True)

    def _slice(self, run):
        setting = self.setting
        _, fit = train(setting, self.data, run, max_seconds=AT_ONCE)
        steps, last = f"step {fit.n_steps_done} of {run.training.n_steps}", fit.history[-1]
        return f"{steps}, loss {last['loss'][-1]:.4f}, nRMSE {last['nrmse']:.4f}"

    def reserve(self, run):
        """Seconds that scoring will take once ``run`` has come further."""
        jobs = evaluation.of_runs(self.setting, self.data, [other for other in self.runs if other is not run])
        mine = evaluation.of_run(self.setting, self.data, run)
        return sum(job.expected_seconds(self.setting) for job in [mine, *jobs] if job is mine or not job.is_done())

    def score(self):
        """Score those that have come further since their last record."""
        jobs = evaluation.of_runs(self.setting, self.data, self.runs)
        self.failed += work_through(jobs, self.setting, after=self.after)[0]
