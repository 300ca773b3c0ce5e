"""Computations that are done twice, on two devices or in two ways, to be compared: what `checks` lists.

Each takes ``at``, where and how large, and returns a list of tensors.
"""

import copy
import tempfile
from dataclasses import dataclass, fields, replace

import torch
from problems import random_batch

import gleam
from gleam import EndToEnd, Fast, Greedy, execution, metrics
from gleam.networks.unrolled import modl, pgd
from gleam.physics.solvers import conjugate_gradient
from gleam.strategies.parallel import spread
from gleam.strategies.updates import optimizers, parameters_by_module, set_learning_rate
from gleam.training.evaluation import SCORES, reconstruct

N_STEPS = 8


@dataclass(frozen=True)
class At:
    """On which ``device``, and how large: ``shapes`` by kind, "2D" and "2D + time", ``n_features`` of the networks.

    The number of features should be no multiple of 8, as the paper's 100 and 70 are none.
    """

    device: str
    shapes: dict
    n_features: int

    @property
    def on_cpu(self):
        """The same on the CPU."""
        return replace(self, device="cpu")

    def batch(self, kind="2D", seed=0):
        """Two random images."""
        *frames, n_y, n_x = self.shapes[kind]
        return random_batch(2, 4, (n_y, n_x), n_frames=frames[0] if frames else None, seed=seed).to(self.device)

    def network(self, name, n_iterations=3):
        """One of the networks "PGD", "MoDL", "MoDL, a contraction" and "PGD, 2D + time", untrained, on the CPU."""
        if name.startswith("MoDL"):
            return modl(n_iterations, self.n_features, mu=0.5, lipschitz=0.9 if name.endswith("contraction") else None)
        return pgd(n_iterations, self.n_features, n_dims=3 if name.endswith("time") else 2)


def relative_error(values, truth):
    """Norm of the difference of two lists of tensors over that of the second, on the CPU in double precision."""
    values, truth = ([t.detach().to("cpu", torch.complex128).flatten() for t in ts] for ts in (values, truth))
    values, truth = torch.cat(values), torch.cat(truth)
    return float(torch.linalg.vector_norm(values - truth) / torch.linalg.vector_norm(truth))


def directions(tensors):
    """Each tensor divided by its norm, on the CPU: small ones then count as much as large ones."""
    return [t.detach().cpu() / torch.linalg.vector_norm(t.detach().cpu()) for t in tensors]


def operator(at, kind, name):
    """``name``, a method of :class:`gleam.physics.Sense`, of a random image or k-space."""
    batch = at.batch(kind)
    return [getattr(batch.sense, name)(batch.kspace if name == "adjoint" else batch.target)]


def solution(at, kind):
    """Ten steps of conjugate gradients, and the gradient of a loss with respect to the right side."""
    batch = at.batch(kind)
    right = batch.zero_filled.clone().requires_grad_()
    x = conjugate_gradient(lambda v: batch.sense.normal(v) + 0.05 * v, right, n_iterations=10)
    return directions([x, *torch.autograd.grad(metrics.complex_l1(x, batch.target), [right])])


