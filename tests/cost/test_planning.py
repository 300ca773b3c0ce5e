import copy
from functools import cache

import pytest
import torch
from problems import random_batch
from teamwork import KspaceNetwork

import gleam
from gleam import Checkpointed, EndToEnd, Fast, Greedy, figures, losses, unrolled
from gleam.cost import planning
from gleam.cost.planning import Plan, TimeModel, n_bytes
from gleam.cost.prediction import MAX_ITERATIONS, MemoryModel, as_code
from gleam.cost.step import peak_split

NETWORKS = {
    "PGD": (lambda n: unrolled.pgd(n, 24), {"n": 1, "n_coils": 2, "shape": (32, 28)}),
    "MoDL": (lambda n: unrolled.modl(n, 16, n_cg=3), {"n": 1, "n_coils": 2}),
    "on k-space": (KspaceNetwork, {"shape": (48, 40)}),
}


def seconds(one=1.0, iteration=1.0, cut=0.0, again=0.4):
    """Rounds as :class:`TimeModel` has them: of an iteration, of a further module, of a forward pass done again."""
    return {
        (n, m, checkpointed): 2 * (one + (n - 1) * iteration + (m - 1) * cut + checkpointed * n * again,)
        for n, m in planning.SHORT
        for checkpointed in (False, True)
    }


@pytest.fixture(scope="module", params=NETWORKS)
def planned(request):
    """A plan for six iterations, whose times are made up, and how to measure the peak of (N, strategy)."""
    make, shape = NETWORKS[request.param]
    batch = random_batch(**shape)
    model = MemoryModel.measured(make(6), batch)
    found = Plan(model, TimeModel(seconds()), model.peak_bytes())
    return found, cache(lambda n, code: sum(peak_split(make(n), strategy_of(code), batch).values()))


def strategy_of(code):
    return eval(code, {"gleam": gleam})


def test_memory_is_within_15_percent_of_what_is_measured(planned):
    """With six iterations, and with as many as fit, which were never measured."""
    plan, measured = planned
    for row in plan.table.itertuples():
        assert row.peak_mb == pytest.approx(measured(6, row.strategy) / 1e6, rel=0.15), row
    for memory in (0.6, 1.5):
        plan = plan.within(memory * plan.memory.peak_bytes())
        for row in plan.table.drop_duplicates("deepest_strategy").itertuples():
            if 0 < row.deepest < 30:  # deeper ones take long to measure
                assert measured(row.deepest, row.deepest_strategy) < 1.15 * plan.available_bytes, row


def test_what_is_said_to_fit_does_and_the_rest_does_not(planned):
    plan, measured = planned
    peaks = {code: measured(6, code) for code in plan.table.strategy}
    for memory in (0.3, 0.45, 0.6, 0.8, 1.1):
        plan = plan.within(memory * plan.memory.peak_bytes())
        for row in plan.table[plan.table.strategy.isin(peaks)].itertuples():
            if abs(peaks[row.strategy] / plan.available_bytes - 1) > 0.05:
                assert row.fits == (peaks[row.strategy] <= plan.available_bytes), (memory, row)


