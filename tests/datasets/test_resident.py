"""Slices held in memory give the batches that slices in files give, wherever they are held."""

import pickle
from dataclasses import FrozenInstanceError, dataclass, fields, replace
from functools import partial

import numpy as np
import pytest
import torch
from problems import write_prepared

from gleam.datasets import Resident, Slices, resident
from gleam.datasets.volume import array_shapes
from gleam.physics import masks
from gleam.physics.batch import Batch

KNOWN = (
    "name", "index", "shapes", "measured", "subjects", "fingerprint", "is_phantom", "aspect", "acquisition",
    "n_left_out",
)  # fmt: skip
FINGERPRINTS = ["7f48e9fb120c9fbc", "7131f3c1da9d9939", "bf2e3329ddb73fdc"]
ON_A_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture
def mixed(splits, tmp_path):
    """Five files of three shapes, coils among them."""
    more = [
        write_prepared(tmp_path / f"mixed{k}.h5", n_slices=k + 2, n_coils=n_coils, shape=shape, seed=90 + k)
        for k, (n_coils, shape) in enumerate([(5, (24, 20)), (3, (28, 24))])
    ]
    return replace(splits[0], source=(*splits[0].source, *more))


def assert_same(one, other):
    for field in fields(Batch):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert a.dtype == b.dtype and torch.equal(a, b), field.name


def test_held_slices_give_the_same_batches_bit_for_bit(mixed):
    held = Resident(mixed, "cpu")
    for step in range(2 * mixed._n_batches(2)):
        assert_same(held.training_batch(step, 2, seed=3), mixed.training_batch(step, 2, seed=3))
    for part in ((0, 1), (1, 2)):
        ours, theirs = list(held.batches(4, part)), list(mixed.batches(4, part))
        assert [indices for indices, _ in ours] == [indices for indices, _ in theirs]
        for (_, a), (_, b) in zip(ours, theirs, strict=True):
            assert_same(a, b)
    assert_same(held[-1], mixed[-1])
    assert_same(held.batch([2, 0]), mixed.batch([2, 0]))
    assert len(held) == len(mixed) and held.describe() == mixed.describe()
    assert [getattr(held, name) for name in KNOWN] == [getattr(mixed, name) for name in KNOWN]


def test_files_are_read_once(mixed, monkeypatch):
    held = Resident(mixed, "cpu")
    before = held.training_batch(1, 2, seed=0)
    monkeypatch.setattr("gleam.datasets.scans._read", None)
    assert_same(held.training_batch(1, 2, seed=0), before)


def test_arrays_stay_behind_when_pickled(splits):
    held = Resident(splits[0], "cpu")
    packed = pickle.dumps(held)
    assert len(packed) < 5000 < sum(x.nbytes for volume in held.storage.volumes for x in volume.values())
    assert_same(pickle.loads(packed).training_batch(5, 2, seed=1), held.training_batch(5, 2, seed=1))


def test_held_arrays_can_be_freed(splits):
    """Caches of the order of slices must not keep the arrays of a data set alive."""
    import weakref

    held = Resident(splits[0], "cpu")
    held.training_batch(0, 2, seed=0)
    alive = weakref.ref(held)
    del held
    assert alive() is None


def test_a_batch_needs_no_index_that_would_be_copied(splits, monkeypatch):
    """Views are stacked: on a GPU an index tensor would be copied, and the host would wait for that."""
    held = Resident(splits[0], "cpu")
    expected = splits[0].training_batch(0, 2, seed=0)
    held.training_batch(0, 2, seed=0)
    monkeypatch.setattr(torch, "tensor", None)
    monkeypatch.setattr(torch, "from_numpy", None)
    assert_same(held.training_batch(0, 2, seed=0), expected)


def test_what_does_not_fit_is_pinned_and_too_much_gets_one_sentence(mixed, monkeypatch):
    gpu = torch.device("cuda", 0)
    sizes = [sum(8 * int(np.prod(shape)) for shape in array_shapes(s).values()) for s in mixed.shapes]
    free = sizes[0] + sizes[1] + 1000  # two files, and then one that is smaller than the room left over is not
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free + 500, 10**9))
    assert resident._places(mixed.scans, gpu, "train", 500) == [gpu, gpu, "pinned", "pinned", "pinned"]
    monkeypatch.setattr(resident, "host_bytes_available", lambda: 10_000)
    with pytest.raises(
        ValueError, match=r"the 14 slices of train need .* GB free for them on cuda:0 and .* on the host"
    ):
        resident._places(mixed.scans, gpu, "train", 500)
    with pytest.raises(
        ValueError, match=r"the 14 slices of train need 0\.0 GB of memory; there are 0\.0 GB on the host"
    ):
        Resident(mixed, "cpu")


