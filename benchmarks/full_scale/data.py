"""The simulated data sets, made when they are needed, on the device, one kind at a time."""

import gc
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

from full_scale.jobs import Job, work_through
from gleam.phantoms import simulated


class Data:
    """``data[kind, acceleration]`` is (train, val, test) of "knees", "brains" or "hearts", all resident on the device.

    Asking for another kind lets go of the one before: two do not fit into one GPU. Accelerations share their arrays.
    """

    def __init__(self, setting):
        self.setting, self.kind, self.sets = setting, None, {}

    def __getitem__(self, key):
        kind, acceleration = key
        if kind != self.kind:
            self.kind, self.sets = kind, {}
            gc.collect()  # a set refers to itself
        if acceleration not in self.sets:
            drawn = next(iter(self.sets.values()), None) or self._draw(kind, acceleration)
            self.sets[acceleration] = tuple(_under_masks(part, acceleration) for part in drawn)
        return self.sets[acceleration]

    def _draw(self, kind, acceleration):
        setting = self.setting
        return getattr(simulated, kind)(
            **setting.sizes.data(kind),
            acceleration=acceleration,
            device=setting.device,
            cache_dir=setting.work / "masks",
        )

    @staticmethod
    def has(*packages):
        """Whether all of these packages are installed here."""
        return all(find_spec(package) for package in packages)

    def can_make(self, kind):
        """Whether ``kind`` can be made here: brains are drawn on an atlas that nilearn brings."""
        return kind != "brains" or self.has("nilearn")

    def get_ready(self, kind, accelerations):
        """Make what is missing, one job for each; (names of failures, names of what there is no time for)."""
        jobs = [self._job(kind, acceleration) for acceleration in dict.fromkeys(accelerations)]
        return work_through(jobs, self.setting)

    def _job(self, kind, acceleration):
        return Job(
            f"data, {kind}, R = {acceleration}", self.setting.sizes.seconds.get("data", 0),
            partial(self._load, kind, acceleration), lambda: kind == self.kind and acceleration in self.sets,
        )  # fmt: skip

    def _load(self, kind, acceleration):
        return ", ".join(f"{part.name} {len(part)}" for part in self[kind, acceleration])


def _under_masks(part, acceleration):
    """The same images under masks of another ``acceleration``, nothing copied."""
    return replace(part, make_mask=partial(part.make_mask, acceleration=acceleration))
