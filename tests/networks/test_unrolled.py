import pytest
import torch
from problems import random_batch

import gleam
from gleam import physics, unrolled
from gleam.metrics import complex_l1
from gleam.networks.denoisers import PlainCNN, ResidualCNN


def n_parameters(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("keywords", "count"),
    [
        ({"n_iterations": 1, "n_features": 100}, 273_902),
        ({"n_iterations": 8, "n_features": 100}, 2_191_216),  # 2.19 M in Table III
        ({"n_iterations": 24, "n_features": 100}, 24 * 273_902),  # 6.57 M in Table III
        ({"n_iterations": 4, "n_features": 50, "n_dims": 3}, 832_208),  # 0.83 M in Table IV
        ({"n_iterations": 12, "n_features": 50, "n_dims": 3}, 2_496_624),  # 2.50 M in Table IV
    ],
)
def test_parameter_counts_of_the_paper(keywords, count):
    assert n_parameters(unrolled.pgd(**keywords)) == count


@pytest.mark.parametrize(
    ("keywords", "count"),
    [
        ({"n_iterations": 8, "n_features": 70}, 8 * 134_820),
        ({"n_iterations": 4, "n_features": 50, "n_dims": 3}, 4 * 207_900),
        ({"n_iterations": 8, "n_features": 70, "learn_mu": True}, 8 * 134_821),
    ],
)
def test_parameter_counts_of_modl(keywords, count):
    assert n_parameters(unrolled.modl(**keywords)) == count


@pytest.mark.parametrize(("n_dims", "n_frames"), [(2, None), (3, 4)])
@pytest.mark.parametrize("make", [unrolled.pgd, unrolled.modl])
def test_reconstruction_has_the_shape_of_the_target(make, n_dims, n_frames):
    batch = random_batch(n_frames=n_frames)
    network = make(n_iterations=3, n_features=5, n_dims=n_dims)
    image = network(batch)
    assert image.shape == batch.target.shape and image.is_complex()
    iterates = network.iterates(batch)
    assert len(iterates) == 4
    for n, iterate in enumerate(iterates):
        torch.testing.assert_close(network(batch, n_iterations=n), iterate)
    torch.testing.assert_close(iterates[0], batch.zero_filled)
    with pytest.raises(ValueError, match="between 0 and 3"):
        network(batch, n_iterations=4)


def test_without_its_cnn_an_iteration_is_a_gradient_step(batch):
    iteration = unrolled.PGDIteration(torch.nn.Identity(), step_size=0.7)
    x = batch.target.roll(1, dims=-1)
    residual = batch.sense.forward(x) - batch.kspace
    torch.testing.assert_close(iteration(x, batch), x - 0.7 * batch.sense.adjoint(residual))


@pytest.mark.parametrize("n_dims", [2, 3])
def test_cnn_gradients_equal_those_of_plain_layers(n_dims):
    """The block's in-place ReLU against the same layers written with torch's own functions."""
    cnn = ResidualCNN(6, n_dims=n_dims).double()
    shape = (2, 3, 7, 6)[-n_dims:]
    x = torch.randn(2, *shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(0), requires_grad=True)

    def plain(x):
        h = torch.view_as_real(x).movedim(-1, 1)
        for block in list(cnn.body)[:2]:
            h = block.skip(h) + block.second(torch.relu(block.first(torch.relu(h))))
        return x + torch.view_as_complex(cnn.body[2](h).movedim(1, -1).contiguous())

    _assert_same_with_gradients(cnn, plain, x, cnn.parameters())


@pytest.mark.parametrize("n_dims", [2, 3])
def test_plain_cnn_gradients_equal_those_of_plain_layers(n_dims):
    cnn = PlainCNN(6, n_dims=n_dims).double()
    shape = (2, 3, 7, 6)[-n_dims:]
    x = torch.randn(2, *shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(0), requires_grad=True)

    def plain(x):
        h = torch.view_as_real(x).movedim(-1, 1)
        for i, layer in enumerate(cnn.layers):
            h = layer(torch.relu(h) if i else h)
        return x + torch.view_as_complex(h.movedim(1, -1).contiguous())

    _assert_same_with_gradients(cnn, plain, x, cnn.parameters())


def _assert_same_with_gradients(one, other, x, parameters):
    results, inputs = [], [x, *parameters]
    for function in (one, other):
        y = function(x)
        results.append([y, *torch.autograd.grad(y.abs().square().sum(), inputs)])
    torch.testing.assert_close(*results)


