"""The numbers of a run: those of the chapters with one of their profiles, or "tiny" for a dry run on a CPU."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import yaml

from gleam import fourier, physics
from gleam.training import experiments

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
FILES = {path.stem: path for folder in (NOTEBOOKS, Path(__file__).parent) for path in sorted(folder.glob("*.yaml"))}
# of each kind of data: its phantom, the chapter, and what the masks take from there
DATA = {
    "knees": ("knee", "04_mridata", "n_calibration"),
    "brains": ("brain", "05_fastmri", "center_fraction"),
    "hearts": ("heart", "06_cine", "n_center"),
}
# of each network that is timed, how the names of its experiments begin
CASES = {"pgd2d": "mridata_pgd", "modl2d": "mridata_modl", "pgd2d_brain": "fastmri_pgd", "pgd3d": "cine_pgd",
         "modl3d": "cine_modl"}  # fmt: skip


@dataclass(frozen=True)
class Profile:
    """A profile of notebooks/*.yaml, or tiny.yaml, with a seed as `make reproduce SEED=n` sets it."""

    name: str
    seed: int = 0

    @property
    def is_tiny(self):
        """Whether this is the dry run."""
        return self.name == "tiny"

    @cached_property
    def parameters(self):
        """What the chapters with tables of the paper get, by name, and "phantoms"; read without what runs notebooks."""
        settings = yaml.safe_load(FILES[self.name].read_text(encoding="utf-8"))
        seed, found = {"seed": self.seed}, {}
        for _, chapter, _ in DATA.values():
            cells = json.loads((NOTEBOOKS / f"{chapter}.ipynb").read_text(encoding="utf-8"))["cells"]
            source = next("".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", []))
            declared = {}
            exec(source, {}, declared)  # assignments of literals
            given = settings["common"] | settings.get(chapter, {}) | seed
            found[chapter] = declared | {name: value for name, value in given.items() if name in declared}
        return found | {"phantoms": {name: one | seed for name, one in settings["phantoms"].items()}}

    @cached_property
    def experiments(self):
        """The paper's experiments by name, the most informative first."""
        return {one.name: one for one in experiments.of_chapters(self.parameters)}

    def case(self, name):
        """The first experiment of one of :data:`CASES`."""
        return next(one for one in self.experiments.values() if one.name.startswith(CASES[name]))

    def phantoms(self, kind):
        """Arguments of the function of :mod:`gleam.phantoms.simulated` for "knees", "brains" or "hearts"."""
        phantom, chapter, of_masks = DATA[kind]
        return self.parameters["phantoms"][phantom] | {of_masks: self.parameters[chapter][of_masks]}

    def describe(self, experiment):
        """What records say about the network of an experiment and the batches that it is trained on."""
        phantom, make = self.phantoms(experiment.data), experiment.make_network
        frames = [phantom["n_frames"]] if experiment.data == "hearts" else []
        n_coils = phantom["n_coils"] if isinstance(phantom["n_coils"], int) else max(phantom["n_coils"])
        sizes = {"batch_size": experiment.training["batch_size"], "n_coils": n_coils}
        options = {name: value for name, value in make.keywords.items() if name != "seed"}
        return sizes | {"matrix": [*frames, *phantom["matrix"]], "network": make.func.__name__} | options

    def batch(self, experiment, acceleration=4):
        """A mini-batch of random images under random masks, which cost as much as any other."""
        sizes, generator = self.describe(experiment), torch.Generator().manual_seed(0)
        n, shape, normal = sizes["batch_size"], sizes["matrix"], {"dtype": torch.complex64, "generator": generator}
        target = torch.randn(n, *shape, **normal)
        maps = torch.randn(n, sizes["n_coils"], *[1] * (len(shape) - 2), *shape[-2:], **normal)
        maps /= maps.abs().square().sum(1, keepdim=True).sqrt()
        mask = torch.rand(n, 1, *shape, generator=generator) < 1 / acceleration
        return physics.Batch.undersample(fourier.fft2(maps * target[:, None]), mask, maps, target)
