import os
import signal
import subprocess
import sys
import threading
import time
import types
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from raw_files import coil_images, header, write_fastmri

from gleam.physics.fourier import fft2c
from gleam.processes.launching import launch
from gleam.processes.pool import in_processes
from gleam.processes.sending import packed, unpacked
from gleam.training.checkpoints import load_fit

HERE = Path(__file__).parents[1]
WORK = "testing"


def within(seconds, since):
    """Whether so little time has passed, on a machine whose cores are free; more where they are shared."""
    return time.monotonic() - since < seconds * max(1, os.getloadavg()[0] / os.cpu_count())


def alive(processes):
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_one_process_is_this_one_and_works_when_it_is_asked():
    begun = []
    results = in_processes(begun.append, {"a": 1, "b": 2}, 1, work=WORK)
    assert begun == [] and next(results)[0] == "a" and begun == [1]
    failed = dict(in_processes(lambda x: 1 / x, {0: 0, 1: 1}, 1, work=WORK))
    assert isinstance(failed[0].exception(), ZeroDivisionError) and failed[1].result() == 1
    assert dict(in_processes(abs, {}, 4, work=WORK)) == {}


def test_functions_of_a_cell_work_with_the_threads_given_and_one_failure_stops_no_other():
    def function(x):
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        grown.append(np.ones(10**8 * (x > 2), np.float32))
        time.sleep(1.1)
        return 1 / x, torch.get_num_threads(), *(os.environ[name] for name in names)

    grown = []  # loky would replace a worker whose memory grows, with a warning
    done = dict(in_processes(function, {x: x for x in (0, 1, 2, 3, 4)}, 2, work=WORK, n_threads=3))
    assert isinstance(done.pop(0).exception(), ZeroDivisionError)
    assert {x: one.result() for x, one in done.items()} == {x: (1 / x, 3, "3", "3", "3") for x in (1, 2, 3, 4)}


@pytest.mark.slow
def test_a_process_that_dies_is_one_sentence_and_takes_nothing_finished_with_it():
    def function(x):
        if x == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    seen = []
    with pytest.raises(OSError, match=r"^a process that was testing died, .*memory: give n_jobs below 2; .* are kept$"):
        for key, one in in_processes(function, {x: x for x in (0, 1, 2)}, 2, work=WORK):
            time.sleep(1 - key)  # the process dies meanwhile
            seen.append(one.result())
    assert sorted(seen) == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("reason", ["error", "break"])
def test_a_loop_that_ends_early_ends_its_processes(reason, tmp_path):
    def function(x):
        try:
            (tmp_path / f"begun{x}").touch()
            while x:
                time.sleep(0.01)
        finally:
            (tmp_path / f"left{x}").touch()

    before = psutil.Process().children(recursive=True)

    def loop():
        for key, _ in in_processes(function, {x: x for x in range(9)}, 2, work=WORK):
            while len(list(tmp_path.glob("begun*"))) < 3:
                time.sleep(0.01)
            started.append(time.monotonic())
            if reason == "error":
                raise KeyError(key)
            break

    started = []
    if reason == "error":
        with pytest.raises(KeyError):
            loop()
    else:
        loop()
    assert within(5, started[0])
    names = [" ".join(p.cmdline()) for p in psutil.Process().children(recursive=True) if p not in before]
    assert not [name for name in names if "popen_loky" in name]
    assert {p.name for p in tmp_path.iterdir()} == {f"{when}{x}" for when in ("begun", "left") for x in range(3)}


class Locked:
    """An object of a notebook's cell that no other process can get."""

    def __init__(self):
        self.lock = threading.Lock()


@pytest.mark.parametrize(
    "start", [lambda held: [*in_processes(len, held, 2, work=WORK)], lambda held: launch(len, 2, held)]
)
def test_what_cannot_be_sent_to_a_process_has_one_explanation_before_any_is_started(start):
    says = r"test_pool\.Locked cannot be sent to a new process \(.*lock.*\): define it in a module, .*n_jobs=1"
    with pytest.raises(ValueError, match=says):
        start({"a": 1, "b": [{"deep": Locked()}]})


