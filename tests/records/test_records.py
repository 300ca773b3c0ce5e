import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_records import make

from gleam import records
from gleam.records import storage

PUBLISHED = Path(__file__).parents[2] / "data" / "published" / "tables.csv"


def test_a_record_comes_back_as_it_was(tmp_path):
    record = make()
    path = records.save(record, tmp_path)
    assert path == tmp_path / "mridata_pgd_R12" / "gleam.json"
    assert records.load(path) == record
    records.save(make("End-to-end"), tmp_path)
    assert set(records.load_experiment(tmp_path, "mridata_pgd_R12")) == {"GLEAM", "End-to-end"}
    assert records.load_experiment(tmp_path, "none") == {}


def test_both_readings_of_the_spread():
    record = make()
    assert record.value("psnr") == 32.5
    assert record.spread("psnr") == pytest.approx(np.std([30, 31, 34, 35]))
    assert record.spread("psnr", over="subjects") == 2.0
    assert (record.value("seconds_per_step"), record.value("peak_bytes"), record.value("n_parameters")) == (
        0.25,
        12_300_000,
        2_191_216,
    )
    assert make(cost=False).value("peak_bytes") is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 99}', '{"schema": 1, "method": "x"}'])
def test_what_is_no_record_is_named(text, tmp_path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"x\.json is not a record"):
        records.load(tmp_path / "x.json")


ROW = {"subject": "a", "slice": 0}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("surprise", 1), ("method", None), ("n_parameters", "many"), ("n_steps_done", 1.5), ("scores", {}),
        ("scores[0]", ["psnr"]), ("scores[0]", [{"psnr": 30.0}]), ("scores[0].psnr", [ROW | {"psnr": "30"}]),
        ("scores[1].psnr", [ROW, ROW | {"psnr": float("nan")}]), ("measures", [1]), ("measures.x", {"x": True}),
        ("cost.peak_bytes", {"peak_bytes": "much"}), ("cost.step_seconds", {"step_seconds": 0.1}),
        ("cost.step_seconds.1", {"step_seconds": [0.1, "0.1"]}), ("environment.date", {"date": 2026}),
        ("cost.step_seconds.0", {"step_seconds": [0, 0.1]}), ("cost.seconds_per_step", {"seconds_per_step": -1.0}),
        ("n_steps_done", -3), ("settings.n_steps", {"n_steps": "many"}),
    ],
)  # fmt: skip
def test_a_field_that_does_not_match_the_schema_is_named(field, value, tmp_path):
    path = records.save(make(), tmp_path)
    content = json.loads(path.read_text()) | {field.partition(".")[0].partition("[")[0]: value}
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError) as caught:
        records.load(path)
    assert f"{path} is not a record of a run: its field '{field}' is " in str(caught.value)


def test_a_missing_field_is_named_and_only_later_ones_may_be_missing(tmp_path):
    path = records.save(make(), tmp_path)
    whole = json.loads(path.read_text())
    for field in whole:
        path.write_text(json.dumps({name: value for name, value in whole.items() if name != field}))
        if field in ("n_steps_done", "measures", "results_version", "network"):
            assert records.load(path) == make()
        else:
            with pytest.raises(ValueError, match=f"field '{field}' is missing"):
                records.load(path)


def test_a_score_that_is_no_number_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match=r"GLEAM of mridata_pgd_R12 cannot be a record: .*scores\[1\]\.psnr"):
        records.save(make(psnr=(30.0, float("inf"))), tmp_path)
    assert not list(tmp_path.rglob("*.json"))


def test_a_record_of_cost_alone(tmp_path):
    cost = replace(make(), scores=[], data={}, n_parameters=None, measures={"flops_per_step": 4e12})
    again = records.load(records.save(cost, tmp_path))
    assert again.table.empty and again.value("psnr") is None and again.spread("psnr") is None and again.progress == ""
    assert (again.value("peak_bytes"), again.value("flops_per_step")) == (12_300_000, 4e12)
    table = records.table({"GLEAM": again})
    assert table.iloc[0].tolist() == [*[records.MISSING] * 3, "12.3 MB", "0.250 s", records.MISSING]
    with pytest.raises(ValueError, match="GLEAM of mridata_pgd_R12 has no scores"):
        records.compare(again, make())
    bare = records.record("limits", "Device", measures={"copy_bytes_per_second": 4e12})
    assert records.load(records.save(bare, tmp_path)) == bare and bare.scores == [] and bare.data == {}