def test_resident_slices_are_not_held_twice(splits):
    first = Resident(splits[0], "cpu")
    second = Resident(first, "cpu")
    assert second.storage.volumes is first.storage.volumes and second.scans == splits[0].scans
    assert_same(second.training_batch(0, 2, seed=0), splits[0].training_batch(0, 2, seed=0))


def test_a_device_that_is_not_there_gets_one_sentence(splits):
    with pytest.raises(ValueError, match=r"device='cuda:99' (is not there|needs a GPU)"):
        Resident(splits[0], "cuda:99")


def test_other_masks_on_the_same_files_share_what_is_held(splits, monkeypatch):
    """As the accelerations of a table do; a GPU is played by the CPU."""
    train, val, _ = splits
    assert resident.on_device(train, "cpu") is train
    hold, checked, gpu = resident.hold, resident.numbered_device, torch.device("cuda", 0)
    monkeypatch.setattr(resident, "numbered_device", lambda device: device if device is gpu else checked("cpu"))
    monkeypatch.setattr(resident, "hold", lambda scans, device, name: hold(scans, "cpu", name=name))
    memory, cpu = resident.Memory, torch.device("cpu")
    monkeypatch.setattr(
        resident, "Memory", lambda name, scans, device, volumes: memory(name, scans, cpu, volumes=volumes)
    )
    first, second = (resident.on_device(replace(train, seed=seed), gpu) for seed in (1, 2))
    other = resident.on_device(val, gpu)
    assert first.storage.volumes is second.storage.volumes is not other.storage.volumes
    assert_same(second.training_batch(0, 2, seed=0), replace(train, seed=2).training_batch(0, 2, seed=0))
    del first, second
    assert [scans for scans, _ in resident._MEMORIES] == [val.scans]


def test_what_no_memory_holds_is_read_from_files(splits, monkeypatch, capsys):
    def hold(scans, device, name):
        raise ValueError("the slices need more memory")

    monkeypatch.setattr(resident, "numbered_device", lambda device: torch.device("cuda", 0))
    monkeypatch.setattr(resident, "hold", hold)
    assert resident.on_device(splits[0], "cuda") is splits[0]
    assert "the slices need more memory; now files are read" in capsys.readouterr().out


def test_the_host_says_how_much_memory_it_has():
    available = resident.host_bytes_available()
    assert available is None or 10**7 < available < 10**14


def test_series_have_maps_without_time():
    assert array_shapes((5, 3, 7, 24, 20)) == {
        "kspace": (5, 3, 7, 24, 20), "sens_maps": (5, 3, 1, 24, 20), "target": (5, 7, 24, 20)
    }  # fmt: skip


class FakeGpu:
    """Streams and events that note what is done with them, in order."""

    def __init__(self):
        self.log, self.now = [], "step"

    def stream(self, stream):
        gpu = self

        class Context:
            def __enter__(self):
                gpu.now = "side"

            def __exit__(self, *_):
                gpu.now = "step"

        return Context()

    def current_stream(self, device):
        return self

    def wait_event(self, event):
        self.log.append(("wait", event.after))

    def event(self, blocking=False):
        gpu = self

        class Event:
            def record(self, stream):
                self.after = gpu.log[-1] if gpu.log else None

            def synchronize(self):
                gpu.log.append(("host waits", self.after))

        return Event()