def test_seed_decides_the_weights_and_nothing_else():
    before = torch.random.get_rng_state()
    a, b, c = (unrolled.pgd(n_iterations=n, n_features=4, seed=s) for n, s in ((2, 5), (3, 5), (2, 6)))
    assert torch.equal(before, torch.random.get_rng_state())
    weights = [torch.cat([p.ravel() for p in net.iterations[1].parameters()]) for net in (a, b, c)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    first = torch.cat([p.ravel() for p in a.iterations[0].parameters()])
    assert not torch.equal(first, weights[0])


def test_split_is_contiguous_even_and_complete():
    for n in range(1, 10):
        for m in range(1, n + 1):
            modules = unrolled.split(list(range(n)), m)
            assert [i for module in modules for i in module] == list(range(n))
            lengths = [len(module) for module in modules]
            assert len(lengths) == m and max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("n_modules", [0, 9, 2.0, -1])
def test_impossible_cuts_say_what_is_allowed(n_modules):
    with pytest.raises(ValueError, match="whole number from 1 to 8"):
        unrolled.split(list(range(8)), n_modules)


@pytest.mark.parametrize("keywords", [{"n_iterations": 0}, {"n_features": 4, "n_dims": 4}])
@pytest.mark.parametrize("make", [unrolled.pgd, unrolled.modl])
def test_networks_that_cannot_be(make, keywords):
    with pytest.raises(ValueError, match="must be"):
        make(**keywords)


@pytest.mark.parametrize(
    "keywords", [{"mu": 0}, {"mu": -1.0}, {"mu": float("nan")}, {"mu": float("inf")}, {"n_cg": 0}, {"n_cg": 2.5}]
)
def test_data_consistency_that_cannot_be(keywords):
    with pytest.raises(ValueError, match=r"of MoDL must be|n_cg=.* must be"):
        unrolled.modl(2, 4, **keywords)


@pytest.mark.parametrize("n_frames", [None, 3])
def test_modl_iteration_solves_its_normal_equation(n_frames):
    """With enough steps, (A^H A + mu I) x+ = A^H y + mu D(x)."""
    batch = random_batch(n_frames=n_frames)
    iteration = unrolled.modl(1, 4, n_dims=2 if n_frames is None else 3, mu=0.3, n_cg=40).iterations[0]
    x = batch.target.roll(1, dims=-1)
    solution = iteration(x, batch)
    z = iteration.denoiser(x)
    torch.testing.assert_close(
        batch.sense.normal(solution) + 0.3 * solution, batch.zero_filled + 0.3 * z, rtol=1e-3, atol=1e-4
    )


def test_modl_starts_its_conjugate_gradients_at_its_input(batch):
    """With a CNN that changes nothing, an input that solves the equations already comes back."""
    iteration = unrolled.MoDLIteration(torch.nn.Identity(), mu=0.3, n_cg=1)
    full = physics.Batch.undersample(batch.kspace, torch.ones_like(batch.mask), batch.sens_maps, batch.target)
    torch.testing.assert_close(iteration(full.zero_filled, full), full.zero_filled)


def test_learned_mu_starts_where_the_fixed_one_is_and_gets_a_gradient(batch):
    fixed, learned = (unrolled.modl(2, 4, mu=0.3, learn_mu=learn) for learn in (False, True))
    torch.testing.assert_close(fixed(batch), learned(batch))
    for implicit in (False, True):
        network = unrolled.modl(2, 4, mu=0.3, learn_mu=True, implicit=implicit)
        complex_l1(network(batch), batch.target).backward()
        assert all(iteration.log_mu.grad != 0 for iteration in network.iterations)


def test_identity_of_a_network_holds_what_is_no_weight():
    """Training runs are told apart by it."""
    variants = [
        unrolled.modl(1, 4, **k) for k in ({}, {"mu": 0.3}, {"n_cg": 5}, {"learn_mu": True}, {"implicit": True})
    ]
    assert len({repr(network) for network in variants}) == len(variants)


@pytest.mark.parametrize("make", [unrolled.pgd, unrolled.modl])
@pytest.mark.parametrize(("n_dims", "n_frames", "word"), [(2, 3, "series"), (3, None, "images")])
def test_images_for_the_other_number_of_dimensions(make, n_dims, n_frames, word):
    with pytest.raises(ValueError, match=f"n_dims={n_dims} cannot take images .* the other n_dims for {word}"):
        make(1, 4, n_dims=n_dims)(random_batch(n_frames=n_frames))


def test_a_network_can_end_with_data_consistency():
    """Its iterates are those of the plain network; only what is shown, scored and trained on has one step more."""
    batch = random_batch()
    plain, own = (unrolled.pgd(2, 4, seed=3, consistent=consistent) for consistent in (False, True))
    for x, image in zip(plain.iterates(batch), own.iterates(batch), strict=True):
        torch.testing.assert_close(image, x - batch.sense.normal(x) + batch.zero_filled)
    assert own.recipe["arguments"]["consistent"] and "consistent" not in plain.recipe["arguments"]


@pytest.mark.parametrize("strategy", [gleam.EndToEnd(), gleam.Greedy(2), gleam.Checkpointed()])
def test_a_learned_step_size_starts_at_the_fixed_one_and_is_trained(strategy, splits, tmp_path):
    learned, fixed = (unrolled.pgd(2, 4, step_size=1.0, learn_step_size=learn, seed=3) for learn in (True, False))
    batch = random_batch()
    assert torch.equal(learned(batch), fixed(batch))
    assert "learn_step_size" not in fixed.recipe["arguments"] and learned.recipe["arguments"]["learn_step_size"]
    gleam.fit(learned, *splits[:2], strategy, n_steps=3, batch_size=1, learning_rate=1e-2, run_dir=tmp_path)
    sizes = [iteration.step_size.item() for iteration in learned.iterations]
    assert all(size != 1 for size in sizes)
    again = unrolled.pgd(**learned.recipe["arguments"])
    again.load_state_dict(learned.state_dict())
    assert torch.equal(again(batch), learned(batch))


def test_its_training_is_another_run(splits):
    from gleam.training.identity import run_identity

    names = {
        run_identity(unrolled.pgd(2, 4, seed=3, consistent=c), gleam.EndToEnd(), *splits[:2], {"seed": 0})
        for c in (False, True)
    }
    assert len(names) == 2