def full_scale(method="GLEAM", device="NVIDIA H200", date="2026-12-01", n_steps_done=None, **changes):
    environment = {"device": device, "date": date}
    settings = {} if n_steps_done is None else {"n_steps": 50_000}
    return replace(
        make(method), profile="paper", environment=environment, settings=settings, n_steps_done=n_steps_done, **changes
    )


def test_the_archive_is_the_newest_full_scale_run_of_one_device(tmp_path):
    assert records.archived(tmp_path / "none", "mridata_pgd_R12") == {}
    records.save(make(), tmp_path / "cpu-quick")  # profile "", not full scale
    assert records.archived(tmp_path, "mridata_pgd_R12") == {}
    old = [full_scale(method, "NVIDIA A100", "2026-11-30") for method in ("GLEAM", "End-to-end")]
    new = [full_scale(method, date=date) for method, date in (("CS", "2026-11-01"), ("GLEAM", "2026-12-01"))]
    for folder, runs in (("a", new), ("b", old)):
        for run in runs:
            records.save(run, tmp_path / folder)
    records.save(replace(make("MEL"), profile="quick"), tmp_path / "a")
    assert records.archived(tmp_path, "mridata_pgd_R12") == {"CS": new[0], "GLEAM": new[1]}
    assert records.archived(tmp_path, "mridata_pgd_R16") == {}


def test_a_caption_says_where_and_how_far_an_archived_run_got():
    assert records.archive_caption({}) == ""
    cs, gleam = full_scale("CS", date="2026-12-02"), full_scale(n_steps_done=12_000)
    assert records.archive_caption({"CS": cs, "GLEAM": gleam}) == (
        "*Full scale, archived*: NVIDIA H200, 2026-12-01 to 2026-12-02, phantoms, 12,000 of 50,000 steps."
    )
    test = {"coil_y_x": [[8, 320, 256]], "mask": {"arguments": {"acceleration": 12}}}
    said = records.archive_caption({"GLEAM": replace(gleam, data={"is_phantom": True, "test": test})})
    n_subjects = gleam.table["subject"].nunique()
    assert f"phantoms, R = 12, 320 × 256, tested on {len(gleam.scores)} slices of {n_subjects} subjects, 12,000" in said
    other = full_scale("End-to-end", n_steps_done=50_000, data={"is_phantom": False})
    said = records.archive_caption({"GLEAM": gleam, "End-to-end": other})
    assert said.endswith("phantoms and scans, 12,000 of 50,000 steps (GLEAM); 50,000 of 50,000 steps (End-to-end).")
    formats = [{"precision": name, "cost_precision": "fp32"} for name in ("fp32", "bf16")]
    mel, gleam = (replace(other, settings=other.settings | settings) for settings in formats)
    said = records.archive_caption({"MEL": mel, "GLEAM": gleam})
    assert said.endswith("50,000 of 50,000 steps, trained in bf16 and fp32, memory and time in fp32.")
    said = records.archive_caption({"GLEAM": full_scale(data={})})
    assert said == "*Full scale, archived*: NVIDIA H200, 2026-12-01, nothing trained yet."


def test_tables_have_three_blocks():
    paper = records.published(PUBLISHED, table="I", acceleration=12)
    ours = {m: make(m, cost=m != "CS") for m in ("Zero-filled", "CS", "GLEAM")}
    large = full_scale(cost={"peak_bytes": 11.1e9, "seconds_per_step": 0.00812})
    table = records.table(ours, paper, {"Extra": full_scale("Extra"), "GLEAM": large, "CS": full_scale("CS")})
    assert list(table.index) == [
        *[(records.PAPER, method) for method in ("CS", "GLEAM", "End-to-end")],
        *[(records.ARCHIVED, method) for method in ("CS", "GLEAM", "Extra")],
        *[(records.THIS_BUILD, method) for method in ("Zero-filled", "CS", "GLEAM")],
    ]
    both = "32.50 (2.06\N{NO-BREAK SPACE}/\N{NO-BREAK SPACE}2.00)"
    assert table.loc[(records.THIS_BUILD, "GLEAM"), "PSNR (dB)"] == both
    assert records.table({"CS": make()}, over=["slices"]).iloc[0]["PSNR (dB)"] == "32.50 (2.06)"
    assert table.loc[(records.PAPER, "GLEAM"), ["PSNR (dB)", "Memory"]].tolist() == ["40.09 (0.34)", "2 GB"]
    cost = ["Memory", "Time per step"]
    assert table.loc[(records.ARCHIVED, "GLEAM"), cost].tolist() == ["11.1 GB", "0.0081 s"]
    assert table.loc[(records.THIS_BUILD, "GLEAM"), cost].tolist() == ["12.3 MB", "0.250 s"]
    assert table.loc[(records.THIS_BUILD, "CS"), "Time per step"] == records.MISSING


