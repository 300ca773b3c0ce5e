"""The same unrolled networks, PGD and MoDL, in what a user would pick instead of GLEAM.

Each of :data:`PEERS` takes a network of :mod:`gleam.unrolled` and a batch and returns (module, image): ``module`` holds
the weights, copied from the network, and ``image()`` is its reconstruction, complex (batch, y, x), of the batch.
"""

import sys
import warnings
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from gleam.networks.unrolled import MoDLIteration
from gleam.physics.fourier import fft2c, fftshift2, ifft2

FOLDER = Path(__file__).parents[1] / ".venv" / "peers"  # where `make benchmark` installs the other programs


class NotInstalled(Exception):
    """A program that cannot be imported; the message says why."""


# --- the CNNs, as one writes them in plain PyTorch; names as in gleam.networks.denoisers, so that weights can be copied


class Residual(nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.skip = nn.Identity() if n_in == n_out else nn.Conv2d(n_in, n_out, 1)
        self.before, self.between = nn.ReLU(), nn.ReLU(inplace=True)
        self.first = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
        self.second = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)

    def forward(self, x):
        return self.skip(x) + self.second(self.between(self.first(self.before(x))))


class ResidualCNN(nn.Module):
    """Two real channels to two real channels; ``sigma`` is what deepinv passes to a denoiser.

    Channels that are a view of complex numbers would take all layers to the channels-last format. In fp32 and for
    multiples of 16 features that is slower on a CPU, so they are copied; :func:`in_bf16` asks for that format.
    """

    layout = torch.contiguous_format

    def __init__(self, n_features):
        super().__init__()
        self.body = nn.Sequential(
            Residual(2, n_features), Residual(n_features, n_features), nn.Conv2d(n_features, 2, 3, padding=1)
        )

    def forward(self, x, sigma=None):
        return x + self.body(x.contiguous(memory_format=self.layout))


class PlainCNN(nn.Module):
    layout = torch.contiguous_format

    def __init__(self, n_features):
        super().__init__()
        widths = [2, *[n_features] * 4, 2]
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in pairwise(widths))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x, sigma=None):
        channels = self.layers[0](x.contiguous(memory_format=self.layout))
        for layer in self.layers[1:]:
            channels = layer(self.relu(channels))
        return x + channels


class OnComplex(nn.Module):
    """A CNN of two real channels, on complex images (batch, y, x)."""

    def __init__(self, cnn):
        super().__init__()
        self.cnn = cnn

    def forward(self, x):
        channels = self.cnn(torch.view_as_real(x).permute(0, 3, 1, 2))
        return torch.view_as_complex(channels.permute(0, 2, 3, 1).contiguous())


def is_modl(network):
    return isinstance(network.iterations[0], MoDLIteration)


def cnns(network):
    """One CNN per iteration, with the network's weights."""
    make, found = PlainCNN if is_modl(network) else ResidualCNN, []
    for iteration in network.iterations:
        weights = iteration.denoiser.state_dict()
        first = next(iter(weights.values()))
        cnn = make(first.shape[0])  # as many features as the first layer makes
        cnn.load_state_dict(weights)
        found.append(cnn.to(first.device))
    return found


def centred(batch):
    """(k-space, mask) with the zero frequency in the middle, as other programs expect them."""
    return fft2c(ifft2(batch.kspace)), fftshift2(batch.mask.expand(-1, -1, *batch.kspace.shape[2:]))


# --- plain PyTorch


class PlainUnrolled(nn.Module):
    """Centred transforms with their shifts, and the normal operator as A^H (A x), as such code usually has them."""

    def __init__(self, network):
        super().__init__()
        self.cnns = nn.ModuleList(OnComplex(cnn) for cnn in cnns(network))
        first = network.iterations[0]
        self.settings = (first.mu, first.n_cg) if is_modl(network) else first.step_size
        self.iterate = self.modl if is_modl(network) else self.pgd

    def forward(self, kspace, mask, maps):
        def forward_operator(x):
            return mask * fft2_shifted(maps * x[:, None])

        def adjoint(y):
            return (maps.conj() * ifft2_shifted(mask * y)).sum(1)

        x = adjoint(kspace)
        for cnn in self.cnns:
            x = self.iterate(cnn, x, kspace, forward_operator, adjoint)
        return x

    def pgd(self, cnn, x, kspace, forward_operator, adjoint):
        return cnn(x - self.settings * adjoint(forward_operator(x) - kspace))

    def modl(self, cnn, x, kspace, forward_operator, adjoint):
        mu, n_cg = self.settings
        # (A^H A + mu) x = A^H y + mu z, begun at the iterate before
        right = adjoint(kspace) + mu * cnn(x)
        return plain_conjugate_gradient(lambda v: adjoint(forward_operator(v)) + mu * v, right, x, n_cg)


def fft2_shifted(x):
    x = torch.fft.ifftshift(x, dim=(-2, -1))
    return torch.fft.fftshift(torch.fft.fft2(x, norm="ortho"), dim=(-2, -1))


def ifft2_shifted(y):
    y = torch.fft.ifftshift(y, dim=(-2, -1))
    return torch.fft.fftshift(torch.fft.ifft2(y, norm="ortho"), dim=(-2, -1))


