"""Networks of other packages, so that every strategy trains them.

| network | adapter | what an iteration is |
|:--|:--|:--|
| `fastmri.models.VarNet`, MONAI's `VariationalNetworkModel` | :func:`varnet` | a cascade, on the k-space of all coils |
| deepinv: PGD, HQS and the like with `unfold=True`, `unfolded_builder` | :func:`unfolded` | one of theirs |
| blocks with operators of mrpro | :func:`mrpro_blocks` | a block, on images (batch, 1, 1, y, x) |
| blocks of complex images (batch, [time,] y, x) | :func:`blocks` | a block |
| CNNs of two channels (batch, 2, [time,] y, x), as in `monai.networks.nets` or `deepinv.models` | :func:`channel_blocks` | a CNN |
| CNNs of pairs (batch, 1, y, x, 2): MONAI's `ComplexUnet`, fastMRI's `NormUnet` | :func:`pair_blocks` | a CNN |

An adapter holds the modules themselves, not copies: training it trains the network it was made of, and weights loaded
into one are loaded into both. Iterations that share weights train in one module only, end to end or checkpointed.
"""  # noqa: E501  (a table)

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from gleam.files import digest, named
from gleam.networks import protocol
from gleam.networks.blocks import blocks, centred, channel_blocks, encoding, mrpro_blocks, once, pair_blocks
from gleam.networks.unrolled import Unrolled
from gleam.physics.batch import Batch

__all__ = [
    "blocks",
    "centred",
    "channel_blocks",
    "encoding",
    "mrpro_blocks",
    "multicoil",
    "pair_blocks",
    "unfolded",
    "varnet",
]


# --- VarNets


@dataclass(frozen=True)
class _VarNetBatch(Batch):
    """A batch, and its k-space (batch, coil, y, x, 2), mask and learned maps as cascades take them."""

    given: tuple[Tensor, Tensor, Tensor]

    def to(self, device):
        return self if torch.device(device) == self.target.device else protocol.mapped(lambda t: t.to(device), self)


class _Cascade(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x, batch):
        return self.block(x, *batch.given)


class _VarNet(Unrolled):
    """fastMRI's VarNet: what its `forward` does, in parts."""

    def __init__(self, cascades, to_maps):
        super().__init__(_Cascade(cascade) for cascade in cascades)
        self.to_maps = to_maps

    def setup(self, batch):
        if batch.kspace.ndim != 4:
            raise ValueError(f"a VarNet takes slices (batch, coil, y, x), not k-space {tuple(batch.kspace.shape)}")
        kspace, mask = centred(batch)
        kspace, mask = torch.view_as_real(kspace), mask.bool()[..., None]
        given = kspace, mask, self.to_maps(kspace, mask)
        return _VarNetBatch(*(getattr(batch, f.name) for f in fields(Batch)), given)

    def start(self, batch):
        return batch.given[0]

    def image(self, x, batch):
        import fastmri

        return fastmri.rss(fastmri.complex_abs(fastmri.ifft2c(x)), dim=1)


class _MonaiVarNet(_VarNet):
    """MONAI's, whose root sum of squares has another gradient in the last bit."""

    def image(self, x, batch):
        from monai.apps.reconstruction.complex_utils import complex_abs_t
        from monai.apps.reconstruction.mri_utils import root_sum_of_squares_t
        from monai.networks.blocks.fft_utils_t import ifftn_centered_t

        return root_sum_of_squares_t(complex_abs_t(ifftn_centered_t(x, spatial_dims=2)), spatial_dim=1)


class _FastMRIMaps(nn.Module):
    """fastMRI's model of the maps."""

    def __init__(self, model, n_low_frequencies):
        super().__init__()
        self.model, self.n_low_frequencies = model, n_low_frequencies

    def extra_repr(self):
        return f"n_low_frequencies={self.n_low_frequencies}"

    def forward(self, kspace, mask):
        finds_center = getattr(self.model, "mask_center", True) and not self.n_low_frequencies
        return self.model(kspace, _columns(mask) if finds_center else mask, self.n_low_frequencies)


