"""Correctness: the tests marked `gpu` (tests/gpu/), on this device, as one record."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from functools import partial
from pathlib import Path

from full_scale.jobs import Failed, Job

ROOT = Path(__file__).parents[2]
EXPERIMENT = "correctness"


def jobs(setting):
    """One job: all tests. They are made again as long as one of them fails."""
    seconds = setting.sizes.seconds.get("check", 0)
    return [Job(EXPERIMENT, seconds, partial(_run, setting), partial(_is_good, setting))]


def _is_good(setting):
    record = setting.find(EXPERIMENT, "Tests")
    return record is not None and record.measures["n_failed"] == 0


def _run(setting):
    report = setting.work / "correctness.xml"
    report.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-W", "default", "tests/gpu", f"--junitxml={report}"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"GLEAM_DEVICE": setting.device}, capture_output=True, text=True
    )
    if done.returncode not in (0, 1):  # no test ran
        raise Failed((done.stdout.strip().splitlines() or ["pytest did not run"])[-1])
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [case.get("name") for case in cases if case.find("failure") is not None or case.find("error") is not None]
    n_skipped = sum(case.find("skipped") is not None for case in cases)
    n_passed = len(cases) - len(failed) - n_skipped
    setting.save(
        EXPERIMENT, "Tests", measures={"n_passed": n_passed, "n_failed": len(failed)}, settings={"failed": failed}
    )
    if failed:
        raise Failed(f"{len(failed)} of {len(cases)} tests failed: {', '.join(failed)}")
    return f"{n_passed} tests passed"