def cnn(at, kind, make):
    """The image of a CNN in fp32, and the gradients of its weights."""
    batch = at.batch(kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = make(at.n_features, n_dims=len(at.shapes[kind])).to(at.device)
    with execution.using("fp32", device_type=torch.device(at.device).type):
        image = network(batch.target)
        gradients = torch.autograd.grad(metrics.complex_l1(image, batch.zero_filled), list(network.parameters()))
    return directions([image, *gradients])


def scores(at):
    """The scores of a random image that are numbers of order 1; PSNR follows from nRMSE."""
    batch = at.batch()
    return [score(batch.zero_filled, batch.target) for name, score in SCORES.items() if name != "psnr"]


def reconstruction(at):
    """An image as evaluation makes it."""
    return [reconstruct(at.network("PGD").to(at.device), at.batch())]


def _kind(name):
    """Of the images that the network ``name`` takes."""
    return "2D + time" if name.endswith("time") else "2D"


class Gradients:
    """Stands in for an optimizer: keeps the gradients of its step and leaves the weights alone."""

    def __init__(self, parameters):
        self.param_groups, self.found = [{"params": parameters}], []

    def step(self):
        """Keep the gradients."""
        self.found = [p.grad.detach().clone() for p in self.param_groups[0]["params"]]

    def zero_grad(self, set_to_none=True):
        """Free them."""
        for p in self.param_groups[0]["params"]:
            p.grad = None


def gradients(at, strategy, name="MoDL", *, network=None, devices=None, **options):
    """Losses of one step in fp32, and the direction of each module's gradient; ``options``: of :class:`gleam.Fast`."""
    network = copy.deepcopy(network or at.network(name)).to(at.device).train()
    if devices:
        spread(network, strategy, devices)
    keepers = [Gradients(group) for group in parameters_by_module(strategy, network)]
    fast = Fast(strategy, "fp32", captured=False, **{"channel_multiple": 1} | options)
    losses = fast.step(network, at.batch(_kind(name)), keepers)
    by_module = [torch.cat([g.cpu().flatten() for g in keeper.found]) for keeper in keepers]
    return [torch.stack([loss.cpu() for loss in losses]), *directions(by_module)]


def update(at):
    """Change of weights by five steps of the optimizer that :func:`gleam.fit` uses, for given gradients."""
    network, generator = at.network("PGD").to(at.device), torch.Generator().manual_seed(0)
    before = [p.detach().clone() for p in network.parameters()]
    (adam,) = optimizers(EndToEnd(), network, learning_rate=1e-3, weight_decay=1e-4)
    for i in range(5):
        set_learning_rate(adam, 1e-3 / (i + 1))
        for p in network.parameters():
            p.grad = torch.randn(p.shape, generator=generator).to(at.device)
        adam.step()
    return [p.detach() - q for p, q in zip(network.parameters(), before, strict=True)]


def training(at, fast, name="PGD"):
    """(Losses, change of weights) of some steps on three batches in turn; one of them smaller, and the rate falls."""
    network = at.network(name).to(at.device).train()
    before = [p.detach().clone() for p in network.parameters()]
    adams = optimizers(fast, network, learning_rate=1e-3, weight_decay=1e-4)
    batches, losses = [at.batch(_kind(name), seed) for seed in range(3)], []
    for i in range(N_STEPS):
        for adam in adams:
            set_learning_rate(adam, 1e-3 if i < 5 else 1e-4)
        batch = batches[i % 3] if i != 6 else batches[i % 3].part(0, 2)
        losses += fast.step(network, batch, adams)
    return losses, [p.detach() - q for p, q in zip(network.parameters(), before, strict=True)]


def _knees(at):
    sizes = {"n_train": 1, "n_val": 1, "n_test": 1, "n_slices": 4, "matrix": (32, 32), "n_coils": 4}
    options = {"acceleration": 3, "n_calibration": 4, "n_masks": 4, "n_jobs": 1, "device": at.device}
    return gleam.phantoms.simulated.knees(**sizes, **options)


def batches(at):
    """Two mini-batches of simulated knees."""
    train, _, _ = _knees(at)
    made = [train.training_batch(step, 2, seed=0) for step in range(2)]
    return [getattr(batch, field.name) for batch in made for field in fields(batch)]


def stopped(at, *, max_seconds):
    """Weights after a training that returns at each validation once ``max_seconds`` are over, and goes on."""
    train, val, _ = _knees(at)
    network = at.network("PGD")
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            network.load_state_dict(at.network("PGD").state_dict())
            gleam.fit(
                network, train, val, Fast(Greedy(3), "fp32"), n_steps=10, validate_every=5, batch_size=2,
                run_dir=folder, device=at.device, learning_rate=1e-3, max_seconds=max_seconds,
            )  # fmt: skip
    return [p.detach() for p in network.parameters()]