def test_what_a_new_process_cannot_make_has_the_same_explanation():
    away = types.ModuleType("a_module_that_is_not_there")
    exec("class Away: pass", away.__dict__)
    sys.modules[away.__name__] = away
    try:
        work = packed(away.Away())
    finally:
        del sys.modules[away.__name__]
    with pytest.raises(ValueError, match=r"to a new process \(No module named 'a_module.*\): define it in a module"):
        unpacked(work)


@pytest.fixture
def folder(tmp_path):
    """Three raw files: the first is small."""
    for name, n in zip("abc", (16, 20, 20), strict=True):
        kspace = fft2c(coil_images((24, n), 3))[None]
        write_fastmri(tmp_path / "raw" / f"{name}.h5", kspace, header((24, n, 1)), acquisition="AXT2", patient_id=name)
    return tmp_path


def script(work, folder, **more):
    command = [sys.executable, "-W", "error", *([HERE / "unguarded.py"] if "stdin" not in more else "-"), work, folder]
    environment = os.environ | {"PYTHONPATH": f"{HERE}:{HERE.parent}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **more)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["script", "stdin"])
def test_a_script_needs_no_guard_and_its_own_classes_train_the_same_run_in_new_processes(kind, folder):
    """From a file, and as an interpreter or a notebook's kernel gets it: without one."""
    with open(HERE / "unguarded.py") as lines:
        out, error = script("both", folder, **{"stdin": lines} if kind == "stdin" else {}).communicate()
    assert out == "equal\n", error[-3000:]


def interrupted(process, patience=15):
    """What a process that is interrupted, as by the stop button, says at its end: soon, if other programs let it.

    Pressed again if need be: Python loses an interrupt that comes in the callback of a weak reference, 1 in 100.
    """
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=patience)[1]
    process.kill()
    pytest.fail(f"still there {2 * patience} s after an interrupt: {process.communicate()[1][-3000:]}")


@pytest.mark.slow
@pytest.mark.parametrize("work", ["parallel", "alone"])
def test_an_interrupt_ends_one_run_soon_and_keeps_its_checkpoint(work, folder):
    process = script(work, folder)
    deadline = time.monotonic() + 200
    while not list(folder.glob("*/checkpoint.safetensors")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children(recursive=True)
    error = interrupted(process)
    assert error.rstrip().endswith("KeyboardInterrupt"), error
    assert not alive(psutil.wait_procs(workers, timeout=10)[1])
    (path,) = folder.glob("*/checkpoint.safetensors")
    assert load_fit(path).n_steps_done >= 10


def is_under_way(work, folder):
    """Something is finished, and two others are begun."""
    checkpoints = list(folder.glob("*/checkpoint.safetensors"))
    if work == "training":
        return len(checkpoints) == 3 and (folder / "done0").exists()
    return len(list(folder.glob(".*.part"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=lambda s: s.name)
@pytest.mark.parametrize("work", ["training", "preparing"])
def test_a_script_that_is_stopped_leaves_what_is_finished_and_no_process(work, how, folder):
    process = script(work, folder)
    deadline = time.monotonic() + 200
    while not is_under_way(work, folder) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) >= 2
    started = time.monotonic()
    process.send_signal(how)
    error = process.communicate(timeout=60)[1]
    _, left = psutil.wait_procs(workers, timeout=max(0, 20 + started - time.monotonic()))
    assert not alive(left)
    if how == signal.SIGINT:
        assert within(5, started) and error.rstrip().endswith("KeyboardInterrupt"), error
    assert not list(folder.rglob("*.part"))
    if work == "training":
        assert [path.name for path in folder.glob("done*")] == ["done0"]
        fits = [load_fit(path) for path in folder.glob("*/checkpoint.safetensors")]
        assert len(fits) == 3 and sorted(fit.n_steps_done for fit in fits)[0] == 10
    else:
        assert [path.name[0] for path in folder.glob("*-*.h5")] == ["a"]
