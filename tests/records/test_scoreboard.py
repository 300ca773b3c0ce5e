"""The scoreboard: which records judge which claim, and what is never compared."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from made_records import make

from gleam import records
from gleam.records import scoreboard
from gleam.records.claims import AS_GOOD, BETTER, BEYOND, CLAIMS, COST, VALUE, Case, Claim
from gleam.records.intervals import FAILS, HOLDS, UNKNOWN

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))
import beyond  # noqa: E402
from full_scale.profiles import Profile  # noqa: E402

PAPER = ROOT / "data" / "published" / "tables.csv"
NAME = "mridata_pgd_R12"
AS_GOOD_ONE = Claim("On par", AS_GOOD, "04_mridata", (Case("PGD", NAME, "GLEAM", "End-to-end", "I/12"),))
MEMORY = Claim("Memory", COST, "04_mridata", (Case("PGD", NAME, "GLEAM", "End-to-end", "I/12", "peak_bytes"),))


def written(folder, shift, profile, seed=0, *, peak=20_000_000):
    """Records of GLEAM and, `shift` dB below it, of end-to-end training."""
    values = (30.0, 31.0, 34.0, 35.0)
    for method, psnr, n in (("GLEAM", values, 10_000_000), ("End-to-end", [v - shift for v in values], peak)):
        record = replace(make(method, psnr), profile=profile, settings={"seed": seed})
        records.save(replace(record, cost=record.cost | {"peak_bytes": n}), folder)


def board(tmp_path, *claims):
    return scoreboard.scoreboard(tmp_path, tmp_path / "build", PAPER, claims)


def test_every_claim_is_about_an_experiment_that_chapters_run_and_a_row_of_the_paper(tmp_path):
    known = {name: set(e.methods) for name, e in Profile("standard", 0).experiments.items()}
    known |= {
        "beyond_phantoms": {f"{m}, w = 0.9" for m in ("GLEAM", "End-to-end")},
        **{name: {*methods} for name, (_, methods) in beyond.PLAN.items()},
        "beyond_loss": {*beyond.IN_EVERY_FOLD, *beyond.KNOWN},
        "beyond_step_size_2": {*beyond.PLAN["beyond_step_size_2_fold1"][1]},
    }
    rows = board(tmp_path, *CLAIMS).drop(index="together", level="Case")
    assert (rows[["Paper", "Quantity"]] != "").all(axis=None)
    assert len(rows) == sum(len(claim.cases) for claim in CLAIMS)
    for claim in CLAIMS:
        for case in claim.cases:
            if claim.kind != VALUE and not claim.only_paper_size:
                assert {case.ours, case.theirs} - {"CS", "Checkpointing"} <= known[case.experiment], case


def test_a_claim_is_about_one_quantity_and_every_score_about_the_same_experiments():
    for claim in CLAIMS:
        assert {replace(claim, cases=(case,)).quantity for case in claim.cases} == {claim.quantity}
    beyond = {claim.text for claim in CLAIMS if claim.text.startswith(BEYOND)}
    for kind in (AS_GOOD, BETTER):
        of = {
            name: {
                (case.experiment, case.ours, case.theirs, case.real) for claim in CLAIMS for case in claim.cases
                if claim.kind == kind and case.name == name and (name == "ssim_object" or claim.text not in beyond)
            }
            for name in ("psnr", "nrmse", "ssim", "ssim_object")
        }  # fmt: skip
        assert of["nrmse"] and of["nrmse"] == of["ssim"] == of["ssim_object"] and of["nrmse"] <= of["psnr"]


def test_only_folds_that_have_both_methods_are_real_evidence(tmp_path):
    case = Case("PGD", NAME, "GLEAM", "End-to-end", real=("knees/real", "GLEAM", "End-to-end"))
    for fold, methods in {1: ("GLEAM", "End-to-end"), 2: ("GLEAM", "End-to-end"), 3: ("GLEAM",)}.items():
        for method in methods:
            record = replace(make(method), experiment=f"real_fold{fold}", settings={"seed": fold, "fold": fold})
            better = fold if method == "GLEAM" else 0
            scores = [
                row | {"subject": f"{row['subject']} of {fold}", "psnr": row["psnr"] + better} for row in record.scores
            ]
            records.save(replace(record, scores=scores), tmp_path / "knees")
    claim = Claim("As good", AS_GOOD, "04", (case,))
    shown = board(tmp_path, claim).loc[("As good", "PGD"), "Real anatomy"]
    both = records.pooled({fold: records.load_experiment(tmp_path / "knees", f"real_fold{fold}") for fold in (1, 2)})
    assert {m: r.table["subject"].nunique() for m, r in both.items()} == {"GLEAM": 4, "End-to-end": 4}
    found = records.difference(both["GLEAM"], both["End-to-end"])
    interval = f"{found.mean:+.2f} ({found.low:+.2f} to {found.high:+.2f})".replace("-", "−")
    assert found.mean == 1.5 and shown == f"{interval}; 2 folds +1.00 to +2.00", "a fold counts like a seed"
    nothing = replace(claim, cases=(replace(case, real=("knees/none", "GLEAM", "End-to-end")),))
    assert board(tmp_path, nothing).loc[("As good", "PGD"), "Real anatomy"] == records.MISSING


def test_nothing_was_run():
    found = scoreboard.scoreboard(ROOT / "none", ROOT / "none", PAPER)
    assert set(found["Verdict"]) == {UNKNOWN}
    assert set(found.loc[:, scoreboard.COLUMNS[0] : scoreboard.COLUMNS[-1]].to_numpy().ravel()) <= {"–", ""}


def test_a_short_build_is_shown_and_its_scores_are_not_judged(tmp_path):
    written(tmp_path / "build", 3.0, "quick")
    (row,) = board(tmp_path, AS_GOOD_ONE).to_dict("records")
    assert row["This build"] == "+3.00 (+3.00 to +3.00)" and row["Verdict"] == UNKNOWN and row["Paper"] == "+0.06"
    (row,) = board(tmp_path, MEMORY).to_dict("records")
    assert row["This build"] == "2.00" and row["Paper"] == "5.55" and row["Verdict"] == "holds in part"


def test_a_baseline_of_each_seed_is_compared_on_the_data_of_its_seed():
    runs = {
        (method, seed): replace(
            make(method, [v + up for v in (30.0, 31.0, 34.0, 35.0)]),
            data={"test": {"fingerprint": f"of seed {seed}"}}, settings={"seed": seed} if method == "GLEAM" else {},
            n_parameters=7 if method == "GLEAM" else None,
        )
        for method, gain in {"GLEAM": 2.0, "CS": 1.0}.items() for seed, up in enumerate((gain, 0.0))
    }  # fmt: skip
    by_method = {m: [runs[m, seed] for seed in order] for m, order in (("GLEAM", (0, 1)), ("CS", (1, 0)))}
    claim = Claim("Better", BETTER, "04_mridata", (Case("PGD", NAME, "GLEAM", "CS"),))
    assert scoreboard._value(claim, *claim.cases, by_method, is_real=False).by_seed == (1.0, 0.0)


def test_times_of_two_runs_are_not_compared():
    cost = {"step_seconds": [1.0, 2.0], "peak_bytes": 10}
    one, other = (replace(make(), cost=cost, environment={"commit": c, "date": "2026-01-01"}) for c in ("a", "b"))
    assert scoreboard._ratio(one, one, "step_seconds") == 1 and scoreboard._ratio(one, other, "step_seconds") is None
    assert scoreboard._ratio(one, other, "peak_bytes") == 1  # memory is the same on a busy machine


def test_seeds_are_averaged_and_their_range_is_shown(tmp_path):
    for seed, shift in enumerate((0.5, -0.1, 0.2)):
        written(tmp_path / ("cpu-standard" + (f"-seed{seed}" if seed else "")), shift, "standard", seed)
    (row,) = board(tmp_path, AS_GOOD_ONE).to_dict("records")
    assert row["Standard"] == "+0.20 (+0.20 to +0.20); 3 seeds −0.10 to +0.50" and row["Verdict"] == HOLDS
    assert row["Trainings"] == "3"
    better = replace(AS_GOOD_ONE, kind=BETTER)
    assert board(tmp_path, better)["Verdict"].item() == UNKNOWN, "one of the seeds has the other sign"


def test_seeds_of_which_each_method_lacks_another_are_refused(tmp_path):
    for seed in range(3):
        written(tmp_path / ("cpu-standard" + (f"-seed{seed}" if seed else "")), 0.5, "standard", seed)
    (tmp_path / "cpu-standard-seed1" / NAME / "gleam.json").unlink()
    (row,) = board(tmp_path, AS_GOOD_ONE).to_dict("records")
    assert "2 seeds" in row["Standard"], "one method may have fewer seeds"
    (tmp_path / "cpu-standard-seed2" / NAME / "end-to-end.json").unlink()
    with pytest.raises(ValueError, match=r"GLEAM seeds \[0, 2\] and End-to-end seeds \[0, 1\] do not match"):
        board(tmp_path, AS_GOOD_ONE)


def test_the_largest_evidence_decides(tmp_path):
    written(tmp_path / "cpu-standard", 1.0, "standard")
    written(tmp_path / "build", 1.0, "quick", peak=80_000_000)
    assert board(tmp_path, AS_GOOD_ONE)["Verdict"].item() == HOLDS
    written(tmp_path / "some-gpu", -1.0, "paper", peak=60_000_000)
    (row,) = board(tmp_path, AS_GOOD_ONE).to_dict("records")
    assert row["Verdict"] == FAILS and row["Standard"].startswith("+1.00") and row["Paper size"].startswith("−1.00")
    (row,) = board(tmp_path, MEMORY).to_dict("records")
    assert row["Verdict"] == HOLDS and row["Paper size"] == "6.00" and row["Trainings"] == "–"


def test_several_cases_have_a_verdict_together(tmp_path):
    written(tmp_path / "cpu-standard", 1.0, "standard")
    two = replace(AS_GOOD_ONE, cases=(*AS_GOOD_ONE.cases, Case("other", "mridata_pgd_R16", "GLEAM", "End-to-end")))
    found = board(tmp_path, two)["Verdict"]
    assert (
        list(found) == [HOLDS, UNKNOWN, "holds in part"]
        and list(found.index.get_level_values("Case"))[-1] == "together"
    )
    (short,) = scoreboard.in_short(board(tmp_path, two)).to_dict("records")
    assert short == {"Verdict": "holds in part", "Trainings": "1", "Where": "04_mridata"}
    assert sum(map(len, scoreboard.summary(board(tmp_path, two)).values())) == 1


def test_a_claim_about_two_gpus_waits_for_them(tmp_path):
    (claim,) = (claim for claim in CLAIMS if claim.only_paper_size)
    record = replace(make("P-GLEAM, in turn"), experiment="parallel_modl_R4", measures={"times_as_fast_as_gleam": 1.7})
    records.save(replace(record, profile="quick"), tmp_path / "build")
    assert set(board(tmp_path, claim)["Verdict"]) == {UNKNOWN}
    records.save(replace(record, profile="paper"), tmp_path / "gpu")
    assert board(tmp_path, claim)["Verdict"].iloc[0] == HOLDS


def test_records_that_do_not_belong_together_stop_it_with_a_sentence(tmp_path, capsys):
    written(tmp_path / "cpu-standard", 1.0, "standard")
    path = tmp_path / "cpu-standard" / NAME / "gleam.json"
    path.write_text(path.read_text().replace('"slice": 1', '"slice": 5'))
    (tmp_path / "build").mkdir()
    arguments = [str(tmp_path), str(tmp_path / "build"), "--paper", str(PAPER)]
    assert scoreboard.main(arguments) == 2
    assert "GLEAM and End-to-end of mridata_pgd_R12 were not tested on the same slices" in capsys.readouterr().err
    assert scoreboard.main([str(tmp_path / "none"), *arguments[1:]]) == 2
    assert "none is not a folder" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["psnr", "nrmse", "ssim", "peak_bytes", "step_seconds"])
@pytest.mark.parametrize("damage", ["no row", "no column", "two rows", "no number"])
def test_a_number_of_the_paper_that_is_not_there_once_is_named(tmp_path, name, damage):
    kind = COST if name in ("peak_bytes", "step_seconds") else AS_GOOD
    claim = Claim("As MEL", kind, "04", (Case("MoDL", "mridata_modl_R4", "GLEAM", "MEL", "II/4", name),))
    table = pd.read_csv(PAPER).astype(object)
    column = {"peak_bytes": "memory_gb", "step_seconds": "seconds_per_step"}.get(name, name)
    is_it = (table["table"] == "II") & (table["acceleration"] == 4) & (table["method"] == "MEL")
    paper = tmp_path / "paper.csv"
    table.to_csv(paper)
    assert scoreboard.scoreboard(tmp_path, tmp_path, paper, [claim])["Paper"].item() != records.MISSING
    damaged = {
        "no row": table[~is_it], "no column": table.drop(columns=column), "two rows": pd.concat([table, table[is_it]]),
        "no number": table.assign(**{column: table[column].mask(is_it, "none")}),
    }  # fmt: skip
    damaged[damage].to_csv(paper)
    method = "GLEAM" if damage == "no column" else "MEL"
    with pytest.raises(ValueError, match=rf"paper\.csv: table II, R = 4, method {method}: . numbers in .*{column}"):
        scoreboard.scoreboard(tmp_path, tmp_path, paper, [claim])


def test_it_prints_every_claim_and_says_where_it_found_no_records(tmp_path, capsys):
    arguments = [str(ROOT / "results"), str(tmp_path / "none"), "--paper", str(PAPER)]
    assert scoreboard.main(arguments) == 0
    printed, said = capsys.readouterr()
    assert all(claim.text in printed for claim in CLAIMS)
    assert len(said.splitlines()) == 1 and f"no records under {tmp_path / 'none'} " in said
    assert scoreboard.main([str(ROOT / "tests"), *arguments[1:]]) == 2
    printed, said = capsys.readouterr()
    assert not printed and len(said.splitlines()) == 1 and f"no records under {ROOT / 'tests'} " in said


def test_a_reader_that_stops_early_is_no_error(monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert scoreboard.main([str(ROOT / "results"), str(ROOT / "none"), "--paper", str(PAPER)]) == 0
        print("written at exit")  # what is left in the buffer raises no second error
    assert "Error" not in capsys.readouterr().err


def test_real_knees_of_one_experiment_are_not_phantoms_as_well(tmp_path):
    written(tmp_path / "beyond", 1.0, "beyond")
    case = Case("PGD", NAME, "GLEAM", "End-to-end", real=(f"beyond/{NAME}", "GLEAM", "End-to-end"))
    (row,) = board(tmp_path, replace(AS_GOOD_ONE, cases=(case,))).to_dict("records")
    assert row["Standard"] == "–" and row["Real anatomy"].startswith("+1.00")
