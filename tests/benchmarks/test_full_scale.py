import contextlib
import functools
import importlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import gleam
from gleam import records
from gleam.records import __main__ as measures

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from driver import chapters
from full_scale import correctness, costs, packing, plan, profiles, program, training
from full_scale.data import Data
from full_scale.jobs import VERSION, Clock, Job, Setting, work_through
from full_scale.sizes import PAPER, TINY

RUN = Path(program.__file__).with_name("run.py")
measures_module = importlib.import_module("gleam.records.measures")
record_module = importlib.import_module("gleam.records.storage")


@pytest.fixture(scope="module", autouse=True)
def _asked_once():
    """Source code and git do not change meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record_module, "_commit", functools.cache(record_module._commit))
        yield


@pytest.fixture(scope="module", autouse=True)
def _bare_machine(_asked_once):
    """As where this is meant to run: without what brains and compressed sensing need."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Data, "has", staticmethod(lambda *packages: False))
        yield


def call(folder, *arguments, device="cpu"):
    """(exit status, what was printed) of a call whose files are all under ``folder``."""
    places = ["--results", f"{folder}/results", "--work", f"{folder}/work"]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = program.main(["--sizes", "tiny", "--device", device, *places, *arguments])
    return status, printed.getvalue()


def found(folder):
    """All records under ``folder``, by experiment and method."""
    loaded = [records.load(path) for path in Path(folder).glob("results/*/*/*.json")]
    return {(record.experiment, record.method): record for record in loaded}


def times(folder):
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*.json") if not path.name.startswith("notes")}


def test_dry_run_of_everything(tmp_path, capsys, monkeypatch):
    """One test, since tests of one file may run in two processes, and the run takes a while."""
    status, printed = call(tmp_path, "--out", f"{tmp_path}/out")
    assert status == 0 and "Everything is done." in printed
    assert "Brains are left out" in printed and "(CS) is left out" in printed
    every_stage_left_its_records(tmp_path)
    records_hold_what_tables_and_measures_read(tmp_path)
    monkeypatch.setattr(measures_module, "FULL_SCALE", "tiny")
    assert measures.main([f"{tmp_path}/results"]) == 0
    lines = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert len(lines) == 9 and all(float(value) != 0 for value in lines.values())
    a_second_call_does_nothing(tmp_path)
    what_was_packed_comes_back_byte_for_byte(tmp_path)


def every_stage_left_its_records(folder):
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
    assert trained.is_phantom and len(trained.scores) == 4 and trained.history[-1]["step"] == 4
    rung = everything["ladder_modl2d", "bf16, captured"]
    assert rung.settings["precision"] == "bf16" and rung.settings["captured"] and rung.measures["flops_per_step"] > 0
    longer = everything["cine_pgd", "End-to-end, equal compute"]
    assert longer.cost["step_seconds"] == everything["cost_pgd3d_fp32", "End-to-end"].cost["step_seconds"]
    assert longer.n_steps_done == 2 * everything["cine_pgd", "GLEAM"].n_steps_done
    scored = [everything["precision_pgd2d_seed1", p].table for p in ("fp32", "tf32", "bf16")]
    assert all(table.index.equals(scored[0].index) and len(table) == 4 for table in scored)


def a_second_call_does_nothing(folder):
    before = times(folder)
    status, printed = call(folder)
    assert status == 0 and times(folder) == before
    assert printed.splitlines()[-1] == "Everything is done."
    assert "relative error" not in printed and ": step" not in printed


def what_was_packed_comes_back_byte_for_byte(folder):
    elsewhere = folder / "elsewhere"
    status, printed = call(elsewhere, "--resume-from", f"{folder}/out", "--stages", "training,evaluation")
    assert status == 0 and "Everything is done." in printed and ": step" not in printed
    originals = [*folder.glob("results/*/*/*.json"), *folder.glob("work/runs/*/mridata_pgd*/*/*/*.safetensors")]
    assert len(originals) > 50
    for path in originals:
        assert (elsewhere / path.relative_to(folder)).read_bytes() == path.read_bytes()