def plain_conjugate_gradient(operator, b, x, n_iterations):
    r = b - operator(x)
    p, rr = r, energy(r, r)
    for _ in range(n_iterations):
        image = operator(p)
        step = rr / energy(p, image)
        x, r = x + step * p, r - step * image
        new = energy(r, r)
        p, rr = r + new / rr * p, new
    return x


def energy(a, b):
    return (a.conj() * b).real.sum(dim=(1, 2), keepdim=True)


def plain(network, batch):
    module, (kspace, mask) = PlainUnrolled(network), centred(batch)
    return module, lambda: module(kspace, mask, batch.sens_maps)


# --- deepinv


def deepinv(network, batch, **options):
    """Its PGD, or half-quadratic splitting, which is what its MoDL is, with a CNN of its own for every iteration."""
    library = imported("deepinv")
    kspace, mask = centred(batch)
    first = network.iterations[0]
    settings = {
        "data_fidelity": library.optim.data_fidelity.L2(), "max_iter": len(network.iterations), "unfold": True,
        "prior": [library.optim.prior.PnP(denoiser=cnn) for cnn in cnns(network)], "trainable_params": [],
    }  # fmt: skip
    if is_modl(network):
        options = {"max_iter": first.n_cg, "tol": 1e-6, "implicit_backward_solver": False} | options
        module = library.optim.HQS(stepsize=1 / first.mu, g_first=True, **settings)
    else:
        module = library.optim.PGD(stepsize=first.step_size, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that few steps make an inexact implicit gradient
        physics = library.physics.MultiCoilMRI(
            mask=mask.expand(-1, 2, -1, -1), coil_maps=batch.sens_maps, device=mask.device, **options
        )
    measured = torch.view_as_real(kspace).moveaxis(-1, 1).contiguous()  # (batch, 2, coil, y, x)
    return module, lambda: physics.to_torch_complex(module(measured, physics))


def deepinv_implicit(network, batch):
    """As :func:`deepinv`, but with the gradient of the solver that is its default: by a second solve."""
    return deepinv(network, batch, implicit_backward_solver=True)


# --- mrpro


class MRproUnrolled(nn.Module):
    """Images (batch, 1 coil, 1 z, y, x); the normal operator masks once, since M^H M = M."""

    def __init__(self, network, batch):
        super().__init__()
        operators = imported("mrpro").operators
        self.cnns = nn.ModuleList(OnComplex(cnn) for cnn in cnns(network))
        # its arrays are 3D: z has size 1
        kspace, mask = (x.unsqueeze(2) for x in centred(batch))
        sensitivity = operators.SensitivityOp(batch.sens_maps.unsqueeze(2))
        fourier, masking = operators.FastFourierOp(dim=(-2, -1)), operators.CartesianMaskingOp(mask)
        encoding = fourier @ sensitivity
        self.normal, self.adjoint, self.kspace = encoding.H @ masking @ encoding, encoding.H @ masking, kspace
        first = network.iterations[0]
        if is_modl(network):
            self.solve = operators.ConjugateGradientOp(
                lambda z, start: self.normal + first.mu, lambda z, start: (start + first.mu * z,),
                implicit_backward=False, tolerance=1e-6, max_iterations=first.n_cg,
            )  # fmt: skip
        self.iterate = self.modl if is_modl(network) else self.pgd
        self.step_size = getattr(first, "step_size", None)

    def forward(self):
        (start,) = self.adjoint(self.kspace)
        x = start
        for cnn in self.cnns:
            x = self.iterate(cnn, x, start)
        return x[:, 0, 0]

    def pgd(self, cnn, x, start):
        return self.denoise(cnn, x - self.step_size * (self.normal(x)[0] - start))

    def modl(self, cnn, x, start):
        return self.solve(self.denoise(cnn, x), start, initial_value=(x,))[0]

    @staticmethod
    def denoise(cnn, x):
        return cnn(x[:, 0, 0])[:, None, None]


def mrpro(network, batch):
    module = MRproUnrolled(network, batch)
    return module, module


def in_bf16(module, image):
    """``image`` as one gets it faster without GLEAM: under autocast, CNNs and their weights with channels last."""
    for part in module.modules():
        if isinstance(part, ResidualCNN | PlainCNN):
            part.to(memory_format=torch.channels_last)
            part.layout = torch.channels_last

    def faster():
        with torch.autocast(next(module.parameters()).device.type, torch.bfloat16):
            return image()

    return faster


PEERS = {"plain PyTorch": plain, "deepinv": deepinv, "mrpro": mrpro}


def imported(name):
    """The package ``name`` of the other programs' folder, or :class:`NotInstalled` with the reason.

    The folder comes last, so that nothing in it takes the place of what is installed.
    """
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    try:
        import_torchvision()
        return import_module(name)
    except Exception as error:  # another program, another version: whatever it raises, the others are compared
        raise NotInstalled(f"{type(error).__name__}: {error}") from error


def import_torchvision():
    """Import torchvision where its compiled part does not fit this torch, as the one on PyPI does not fit a CPU build.

    Then only its Python part is there, and its import fails at the names of two operators it expects from the compiled
    part. They are declared, without any code: no program of this benchmark calls them.
    """
    try:
        import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import_torchvision.library = library  # an operator lives as long as its library
        import_module("torchvision")