def test_a_block_without_a_run_says_so():
    paper = records.published(PUBLISHED, table="I", acceleration=12)
    table = records.table({}, paper, archived={})
    (archive, text), (build, other) = table.index[-2:]
    assert (archive, build) == (records.ARCHIVED, records.THIS_BUILD)
    assert text.startswith("none yet") and other == "not run in this build"
    assert set(table.iloc[-2:].to_numpy().ravel()) == {""}
    assert set(records.table({"CS": make()}).index.get_level_values(0)) == {records.THIS_BUILD}


def test_a_table_as_text_names_each_block_once():
    paper = records.published(PUBLISHED, table="I", acceleration=12)
    text = records.markdown_table(records.table({"GLEAM": make()}, paper, {}), "Table I", "table-1")
    assert text.startswith(":::{table} Table I\n:name: table-1\n:class: records\n") and "| 40.09 (0.34) |" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert [line.split("|")[1].strip(" *") for line in lines] == [
        "Method", "---", records.PAPER, "GLEAM", "End-to-end", "CS",
        records.ARCHIVED, records.table({}, archived={}).index[0][1], records.THIS_BUILD, "GLEAM",
    ]  # fmt: skip
    _, rows = records.table_rows(records.table({"GLEAM": make()}))
    assert [row[0] for row in rows] == ["GLEAM"], "one block needs no heading"


def test_published_numbers_are_those_of_the_paper():
    """The text of the paper is not part of the project, so spot checks: the headline differences that its abstract
    states."""
    three, four = (
        {m: records.published(PUBLISHED, table=t, method=m).iloc[0] for m in ("GLEAM", "End-to-end")}
        for t in ("III", "IV")
    )
    assert three["GLEAM"]["psnr"] - three["End-to-end"]["psnr"] == pytest.approx(1.05, abs=0.06)  # "1.1 dB in 2D"
    assert four["GLEAM"]["psnr"] - four["End-to-end"]["psnr"] == pytest.approx(1.8, abs=0.05)  # "1.8 dB in 3D"
    with pytest.raises(ValueError, match="no row with"):
        records.published(PUBLISHED, table="VI")


def test_environment_names_device_and_versions():
    found = records.environment()
    assert found["device"] and found["versions"]["torch"] and found["date"].count("-") == 2


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_the_commit_is_that_of_a_repository_which_tracks_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_commit", storage._commit.__wrapped__)  # asks anew each time
    installed = tmp_path / ".venv" / "gleam" / "storage.py"
    monkeypatch.setattr(storage, "__file__", str(installed))
    installed.parent.mkdir(parents=True)
    installed.write_text("")
    (tmp_path / "own.py").write_text("")

    def git(*arguments):
        own = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", *own, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    assert records.environment()["commit"] is None, "no repository"
    git("init")
    git("add", "own.py")
    git("commit", "-m", "Another project")
    assert records.environment()["commit"] is None, "a repository that does not hold the package"
    git("add", "-f", ".")
    git("commit", "-m", "The package too")
    head = git("rev-parse", "--short", "HEAD").strip()
    assert records.environment()["commit"] == head
    (tmp_path / "own.py").write_text("changed")
    assert records.environment()["commit"] == f"{head}+"


BASE = np.linspace(28, 34, 12)  # PSNR of two slices of each of six subjects


def test_a_difference_that_is_large_and_clear_has_a_direction_and_a_swap_turns_it():
    a, b = make("GLEAM", psnr=BASE - 0.5), make("End-to-end", psnr=BASE)
    for row in a.scores:
        row["nrmse"] -= 0.01
    assert records.compare(a, b) == (
        "GLEAM against End-to-end: no difference that matters in SSIM (+0.000, +0.000 to +0.000); better in nRMSE "
        "(−0.010, −0.010 to −0.010); worse in PSNR (−0.50 dB, −0.50 to −0.50). One training run each."
    )
    said = records.compare(b, a, ["psnr", "nrmse"])
    assert said.startswith(
        "End-to-end against GLEAM: better in PSNR (+0.50 dB, +0.50 to +0.50); worse in nRMSE (+0.010,"
    )