def test_a_job_that_fails_leaves_the_others_alone(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no such kernel\nand much more")

    monkeypatch.setattr(costs.roofline, "limits", broken)
    only = ("--stages", "cost", "--only", "l")
    monkeypatch.setattr(costs, "ORDER", ["limits", "cost_pgd2d_fp32", "ladder_pgd2d"])
    status, printed = call(tmp_path, *only)
    assert status == 1 and "limits failed: RuntimeError: no such kernel\n" in printed and "Failed: limits." in printed
    assert {experiment for experiment, _ in found(tmp_path)} == {"ladder_pgd2d"}  # no "l" in the other
    monkeypatch.undo()


def test_a_call_that_is_stopped_goes_on_in_the_next(tmp_path, monkeypatch):
    n_slices, train = [], training.train

    def stopped(*arguments, **keywords):
        if len(n_slices) == 2:
            sys.exit("stopped by SIGTERM")
        n_slices.append(0)
        return train(*arguments, **keywords)

    wanted = ("--stages", "training,evaluation", "--only", "mridata_pgd_R3")
    monkeypatch.setattr(training, "train", stopped)
    with pytest.raises(SystemExit):
        call(tmp_path, *wanted, "--out", f"{tmp_path}/out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"records.tar.gz", "checkpoints.tar.000"}
    assert not found(tmp_path)

    monkeypatch.setattr(training, "train", train)
    elsewhere = tmp_path / "elsewhere"
    status, _ = call(elsewhere, "--resume-from", f"{tmp_path}/out", "--stages", "evaluation", "--only", wanted[-1])
    partial = found(elsewhere)
    assert status == 0 and partial["mridata_pgd_R3", "GLEAM"].progress == "2 of 4 steps"
    status, printed = call(elsewhere, *wanted)
    assert status == 0 and "step 4 of 4" in printed
    assert {run.n_steps_done for run in found(elsewhere).values()} == {None, 4}


def test_without_time_nothing_begins(tmp_path):
    status, printed = call(tmp_path, "--seconds", "0")
    assert status == 0 and not found(tmp_path)
    assert "Left for another call: correctness; " in printed and "mridata_pgd_R4/gleam" in printed


def test_jobs_that_were_not_finished_come_last(tmp_path):
    setting = Setting(TINY, "cpu", Clock(60), tmp_path / "results", tmp_path)
    done = []

    def ends_the_process():
        done.append("bad")
        raise SystemExit

    jobs = [Job("bad", 0, ends_the_process), Job("good", 0, lambda: done.append("good"))]
    for _ in range(2):
        with pytest.raises(SystemExit):
            work_through(jobs, Setting(TINY, "cpu", Clock(60), tmp_path / "results", tmp_path))
    assert done == ["bad", "good", "bad"]
    setting.notes.put("seconds", "good", 100)
    assert work_through(jobs[1:], setting) == ([], ["good"])


def test_failed_tests_are_recorded_and_run_again(tmp_path, monkeypatch):
    """The tests for GPUs, on the CPU: first none of them runs, then some."""
    real = subprocess.run

    def fewer(command, **options):
        if "pytest" not in command:  # a record asks git for its commit
            return real(command, **options)
        options["env"]["PYTEST_ADDOPTS"] = "-k 'update or normal'" if fewer.calls else "-k nothing_is_called_so"
        fewer.calls += 1
        return real(command, **options)

    fewer.calls = 0
    monkeypatch.setattr(correctness.subprocess, "run", fewer)
    status, printed = call(tmp_path, "--stages", "correctness")
    assert status == 1 and "correctness failed: " in printed and not found(tmp_path)
    assert call(tmp_path, "--stages", "correctness")[0] == 0
    assert found(tmp_path)["correctness", "Tests"].measures == {"n_passed": 3, "n_failed": 0}
    assert call(tmp_path, "--stages", "correctness")[0] == 0 and fewer.calls == 2


def test_a_ladder_without_a_rung_is_not_climbed_again(tmp_path, monkeypatch):
    build = costs._build

    def without_compiler(setting, case, batch, precision, *options):
        if precision == "bf16":
            raise RuntimeError("no C compiler")
        return build(setting, case, batch, precision, *options)

    monkeypatch.setattr(costs, "_build", without_compiler)
    status, printed = call(tmp_path, "--stages", "cost", "--only", "ladder_pgd2d")
    assert status == 1 and "bf16, padded: RuntimeError: no C compiler" in printed
    assert {m for _, m in found(tmp_path)} == {"Plain PyTorch, fp32", "Plain PyTorch, tf32", "fp32", "tf32"}
    assert call(tmp_path, "--stages", "cost", "--only", "ladder_pgd2d")[0] == 0


@pytest.mark.parametrize(("fastest", "multiple"), [("bf16", 1), ("bf16, padded", 8), ("bf16, padded to 32", 32)])
def test_compiled_and_captured_rungs_have_the_channels_of_the_fastest(monkeypatch, fastest, multiple):
    seconds = lambda steps, **_: {name: [1.0 if name == fastest else 2.0] for name in steps}  # noqa: E731
    monkeypatch.setattr(costs.cost, "paired", seconds)
    setting = Setting(TINY, "cpu", Clock(60), Path(), Path())
    rungs = {name: costs.Rung(None, {}, None, None, {}) for name in ("fp32", "tf32", "bf16", *costs.RUNGS)}
    assert costs._best_multiple(setting, rungs) == multiple
    assert costs._best_multiple(setting, {"fp32": rungs["fp32"]}) == 8


def test_groups_have_the_papers_runs():
    setting = Setting(PAPER, "cpu", Clock(60), Path("nowhere"), Path("nowhere"))
    runs = {(run.experiment, run.method): run for group in plan.groups(setting) for run in group}
    assert len(runs) == sum(map(len, plan.groups(setting))) == 23
    n_parameters = {key: sum(p.numel() for p in run.network().parameters()) for key, run in runs.items()}
    assert n_parameters["mridata_pgd_R12", "GLEAM"] == 2_191_216 == n_parameters["fastmri_pgd", "End-to-end"]
    assert n_parameters["fastmri_pgd", "GLEAM"] == 3 * 2_191_216
    assert n_parameters["mridata_modl_R16", "GLEAM"] == 8 * 134_820
    assert (n_parameters["cine_pgd", "End-to-end"], n_parameters["cine_pgd", "GLEAM"]) == (832_208, 2_496_624)
    assert runs["mridata_modl_R16", "MEL"].network().iterations[0].mu == 0.05
    assert runs["mridata_modl_R4", "MEL"].strategy.precision == "fp32"
    trained = [run.training for run in runs.values() if run.method != "MEL"]
    assert max(training.n_steps / training.validate_every for training in trained) <= 150


def test_checkpoints_of_other_code_are_not_used(tmp_path):
    other = tmp_path / "work" / "runs" / "0123456789ab" / "mridata_pgd_R12" / "gleam" / "0" / "checkpoint.safetensors"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"of another network")
    status, printed = call(tmp_path, "--seconds", "0", "--out", f"{tmp_path}/out")
    assert "1 checkpoints of other code were found and not used." in printed and status == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["records.tar.gz"]


def test_a_copied_tree_is_told_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(record_module, "_commit", lambda: None)
    monkeypatch.setenv("GLEAM_COMMIT", "abc1234")
    setting = Setting(TINY, "cpu", Clock(60), tmp_path, tmp_path)
    assert setting.save("limits", "Device", measures={"a": 1.0}).environment["commit"] == "abc1234"
    assert setting.find("limits", "Device") and setting.find("limits", "Device", version=VERSION + 1) is None


def test_packing_keeps_to_its_limits(tmp_path):
    files = {}
    for i, size in enumerate([3000, 50_000, 30_000, 100]):
        files[f"runs/{i}"] = tmp_path / str(i)
        files[f"runs/{i}"].write_bytes(bytes([i]) * size)
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


def test_records_that_do_not_fit_are_an_error(tmp_path):
    (tmp_path / "r").write_bytes(os.urandom(20_000))
    with pytest.raises(ValueError, match=r"the records take \d+ bytes, more than one file may have \(10000\)"):
        packing.pack(tmp_path / "out", {"r": tmp_path / "r"}, {}, file_bytes=10_000)


def test_checkpoints_that_were_cut_short_are_named(tmp_path):
    files = {name: tmp_path / name for name in ("first", "second")}
    for path in files.values():
        path.write_bytes(os.urandom(9000))
    packing.pack(tmp_path / "out", {}, files, file_bytes=16_000, n_files=4)
    (tmp_path / "out" / "checkpoints.tar.001").unlink()
    assert packing.unpack(tmp_path / "out", tmp_path / "a", tmp_path / "b") == ["second"]
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["first"]


@pytest.mark.parametrize("content, words", [(None, "holds no records.tar.gz"), (b"no tar", "is damaged")])
def test_a_folder_that_holds_nothing_to_resume_from(tmp_path, capsys, content, words):
    if content:
        (tmp_path / "records.tar.gz").write_bytes(content)
    assert call(tmp_path, "--resume-from", str(tmp_path))[0] == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "ladder_pgd3d"], "no job has that in its name; expected a part of ladder_pgd2d, say"),
        (["--device", "gpu"], "device='gpu' must be 'cpu', 'cuda' or a GPU with its number"),
        (["--out", f"{__file__}/out"], "test_full_scale.py"),
        (["--resume-from", "nowhere"], "nowhere holds no records.tar.gz"),
    ],
)
def test_options_that_cannot_be_met_are_one_sentence(tmp_path, capsys, arguments, words):
    assert call(tmp_path, *arguments)[0] == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert not (tmp_path / "results").exists()


