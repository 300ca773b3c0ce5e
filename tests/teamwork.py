"""What the processes of the parallel tests run; here, because new processes have to import it."""

import os
import signal
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from problems import random_batch, small_disc

import gleam
from gleam import fourier
from gleam.strategies.updates import parameters_by_module
from gleam.training.identity import weights_digest

SETTINGS = {"n_steps": 12, "batch_size": 3, "validate_every": 4, "learning_rate": 3e-3}


class Noisy(torch.nn.Module):
    """A network with a learned start, dropout and running statistics, as somebody else may bring."""

    def __init__(self, n_iterations=4):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(0.9))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.iterations = torch.nn.ModuleList(NoisyIteration() for _ in range(n_iterations))

    def start(self, batch):
        return self.gain * batch.zero_filled


class NoisyIteration(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = torch.nn.Sequential(
            torch.nn.Conv2d(2, 4, 3, padding=1),
            torch.nn.BatchNorm2d(4),
            torch.nn.Dropout(0.3),
            torch.nn.Conv2d(4, 2, 1),
        )

    def forward(self, x, batch):
        x = x - batch.sense.normal(x) + batch.zero_filled
        return x + 0.1 * torch.view_as_complex(
            self.mix(torch.view_as_real(x).movedim(-1, 1)).movedim(1, -1).contiguous()
        )


class KspaceNetwork(torch.nn.Module):
    """Iterates of k-space beside a state, and learned maps: all that the protocol allows."""

    def __init__(self, n_iterations=4, dropout=0.2):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.to_maps = torch.nn.Conv2d(2, 2, 3, padding=1)
            self.iterations = torch.nn.ModuleList(KspaceIteration(dropout) for _ in range(n_iterations))

    def setup(self, batch):
        maps = batch.sens_maps.flatten(0, 1)
        maps = maps + 0.1 * torch.view_as_complex(
            self.to_maps(torch.view_as_real(maps).movedim(-1, 1)).movedim(1, -1).contiguous()
        )
        maps = maps.view_as(batch.sens_maps)
        return replace(batch, sens_maps=maps / maps.abs().square().sum(1, keepdim=True).sqrt())

    def start(self, batch):
        return {"kspace": batch.kspace, "state": (torch.zeros(len(batch), 1),)}

    def image(self, x, batch):
        return (batch.sens_maps.conj() * fourier.ifft2(x["kspace"])).sum(1)


class LearnedImage(KspaceNetwork):
    """With weights that every module's image needs."""

    def __init__(self, n_iterations=4, dropout=0.0):
        super().__init__(n_iterations, dropout)
        self.gain = torch.nn.Parameter(torch.tensor(1.1))

    def image(self, x, batch):
        return self.gain * super().image(x, batch)


class KspaceIteration(torch.nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.5))
        self.refine = torch.nn.Sequential(
            torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.Dropout(dropout), torch.nn.Conv2d(4, 2, 1)
        )

    def forward(self, x, batch):
        (state,) = x["state"]
        image = (batch.sens_maps.conj() * fourier.ifft2(x["kspace"])).sum(1)
        change = self.refine(torch.view_as_real(image).movedim(-1, 1)).movedim(1, -1).contiguous()
        change = fourier.fft2(batch.sens_maps * torch.view_as_complex(change)[:, None])
        kspace = x["kspace"] - self.weight * batch.mask * (x["kspace"] - batch.kspace) + 0.1 * change
        return {"kspace": kspace + 0 * state.sum(), "state": (state + 1,)}


def repeated(n_iterations):
    """A network whose modules use an iteration twice."""
    network = gleam.unrolled.pgd(n_iterations, 4, seed=1)
    for i in range(0, n_iterations, 2):
        network.iterations[i + 1] = network.iterations[i]
    return network


def partly_frozen(n_iterations):
    """A network with weights that are not trained."""
    network = gleam.unrolled.pgd(n_iterations, 4, seed=1)
    for iteration in network.iterations:
        iteration.denoiser.body[0].requires_grad_(False)
    return network


def train_steps(make, strategy, sizes, n_steps=5):
    """Weights of each module, as a list of tensors, after ``n_steps`` on random batches of these sizes."""
    network = make()
    groups = parameters_by_module(strategy, network)
    optimizers = [torch.optim.Adam(group, lr=1e-2, weight_decay=1e-4) for group in groups]
    losses = [strategy.step(network, random_batch(n=sizes[k % len(sizes)], seed=k), optimizers) for k in range(n_steps)]
    owned = strategy.mine(network)
    own = {m: [losses[-1][m].item(), *optimizers[m].param_groups[0]["params"]] for m in owned}
    if hasattr(strategy, "finish"):
        strategy.finish()
        own = strategy.team.merge(own)
    return [[torch.as_tensor(value).detach() for value in own[m]] for m in sorted(own)]


def train_cases(cases):
    """:func:`train_steps` for each of ``cases``, in one go, since processes are slow to start."""
    return [train_steps(*case) for case in cases]


class Deadly:
    """Training data that are the end of process 1 at step 6, once: by the signal or the exception given."""

    def __init__(self, data, end, marker):
        self.data, self.end, self.marker = data, end, marker
        self.fingerprint = data.fingerprint

    def training_batch(self, step, batch_size, seed):
        if step == 6 and os.environ.get("RANK") == "1" and not self.marker.exists():
            self.marker.touch()
            if isinstance(self.end, Exception):
                raise self.end
            os.kill(os.getpid(), self.end)
            time.sleep(60)
        return self.data.training_batch(step, batch_size, seed)


def splits(folder):
    """(train, val) of the prepared files train0.h5 and val0.h5 in ``folder``."""
    make_mask = partial(small_disc, acceleration=3)
    files = {name: (Path(folder) / f"{name}0.h5",) for name in ("train", "val")}
    return [gleam.datasets.Slices(name, files[name], make_mask, 4, i) for i, name in enumerate(files)]


def main(folder, end, n_replicas=1):
    """Train under torchrun; ``end``: nothing, the name of a signal, or the message of an exception."""
    train, val = splits(folder)
    if end:
        end = getattr(signal, end) if hasattr(signal, end) else ValueError(end)
        train = Deadly(train, end, Path(folder) / "marker")
    network, strategy = Noisy(), gleam.ParallelGreedy(4, n_replicas=int(n_replicas))
    fit = gleam.fit(network, train, val, strategy, run_dir=Path(folder) / "run", **SETTINGS)
    print(f"done {os.environ['RANK']} {fit.n_steps_done} {fit.best_nrmse!r} {weights_digest(network)}\n", end="")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