@pytest.mark.parametrize("metric", ["ssim", "nrmse", "psnr"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_small_difference_does_not_matter_however_clear_it_is(metric, sign):
    smallest = records.SMALLEST[metric]
    for shift, says in ((0, False), (0.1 * smallest, False), (0.8 * smallest, False), (1.1 * smallest, True)):
        a, b = make("GLEAM", psnr=BASE), make("CS", psnr=BASE)
        for row in a.scores:
            row[metric] += sign * shift
        said = records.compare(a, b, [metric])
        assert ("better in" in said or "worse in" in said) == says == ("no difference that matters" not in said)


def test_a_large_difference_whose_interval_holds_zero_is_not_clear():
    a, b = make("GLEAM", psnr=BASE - 0.5), make("End-to-end", psnr=BASE)
    b.scores[0]["psnr"] -= 3  # one subject now says otherwise
    said = records.compare(a, b)
    assert "not clear in PSNR (−0.25 dB, −0.50 to +" in said, said
    one = [make(m, psnr=BASE[:2] + shift) for m, shift in (("GLEAM", 1.0), ("CS", 0.0))]
    assert "not clear in PSNR (+1.00 dB)." in records.compare(*one), "one subject says nothing about others"
    with pytest.raises(ValueError, match="same slices"):
        records.compare(make(), b)


def test_among_few_subjects_all_must_agree():
    a, b = make("GLEAM", psnr=BASE[:6] + 1), make("CS", psnr=BASE[:6])
    assert "better in PSNR (+1.00 dB, +1.00 to +1.00)" in records.compare(a, b)
    for row in b.scores[:2]:  # the first of three subjects
        row["psnr"] += 1.01
    assert "not clear in PSNR" in records.compare(a, b)


def test_a_comparison_says_how_little_it_rests_on():
    a, b = make("GLEAM", psnr=BASE[:6] + 1), make("CS", psnr=BASE[:6])
    said = records.compare(a, b)
    assert said.count("subjects") == 1 and "in these 3 subjects: " in said
    assert said.endswith("One training run each.")
    untrained = replace(b, n_parameters=None)
    assert records.compare(a, untrained).endswith(" One training run.")
    assert records.compare(untrained, untrained).endswith(", PSNR (+0.00 dB, +0.00 to +0.00).")


def test_methods_are_picked_in_order(tmp_path):
    for method in ("GLEAM", "CS"):
        records.save(make(method), tmp_path)
    assert list(records.load_experiment(tmp_path, "mridata_pgd_R12", ["CS", "GLEAM"])) == ["CS", "GLEAM"]
    with pytest.raises(ValueError, match="no record of MEL"):
        records.load_experiment(tmp_path, "mridata_pgd_R12", ["MEL"])


def test_a_run_becomes_a_record(splits, tmp_path):
    import gleam

    network = gleam.unrolled.pgd(2, 4)
    fit = gleam.fit(network, *splits[:2], gleam.Greedy(2), n_steps=2, batch_size=2, run_dir=tmp_path)
    cost = gleam.cost.measure({"GLEAM": (network, gleam.Greedy(2))}, splits[0].training_batch(0, 2, 0), n_rounds=1)[
        "GLEAM"
    ]
    record = records.record(
        "x", "GLEAM", gleam.evaluate(network, splits[2]), splits, network=network, fit=fit, cost=cost
    )
    again = records.load(records.save(record, tmp_path))
    assert again.is_phantom and again.data["train"]["n_subjects"] == 3 and len(again.scores) == 6
    assert (again.n_steps_done, again.progress) == (2, "2 of 2 steps")
    assert again.settings["strategy"].startswith("Greedy(n_modules=2") and again.value("peak_bytes") == cost.peak_bytes
    assert again.n_parameters == sum(p.numel() for p in network.parameters())
    table = records.scores_table({("R = 4", "CS"): {"ssim": 0.5, "psnr": 30.123}}, index=["R", "Method"])
    assert table.loc[("R = 4", "CS")].tolist() == ["0.500", "30.12"]


def test_a_dict_of_rows_is_a_table_too():
    text = records.markdown_table({("4", "CS"): {"Sum": 7}, ("8", "CS"): {"Sum": 9}}, "C", "t", index=["R", "Method"])
    assert text.splitlines()[4:] == [
        "| R | Method | Sum |",
        "| --- | --- | --- |",
        "| 4 | CS | 7 |",
        "| 8 | CS | 9 |",
        ":::",
    ]
    assert "| Method | Sum |" in records.markdown_table({"CS": {"Sum": 7}}, "C", "t")


def test_a_score_that_an_older_record_lacks_is_a_dash():
    record = make()  # holds no ssim_object
    assert record.value("ssim_object") is None and record.spread("ssim_object") is None
    table = records.table({"GLEAM": record}, metrics=("psnr", "ssim_object"))
    assert table.loc[(records.THIS_BUILD, "GLEAM"), "SSIM of the object"] == records.MISSING


def test_a_training_of_another_network_or_strategy_is_not_finished(splits, tmp_path):
    from gleam import experiments

    chosen = dict(n_iterations=2, n_features=4, n_modules=2, step_size=1.0, n_steps=2, batch_size=2)
    build = records.Build(str(tmp_path))
    trained = build.train(experiments.knees_pgd(12, **chosen), splits)

    def finished(**changes):
        return {*records.finished(build.records_dir, experiments.knees_pgd(12, **(chosen | changes)), splits)}

    assert finished() == {"GLEAM", "End-to-end"}
    for name, value in {"n_features": 5, "n_iterations": 4, "step_size": 1.5, "n_steps": 3, "batch_size": 1}.items():
        assert finished(**{name: value}) == set(), name
    assert finished(n_accumulated=2) == finished(optimizer=torch.optim.SGD) == finished(seed=1) == set()
    assert finished(n_modules=1) == {"End-to-end"}, "only GLEAM's strategy is another one"
    (precision,) = {run.settings["precision"] for run in trained.runs.values()}
    assert finished(precision=precision) == {"GLEAM", "End-to-end"} != finished(precision="tf32")

    whole, masks = trained.runs["GLEAM"], {"test": {"fingerprint": "of other masks"}}
    for changes in ({"n_steps_done": None}, {"n_steps_done": 1}, {"results_version": 1}, {"data": whole.data | masks}):
        records.save(replace(whole, **changes), build.records_dir)
        assert finished() == {"End-to-end"}, changes
    records.save(whole, build.records_dir)

    for path in (tmp_path / "records" / "mridata_pgd_R12").glob("*.json"):
        content = json.loads(path.read_text())
        assert content.pop("network") == {
            "function": "pgd", "n_iterations": 2, "n_features": 4, "n_dims": 2, "step_size": 1.0, "seed": 0
        }  # fmt: skip
        path.write_text(json.dumps(content))
    assert finished() == {"GLEAM", "End-to-end"} == finished(step_size=1.5), (
        "an older record does not hold the step size"
    )
    assert finished(n_features=5) == set(), "but the number of parameters"


def test_a_network_without_a_recipe_is_described_by_its_class_and_numbers():
    import gleam

    def own(step_size):
        made = gleam.unrolled.pgd(2, 4, step_size=step_size)
        return gleam.unrolled.Unrolled(made.iterations)

    one, other = (records.record("x", "GLEAM", network=own(step_size)).network for step_size in (1.0, 2.0))
    assert one["function"] == other["function"] == "Unrolled" and one != other
    assert one == records.record("x", "GLEAM", network=own(1.0)).network
    assert records.record("x", "CS").network == {}


@pytest.mark.parametrize(
    ("change", "part"), [({"experiment": "../x"}, r"experiment='\.\./x'"), ({"method": "!"}, "'!'")]
)
def test_a_record_whose_name_leads_elsewhere_is_not_saved(change, part, tmp_path):
    with pytest.raises(ValueError, match=rf"{part}.* cannot name a record"):
        records.save(replace(make(), **change), tmp_path / "records")
    assert not list(tmp_path.iterdir())


def test_a_record_nested_too_deeply_and_tables_that_are_none_are_named(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(20_000 * "[" + 20_000 * "]")
    with pytest.raises(ValueError, match=r"a\.json is not a record of a run"):
        records.load(path)
    for text in ("", "a,b\n1,2,3\n", "a,b\n1,2\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"a\.json is not a table of the paper's numbers"):
            records.published(path, table="I")
