import copy

import pytest
import torch
from problems import random_batch

from gleam import execution, strategies, unrolled
from gleam.networks import denoisers
from gleam.training import evaluation

NETWORKS = {
    "pgd": lambda: unrolled.pgd(2, 5),
    "modl": lambda: unrolled.modl(2, 5, n_cg=2),
    "pgd3d": lambda: unrolled.pgd(2, 5, n_dims=3),
    "modl3d": lambda: unrolled.modl(2, 5, n_dims=3, n_cg=2),
}


@pytest.fixture(params=NETWORKS)
def problem(request):
    batch = random_batch(n_frames=3 if request.param.endswith("3d") else None)
    return NETWORKS[request.param](), batch


def gradients(network, batch):
    loss = (network(batch) - batch.target).abs().mean()
    return torch.autograd.grad(loss, list(network.parameters()))


def far(a, b):
    return max(((x - y).norm() / y.norm()).item() for x, y in zip(a, b, strict=True))


def test_channels_of_zeros_change_nothing(problem):
    network, batch = problem
    image, plain = network(batch), gradients(network, batch)
    with execution.using(device_type="cpu", channel_multiple=4):
        assert execution.padded(5) == 8
        assert far([network(batch)], [image]) < 1e-5
        assert far(gradients(network, batch), plain) < 1e-3
    assert execution.padded(5) == 5


def test_bf16_is_near_and_keeps_images_complex64(problem):
    network, batch = problem
    image = network(batch)
    with execution.using("bf16", device_type="cpu"):
        rounded = network(batch)
        assert far(gradients(network, batch), gradients(network, batch)) == 0
    assert rounded.dtype == torch.complex64
    assert 0 < far([rounded], [image]) < 0.02
    assert torch.equal(network(batch), image)  # the context is over


@pytest.mark.parametrize("n_features", [1, 6])
@pytest.mark.parametrize("n_dims", [2, 3])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_convolutions_in_bf16_have_the_gradients_of_fp32_for_every_length_of_an_axis(n_dims, size, n_features):
    """As oneDNN does not have them for one or two frames; there it reads memory that it has not written."""
    for axis in range(n_dims):
        shape = [6] * n_dims
        shape[axis] = size
        x = torch.randn(2, *shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            cnn = denoisers.ResidualCNN(n_features, n_dims=n_dims)
        found = []
        for precision in ("fp32", "bf16", "bf16"):
            with execution.using(precision, device_type="cpu"):
                image = cnn(x)
            of_weights = torch.autograd.grad(image.abs().square().mean(), list(cnn.parameters()))
            found.append(torch.cat([g.flatten() for g in of_weights]))
        exact, rounded, again = found
        assert (rounded - exact).norm() < 0.1 * exact.norm()
        assert torch.equal(rounded, again)


def layouts(network, batch):
    """Whether what each convolution is given has its channels last."""
    formats, seen, hooks = {4: torch.channels_last, 5: torch.channels_last_3d}, [], []
    for layer in network.modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Conv3d)):
            note = lambda layer, given: seen.append(given[0].is_contiguous(memory_format=formats[given[0].ndim]))  # noqa: E731
            hooks.append(layer.register_forward_pre_hook(note))
    network(batch)
    for hook in hooks:
        hook.remove()
    return set(seen)


@pytest.mark.parametrize("make", [unrolled.pgd, unrolled.modl])
@pytest.mark.parametrize("n_frames", [None, 3])
def test_feature_maps_have_one_layout_throughout_and_a_rule_decides_it(make, n_frames):
    batch, n_dims = random_batch(n_frames=n_frames), 2 if n_frames is None else 3
    for n_features in (5, 16, 32, 40):
        network = make(1, n_features, n_dims=n_dims)
        is_last = n_features % 16 != 0 if n_frames is None else n_features >= 32
        assert layouts(network, batch) == {is_last}
        with execution.using("bf16", device_type="cpu"):
            assert layouts(network, batch) == {True}


