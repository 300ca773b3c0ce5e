"""The program: what the command line says, all jobs in their order, and what is left at the end."""

import argparse
import math
import sys
import time
from pathlib import Path

import torch

from full_scale import correctness, costs, packing, tables
from full_scale.profiles import FILES, Profile
from full_scale.session import Session
from gleam.execution import checked_device
from gleam.files import check_writable

ROOT = Path(__file__).parents[2]
TO_PACK = 20  # seconds kept for the end of a call
PACK_EVERY = 30  # seconds: a call that is killed has lost no more


def main(arguments=None, *, started=None):
    """Do what is not done, as far as the time goes, counted from `started` (of `time.monotonic`).

    Returns the exit status: 0; 1 if anything failed; 2 for options that cannot be met.
    """
    options = _options(arguments)
    try:
        session = _session(options, time.monotonic() if started is None else started)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    for what, packages in {"Brains are": ["nilearn"], "Compressed sensing (CS) is": ["sigpy", "joblib"]}.items():
        if not tables.has(*packages):
            print(f"{what} left out: {' or '.join(packages)} is not installed.")
    packed = time.monotonic()
    try:
        for _ in session.work_through(jobs(session)):
            if time.monotonic() > packed + PACK_EVERY:
                _pack(options, session)
                packed = time.monotonic()
    except OSError as error:
        print(error)
        session.failed["the rest"] = True
    finally:
        for name in _pack(options, session):
            print(f"{name} did not fit into {options.out}.")
    for words, names in {"Failed": session.failed, "Left for another call": session.left}.items():
        if names:
            print(f"{words}: {'; '.join(names)}.")
    if not session.failed and not session.left:
        print("Everything is done.")
    return int(bool(session.failed))


def jobs(session):
    """Everything that is not done, most valuable first. Of another seed only what depends on it."""
    if not session.profile.seed:
        yield from correctness.jobs(session)
        yield from costs.jobs(session)
    yield from tables.Tables(session).jobs()


def _options(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=540, help="that this call may take")
    parser.add_argument("--only", default="", help="parts of the names of the jobs that are wanted: limits,ladder,R12")
    parser.add_argument("--profile", choices=FILES, default="paper", help="tiny: a dry run")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order, masks and phantoms")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--results", type=Path, help="folder of records; default: results, or one in that of --work")
    parser.add_argument("--work", type=Path, help="folder of checkpoints; default: _work/records/PROFILE[-seedSEED]")
    parser.add_argument("--out", type=Path, help="folder for records and checkpoints in a few files")
    parser.add_argument("--resume-from", type=Path, help="folder that --out of an earlier call has filled")
    options = parser.parse_args(arguments)
    build = options.profile + (f"-seed{options.seed}" if options.seed else "")
    options.work = options.work or ROOT / "_work" / "records" / build
    # only a run at the paper's sizes goes to the records that are kept
    options.results = options.results or (ROOT if options.profile == "paper" else options.work) / "results"
    return options


def _session(options, started):
    """What all jobs share. Raises ValueError or OSError, with a sentence, for options that cannot be met."""
    if not 0 <= options.seconds < math.inf or options.seed < 0:
        given = f"--seconds {options.seconds:g} --seed {options.seed}"
        raise ValueError(f"{given}: expected the seconds that this call may take, and a seed of at least 0")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        dry_run = "--device cpu --profile tiny is the dry run"
        raise ValueError(f"--device {options.device} needs a GPU and there is none; {dry_run}.")
    checked_device(options.device)
    profile, only = Profile(options.profile, options.seed), options.only.split(",")
    names = [*costs.ORDER, correctness.NAME, *tables.names(profile)]
    if unknown := [part for part in only if not any(part in name for name in names)]:
        raise ValueError(f"--only {unknown[0]}: no job has that in its name; expected a part of {names[1]}, say")
    if options.out:
        check_writable(options.out)
    if options.resume_from:
        for name in packing.unpack(options.resume_from, options.results, options.work):
            print(f"{name} was cut short and is not used.")
    seconds = options.seconds - (TO_PACK if options.out else 0)
    return Session(profile, options.device, options.results, options.work, started + seconds, only)


def _pack(options, session):
    """Pack what there is, if it is asked for; returns names of checkpoints that did not fit."""
    if not options.out:
        return []
    found = sorted(path for folder in {session.of_device, session.results} for path in folder.glob("*/*.json"))
    try:
        ours = {str(path.relative_to(options.results)): path for path in found}
        return packing.pack(options.out, ours, tables.checkpoints(session))
    except (ValueError, OSError) as error:  # what is in the folders of work and results stays there
        print(f"Nothing could be packed: {error}")
        return []