def test_a_dry_run_leaves_a_real_run_alone():
    real, dry = (program._options(["--sizes", sizes]) for sizes in ("paper", "tiny"))
    assert real.results.parent == program.ROOT and not {real.results, real.work} & {dry.results, dry.work}
    assert not any(folder.is_relative_to(real.results) for folder in (dry.results, dry.work))


def test_records_of_a_dry_run_are_no_measures(tmp_path):
    call(tmp_path, "--stages", "cost", "--only", "cost_pgd2d_fp32")
    assert set(measures_module.measure(tmp_path / "results").values()) == {None}


@pytest.mark.parametrize("seconds", ["nan", "-3", "soon", "inf"])
def test_a_time_that_is_none_is_refused(tmp_path, capsys, seconds):
    with pytest.raises(SystemExit):
        call(tmp_path, f"--seconds={seconds}")
    assert "--seconds" in capsys.readouterr().err


def test_unknown_stages_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        call(tmp_path, "--stages", "cost,trainig")
    assert "'trainig' is no stage; expected some of correctness,cost" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_one_sentence_and_needs_no_optional_package():
    missing = ["sigpy", "ismrmrd", "joblib", "nilearn", "pooch", "papermill", "deepinv", "mrpro", "IPython"]
    blocked = "; ".join(f"sys.modules[{name!r}] = None" for name in missing)
    code = f"import runpy, sys; {blocked}; sys.argv[1:] = []; runpy.run_path({str(RUN)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        "--device cuda needs a GPU and there is none; --device cpu --sizes tiny is the dry run.\n"
    )  # fmt: skip