class _MonaiMaps(nn.Module):
    """MONAI's model of the maps. It takes one mask for all slices of a batch; where they differ, slice by slice."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, kspace, mask):
        mask = _columns(mask)
        if (mask == mask[:1]).all():
            return self.model(kspace, mask[:1])
        return torch.cat([self.model(*one) for one in zip(kspace.split(1), mask.split(1), strict=True)])


def _columns(mask):
    """A mask (batch, 1, y, x, 1) of whole columns with y cut to 1."""
    if not (mask == mask[:, :, :1]).all():
        raise ValueError(
            "a VarNet learns its maps from the columns in the middle of k-space, and the mask is not of whole columns; "
            "expected one of columns, or for fastMRI's VarNet n_low_frequencies"
        )
    return mask[:, :, :1]


def varnet(network: Any, n_low_frequencies: int | None = None) -> Unrolled:
    """The VarNet of fastMRI or of MONAI: cascades on k-space, maps learned by its own network, root sum of squares.

    Its image has no phase, so it needs a loss of magnitudes, such as :func:`gleam.losses.one_minus_ssim`. The k-space
    of a batch, which is in FFT order, is centred once. Both packages read the mask on the CPU: on CUDA
    :class:`gleam.Fast` needs `captured=False`.

    Parameters
    ----------
    network : fastmri.models.VarNet or monai.apps.reconstruction.networks.nets.varnet.VariationalNetworkModel
        Or any with their `cascades` and `sens_net` or `coil_sensitivity_model`.
    n_low_frequencies : int, optional
        The `num_low_frequencies` of fastMRI: how many columns in the middle the maps are learned from. Default: those
        that the mask holds.

    Returns
    -------
    Module
        `iterations` are the cascades.

    Raises
    ------
    ValueError
        If `network` is no such VarNet; at the first batch, if it is of series or its masks are not of whole columns.
    """
    if hasattr(network, "cascades") and hasattr(network, "sens_net"):
        return _VarNet(network.cascades, _FastMRIMaps(network.sens_net, n_low_frequencies))
    if hasattr(network, "cascades") and hasattr(network, "coil_sensitivity_model"):
        return _MonaiVarNet(network.cascades, _MonaiMaps(network.coil_sensitivity_model))
    raise ValueError(
        f"network is a {type(network).__name__} without cascades or without a model of the maps; expected fastMRI's "
        "VarNet with cascades and sens_net, or MONAI's with cascades and coil_sensitivity_model"
    )


# --- deepinv


class _UnfoldedIteration(nn.Module):
    """Iteration `i` of a network of deepinv, with its own prior and parameters."""

    def __init__(self, network, i, measured):
        super().__init__()
        self.iterator, self.measured = network.fixed_point.iterator, measured
        self.fidelity, self.prior = network.update_data_fidelity_fn(i), network.update_prior_fn(i)
        parameters = network.update_params_fn(i)
        self.trained = nn.ParameterDict({k: p for k, p in parameters.items() if isinstance(p, nn.Parameter)})
        self.fixed = {k: value for k, value in parameters.items() if k not in self.trained}
        if tensors := [k for k, value in self.fixed.items() if isinstance(value, Tensor)]:
            raise ValueError(
                f"{tensors[0]} of iteration {i} is part of a tensor; expected a list of numbers, or its name among "
                "trainable_params"
            )
        self.settings = f"{_told(measured)}, {self.fixed}"  # of the network's `repr`, which names a training run

    def extra_repr(self):
        return self.settings

    def forward(self, x, batch):
        parameters = self.fixed | dict(self.trained.items())
        return self.iterator(x, self.fidelity, self.prior, parameters, *once(self.measured, batch))


class _Unfolded(Unrolled):
    """Start and output of a network of deepinv."""

    def __init__(self, network, measured):
        super().__init__(_UnfoldedIteration(network, i, measured) for i in range(network.max_iter))
        self.measured, self.custom_init = measured, network.custom_init
        # its own default is a lambda, which cannot go to another process
        is_default = network.get_output.__module__ == "deepinv.optim.optimizers"
        self.output = _estimate if is_default else network.get_output
        self.settings = ", ".join(_told(f) for f in (self.custom_init, self.output) if callable(f))

    def extra_repr(self):
        return self.settings

    def start(self, batch):
        y, physics = once(self.measured, batch)
        x = self.custom_init
        if x is None:  # as in deepinv: iterate and auxiliary variable
            x = (physics.A_adjoint(y),) * 2
        elif callable(x):
            x = x(y, physics)
        return x if isinstance(x, dict) else {"est": x if isinstance(x, tuple) else (x,), "cost": None}

    def image(self, x, batch):
        x = self.output(x)
        if x.is_complex():
            return x
        return torch.view_as_complex(x.moveaxis(1, -1).contiguous().to(batch.target.real.dtype))


def _estimate(x):  # of this module, since a lambda cannot be sent to another process
    return x["est"][0]


def multicoil(batch: Batch) -> tuple[Tensor, Any]:
    """(y, physics) of a batch for deepinv: k-space (batch, 2, coil, y, x), centred, and its `MultiCoilMRI`."""
    from deepinv.physics import MultiCoilMRI

    kspace, mask = centred(batch)
    mask = mask.expand(-1, 2, *kspace.shape[2:])
    physics = MultiCoilMRI(mask=mask, coil_maps=batch.sens_maps, device=mask.device)
    return torch.view_as_real(kspace).moveaxis(-1, 1).contiguous(), physics


def unfolded(network: Any, measured: Callable[[Batch], tuple[Tensor, Any]] = multicoil) -> Unrolled:
    """An unfolded network of deepinv; one of its iterations is one here, and so are its prior and parameters.

    Parameters
    ----------
    network : deepinv.optim.BaseOptim
        Such as `PGD(..., unfold=True)` or `HQS(..., unfold=True)`, or what `unfolded_builder` makes. Give it a prior
        and step sizes per iteration if it is to be cut into modules.
    measured : callable, optional
        Of a batch, returns (y, physics). Default: :func:`multicoil`, on two real channels. Physics of your own may
        work on complex images as well, such as a `LinearPhysics` of `batch.sense`.

    Returns
    -------
    Module
        What its iterations pass on is deepinv's `{"est": (x, z), "cost": ...}`.

    Raises
    ------
    ValueError
        If `network` is not an unfolded one, if its iterations depend on more than the one before (Anderson
        acceleration, backtracking, early stopping, deep equilibrium) or on parts of one tensor, or if a function of
        yours cannot be named, as one inside another.
    """
    if not hasattr(network, "fixed_point") or not hasattr(network, "update_params_fn"):
        raise ValueError(
            f"network is a {type(network).__name__} without fixed_point; expected an unfolded network of deepinv, such "
            "as deepinv.optim.PGD(..., unfold=True)"
        )
    options = {name: getattr(network, name, None) for name in ("DEQ", "anderson_acceleration_config", "backtracking")}
    if found := [name for name, value in (options | {"early_stop": network.early_stop}).items() if value]:
        raise ValueError(
            f"{type(network).__name__} has {found[0]}, so an iteration depends on more than the one before; expected a "
            "fixed number of plain iterations"
        )
    return _Unfolded(network, measured)


def _told(function):
    """Name of a function, with a digest of its source if it is not of this package."""
    text = named(function)
    with suppress(OSError, TypeError):  # no source: an object, or defined in an interpreter that keeps none
        is_ours = function.__module__.startswith("gleam.")
        return text if is_ours else f"{text} {digest(inspect.getsource(function))[:12]}"
    return text
