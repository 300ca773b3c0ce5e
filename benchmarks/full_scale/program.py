"""The program: what the command line says, the stages in their order, and what is left at the end."""

import argparse
import itertools
import math
import sys
import time
from pathlib import Path

import torch

from full_scale import correctness, costs, evaluation, packing, plan, training
from full_scale.data import Data
from full_scale.jobs import Clock, Setting, work_through
from full_scale.sizes import SIZES
from gleam import records
from gleam.files import check_writable

ROOT = Path(__file__).parents[2]
STAGES = ("correctness", "cost", "training", "evaluation")
TO_PACK = 20  # seconds kept for the end of a call
PACK_EVERY = 30  # seconds: a call that is killed has lost no more
_DRY_RUN = "--device cpu --sizes tiny"


def main(arguments=None, *, started=None):
    """Do what is not done, as far as the time goes, counted from ``started`` (of ``time.monotonic``).

    Returns the exit status: 0; 1 if anything failed; 2 for options that cannot be met.
    """
    options = _options(arguments)
    try:
        setting = _setting(options, time.monotonic() if started is None else started)
        for name in _resumed(options, setting):
            print(f"{name} was cut short and is not used.")
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    if unused := plan.foreign(setting):
        print(f"{len(unused)} checkpoints of other code were found and not used.")
    failed, left = ["interrupted"], []
    try:
        failed, left = _stages(options, setting)
    except OSError as error:
        print(error)
    finally:
        for name in _pack(options, setting):
            print(f"{name} did not fit into {options.out}.")
    _report(failed, left)
    return int(bool(failed))


def _stages(options, setting):
    chosen, after = (lambda name: options.only in name), _now_and_then(lambda: _pack(options, setting))
    data = Data(setting)
    do = {
        "correctness": lambda: work_through(_chosen(correctness.jobs(setting), chosen), setting, after=after),
        "cost": lambda: work_through(_chosen(costs.jobs(setting), chosen), setting, after=after),
        "training": lambda: training.work(setting, data, chosen=chosen, after=after),
        "evaluation": lambda: evaluation.work(setting, data, chosen=chosen, after=after),
    }
    failed, left = [], []
    for stage in options.stages:
        print(f"-- {stage}, {max(0, setting.clock.left):.0f} s left", flush=True)
        found = do[stage]()
        failed, left = failed + found[0], left + found[1]
    _say_what_is_left_out(data, options.stages)
    return failed, left


def _now_and_then(do):
    """A function that does it if the last time was a while ago."""
    last = [time.monotonic()]

    def after():
        if time.monotonic() > last[0] + PACK_EVERY:
            do()
            last[:] = [time.monotonic()]

    return after


def _chosen(jobs, chosen):
    return [job for job in jobs if chosen(job.name)]


def _say_what_is_left_out(data, stages):
    if not {"training", "evaluation"} & {*stages}:
        return
    if not data.has("nilearn"):
        print("Brains are left out: their phantom needs nilearn's atlas, which is not installed.")
    if not data.has("sigpy", "joblib"):
        print("Compressed sensing (CS) is left out: it needs sigpy and joblib, which are not installed.")


def _options(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=_seconds, default=540, help="that this call may take")
    parser.add_argument("--stages", type=_stage_names, default=STAGES, help=",".join(STAGES))
    parser.add_argument("--only", default="", help="part of the names of the jobs that are wanted")
    parser.add_argument("--sizes", choices=SIZES, default="paper")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--results", type=Path, help="folder of records; default: results, or _work/SIZES/results")
    parser.add_argument("--work", type=Path, help="folder of checkpoints; default: _work/records, or _work/SIZES")
    parser.add_argument("--out", type=Path, help="folder for records and checkpoints in a few files")
    parser.add_argument("--resume-from", type=Path, help="folder that --out of an earlier call has filled")
    options = parser.parse_args(arguments)
    is_real = options.sizes == "paper"  # a dry run leaves the records and checkpoints of a real one alone
    work = ROOT / "_work" / ("records" if is_real else options.sizes)
    options.results = options.results or (ROOT if is_real else work) / "results"
    options.work = options.work or work
    return options


def _seconds(text):
    if not 0 <= float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no time; expected seconds")
    return float(text)


def _stage_names(text):
    names = text.split(",")
    if unknown := [name for name in names if name not in STAGES]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is no stage; expected some of {','.join(STAGES)}")
    return [stage for stage in STAGES if stage in names]


def _setting(options, started):
    """What all jobs share. Raises ValueError or OSError, with a sentence, for options that cannot be met."""
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {options.device} needs a GPU and there is none; {_DRY_RUN} is the dry run.")
    if options.out:
        check_writable(options.out)
    device = records.slug(records.environment(options.device)["device"])
    clock = Clock(options.seconds - (TO_PACK if options.out else 0), started)
    setting = Setting(SIZES[options.sizes], options.device, clock, options.results / device, options.work)
    runs = itertools.chain(plan.precision_runs(setting), *plan.groups(setting))
    names = [*costs.ORDER, *(job.name for job in correctness.jobs(setting)), *(run.name for run in runs)]
    if not any(options.only in name for name in names):
        raise ValueError(f"--only {options.only}: no job has that in its name; expected a part of {names[1]}, say")
    return setting


def _resumed(options, setting):
    """Unpack what an earlier call has left; names of what was cut short."""
    return packing.unpack(options.resume_from, options.results, setting.work) if options.resume_from else []


def _pack(options, setting):
    """Pack what there is, if it is asked for; names of checkpoints that did not fit."""
    if not options.out:
        return []
    ours = {str(path.relative_to(options.results)): path for path in sorted(setting.results.glob("*/*.json"))}
    try:
        return packing.pack(options.out, ours, plan.checkpoints(setting))
    except (ValueError, OSError) as error:  # what is in the folders of work and results stays there
        print(f"Nothing could be packed: {error}")
        return []


def _report(failed, left):
    for words, names in {"Failed": failed, "Left for another call": left}.items():
        if names:
            print(f"{words}: {'; '.join(names)}.")
    if not failed and not left:
        print("Everything is done.")