@pytest.mark.slow
def test_sigterm_packs_what_there_is(tmp_path):
    command = [sys.executable, RUN, "--sizes", "tiny", "--device", "cpu", "--results", tmp_path / "results"]
    command += ["--work", tmp_path / "work", "--out", tmp_path / "out", "--stages", "cost"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while "limits: " not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 1 and packing.unpack(tmp_path / "out", tmp_path / "back", tmp_path) == []
    written = list((tmp_path / "back").glob("*/*/*.json"))
    assert "limits" in {json.loads(path.read_text())["experiment"] for path in written}


@pytest.mark.slow
def test_brains_and_compressed_sensing_where_their_packages_are(tmp_path, monkeypatch):
    pytest.importorskip("nilearn")
    monkeypatch.setattr(Data, "has", staticmethod(lambda *packages: True))
    status, printed = call(tmp_path, "--stages", "evaluation")
    assert status == 0 and "left out" not in printed
    everything = found(tmp_path)
    tables = {experiment for experiment, _ in everything}
    assert {"fastmri_pgd", "cine_modl", "mridata_pgd_R3"} < tables and len(everything) == 2 * len(tables)
    shared = [everything[f"mridata_{network}_R4", "CS"].scores for network in ("pgd", "modl")]
    assert shared[0] == shared[1] != everything["mridata_pgd_R3", "CS"].scores


def setting_in(folder, sizes=None):
    return Setting(sizes or TINY, "cpu", Clock(60), folder / "results", folder)


def test_the_runs_are_those_of_the_chapters_with_the_profile_paper():
    """One definition: the parameters that the chapters get, and the experiments that they make of them."""
    root = Path(__file__).parents[2]
    settings = chapters.read_settings(root, "paper")
    given = {c.name: chapters.check_parameters(c, settings) for c in chapters.discover(root)}
    for name in profiles.CHAPTERS:
        assert given[name].items() <= PAPER.parameters[name].items()
    expected = {
        (one.name, name): (method.n_iterations, method.n_steps, method.strategy, one.acceleration)
        for one in gleam.experiments.of_chapters(PAPER.parameters)
        for name, method in one.methods.items()
    }
    runs = [run for group in plan.groups(setting_in(Path("nowhere"), PAPER)) for run in group]
    assert expected == {
        (run.experiment, run.method): (run.n_iterations, run.training.n_steps, run.strategy.strategy, run.acceleration)
        for run in runs
    }
    validated = {run.method: run.training.validate_every for run in runs if run.experiment == "mridata_modl_R4"}
    assert validated == {"End-to-end": 1000, "GLEAM": 1000, "Checkpointing": 1000, "MEL": 200}


def test_a_checkpoint_belongs_to_its_results_version_and_sizes(tmp_path):
    assert len({plan.root(setting_in(tmp_path, sizes)) for sizes in (TINY, PAPER)}) == 2


def test_training_is_as_the_fastest_bf16_rung(tmp_path):
    setting = setting_in(tmp_path)
    for (name, options), seconds in zip(costs.RUNGS.items(), (9, 0.1, 4, 3, 6, 2, 1, 5), strict=True):
        options = dict(zip(costs.EXACT, options, strict=True))
        found = gleam.cost.Cost(seconds, 1, "", "", (seconds,))
        setting.save("ladder_pgd2d", name, cost=found, settings=options | {"channel_multiple": 1})
    assert costs.fastest(setting, "pgd2d") == costs.EXACT | {"precision": "bf16", "captured": True}
    assert costs.fastest(setting, "pgd2d_brain") == costs.fastest(setting, "pgd2d") != costs.fastest(setting, "pgd3d")


@pytest.mark.parametrize("fastest, multiple", [("bf16", 1), ("bf16, padded", 8), ("bf16, padded to 32", 32)])
def test_channels_are_padded_as_is_fastest(monkeypatch, tmp_path, fastest, multiple):
    rungs = {name: SimpleNamespace(step=None) for name in costs.RUNGS}
    monkeypatch.setattr(costs.cost, "paired", lambda steps, **_: {name: [2 - (name == fastest)] for name in steps})
    assert costs._best_multiple(setting_in(tmp_path), rungs) == multiple


def test_what_was_done_is_noted(tmp_path):
    setting = setting_in(tmp_path)
    assert work_through([Job("a", 0, lambda: "done", kind="k")], setting) == ([], [])
    assert setting.notes.get("began", "a") is None
    assert setting.notes.get("seconds", "k") < 1 and Job("b", 50, None, kind="k").expected_seconds(setting) < 3
    setting.notes.put("seconds", "k", 10.0)
    assert Job("b", 50, None, kind="k").expected_seconds(setting) > 11


def test_a_group_is_scored_before_it_is_left(tmp_path):
    status, _ = call(tmp_path, "--stages", "training", "--only", "mridata_pgd_R3")
    assert status == 0 and {method for _, method in found(tmp_path)} == {"End-to-end", "GLEAM"}


def test_seeds_arrive(monkeypatch, tmp_path):
    seeds = []
    monkeypatch.setattr(gleam, "fit", lambda *_, seed, **__: seeds.append(seed))
    for run in plan.precision_runs(setting_in(tmp_path)):
        training.train(setting_in(tmp_path), {(run.kind, run.acceleration): [None] * 3}, run)
    assert seeds == [0] * 3 + [1] * 3 + [2] * 3


def test_unfinished_runs_are_packed_first_the_most_advanced_of_them_before_the_others(monkeypatch, tmp_path):
    setting, done = setting_in(tmp_path), iter((4, 1, 3))
    runs = plan.groups(setting)[0] + plan.groups(setting)[1][:1]
    for run, n in zip(runs, done, strict=True):
        path = run.folder(setting) / "0" / "checkpoint.safetensors"
        path.parent.mkdir(parents=True)
        path.write_text(str(n))
    monkeypatch.setattr(plan, "groups", lambda _: [runs])
    monkeypatch.setattr(plan.Run, "n_steps_done", lambda run, s: int(run.checkpoint(s).read_text()))
    setting.notes.put("a", "b", 1)
    names = list(plan.checkpoints(setting))
    assert names[0] == "notes-tiny.json" and [(tmp_path / name).read_text() for name in names[1:]] == ["3", "1", "4"]


def test_a_run_that_fails_leaves_the_others_of_its_group_alone(tmp_path, monkeypatch):
    train = training.train

    def fails(setting, data, run, **limits):
        if run.method == "GLEAM":
            raise ValueError("training diverged")
        return train(setting, data, run, **limits)

    monkeypatch.setattr(training, "train", fails)
    status, printed = call(tmp_path, "--stages", "training", "--only", "mridata_pgd_R3")
    assert status == 1 and printed.count("training diverged") == 1
    assert found(tmp_path)["mridata_pgd_R3", "End-to-end"].n_steps_done == 4


def test_time_is_kept_for_scoring(tmp_path, monkeypatch):
    (run, *_) = plan.groups(setting_in(tmp_path))[0]
    setting, data = setting_in(tmp_path), Data(setting_in(tmp_path))
    turns = training.Turns(setting, data, [run], lambda: None)
    monkeypatch.setattr(turns, "reserve", lambda run: setting.clock.left + 1)
    assert turns.train(run) is False
