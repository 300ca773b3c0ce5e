"""One call of the program: jobs within a given time, what earlier calls have noted, and the records."""

import gc
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import torch

from gleam import execution, records
from gleam.files import write_json
from gleam.training.identity import RESULTS_VERSION


@dataclass(frozen=True)
class Job:
    """Something to do: `action()` does it and returns a few words.

    It takes at most `seconds`, and `reserve` seconds must be left after it. Its name begins with that of an experiment.
    """

    name: str
    seconds: float
    action: Callable[[], str]
    reserve: float = 0

    @property
    def kind(self):
        """Name without the number of its experiment: accelerations and seeds take as long as each other."""
        experiment, slash, method = self.name.partition("/")
        return experiment.rstrip("0123456789") + slash + method


class Failed(Exception):
    """A job came to its end, and what it found is wrong."""


class Session:
    """What all jobs of a call share.

    Parameters
    ----------
    profile : Profile
    device : str
    results : Path
        Holds a folder of records for each device and seed.
    work : Path
        Folder of checkpoints and notes.
    deadline : float
        When the call has to end, on the clock of `time.monotonic`.
    only : sequence of str
        Parts of names; jobs are wanted whose name has one of them.
    """

    def __init__(self, profile, device, results, work, deadline, only=("",)):
        self.profile, self.device, self.work, self.deadline, self.only = profile, device, work, deadline, only
        self.of_device = results / records.slug(records.environment(device)["device"])
        seed = f"-seed{profile.seed}" if profile.seed else ""
        self.results = self.of_device.with_name(self.of_device.name + seed)
        self.failed, self.left, self.postponed, self.experiment = {}, {}, {}, None
        self.notes = {"seconds": {}, "begun": {}}
        with suppress(OSError, ValueError, RecursionError, AttributeError):  # damaged ones are forgotten
            found = json.loads(self.notes_path.read_text())
            self.notes |= {topic: found[topic] for topic in self.notes if isinstance(found.get(topic), dict)}

    @property
    def notes_path(self):
        """File of what calls tell each other: seconds that jobs took, and jobs begun in vain."""
        return self.work / "notes.json"

    def note(self, topic, name, value):
        """Remember `value` for this and later calls."""
        self.notes[topic][name] = value
        write_json(self.notes_path, self.notes)

    def wants(self, name):
        """Whether jobs of this name were asked for."""
        return any(part in name for part in self.only)

    def stopped(self, name):
        """Whether a job of this name was tried in this call, and neither it nor another one can go on."""
        return any(name in names for names in (self.failed, self.left, self.postponed))

    # --- jobs

    def work_through(self, jobs):
        """Do jobs in their order. Those that two earlier calls began in vain come last: they may end the process.

        Yields after each.
        """
        for job in jobs:
            if self.notes["begun"].get(job.name, 0) > 1:
                self.postponed[job.name] = job
            else:
                self.attempt(job)
                yield
        for job in self.postponed.values():
            self.attempt(job)
            yield

    def attempt(self, job):
        """Do a job if there is time for it. If it fails, it says why in one sentence, and the others go on."""
        if self.deadline - time.monotonic() < self.expected_seconds(job) + job.reserve:
            self.left[job.name] = True
            return
        self._tidy(job)
        self.note("begun", job.name, self.notes["begun"].get(job.name, 0) + 1)
        started = time.monotonic()
        try:
            words = job.action()
            seconds = time.monotonic() - started
            print(f"{job.name}: {words} ({seconds:.0f} s)", flush=True)
            # not much less than before: a run that was complete already takes no time
            self.note("seconds", job.kind, max(seconds, self.notes["seconds"].get(job.kind, 0) / 2))
            self.note("begun", job.name, 0)
        except Exception as error:
            print(f"{job.name} failed: {sentence(error)}", flush=True)
            self.failed[job.name] = True

    def expected_seconds(self, job):
        """How long a job will take, at most."""
        known = self.notes["seconds"].get(job.kind)
        return (0 if self.profile.is_tiny else job.seconds) if known is None else 1.2 * known + 1

    def _tidy(self, job):
        """Give back what the job before held on the GPU. Raises OSError if the GPU does not work any more."""
        before, self.experiment = self.experiment, job.name.partition("/")[0]
        if before is None or torch.device(self.device).type != "cuda":
            return
        gc.collect()
        if self.experiment != before and execution.compiled.cache_info().currsize:
            torch.compiler.reset()  # it compiles a function for a few kinds of arguments only, then no more
        try:
            torch.cuda.synchronize()
        except RuntimeError as error:
            raise OSError(f"the GPU does not answer any more ({sentence(error)}); call again for the rest") from error
        with suppress(RuntimeError):  # after a recording that failed torch gives nothing back any more
            torch.cuda.empty_cache()

    # --- records

    def find(self, experiment, method, folder=None):
        """The record of a method, of this profile and results version; None without one."""
        try:
            record = records.load((folder or self.results) / experiment / f"{records.slug(method)}.json")
        except ValueError:
            return None
        made_by = record.profile, record.results_version
        return record if made_by == (self.profile.name, RESULTS_VERSION) else None

    def save(self, experiment, method, *arguments, **keywords):
        """Write a record; the arguments are those of :func:`gleam.records.record`.

        A copied tree does not know its commit; the variable GLEAM_COMMIT may name it.
        """
        record = records.record(
            experiment, method, *arguments, profile=self.profile.name, device=self.device, **keywords
        )
        record.environment["commit"] = record.environment["commit"] or os.environ.get("GLEAM_COMMIT")
        records.save(record, self.results)


def sentence(error):
    """Kind and first line of an error."""
    text = next(iter(str(error).strip().splitlines()), "")
    return text if isinstance(error, Failed) else f"{type(error).__name__}: {text}"
