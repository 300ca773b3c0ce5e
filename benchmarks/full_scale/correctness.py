"""Correctness: the tests marked `gpu` (tests/gpu/), on this device, as one record."""

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

from full_scale.session import Failed, Job

ROOT = Path(__file__).parents[2]
NAME = "correctness"


def jobs(session):
    """One job: all tests. They are made again as long as one of them fails."""
    record = session.find(NAME, "Tests")
    if session.wants(NAME) and (record is None or record.measures["n_failed"]):
        yield Job(NAME, 180, partial(_run, session))


def _run(session):
    command = [sys.executable, *"-m pytest -q -m gpu -W default tests/gpu".split()]
    own = os.environ | {"GLEAM_DEVICE": session.device}
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True)
    if done.returncode not in (0, 1):  # no test ran
        raise Failed((done.stdout.strip().splitlines() or ["pytest did not run"])[-1])
    failed = re.findall(r"^(?:FAILED|ERROR) .*?::(.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
    n_passed = int((re.findall(r"(\d+) passed", done.stdout) or [0])[-1])
    measures = {"n_passed": n_passed, "n_failed": len(failed)}
    session.save(NAME, "Tests", measures=measures, settings={"failed": failed})
    if failed:
        raise Failed(f"{len(failed)} tests failed: {', '.join(failed)}")
    return f"{n_passed} tests passed"
