import contextlib
import functools
import importlib
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import gleam
from gleam import records
from gleam.records import __main__ as measures
from gleam.records.summaries import count_inversions
from gleam.training import checkpoints

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from driver import chapters, profiles
from full_scale import correctness, costs, packing, program, tables
from full_scale.profiles import DATA, Profile
from full_scale.session import Job, Session
from full_scale.tables import Run, Tables

RUN = Path(program.__file__).with_name("run.py")
measures_module = importlib.import_module("gleam.records.measures")
record_module = importlib.import_module("gleam.records.storage")


@pytest.fixture(scope="module", autouse=True)
def _bare_machine():
    """As where this is meant to run: without what brains and compressed sensing need. Git is asked once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record_module, "_commit", functools.cache(record_module._commit))
        patch.setattr(tables, "has", lambda *packages: False)
        yield


def call(folder, *arguments, device="cpu"):
    """(exit status, what was printed) of a call whose files are all under `folder`."""
    places = ["--results", f"{folder}/results", "--work", f"{folder}/work"]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = program.main(["--profile", "tiny", "--device", device, *places, *arguments])
    return status, printed.getvalue()


def found(folder):
    """All records under `folder`, by experiment and method."""
    loaded = [records.load(path) for path in Path(folder).glob("results/*/*/*.json")]
    return {(record.experiment, record.method): record for record in loaded}


def session_in(folder, *profile):
    profile = Profile(*(profile or ["tiny"]))
    return Session(profile, "cpu", folder / "results", folder / "work", time.monotonic() + 60)


def write_checkpoint(path, n_steps_done, n_steps=4, size=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    fit = checkpoints.Fit({"n_steps": n_steps}, n_steps_done=n_steps_done)
    checkpoints.save(path, fit, {"a": torch.full((size,), n_steps_done / 1)}, {}, {})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:iteration . could not be inverted")  # random weights need not be a contraction
def test_dry_run_of_everything(tmp_path, capsys, monkeypatch):
    """One test, since tests of one file may run in two processes, and the run takes a while."""
    status, printed = call(tmp_path, "--out", f"{tmp_path}/out")
    assert status == 0 and "Everything is done." in printed
    assert "Brains are left out" in printed and "(CS) is left out" in printed
    all_jobs_left_their_records(tmp_path)
    records_hold_what_tables_and_measures_read(tmp_path)
    monkeypatch.setattr(measures_module, "FULL_SCALE", "tiny")
    assert measures.main([f"{tmp_path}/results"]) == 0
    lines = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert len(lines) == 9 and all(float(value) != 0 for value in lines.values())
    a_second_call_does_nothing(tmp_path)
    what_was_packed_comes_back_byte_for_byte(tmp_path)


def all_jobs_left_their_records(folder):
    everything = found(folder)
    assert {record.profile for record in everything.values()} == {"tiny"}
    assert {experiment for experiment, _ in everything} == {
        "correctness", *costs.ORDER, *(f"precision_pgd2d_seed{seed}" for seed in range(3)),
        "mridata_pgd_R3", "mridata_pgd_R4", "mridata_modl_R2", "mridata_modl_R4", "cine_pgd", "cine_modl",
    }  # fmt: skip
    assert {m for e, m in everything if e == "cine_pgd"} == {
        "Zero-filled", "End-to-end", "End-to-end, equal compute", "End-to-end, as deep", "GLEAM",
    }  # fmt: skip
    assert {m for e, m in everything if e == "mridata_modl_R2"} == {
        "Zero-filled", "End-to-end", "Checkpointing", "MEL", "GLEAM",
    }  # fmt: skip


def records_hold_what_tables_and_measures_read(folder):
    everything = found(folder)
    trained = everything["mridata_pgd_R3", "GLEAM"]
    assert trained.n_steps_done == trained.settings["n_steps"] == 4 and trained.settings["learning_rate"] == 1e-4
    assert trained.cost["step_seconds"] == everything["cost_pgd2d_fp32", "GLEAM"].cost["step_seconds"]
    assert trained.settings["cost_precision"] == "fp32" and trained.settings["precision"] in ("fp32", "bf16")
    assert trained.is_phantom and len(trained.scores) == 4 and trained.history[-1]["step"] == 4
    rung = everything["ladder_modl2d", "bf16, captured"]
    assert rung.settings["precision"] == "bf16" and rung.settings["captured"] and rung.measures["flops_per_step"] > 0
    longer = everything["cine_pgd", "End-to-end, equal compute"]
    assert longer.cost["step_seconds"] == everything["cost_pgd3d_fp32", "End-to-end"].cost["step_seconds"]
    assert longer.n_steps_done == 2 * everything["cine_pgd", "GLEAM"].n_steps_done
    formats = [everything["precision_pgd2d_seed1", p] for p in ("fp32", "tf32", "bf16")]
    assert [record.settings["precision"] for record in formats] == ["fp32", "tf32", "bf16"]
    assert all(record.table.index.equals(formats[0].table.index) and len(record.scores) == 4 for record in formats)
    assert {everything[f"precision_pgd2d_seed{seed}", "fp32"].settings["seed"] for seed in range(3)} == {0, 1, 2}
    inverted = {e: count_inversions(record.history)[1] for (e, m), record in everything.items() if m == "MEL"}
    assert all(inverted[e] > 0 for e in ("mridata_modl_R2", "mridata_modl_R4", "cine_modl"))


def a_second_call_does_nothing(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.json")}
    status, printed = call(folder)
    assert status == 0 and {path: path.stat().st_mtime_ns for path in folder.rglob("*.json")} == before
    assert printed.splitlines()[2:] == ["Everything is done."]


def what_was_packed_comes_back_byte_for_byte(folder):
    elsewhere = folder / "elsewhere"
    status, printed = call(elsewhere, "--resume-from", f"{folder}/out")
    assert status == 0 and printed.splitlines()[2:] == ["Everything is done."]
    originals = [*folder.glob("results/*/*/*.json"), *folder.glob("work/runs/**/*.safetensors")]
    assert len(originals) > 100
    for path in originals:
        assert (elsewhere / path.relative_to(folder)).read_bytes() == path.read_bytes()


def test_a_job_that_fails_leaves_the_others_alone(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no such kernel\nand much more")

    monkeypatch.setattr(costs.roofline, "limits", broken)
    status, printed = call(tmp_path, "--only", "limits,cost_pgd2d_fp32")
    assert status == 1 and "limits failed: RuntimeError: no such kernel\n" in printed and "Failed: limits." in printed
    assert {experiment for experiment, _ in found(tmp_path)} == {"cost_pgd2d_fp32"}
    assert measures_module.measure(tmp_path / "results").keys() and not any(
        measures_module.measure(tmp_path / "results").values()
    )  # records of a dry run are no measures


def test_a_call_that_is_stopped_goes_on_in_the_next(tmp_path, monkeypatch):
    fit, n_calls = gleam.fit, itertools.count()

    def stopped(*arguments, **keywords):
        return fit(*arguments, **keywords) if next(n_calls) < 2 else sys.exit("stopped by SIGTERM")

    monkeypatch.setattr(gleam, "fit", stopped)
    with pytest.raises(SystemExit):
        call(tmp_path, "--only", "R3/e,R3/g", "--out", f"{tmp_path}/out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"records.tar.gz", "checkpoints.tar.000"}
    assert not found(tmp_path)

    monkeypatch.setattr(gleam, "fit", fit)
    elsewhere = tmp_path / "elsewhere"
    status, printed = call(elsewhere, "--only", "R3/e,R3/g", "--resume-from", f"{tmp_path}/out")
    assert status == 0 and "step 2 of 4" not in printed and printed.count("step 4 of 4") == 2
    assert {run.n_steps_done for run in found(elsewhere).values()} == {4}


def test_a_run_that_fails_is_scored_as_far_as_it_is_and_goes_on_later(tmp_path, monkeypatch):
    fit, n_calls = gleam.fit, itertools.count()

    def diverges(network, *arguments, name, **keywords):
        if "GLEAM" in name and next(n_calls) > 0:
            raise ValueError("training diverged")
        return fit(network, *arguments, name=name, **keywords)

    monkeypatch.setattr(gleam, "fit", diverges)
    status, printed = call(tmp_path, "--only", "R3/e,R3/g")
    assert status == 1 and printed.count("training diverged") == 1
    trained = [line.split(":")[0].split("/")[1] for line in printed.splitlines() if ": step" in line]
    assert trained == ["end-to-end", "gleam", "end-to-end", "end-to-end, scores", "gleam, scores"]
    partial = found(tmp_path)
    assert partial["mridata_pgd_R3", "GLEAM"].progress == "2 of 4 steps"
    assert partial["mridata_pgd_R3", "End-to-end"].progress == "4 of 4 steps"
    monkeypatch.setattr(gleam, "fit", fit)
    status, printed = call(tmp_path, "--only", "R3/e,R3/g")
    assert status == 0 and "end-to-end" not in printed and "step 4 of 4" in printed
    assert found(tmp_path)["mridata_pgd_R3", "GLEAM"].n_steps_done == 4


def test_without_time_nothing_begins(tmp_path):
    status, printed = call(tmp_path, "--seconds", "0")
    assert status == 0 and not found(tmp_path)
    assert "Left for another call: correctness; limits; " in printed and "mridata_pgd_R4/gleam" in printed


def test_time_is_kept_for_scoring(tmp_path):
    session = session_in(tmp_path)
    session.notes["seconds"] = {"mridata_pgd_R/gleam": 1.0, "mridata_pgd_R/gleam, scores": 60.0}
    runs = [Run(session.profile.experiments["mridata_pgd_R3"], method) for method in ("End-to-end", "GLEAM")]
    list(session.work_through(Tables(session)._table(runs)))
    assert [run.share for run in runs] == [1, 0] and [*session.left] == ["mridata_pgd_R3/gleam"]


def test_jobs_begun_in_vain_twice_come_last(tmp_path):
    done = []

    def ends_the_process():
        done.append("bad")
        raise SystemExit

    jobs = [Job("bad", 0, ends_the_process), Job("good_1/a", 0, lambda: done.append("good"))]
    for _ in range(3):
        with pytest.raises(SystemExit):
            list(session_in(tmp_path).work_through(jobs))
    assert done == ["bad", "bad", "good", "bad"]
    session = session_in(tmp_path)
    assert session.expected_seconds(Job("good_2/a", 50, None)) < 2  # what one of another acceleration took
    session.note("seconds", "good_/a", 100)
    list(session.work_through(jobs[1:]))
    assert [*session.left] == ["good_1/a"]


def test_failed_tests_are_recorded_and_run_again(tmp_path, monkeypatch):
    outputs = [
        (5, "no tests ran"),
        (1, "FAILED tests/gpu/test_device.py::test_it[a, b] - assert 1 < 0\n1 failed, 2 passed, 3 skipped in 1 s"),
        (0, "3 passed in 1 s"),
    ]
    done = (SimpleNamespace(returncode=status, stdout=text) for status, text in outputs)
    monkeypatch.setattr(correctness, "subprocess", SimpleNamespace(run=lambda *_, **__: next(done)))
    only = ("--only", "correctness")
    status, printed = call(tmp_path, *only)
    assert status == 1 and "correctness failed: no tests ran" in printed and not found(tmp_path)
    assert call(tmp_path, *only)[0] == 1
    record = found(tmp_path)["correctness", "Tests"]
    assert record.measures == {"n_passed": 2, "n_failed": 1} and record.settings["failed"] == ["test_it[a, b]"]
    assert call(tmp_path, *only)[0] == call(tmp_path, *only)[0] == 0
    assert found(tmp_path)["correctness", "Tests"].measures == {"n_passed": 3, "n_failed": 0}


def test_a_ladder_without_a_rung_is_not_climbed_again(tmp_path, monkeypatch):
    fast = costs._fast

    def without_compiler(session, case, batch, options):
        if options["precision"] == "bf16":
            raise RuntimeError("no C compiler")
        return fast(session, case, batch, options)

    monkeypatch.setattr(costs, "_fast", without_compiler)
    status, printed = call(tmp_path, "--only", "ladder_pgd2d")
    assert status == 1 and "bf16, padded: RuntimeError: no C compiler" in printed
    assert {m for _, m in found(tmp_path)} == {"Plain PyTorch, fp32", "Plain PyTorch, tf32", "fp32", "tf32"}
    assert call(tmp_path, "--only", "ladder_pgd2d")[0] == 0


@pytest.mark.parametrize(("fastest", "multiple"), [("bf16", 1), ("bf16, padded", 8), ("bf16, padded to 32", 32)])
def test_compiled_and_captured_rungs_have_the_channels_of_the_fastest(monkeypatch, tmp_path, fastest, multiple):
    monkeypatch.setattr(costs.cost, "paired", lambda steps, **_: {name: [2 - (name == fastest)] for name in steps})
    assert costs._best_multiple(session_in(tmp_path), dict.fromkeys(costs.RUNGS)) == multiple
    assert costs._best_multiple(session_in(tmp_path), {"fp32": None}) == gleam.Fast(None).channel_multiple


def test_fast_costs_have_the_options_of_the_fastest_bf16_rung(tmp_path):
    session = session_in(tmp_path)
    for (name, options), seconds in zip(costs.RUNGS.items(), (9, 9, 9, 0.1, 4, 3, 6, 2, 1, 5), strict=True):
        settings = dict(zip(costs.OPTIONS, options, strict=True)) | {"channel_multiple": 1}
        found = gleam.cost.Cost(seconds, 1, "", "", (seconds,))
        session.save("ladder_pgd2d", name, cost=found, settings=settings)
    captured = costs.EXACT | {"precision": "bf16", "captured": True}
    assert costs.fastest(session, "cost_pgd2d_fast") == costs.fastest(session, "cost_pgd2d_brain_fast") == captured
    assert costs.fastest(session, "cost_pgd3d_fast")["channel_multiple"] == gleam.Fast(None).channel_multiple


@pytest.mark.parametrize("profile", ["tiny", "quick", "standard", "paper"])
def test_training_by_inversion_inverts_an_iteration_in_every_step_in_fp32_with_one_seed(profile):
    by_seed = [
        {name: one.methods["MEL"] for name, one in Profile(profile, seed).experiments.items() if "MEL" in one.methods}
        for seed in (0, 1)
    ]
    assert len(by_seed[0]) == 3 and not by_seed[1], "knees at two accelerations, and cine"
    for name, mel in by_seed[0].items():
        assert mel.strategy.n_checkpoints < mel.n_iterations and mel.precision == "fp32", name


def test_experiments_are_those_of_the_chapters_with_the_profile_paper(tmp_path, monkeypatch):
    """One definition: the parameters that the chapters get, the experiments made of them, what gleam.fit is given."""
    root = Path(__file__).parents[2]
    for seed in (0, 3):
        settings = profiles.with_seed(profiles.read_settings(root, "paper"), str(seed))
        given = {c.name: profiles.check_parameters(c, settings) for c in chapters.discover(root)}
        parameters = Profile("paper", seed).parameters
        assert parameters["phantoms"] == settings["phantoms"]
        assert all(given[name].items() <= parameters[name].items() for _, name, _ in DATA.values())
    session, validated, sizes = session_in(tmp_path, "paper"), {}, {}
    monkeypatch.setattr(Tables, "data", lambda *_: (None, None, None))

    def fit(network, validate_every, name, **_):
        validated[name], sizes[name] = validate_every, sum(p.numel() for p in network.parameters())
        return checkpoints.Fit({}, [{"loss": [0], "nrmse": 0}])

    monkeypatch.setattr(gleam, "fit", fit)
    for experiment in session.profile.experiments.values():
        for method in experiment.methods:
            Tables(session)._train(Run(experiment, method))
    assert len(validated) == 24
    changed = {name for name, every in validated.items() if every != 1000 and "mridata" in name}
    assert changed == {"mridata_modl_R4: MEL", "mridata_modl_R16: MEL"}  # a call has to come to a validation
    assert sizes["mridata_pgd_R12: GLEAM"] == 2_191_216 == sizes["fastmri_pgd: End-to-end"]
    assert sizes["fastmri_pgd: GLEAM"] == 3 * 2_191_216 and sizes["mridata_modl_R16: GLEAM"] == 8 * 134_820
    assert (sizes["cine_pgd: End-to-end"], sizes["cine_pgd: GLEAM"]) == (832_208, 2_496_624)


def test_another_seed_has_folders_of_its_own_and_only_what_depends_on_it(tmp_path):
    status, _ = call(tmp_path, "--seed", "1", "--only", "limits,R3/zero,seed0")
    everything = found(tmp_path)
    assert status == 0 and [*everything] == [("mridata_pgd_R3", "Zero-filled")]
    assert [path.name.endswith("-seed1") for path in (tmp_path / "results").iterdir()] == [True]
    session = session_in(tmp_path, "tiny", 1)
    train, val, test = Tables(session).data(session.profile.experiments["mridata_pgd_R3"])
    assert (train.seed, val.seed, test.seed) == (3, 4, 5)  # of the masks
    assert {scan["seed"] for scan in session.profile.parameters["phantoms"].values()} == {1}
    assert session.profile.experiments["cine_pgd"].training["seed"] == 1


def test_records_of_other_code_or_sizes_are_not_used_and_a_copied_tree_is_told_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(record_module, "_commit", lambda: None)
    monkeypatch.setenv("GLEAM_COMMIT", "abc1234")
    session = session_in(tmp_path)
    session.save("limits", "Device", measures={"a": 1.0})
    assert session.find("limits", "Device").environment["commit"] == "abc1234"
    assert session_in(tmp_path, "quick").find("limits", "Device") is None
    monkeypatch.setattr(importlib.import_module("full_scale.session"), "RESULTS_VERSION", 0)
    assert session.find("limits", "Device") is None


def test_packing_keeps_to_its_limits(tmp_path):
    files = {f"runs/{i}": tmp_path / str(i) for i in range(4)}
    for path, size in zip(files.values(), [3000, 50_000, 30_000, 100], strict=True):
        path.write_bytes(os.urandom(size))
    limits = {"n_files": 4, "file_bytes": 17_000, "total_bytes": 10**6}
    assert packing.pack(tmp_path / "out", {"a/b.json": tmp_path / "3"}, files, **limits) == ["runs/1"]
    assert packing.pack(tmp_path / "out", {}, dict(reversed(files.items())), **limits) == ["runs/1"]
    written = list((tmp_path / "out").iterdir())
    assert len(written) == 4 and all(path.stat().st_size <= 17_000 for path in written)
    assert packing.unpack(tmp_path / "out", tmp_path / "records", tmp_path / "back") == []
    for name in ("runs/3", "runs/2", "runs/0"):
        assert (tmp_path / "back" / name).read_bytes() == files[name].read_bytes()
    tight = limits | {"total_bytes": 15_500}
    assert packing.pack(tmp_path / "out", {}, files, **tight) == ["runs/1", "runs/2", "runs/3"]
    assert sum(path.stat().st_size for path in (tmp_path / "out").iterdir()) <= 15_500
    with pytest.raises(ValueError, match=r"the records take \d+ bytes, more than one file may have \(10000\)"):
        packing.pack(tmp_path / "out", {"r": files["runs/1"]}, {}, file_bytes=10_000)


def test_checkpoints_that_were_cut_short_are_named_and_older_ones_not_taken(tmp_path):
    for i in range(3):
        write_checkpoint(tmp_path / f"{i}.safetensors", n_steps_done=i, size=2000)
    files = {f"runs/{i}.safetensors": tmp_path / f"{i}.safetensors" for i in range(3)}
    packing.pack(tmp_path / "out", {}, files, file_bytes=25_000, n_files=4)
    (tmp_path / "out" / "checkpoints.tar.001").unlink()
    write_checkpoint(tmp_path / "work" / "runs" / "0.safetensors", n_steps_done=3)
    assert packing.unpack(tmp_path / "out", tmp_path, tmp_path / "work") == ["runs/2.safetensors"]
    steps = {path.name: checkpoints.load_fit(path).n_steps_done for path in (tmp_path / "work" / "runs").iterdir()}
    assert steps == {"0.safetensors": 3, "1.safetensors": 1}


def test_unfinished_runs_are_packed_first_the_most_advanced_of_them_before_the_others(tmp_path):
    session = session_in(tmp_path)
    session.note("begun", "a", 1)
    done = {"mridata_pgd_R3/end-to-end": 4, "mridata_pgd_R3/gleam": 1, "mridata_pgd_R4/gleam": 3}
    for name, n in done.items():
        write_checkpoint(session.work / "runs" / name / "new" / "checkpoint.safetensors", n)
    old = session.work / "runs" / "mridata_pgd_R3/gleam" / "old" / "checkpoint.safetensors"
    write_checkpoint(old, 2)
    os.utime(old, (0, 0))
    packed = [*tables.checkpoints(session)]
    assert packed == ["notes.json"] + [
        f"runs/{name}/new/checkpoint.safetensors"
        for name in ("mridata_pgd_R4/gleam", "mridata_pgd_R3/gleam", "mridata_pgd_R3/end-to-end")
    ]


def test_packed_files_with_a_flipped_bit_are_refused_or_the_same(tmp_path):
    record = tmp_path / "record.json"
    record.write_text(json.dumps({"scores": list(range(500))}))
    write_checkpoint(tmp_path / "0.safetensors", n_steps_done=1, size=100)
    packing.pack(tmp_path / "out", {"a/b.json": record}, {"runs/0.safetensors": tmp_path / "0.safetensors"})
    generator = np.random.default_rng(0)
    for name in (packing.RECORDS, packing.VOLUME.format(0)):
        path, n_refused = tmp_path / "out" / name, 0
        written = path.read_bytes()
        for bit in generator.integers(8 * min(len(written), 1500), size=30):
            content, back = bytearray(written), tmp_path / f"back-{name}-{bit}"
            content[bit // 8] ^= 1 << bit % 8
            path.write_bytes(content)
            try:
                damaged = packing.unpack(tmp_path / "out", back, back)
            except OSError as error:
                assert f"{path} is damaged" in str(error) and not back.exists()
                n_refused += 1
                continue
            assert (back / "a" / "b.json").read_bytes() == record.read_bytes()
            found = [path for path in back.rglob("*.safetensors")]
            n_refused += bool(damaged) or not found
            assert all(torch.equal(checkpoints.load(one).best["a"], torch.ones(100)) for one in found)
        path.write_bytes(written)
        assert n_refused > 5


@pytest.mark.parametrize("content, words", [(None, "holds no records.tar.gz"), (b"no tar", "is damaged")])
def test_a_folder_that_holds_nothing_to_resume_from(tmp_path, capsys, content, words):
    if content:
        (tmp_path / "records.tar.gz").write_bytes(content)
    assert call(tmp_path, "--resume-from", str(tmp_path))[0] == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "limits,ladder_pgd3d"], "--only ladder_pgd3d: no job has that in its name; expected a part of"),
        (["--device", "gpu"], "device='gpu' must be 'cpu', 'cuda' or a GPU with its number"),
        (["--out", f"{__file__}/out"], "test_full_scale.py"),
        (["--resume-from", "nowhere"], "nowhere holds no records.tar.gz"),
        (["--seconds", "nan"], "--seconds nan --seed 0: expected the seconds that this call may take"),
        (["--seconds=-3"], "--seconds -3 --seed 0: expected"),
        (["--seed=-1"], "--seconds 540 --seed -1: expected"),
    ],
)
def test_options_that_cannot_be_met_are_one_sentence(tmp_path, capsys, arguments, words):
    assert call(tmp_path, *arguments)[0] == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert not (tmp_path / "results").exists()


def test_a_dry_run_leaves_a_real_run_alone():
    real, dry = (program._options(["--profile", profile]) for profile in ("paper", "tiny"))
    assert real.results == program.ROOT / "results" and not {real.results, real.work} & {dry.results, dry.work}
    assert not any(folder.is_relative_to(real.results) for folder in (dry.results, dry.work))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_one_sentence_and_needs_no_optional_package():
    missing = ["sigpy", "ismrmrd", "joblib", "nilearn", "papermill", "deepinv", "mrpro", "IPython"]
    blocked = "; ".join(f"sys.modules[{name!r}] = None" for name in missing)
    code = f"import runpy, sys; {blocked}; sys.argv[1:] = []; runpy.run_path({str(RUN)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert done.returncode == 2 and done.stdout == ""
    words = "--device cuda needs a GPU and there is none; --device cpu --profile tiny is the dry run.\n"
    assert done.stderr == words


@pytest.mark.slow
def test_sigterm_packs_what_there_is(tmp_path):
    command = [sys.executable, RUN, "--profile", "tiny", "--device", "cpu", "--results", tmp_path / "results"]
    command += ["--work", tmp_path / "work", "--out", tmp_path / "out", "--only", "limits,ladder"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while "limits: " not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 1
    assert packing.unpack(tmp_path / "out", tmp_path / "back" / "results", tmp_path / "back") == []
    assert ("limits", "Device") in found(tmp_path / "back")


@pytest.mark.slow
def test_brains_and_compressed_sensing_where_their_packages_are(tmp_path, monkeypatch):
    pytest.importorskip("nilearn")
    monkeypatch.setattr(tables, "has", lambda *packages: True)
    status, printed = call(tmp_path, "--only", "zero-filled,cs")
    assert status == 0 and "left out" not in printed
    everything = found(tmp_path)
    experiments = {experiment for experiment, _ in everything}
    assert {"fastmri_pgd", "cine_modl", "mridata_pgd_R3"} < experiments and len(everything) == 2 * len(experiments)
    shared = [everything[f"mridata_{network}_R4", "CS"].scores for network in ("pgd", "modl")]
    assert shared[0] == shared[1] != everything["mridata_pgd_R3", "CS"].scores
    assert everything["mridata_pgd_R3", "CS"].settings["lamda"] == 0.01
