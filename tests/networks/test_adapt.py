"""Networks of other packages, adapted, train as the originals do in a plain loop of torch: to the last bit.

`make peers` installs the packages; without them their tests are skipped, or fail where GLEAM_PEERS is set.
"""

import copy
import os
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from problems import complex_normal, random_batch, unit_maps
from torch import nn

import gleam
from gleam import Checkpointed, EndToEnd, Greedy, adapt, losses
from gleam.networks import protocol
from gleam.physics import Batch
from gleam.physics.fourier import fft2, fftshift2, ifft2, ifft2c, ifftshift2
from gleam.strategies import optimizers
from gleam.strategies.parallel import spread
from gleam.strategies.updates import BETAS

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import peers

pytestmark = pytest.mark.slow  # most of it is importing the packages
RATE = 1e-2


def package(name):
    """A package of the other programs' folder."""
    try:
        return peers.imported(name)
    except peers.NotInstalled as reason:
        if os.environ.get("GLEAM_PEERS"):
            pytest.fail(f"GLEAM_PEERS is set, and {name} cannot be imported: {reason}")
        pytest.skip(str(reason))


def columns(extra=0, shape=(32, 32), n=2, n_coils=2):
    """A batch of slices of which columns are measured; with `extra`, one more in the second slice."""
    target = complex_normal(n, *shape)
    maps = unit_maps(n, n_coils, *shape, seed=1)
    mask = torch.zeros(n, 1, 1, shape[1])
    mask[..., ::3] = mask[..., shape[1] // 2 - 4 : shape[1] // 2 + 4] = 1
    mask[1, ..., 1 : 1 + extra] = 1
    return Batch.undersample(fft2(maps * target[:, None]), ifftshift2(mask), maps, target)


class CNN(nn.Module):
    """A residual CNN of two channels with batch normalisation and dropout; deepinv passes a noise level."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(4, 2, 3, padding=1)
        )

    def forward(self, x, sigma=None):
        return x + 0.1 * self.body(x)


def as_complex(channels):
    return torch.view_as_complex(channels.movedim(1, -1).contiguous())


class ComplexCNN(CNN):
    def forward(self, x, sigma=None):
        return as_complex(super().forward(torch.view_as_real(x).movedim(-1, 1)))


class Consistent(ComplexCNN):
    """A block called with the batch."""

    def forward(self, x, batch):
        return super().forward(x - batch.sense.normal(x) + batch.zero_filled)


class MRproBlock(ComplexCNN):
    """A gradient step with the operator of mrpro, then the CNN."""

    def forward(self, x, kspace, operator):
        (residual,) = operator.adjoint(operator(x)[0] - kspace)
        return super().forward((x - residual)[:, 0, 0])[:, None, None]


def replaced(network, old, new):
    """`network` with modules of class `old` replaced by `new(channels)`."""
    for name, child in network.named_children():
        setattr(network, name, new(child.num_features)) if isinstance(child, old) else replaced(child, old, new)
    return network


# Each case: (batch, original, adapted, its image of the batch as the package itself computes it)


def fastmri_varnet():
    package("fastmri")
    from fastmri.models.varnet import NormUnet, SensitivityModel, VarNet, VarNetBlock

    network, batch = VarNet(2, sens_chans=2, sens_pools=2, chans=2, pools=2), columns(extra=1)
    network.sens_net = SensitivityModel(2, 2, drop_prob=0.1)
    network.cascades = nn.ModuleList(VarNetBlock(NormUnet(2, 2, drop_prob=0.1)) for _ in range(2))
    replaced(network.cascades, nn.InstanceNorm2d, nn.BatchNorm2d)
    kspace, mask = adapt.centred(batch)
    given = torch.view_as_real(kspace), mask.bool()[..., None]
    return batch, network, adapt.varnet, lambda own: own(*given)


def monai_varnet():
    package("monai")
    from monai.apps.reconstruction.networks.nets.coil_sensitivity_model import CoilSensitivityModel
    from monai.apps.reconstruction.networks.nets.complex_unet import ComplexUnet
    from monai.apps.reconstruction.networks.nets.varnet import VariationalNetworkModel

    options, batch = {"features": (2, 2, 2, 2, 2, 2), "dropout": 0.1}, columns()
    refine = ComplexUnet(**options, norm=("batch", {"affine": True}))
    network = VariationalNetworkModel(CoilSensitivityModel(**options), refine, num_cascades=2)
    kspace, mask = adapt.centred(batch)
    given = torch.view_as_real(kspace), mask[:1].bool()[..., None]
    return batch, network, adapt.varnet, lambda own: own(*given)


def monai_unets():
    package("monai")
    from monai.apps.reconstruction.networks.nets.complex_unet import ComplexUnet

    options = {"features": (2, 2, 2, 2, 2, 2), "dropout": 0.1, "norm": ("batch", {"affine": True})}
    network, batch = nn.Sequential(ComplexUnet(**options), ComplexUnet(**options)), columns()
    given = torch.view_as_real(batch.zero_filled)[:, None]
    return batch, network, adapt.pair_blocks, lambda own: torch.view_as_complex(own(given).contiguous())[:, 0]


def deepinv_options(cnn, **options):
    library = package("deepinv")
    prior = [library.optim.prior.PnP(cnn()) for _ in range(2)]
    fidelity = library.optim.data_fidelity.L2()
    return library, {"prior": prior, "data_fidelity": fidelity, "max_iter": 2} | options


def deepinv_pgd():
    library, options = deepinv_options(CNN, trainable_params=["stepsize"], unfold=True)
    batch, network = random_batch(), library.optim.PGD(stepsize=[1.0, 0.9], **options)
    y, physics = adapt.multicoil(batch)
    return batch, network, adapt.unfolded, lambda own: physics.to_torch_complex(own(y, physics))


def deepinv_hqs():
    """With learned step sizes, in its step of data consistency as well."""
    library, options = deepinv_options(CNN, trainable_params=["stepsize"], unfold=True)
    batch, network = random_batch(), library.optim.HQS(stepsize=[1.0, 0.9], g_first=True, **options)
    y, physics = adapt.multicoil(batch)
    return batch, network, adapt.unfolded, lambda own: physics.to_torch_complex(own(y, physics))


def own_physics(batch):
    from deepinv.physics import LinearPhysics

    return batch.kspace, LinearPhysics(A=batch.sense.forward, A_adjoint=batch.sense.adjoint)


def deepinv_builder():
    """What `unfolded_builder` makes, with physics of one's own on complex images."""
    library, options = deepinv_options(ComplexCNN, trainable_params=["stepsize"])
    batch = random_batch()
    network = library.unfolded.unfolded_builder("PGD", params_algo={"stepsize": [1.0, 0.9]}, **options)
    given = own_physics(batch)
    return batch, network, lambda own: adapt.unfolded(own, own_physics), lambda own: own(*given)


def mrpro_network():
    package("mrpro")
    batch, network = random_batch(), nn.ModuleList([MRproBlock(), MRproBlock()])
    kspace, operator = adapt.encoding(batch)

    def image(own):
        (x,) = operator.adjoint(kspace)
        for block in own:
            x = block(x, kspace, operator)
        return x[:, 0, 0]

    return batch, network, adapt.mrpro_blocks, image


def sequence():
    batch, network = random_batch(), nn.Sequential(ComplexCNN(), ComplexCNN())
    return batch, network, adapt.blocks, lambda own: own(batch.zero_filled)


def sequence_with_batch():
    batch, network = random_batch(), nn.ModuleList([Consistent(), Consistent()])

    def image(own):
        x = batch.zero_filled
        for block in own:
            x = block(x, batch)
        return x

    return batch, network, adapt.blocks, image


def channel_sequence():
    batch, network = random_batch(), nn.Sequential(CNN(), CNN())
    given = torch.view_as_real(batch.zero_filled).movedim(-1, 1).contiguous()
    return batch, network, adapt.channel_blocks, lambda own: as_complex(own(given))


PACKAGES = {
    "fastmri": [fastmri_varnet],
    "monai": [monai_varnet, monai_unets],
    "deepinv": [deepinv_pgd, deepinv_hqs, deepinv_builder],
    "mrpro": [mrpro_network],
    "none": [sequence, sequence_with_batch, channel_sequence],
}


def recorded(seen):
    """The loss of all that has no phase, which notes each image that it sees."""

    def loss(image, batch):
        seen.append(image.detach().clone())
        return losses.magnitude_l1(image, batch)

    return loss


def gradients(network):
    return {name: None if p.grad is None else p.grad.clone() for name, p in network.named_parameters()}


def trained_plainly(network, image_of, batch, n_steps):
    """Images, gradients and losses of each step of training the original."""
    seen, found = [], []
    optimizer = torch.optim.Adam(network.train().parameters(), lr=RATE, betas=BETAS, fused=True)
    for k in range(n_steps):
        torch.manual_seed(k)  # of dropout
        loss = recorded(seen)(image_of(network), batch)
        loss.backward()
        found.append((gradients(network), loss.detach()))
        optimizer.step()
        optimizer.zero_grad()
    return seen, found


def trained_adapted(original, adapted, strategy, batch, n_steps):
    """The same of training the adapted network; gradients are those of the original's weights."""
    (optimizer,), found, noted = optimizers(strategy, adapted.train(), learning_rate=RATE), [], []
    optimizer.register_step_pre_hook(lambda *_: noted.append(gradients(original)))
    for k in range(n_steps):
        torch.manual_seed(k)
        (loss,) = strategy.step(adapted, batch, [optimizer])
        found.append((noted[-1], loss))
    return found


def same(one, other):
    """Whether two values hold equal tensors, to the last bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one is other


@pytest.fixture(scope="module", params=PACKAGES)
def cases(request):
    """The cases of a package. Of this scope, so that tests of one package follow each other: imports are slow."""
    return PACKAGES[request.param]


def test_an_adapted_network_trains_as_the_original_to_the_last_bit(cases):
    """Images, losses, gradients, weights and running statistics, after each of three steps, with dropout."""
    for case in cases:
        torch.manual_seed(0)
        batch, network, adapter, image_of = case()
        plain = copy.deepcopy(network)
        images, expected = trained_plainly(plain, image_of, batch, n_steps=3)
        assert not torch.equal(images[0], images[1]) and any(g is not None for g in expected[0][0].values())
        counts = [b for key, b in plain.state_dict().items() if key.endswith("num_batches_tracked")]
        assert counts and {int(count) for count in counts} == {3}, case.__name__
        for strategy in (Greedy, Checkpointed, EndToEnd):
            own, seen = copy.deepcopy(network), []
            adapted = adapter(own)
            strategy = strategy(1, loss=recorded(seen)) if strategy is Greedy else strategy(loss=recorded(seen))
            found = trained_adapted(own, adapted, strategy, batch, n_steps=3)
            where = f"{case.__name__}, {type(strategy).__name__}"
            assert same(seen, images), where
            assert same(found, expected), where
            assert same(own.state_dict(), plain.state_dict()), where
            with torch.no_grad():  # the original has been trained in place, and computes the same image
                assert torch.equal(gleam.reconstruct(adapted, batch), image_of(own.eval())), where
                assert torch.equal(image_of(own), image_of(plain.eval())), where


def test_two_modules_need_less_memory_and_both_learn(cases):
    for case in cases:
        batch, network, adapter, _ = case()
        adapted, strategy = adapter(network), Greedy(2, loss=losses.magnitude_l1)
        peaks = [
            sum(gleam.cost.peak_split(adapted, s, batch).values()) for s in (strategy, EndToEnd(losses.magnitude_l1))
        ]
        assert peaks[0] < 0.9 * peaks[1], (case.__name__, peaks)
        before = copy.deepcopy(adapted.state_dict())
        found = strategy.step(adapted.train(), batch, optimizers(strategy, adapted, learning_rate=RATE))
        assert all(loss.isfinite() for loss in found)
        for i, iteration in enumerate(adapted.iterations):
            keys = [f"iterations.{i}.{key}" for key, p in iteration.named_parameters()]
            assert any(not torch.equal(adapted.state_dict()[key], before[key]) for key in keys), case.__name__


def test_weights_can_be_saved_loaded_and_sent(cases):
    for case in cases:
        batch, network, adapter, _ = case()
        adapted, other = adapter(network), copy.deepcopy(network)
        with torch.no_grad():
            for p in other.parameters():
                p.mul_(1.1)
        adapted.load_state_dict(adapter(other).state_dict())  # which loads them into the original
        assert same(network.state_dict(), other.state_dict()), case.__name__
        sent = pickle.loads(pickle.dumps(copy.deepcopy(adapted)))  # as to other processes
        assert torch.equal(gleam.reconstruct(sent, batch), gleam.reconstruct(adapted, batch)), case.__name__


def test_modules_pass_on_what_other_devices_and_processes_can_take(cases):
    for case in cases:
        batch, network, adapter, _ = case()
        strategy, images = Greedy(2, loss=losses.magnitude_l1), []
        for devices in (["cpu", "cpu"], ["cpu", "cpu:0"]):
            adapted = spread(adapter(copy.deepcopy(network)), strategy, devices)
            torch.manual_seed(0)
            strategy.step(adapted.train(), batch, optimizers(strategy, adapted, learning_rate=RATE))
            images.append(gleam.reconstruct(adapted, batch))
        assert torch.equal(*images), case.__name__
        given = protocol.setup(adapted, batch)
        x = adapted.iterations[0](adapted.start(given), given)
        parts, new = protocol.taken_apart((x, given), protocol.tensors_in(batch))
        packed = pickle.dumps(parts)
        assert len(packed) < 8192, case.__name__
        x, given = protocol.put_together(pickle.loads(packed), protocol.tensors_in(batch), new)
        image = protocol.image(adapted, adapted.iterations[1](x, given), given)
        assert torch.equal(image, images[1]), case.__name__


def test_a_run_of_an_adapted_network_is_found_again(cases, splits, tmp_path):
    train, val, _ = splits
    _, network, adapter, _ = cases[-1]()
    more = (4,) if cases == [fastmri_varnet] else ()  # masks of the splits are not of columns
    settings = {"n_steps": 2, "batch_size": 2, "validate_every": 2, "learning_rate": RATE, "run_dir": tmp_path}
    found = []
    for _ in range(2):
        own = copy.deepcopy(network)
        fit = gleam.fit(adapter(own, *more), train, val, Greedy(2, loss=losses.magnitude_l1), **settings)
        found.append((fit.history, own.state_dict()))
    assert found[0][0] == found[1][0] and same(found[0][1], found[1][1])
    assert len(gleam.runs(tmp_path)) == 1
    with pytest.raises(ValueError, match=r"does not say how its network was made; give .* network="):
        gleam.load(tmp_path / gleam.runs(tmp_path).index[0])
    loaded = gleam.load(tmp_path / gleam.runs(tmp_path).index[0], adapter(copy.deepcopy(network), *more))
    batch = val.training_batch(0, 2, 0)
    assert torch.equal(gleam.reconstruct(loaded, batch), gleam.reconstruct(adapter(own, *more), batch))


@pytest.mark.parametrize("cases", ["monai"], indirect=True)
def test_masks_of_monai_may_differ_between_slices(cases):
    """Its own forward takes one mask; slice by slice it gives the same maps, up to the order of sums."""
    _, network, adapter, _ = monai_varnet()
    network.eval()
    batch = columns(extra=2)
    kspace, mask = adapt.centred(batch)
    found = gleam.reconstruct(adapter(network), batch)
    for i in range(2):
        own = network(torch.view_as_real(kspace[i : i + 1]), mask[i : i + 1].bool()[..., None])
        torch.testing.assert_close(found[i : i + 1], own.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cases", ["fastmri"], indirect=True)
def test_columns_in_the_middle_can_be_given_by_number(cases):
    batch, network, _, _ = fastmri_varnet()
    network.eval()
    for n in (4, 6):
        kspace, mask = adapt.centred(batch)
        own = network(torch.view_as_real(kspace), mask.bool()[..., None], n)
        assert torch.equal(gleam.reconstruct(adapt.varnet(network, n), batch), own)
    with pytest.raises(ValueError, match=r"takes slices .*, not k-space \(2, 3, 4, 24, 20\)"):
        gleam.reconstruct(adapt.varnet(network), random_batch(n_frames=4))
    other = random_batch()
    with pytest.raises(ValueError, match=r"the mask is not of whole columns; expected .* n_low_frequencies"):
        gleam.reconstruct(adapt.varnet(network), other)
    kspace, mask = adapt.centred(other)
    own = network(torch.view_as_real(kspace), mask.bool()[..., None], 4)
    assert torch.equal(gleam.reconstruct(adapt.varnet(network, 4), other), own)


@pytest.mark.parametrize("cases", ["deepinv"], indirect=True)
def test_deepinv_networks_that_cannot_be_cut_are_refused(cases):
    library, options = deepinv_options(CNN, trainable_params=["stepsize"], unfold=True)
    make = library.optim.PGD
    with pytest.raises(ValueError, match="PGD has early_stop, so an iteration depends on more than"):
        adapt.unfolded(make(stepsize=1.0, early_stop=True, **options))
    with pytest.raises(ValueError, match="PGD has anderson_acceleration_config"):
        adapt.unfolded(make(stepsize=1.0, anderson_acceleration=True, **options))
    with pytest.raises(ValueError, match="cannot be named"):
        adapt.unfolded(make(stepsize=1.0, **options), lambda batch: None)
    with pytest.raises(ValueError, match="lambda of iteration 0 is part of a tensor; expected a list of numbers"):
        adapt.unfolded(make(stepsize=1.0, lambda_reg=torch.ones(2), **options))
    shared = adapt.unfolded(make(stepsize=1.0, **options))
    with pytest.raises(ValueError, match=r"modules that share weights, such as .*; give each iteration its own"):
        Greedy(2).step(shared, random_batch(), optimizers(Greedy(2), shared, learning_rate=RATE))
    EndToEnd().step(shared, random_batch(), optimizers(EndToEnd(), shared, learning_rate=RATE))


@pytest.mark.parametrize("cases", ["deepinv"], indirect=True)
def test_a_start_and_an_output_of_ones_own_are_those_of_the_original(cases):
    library, options = deepinv_options(CNN, trainable_params=["stepsize"], unfold=True)
    batch = random_batch()
    y, physics = adapt.multicoil(batch)
    zero = torch.zeros_like(physics.A_adjoint(y))
    for start in (zero, (zero, zero), doubled, {"est": (zero, zero)}):
        network = library.optim.PGD(stepsize=0.5, custom_init=start, get_output=twice, **options).eval()
        own = physics.to_torch_complex(network(y, physics)).detach()
        assert torch.equal(gleam.reconstruct(adapt.unfolded(network), batch), own)


def doubled(y, physics):
    return 2 * physics.A_adjoint(y)


def twice(x):
    return 2 * x["est"][0]


@pytest.mark.parametrize(
    ("adapter", "says"),
    [
        (adapt.varnet, "network is a Conv2d without cascades or without a model of the maps; expected"),
        (adapt.unfolded, "network is a Conv2d without fixed_point; expected an unfolded network of deepinv"),
        (adapt.blocks, "modules are not a list of modules; expected an nn.ModuleList"),
        (adapt.channel_blocks, "modules are not a list of modules"),
    ],
)
def test_what_is_no_such_network_is_refused_in_one_sentence(adapter, says):
    with pytest.raises(ValueError, match=says):
        adapter(nn.Conv2d(2, 2, 3))
    with pytest.raises(ValueError):
        adapter([])


@pytest.mark.parametrize("axis", [None, -2, -1])
def test_centred_kspace_is_that_of_the_same_coil_images(axis):
    """Of odd sizes too, and of masks that have length 1 along the readout."""
    batch = random_batch(shape=(17, 12))
    mask = batch.mask if axis is None else batch.mask.narrow(axis, 0, 1)
    batch = replace(batch, kspace=batch.kspace * mask, mask=mask)
    kspace, centred_mask = adapt.centred(batch)
    torch.testing.assert_close(ifft2c(kspace), ifft2(batch.kspace))
    full = centred_mask.expand(-1, -1, 17, 12)
    assert torch.equal(full, fftshift2(mask.expand(-1, -1, 17, 12))) and not (kspace * (1 - full)).any()


def test_a_function_of_ones_own_names_the_run_by_its_source():
    assert adapt._told(adapt.multicoil) == "multicoil"
    assert adapt._told(own_physics).startswith("own_physics ")