def test_the_deepest_network_fits_and_no_deeper_one_with_modules_as_long(planned):
    plan, _ = planned
    for memory in (0.5, 1, 3, 7):
        room = int(memory * plan.memory.peak_bytes())
        for row in plan.within(room).table.itertuples():
            length = -(-6 // row.modules) if row.modules > 1 else None
            checkpointed = "Checkpointed" in row.strategy

            def peak(n, length=length, checkpointed=checkpointed):
                return plan.memory.peak_bytes(n, -(-n // length) if length else 1, checkpointed=checkpointed)

            assert not row.deepest or peak(row.deepest) <= room
            deeper = range(row.deepest + 1, min(row.deepest + 30, MAX_ITERATIONS))
            assert all(peak(n) > room for n in deeper), row
            if row.deepest:
                there = strategy_of(row.deepest_strategy)
                n_modules = there.n_modules if isinstance(there, Greedy) else 1
                assert n_modules == (-(-row.deepest // length) if length else 1)
                assert isinstance(there.propagation, Checkpointed) == checkpointed


def test_more_modules_need_less_and_more_memory_fits_more(planned):
    plan, _ = planned
    gleams = plan.table[~plan.table.strategy.str.contains("Checkpointed")]
    assert list(gleams.modules) == [1, 2, 3, 6]  # modules of 6, 4 at most, 2 and 1
    assert gleams.peak_mb.is_monotonic_decreasing
    less, more = plan.within(0.6 * plan.available_bytes).table, plan.within(2 * plan.available_bytes).table
    shared = less.index.intersection(more.index)
    assert (less.deepest[shared] < more.deepest[shared]).all() and not (less.fits[shared] & ~more.fits[shared]).any()
    assert more.fits.all() and more.deepest["End-to-end"] > 6 > less.deepest["End-to-end"]


def test_the_fewest_modules_that_fit_have_a_row():
    model = MemoryModel.measured(unrolled.pgd(9, 8), random_batch())
    room = model.peak_bytes(n_modules=4)  # 3, 2, 2, 2 iterations, as long as three modules, but for the batch's image
    plan = Plan(model, TimeModel(seconds()), room)
    fewest = model.modules_that_fit(room)
    assert fewest not in (1, 2, 5, 9) and plan.table.fits[f"GLEAM, M = {fewest}"]
    assert list(plan.table.modules)[:6] == [1, 1, 2, fewest, 5, 9]


def test_time_is_linear_in_iterations_and_modules():
    times = TimeModel(seconds(one=3.0, iteration=2.0, cut=-0.5, again=0.4))
    for n, m in [(1, 1), (3, 1), (3, 3), (8, 1), (8, 4), (100, 100)]:
        expected = 3 + 2 * (n - 1) - 0.5 * (m - 1)
        assert times.seconds_per_step(n, m) == pytest.approx(expected)
        assert times.step_seconds(n, m, checkpointed=True) == pytest.approx((expected + 0.4 * n,) * 2)


def test_no_noise_makes_a_step_shorter_than_one_iteration():
    times = TimeModel(seconds(one=3.0, iteration=-1.0))
    assert times.seconds_per_step(1) == times.seconds_per_step(50) == 3


def test_a_round_that_was_slow_counts_once():
    rounds = {key: (*times, 50 * times[0]) for key, times in seconds().items()}
    assert TimeModel(rounds).seconds_per_step(8) == pytest.approx(8)


@pytest.fixture(scope="module")
def model():
    return MemoryModel.measured(unrolled.pgd(8, 8), random_batch())


def said(model, room, **times):
    return Plan(model, TimeModel(seconds(**times)), room).recommendation


def test_the_fastest_that_fits_is_recommended(model):
    whole, most = model.peak_bytes(), 10 * model.peak_bytes()
    assert said(model, most).startswith("Take End-to-end: it needs ")
    assert said(model, most, cut=-0.05).startswith("Take End-to-end:"), "equal within 10 %"
    faster = said(model, most, cut=-0.5)
    assert faster.startswith("Take GLEAM, M = 8:") and "End-to-end fits as well, with" in faster
    short = said(model, whole - 1)
    assert short.startswith("Take GLEAM, M = 2:") and "1.00 times that of" in short
    assert short.endswith(
        "Checkpointing fits as well, with the gradient of end-to-end training, at 1.40 times its time."
    )
    assert said(model, whole - 1, again=0.05).startswith("Take Checkpointing:"), "equal, and of that gradient"
    assert said(model, model.peak_bytes(n_modules=8)).endswith("nothing with the gradient of end-to-end training fits.")


def test_where_nothing_fits_the_least_and_the_deepest_are_named(model):
    room = model.peak_bytes(5, 5)
    assert said(model, room) == (
        f"Nothing fits into {planning._size(room)}. GLEAM, M = 8 needs least, "
        f"{planning._size(model.peak_bytes(8, 8))}: take a smaller batch or fewer features, or N = 5 with "
        "gleam.Greedy(5)."
    )
    assert said(model, 1).endswith(": take a smaller batch or fewer features.")
    assert (Plan(model, TimeModel(seconds()), 1).table.deepest == 0).all()


def test_the_figure_of_depths_has_a_line_for_each_way_filled_where_the_network_fits(model):
    plan = Plan(model, TimeModel(seconds()), model.peak_bytes(n_modules=4))
    (axis,) = figures.depths(plan).axes
    own, *lines = axis.lines
    assert set(own.get_xdata()) == {8}
    ends = [(line.get_xdata()[0], line.get_markerfacecolor() != "white") for line in lines[1::2]]
    assert ends == [(row.deepest, row.fits) for row in plan.table[::-1].itertuples()]
    assert [text.get_text() for text in axis.texts] == [str(n) for n in plan.table.deepest[::-1]]
    names = [label.get_text() for label in axis.get_yticklabels()][::-1]
    assert names[:3] == ["End-to-end", "Checkpointing", "GLEAM, 4 per module"] and "checkpoints" in names[-1]
    texts = [figures.depths(plan.within(size)).axes[0].texts[0].get_text() for size in (1, "1 TB")]
    assert texts == ["none", "≥ 1000"]


@pytest.mark.parametrize("precision", [None, "fp32"])
def test_a_plan_runs_only_three_iterations_and_changes_no_network(precision, monkeypatch):
    network, batch = unrolled.pgd(7, 4), random_batch()
    for iteration in network.iterations[3:]:
        monkeypatch.setattr(iteration, "forward", None)
    before = copy.deepcopy(network.state_dict())
    plan = gleam.plan(network, batch, "1 GB", loss=losses.magnitude_l1, precision=precision, n_rounds=2)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert plan.memory == MemoryModel.measured(network, batch, strategy=EndToEnd(losses.magnitude_l1))
    assert (plan.table.deepest == MAX_ITERATIONS).all() and (plan.table.seconds_per_step > 0).all()
    assert all(len(rounds) == 2 for rounds in plan.time.seconds.values())
    written = as_code(EndToEnd(losses.magnitude_l1))
    assert written == "gleam.EndToEnd(loss=gleam.losses.magnitude_l1)"
    assert plan.table.strategy["End-to-end"] == (f"gleam.Fast({written}, 'fp32')" if precision else written)
    for text in (repr(plan), plan._repr_html_()):
        assert "GLEAM, M = 4, checkpoints" in text and "seconds_per_step" in text


@pytest.mark.parametrize(
    "strategy",
    [
        EndToEnd(),
        Checkpointed(losses.one_minus_ssim),
        Greedy(4),
        Greedy(2, within=Checkpointed()),
        Greedy(3, within=Checkpointed(), loss=losses.magnitude_l1),
        Fast(Greedy(3), "bf16"),
    ],
    ids=str,
)
def test_code_of_a_strategy_makes_it(strategy):
    assert strategy_of(as_code(strategy)) == strategy


@pytest.mark.parametrize(
    ("memory", "expected"),
    [("11 GB", 11e9), ("24 GiB", 24 * 2**30), ("1.5MB", 1.5e6), (" 80 gb ", 80e9), ("512 KiB", 2**19), ("2 TB", 2e12),
     ("300 B", 300), (11e9, 11e9), (12345, 12345)],
)  # fmt: skip
def test_sizes_of_memory(memory, expected):
    assert n_bytes(memory) == expected


@pytest.mark.parametrize(
    "memory", ["11 pounds", "-3 GB", "0 GB", "11", "GB", "1.2.3 GB", "", -5, 0, float("nan"), float("inf")]
)
def test_what_is_no_size_is_refused(memory):
    with pytest.raises(ValueError, match=r"memory=.* is no size; expected a number of bytes above 0, or text such as"):
        gleam.plan(unrolled.pgd(1, 2), random_batch(), memory)


def test_bad_input_is_one_sentence(batch):
    network, unlike, shared = unrolled.pgd(3, 4), unrolled.pgd(3, 4), unrolled.pgd(3, 4)
    unlike.iterations[2] = unrolled.pgd(1, 6).iterations[0]
    shared.iterations[1] = shared.iterations[0]
    cases = {
        "network is a Linear without iterations; expected": (torch.nn.Linear(1, 1), batch, "1 GB"),
        "network is a Unrolled without iterations; expected": (unrolled.Unrolled([]), batch, "1 GB"),
        r"batch is a Tensor; expected a gleam\.physics\.Batch": (network, batch.target, "1 GB"),
        r"iteration 2 of the network has \d+ parameters and iteration 0 has \d+": (unlike, batch, "1 GB"),
        "cannot train modules that share weights": (shared, batch, "1 GB"),
        "memory=None is that of a GPU, and device='cpu'": (network, batch, None),
    }
    for message, arguments in cases.items():
        with pytest.raises(ValueError, match=message) as raised:
            gleam.plan(*arguments)
        assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match="fp7"):
        gleam.plan(network, batch, "1 GB", precision="fp7")


def test_a_gpu_gives_its_own_memory_and_a_full_one_is_explained(batch, monkeypatch):
    class Card:
        total_memory = 11 * 2**30

    measured = MemoryModel.measured.__func__
    monkeypatch.setattr(planning, "is_cuda", lambda device: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Card)
    network = unrolled.pgd(2, 4)
    assert gleam.plan(network, batch, n_rounds=1).available_bytes == 11 * 2**30

    def full(cls, *arguments, device="cpu", **keywords):
        if device is not None and "strategy" in keywords and not full.calls:
            full.calls.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return measured(cls, *arguments, device=device, **keywords)

    full.calls = []
    monkeypatch.setattr(MemoryModel, "measured", classmethod(full))
    with pytest.raises(MemoryError, match=r"a step of EndToEnd\(\) needs about .* GLEAM with gleam.Greedy\(2\)"):
        gleam.plan(network, batch)
