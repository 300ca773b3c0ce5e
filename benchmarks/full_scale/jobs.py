"""Small jobs, one after the other, within a given time: each is skipped, done, or fails alone."""

import gc
import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from gleam import execution, records
from gleam.files import write_json

VERSION = 1  # raise it when what a job measures changes: its records are then made anew


@dataclass
class Clock:
    """Seconds that a call may take, counted from ``started`` (of ``time.monotonic``)."""

    seconds: float
    started: float = field(default_factory=time.monotonic)

    @property
    def left(self):
        """Seconds until the end of the call."""
        return self.started + self.seconds - time.monotonic()


@dataclass
class Setting:
    """What all jobs share: how large, on which device, until when, and where things are kept.

    ``results``: folder of this device's records; ``work``: folder of checkpoints and of what a call has to remember.
    """

    sizes: object
    device: str
    clock: Clock
    results: Path
    work: Path

    @cached_property
    def notes(self):
        """What calls tell each other."""
        return Notes(self.work / f"notes-{self.sizes.name}.json")

    @property
    def on_cuda(self):
        """Whether this runs on a GPU."""
        return torch.device(self.device).type == "cuda"

    def find(self, experiment, method, **settings):
        """The record of ``method`` if there is one, of this version, these sizes and ``settings``; else None."""
        try:
            record = records.load(self.results / experiment / f"{records.slug(method)}.json")
        except ValueError:
            return None
        expected = json.loads(json.dumps(self._made_by() | settings))
        return record if all(record.settings.get(k) == v for k, v in expected.items()) else None

    def save(self, experiment, method, *arguments, settings=None, **keywords):
        """Write a record of this device and these sizes; arguments are those of :func:`gleam.records.record`.

        A copied tree does not know its commit; the variable GLEAM_COMMIT may name it.
        """
        record = records.record(
            experiment, method, *arguments, profile=self.sizes.name, settings=self._made_by() | (settings or {}),
            device=self.device, **keywords,
        )  # fmt: skip
        record.environment["commit"] = record.environment["commit"] or os.environ.get("GLEAM_COMMIT")
        records.save(record, self.results)
        return record

    def _made_by(self):
        return {"sizes": self.sizes.name, "version": VERSION}


@dataclass(frozen=True)
class Job:
    """``run()`` does it and returns a few words; ``is_done()``: nothing is to do.

    ``seconds``: it takes no longer; how long one with the same ``kind`` (default: the name) took tells better.
    ``keeps_compiled``: what torch compiled stays, since the next job needs the same.
    """

    name: str
    seconds: float
    run: object
    is_done: object = lambda: False
    kind: str = ""
    keeps_compiled: bool = False

    def expected_seconds(self, setting):
        """Seconds that must be left for it to begin."""
        known = setting.notes.get("seconds", self.kind or self.name)
        return self.seconds if known is None else 1.2 * known + 1


class Failed(Exception):
    """A job came to its end, and what it found is wrong."""


def work_through(jobs, setting, *, after=lambda: None):
    """Do all ``jobs`` that are not done and for which there is time; returns (names of failures, names left).

    Each that fails says why in one sentence, and the others go on. What a former call began and did not finish comes
    last, so that a job that ends the whole process cannot keep the others from being done.
    """
    failed, left, notes = [], [], setting.notes
    for job in sorted(jobs, key=lambda job: notes.get("began", job.name) or 0):
        if job.is_done():
            continue
        if setting.clock.left < job.expected_seconds(setting):
            left.append(job.name)
            continue
        notes.put("began", job.name, (notes.get("began", job.name) or 0) + 1)
        try:
            started = time.monotonic()
            words = job.run()
            seconds = time.monotonic() - started
            print(f"{job.name}: {words} ({seconds:.0f} s)", flush=True)
        except Exception as error:
            print(f"{job.name} failed: {sentence(error)}", flush=True)
            failed.append(job.name)
        else:
            notes.put("began", job.name, None)
            notes.put("seconds", job.kind or job.name, seconds)
        tidy(setting, keeps_compiled=job.keeps_compiled)
        after()
    return failed, left


def tidy(setting, *, keeps_compiled=False):
    """Give back what a job held on the device. Raises OSError if the GPU does not work any more."""
    if not setting.on_cuda:
        return
    gc.collect()
    if execution.compiled.cache_info().currsize and not keeps_compiled:
        torch.compiler.reset()  # it compiles a function for a few kinds of arguments only, then no more
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        raise OSError(f"the GPU does not answer any more ({sentence(error)}); call again for the rest") from error
    with suppress(RuntimeError):  # after a recording that failed torch gives nothing back any more
        torch.cuda.empty_cache()


class Notes:
    """What to remember, by topic and name, in a file: jobs begun and not finished, the seconds that they took, ..."""

    def __init__(self, path):
        self.path, self.content = path, {}
        with suppress(OSError, ValueError):
            self.content = json.loads(path.read_text())

    def get(self, topic, name):
        """What was noted, or None."""
        return self.content.get(topic, {}).get(name)

    def put(self, topic, name, value):
        """Note ``value``, which JSON can hold; None forgets it."""
        self.content.setdefault(topic, {})[name] = value
        if value is None:
            del self.content[topic][name]
        write_json(self.path, self.content)


def sentence(error):
    """Kind and first line of an error."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else ""
    return text if isinstance(error, Failed) else f"{type(error).__name__}: {text}"