def test_the_next_batch_is_made_while_a_step_runs_and_the_host_stays_near(monkeypatch):
    gpu = FakeGpu()
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: "side")
    monkeypatch.setattr(torch.cuda, "stream", gpu.stream)
    monkeypatch.setattr(torch.cuda, "current_stream", gpu.current_stream)
    monkeypatch.setattr(torch.cuda, "Event", gpu.event)

    @dataclass
    class Made:
        x: object

    class Tensor:
        def record_stream(self, stream):
            gpu.log.append(("kept for", stream))

    def make(step, batch_size):
        assert gpu.now == "side"
        gpu.log.append(("made", step))
        return Made(Tensor())

    ahead = resident._Ahead("cuda:0")
    for step in range(6):
        ahead(make, step, 4)
        gpu.log.append(("step", step))
    made = [step for what, step in gpu.log if what == "made"]
    assert made == list(range(7))  # each once, and always one more than was asked for
    assert [after for what, after in gpu.log if what == "wait"] == [("made", k) for k in range(6)]
    assert sum(what == "kept for" for what, _ in gpu.log) == 6
    waits = [after for what, after in gpu.log if what == "host waits"]
    assert waits == [None, ("step", 0), ("step", 1)]  # three steps may be under way
    ahead(make, 20, 4)
    assert gpu.log.count(("made", 20)) == gpu.log.count(("made", 21)) == 1


@ON_A_GPU
@pytest.mark.parametrize("reserve_bytes", [0, 10**15])
def test_a_gpu_makes_the_batches_that_a_cpu_makes(mixed, reserve_bytes):
    """Held on the GPU, and held in pinned memory, which a reserve larger than the GPU asks for."""
    held = Resident(mixed, "cuda", reserve_bytes=reserve_bytes)
    is_pinned = [volume["target"].is_pinned() for volume in held.storage.volumes]
    assert all(is_pinned) if reserve_bytes else not any(is_pinned)
    for step in (0, 1, 2, 7, 8, 3):
        ours, theirs = held.training_batch(step, 2, seed=3), mixed.training_batch(step, 2, seed=3)
        assert ours.target.is_cuda
        for field in fields(Batch):
            torch.testing.assert_close(getattr(ours, field.name).cpu(), getattr(theirs, field.name))
    for (_, a), (_, b) in zip(held.batches(4), mixed.batches(4), strict=True):
        torch.testing.assert_close(a.target.cpu(), b.target)


@ON_A_GPU
def test_a_training_batch_makes_nobody_wait(splits):
    """Once its bank of masks is there; with so few steps the host is not too far ahead either."""
    held = Resident(splits[0], "cuda")
    held.training_batch(0, 2, seed=0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(1, resident.N_STEPS_AHEAD):
            held.training_batch(step, 2, seed=0)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_resident_slices_are_slices_and_nothing_else_of_them_changes(splits):
    held = Resident(splits[0], "cpu")
    assert type(held) is Slices and replace(held, storage=None) == splits[0]
    with pytest.raises(FrozenInstanceError):
        held.storage = None


def test_other_masks_in_the_same_memory_are_other_masks(mixed):
    """Banks and batches made ahead belong to the slices, the arrays to their storage."""
    held = Resident(mixed, "cpu")
    held.training_batch(0, 2, seed=0), held[0]
    other = replace(held, seed=mixed.seed + 1)
    assert other.storage is held.storage and other.fingerprint != held.fingerprint
    assert_same(other.training_batch(0, 2, seed=0), replace(mixed, seed=mixed.seed + 1).training_batch(0, 2, seed=0))
    assert_same(other[0], replace(mixed, seed=mixed.seed + 1)[0])


def test_fingerprints_stay_those_of_earlier_versions(splits):
    """Runs and records are found by them."""
    columns = partial(masks.random_columns, acceleration=2, center_fraction=0.2)
    own = [replace(slices, make_mask=columns) for slices in splits]
    assert [slices.fingerprint for slices in own] == FINGERPRINTS
    assert [Resident(slices, "cpu").fingerprint for slices in own] == FINGERPRINTS


def test_room_is_kept_on_the_gpu_and_pinned_memory_is_taken_in_powers_of_two(mixed, monkeypatch):
    gpu = torch.device("cuda", 0)
    needed = [[8 * torch.Size(s).numel() for s in array_shapes(shape).values()] for shape in mixed.shapes]
    total = sum(map(sum, needed))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (total, 4 * total))
    pinned = sum(1 << (n - 1).bit_length() for arrays in needed for n in arrays)
    monkeypatch.setattr(resident, "host_bytes_available", lambda: pinned / 0.9 + 1)
    assert (
        resident._places(mixed.scans, gpu, "train", None) == ["pinned"] * 5
    )  # a quarter of the GPU is all that is free
    monkeypatch.setattr(resident, "host_bytes_available", lambda: pinned / 0.9 - 10)
    with pytest.raises(ValueError, match="on the host"):
        resident._places(mixed.scans, gpu, "train", None)