def test_layouts_agree_to_rounding(problem, monkeypatch):
    network, batch = problem
    found = []
    for is_last in (False, True):
        monkeypatch.setattr(execution, "channels_last", lambda x, n_features, is_last=is_last: is_last)
        found.append([network(batch), *gradients(network, batch)])
    assert far(*found) < 1e-3


def test_the_units_of_a_cpu_are_those_of_its_flags(monkeypatch):
    for flags, expected in {(True, True): "AMX", (False, True): "AVX512-BF16", (False, False): None}.items():
        execution.bf16_units.cache_clear()
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda flags=flags: flags[0])
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda flags=flags: flags[1])
        assert execution.bf16_units() == expected
        assert execution.has_fast_bf16("cpu") == (expected is not None)
    execution.bf16_units.cache_clear()


def test_weights_and_their_gradients_stay_float32(problem):
    network, batch = problem
    with execution.using("bf16", device_type="cpu"):
        assert {g.dtype for g in gradients(network, batch)} == {torch.float32}


@pytest.mark.parametrize("within", [strategies.Checkpointed(), strategies.Offloaded()], ids=repr)
def test_what_is_computed_again_is_computed_alike(within, problem):
    network, batch = problem
    found = []
    for strategy in (strategies.EndToEnd(), within):
        twin = copy.deepcopy(network)
        with execution.using("bf16", device_type="cpu", channel_multiple=8):
            loss = (strategy.propagate(twin.iterations, twin.start(batch), batch) - batch.target).abs().mean()
            loss.backward()
        found.append([p.grad for p in twin.parameters()])
    assert far(*found) < 1e-6


def test_an_inverted_network_in_bf16_has_the_gradient_of_its_forward_pass():
    batch = random_batch()
    found = []
    for strategy in (strategies.EndToEnd(), strategies.Invertible(n_checkpoints=9)):
        network = unrolled.modl(2, 5, n_cg=2)
        with execution.using("bf16", device_type="cpu"):
            loss = (strategy.propagate(network.iterations, network.start(batch), batch) - batch.target).abs().mean()
        loss.backward()
        found.append([p.grad for p in network.parameters()])
    assert far(*found) < 1e-6


def test_images_are_scored_in_full_precision(problem):
    network, batch = problem
    image = evaluation.reconstruct(network, batch)
    with execution.using("bf16", device_type="cpu"):
        assert torch.equal(evaluation.reconstruct(network, batch), image)


def test_the_state_comes_back_after_an_error():
    with pytest.raises(RuntimeError, match="inside"), execution.using("bf16", device_type="cpu", compiled=True):
        assert execution.compiles()
        raise RuntimeError("inside")
    assert not execution.compiles()
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [({"precision": "fp16"}, "must be one of fp32, tf32, bf16"), ({"channel_multiple": 0}, "at least 1")],
)
def test_sentences(arguments, says):
    with pytest.raises(ValueError, match=says), execution.using(device_type="cpu", **arguments):
        pass


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler, about itself
def test_compiled_layers_compute_the_same():
    batch = random_batch()
    for make in (NETWORKS["pgd"], NETWORKS["modl"]):
        network = make()
        image, plain = network(batch), gradients(network, batch)
        with execution.using(device_type="cpu", compiled=True):
            assert far([network(batch)], [image]) < 1e-5
            assert far(gradients(network, batch), plain) < 1e-4


@pytest.mark.filterwarnings("ignore:CUDA is not available")
@pytest.mark.parametrize(
    ("precision", "expected"), [("fp32", ("ieee", False)), ("tf32", ("tf32", True)), ("bf16", ("tf32", True))]
)
def test_convolutions_on_a_gpu_round_only_where_that_is_asked_for(precision, expected):
    cudnn = torch.backends.cudnn

    def state():
        return cudnn.conv.fp32_precision, cudnn.benchmark

    before = state()
    with execution.using(precision, device_type="cuda"):
        assert state() == expected
    assert state() == before


def test_a_device_with_silent_errors_is_refused():
    with pytest.raises(ValueError, match=r"device='mps' is not supported: .* take 'cpu'"):
        execution.checked_device("mps")
