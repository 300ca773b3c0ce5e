"""What a researcher's script does, with code of its own and without `if __name__ == "__main__":`; for test_pool.py."""

import signal
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from problems import small_disc, write_prepared
from raw_files import relative_maps

import gleam
from gleam.datasets import Slices, fastmri, prepare
from gleam.strategies.base import WholeNetwork
from gleam.training.identity import weights_digest

signal.signal(signal.SIGINT, signal.default_int_handler)  # tests may run in the background, where it is ignored
torch.set_num_threads(1)
work, folder = sys.argv[1], Path(sys.argv[2])


class Doubled(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, batch):
        return 2 * self.inner(x, batch)


source = "class Halved(Doubled):\n    def forward(self, x, batch):\n        return 0.25 * super().forward(x, batch)"
exec(source, made := {"__name__": "__main__", "Doubled": Doubled})


@dataclass(frozen=True)
class Plain(WholeNetwork):
    def propagate(self, iterations, x, batch):
        for iteration in iterations:
            x = iteration(x, batch)
        return x


def disc(shape, *, seed):
    return small_disc(shape, seed=seed, acceleration=3)


def maps(kspace):
    return relative_maps(kspace)


def slow_maps(kspace, *, n_slow):
    """Waits for ever, except for small slices."""
    while kspace.shape[-1] >= n_slow:
        time.sleep(0.01)
    return relative_maps(kspace)


files = {name: (write_prepared(folder / f"{name}.h5", seed=i),) for i, name in enumerate(("train", "val"))}


def runs(n_steps, run_dir):
    train, val = (Slices(name, files[name], disc, 2, i) for i, name in enumerate(files))
    shared = {"train": train, "val": val, "strategy": Plain(), "run_dir": run_dir, "batch_size": 1}
    found = {}
    for i, n in enumerate(n_steps):
        network = gleam.unrolled.pgd(2, 2, seed=i)
        network.iterations[1] = made["Halved"](Doubled(network.iterations[1]))
        found[i] = {"network": network, "n_steps": n, "validate_every": min(n, 10), **shared}
    return found


def names(run_dir):
    return sorted(path.parent.name for path in run_dir.glob("*/checkpoint.safetensors"))


raw = sorted(folder.glob("raw/*.h5"))
if work == "both":
    digests = []
    for n_jobs in (2, 1):
        given = runs([4, 4], folder / str(n_jobs))
        gleam.fit_all(given, n_jobs=n_jobs)
        written = prepare.prepare(raw, read=fastmri.read, calibrate=maps, cache_dir=folder / str(n_jobs), n_jobs=n_jobs)
        found = [weights_digest(one["network"]) for one in given.values()]
        digests.append([*found, *names(folder / str(n_jobs)), *((path.name, path.read_bytes()) for path in written)])
    one = runs([4], folder / "parallel")[0]
    gleam.fit_parallel(**one | {"strategy": gleam.ParallelGreedy(2)}, n_processes=2)
    same = runs([4], folder / "one")[0]
    gleam.fit(**same | {"strategy": gleam.Greedy(2)})
    digests[0].append(weights_digest(one["network"]))
    digests[1].append(weights_digest(same["network"]))
    print("equal" if digests[0] == digests[1] and len(digests[0]) == 5 + len(raw) else digests)
elif work == "parallel":
    given = runs([10**6], folder)[0] | {"strategy": gleam.ParallelGreedy(2)}
    gleam.fit_parallel(**given, n_processes=2)
elif work == "alone":
    gleam.fit_all(runs([10**6], folder), n_jobs=1)
elif work == "training":
    gleam.fit_all(runs([10, *[10**6] * 4], folder), n_jobs=2, on_done=lambda key, *_: (folder / f"done{key}").touch())
else:
    slow = partial(slow_maps, n_slow=20)
    prepare.prepare(raw, read=fastmri.read, calibrate=slow, cache_dir=folder, n_jobs=2)
