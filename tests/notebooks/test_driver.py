"""The driver on tiny chapters: what is run, what is kept, and what is said."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
import run
from driver import chapters, data, execute, pages, profiles, staleness
from driver.files import digest

from gleam import execution

REAL = Path(__file__).resolve().parents[2] / "notebooks"


def write_chapter(root, name, *sources, parameters="n_steps = 1"):
    """A clean chapter with a parameters cell and some code cells."""
    cells = [nbformat.v4.new_markdown_cell(f"# {name}"), nbformat.v4.new_code_cell(parameters)]
    cells[1].metadata["tags"] = ["parameters"]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, root / "notebooks" / f"{name}.ipynb")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A project with an empty library and one short chapter, on a machine without a GPU."""
    for folder in ("notebooks", "gleam", "data", "book"):
        (tmp_path / folder).mkdir()
    (tmp_path / "notebooks" / "driver").symlink_to(REAL / "driver")
    (tmp_path / "gleam" / "records").mkdir()
    (tmp_path / "gleam" / "records" / "figures.py").write_text("width = 1\n")
    (tmp_path / "gleam" / "training.py").write_text("lr = 1\n")
    (tmp_path / "notebooks" / "quick.yaml").write_text("01_one: {n_steps: 3}\n")
    (tmp_path / "notebooks" / "paper.yaml").write_text("")
    write_chapter(tmp_path, "01_one", "print('steps', n_steps)")
    monkeypatch.setattr(data, "has_gpu", lambda: False)
    return tmp_path


def test_a_chapter_says_how_long_it_is_and_how_long_it_ran():
    words = "word " * 360
    cells = [nbformat.v4.new_markdown_cell("# One\nTime: {time}."), nbformat.v4.new_markdown_cell(words)]
    for seconds, ran in ((200, "3 min to run (this build)"), (None, "not run in this build")):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(c.source) for c in cells])
        pages.fill_in_time(notebook, seconds)
        assert notebook.cells[0].source == f"# One\nTime: 2 min to read, {ran}."


def published(root, name):
    return nbformat.read(root / "book" / "chapters" / f"{name}.ipynb", as_version=4)


def text_of(notebook):
    return "".join(o.text for c in notebook.cells for o in c.get("outputs", []) if o.output_type == "stream")


def test_a_run_publishes_a_clean_page_and_the_next_run_finds_it_up_to_date(root, capfd):
    bar = "from tqdm.auto import tqdm\nfor _ in tqdm(range(3), desc='train'):\n    pass"
    write_chapter(root, "01_one", bar, f"print('steps', n_steps, {str(root)!r} + '/data')")
    assert run.main(["notebooks", "--jobs", "1"], root) == 0
    assert "01_one: never run, running" in capfd.readouterr().out
    notebook = published(root, "01_one")
    assert text_of(notebook) == "steps 3 data\n"
    assert "widgets" not in notebook.metadata
    assert [output.output_type for cell in notebook.cells for output in cell.get("outputs", [])] == ["stream"]
    injected = [c for c in notebook.cells if "injected-parameters" in c.metadata.get("tags", [])]
    assert [("hide-cell" in cell.metadata.tags) for cell in injected] == [True]
    assert "papermill" not in notebook.metadata
    assert all({"papermill", "execution"}.isdisjoint(cell.metadata) for cell in notebook.cells)
    before = (root / "book" / "chapters" / "01_one.ipynb").stat().st_mtime_ns
    assert run.main(["notebooks"], root) == 0
    assert "01_one: up to date" in capfd.readouterr().out
    assert (root / "book" / "chapters" / "01_one.ipynb").stat().st_mtime_ns == before
    assert list((root / "_work").glob("run-*")) == []


def test_a_failing_chapter_keeps_its_earlier_page_and_does_not_stop_the_others(root, capfd):
    write_chapter(root, "02_bad", "x = 1", "assert x == 2, 'x is 1'")
    earlier = root / "book" / "chapters" / "02_bad.ipynb"
    earlier.parent.mkdir()
    earlier.write_text("earlier")
    assert run.main([], root) == 1
    out = capfd.readouterr().out
    assert "02_bad: FAILED: AssertionError: x is 1 [in the cell line: assert x == 2, 'x is 1']" in out
    assert "book:" not in out
    assert earlier.read_text() == "earlier"
    assert text_of(published(root, "01_one")) == "steps 3\n"
    assert (root / "_work" / "quick" / "failed" / "02_bad.ipynb").is_file()


def test_what_a_cell_says_on_stderr_fails_the_chapter_that_made_it_with_the_text(root, capfd):
    bar = "from tqdm.auto import tqdm\nfor _ in tqdm(range(3)):\n    pass"
    write_chapter(root, "01_one", bar)
    write_chapter(root, "02_bad", bar, "import warnings\nwarnings.warn('the magnet quenched')")
    earlier = root / "book" / "chapters" / "02_bad.ipynb"
    earlier.parent.mkdir()
    earlier.write_text("earlier")
    assert run.main(["notebooks"], root) == 1
    out = capfd.readouterr().out
    assert "02_bad: FAILED: stderr, which the book does not take: " in out
    assert "UserWarning: the magnet quenched" in out and "[in the cell that begins: import warnings]" in out
    assert earlier.read_text() == "earlier" and published(root, "01_one").cells
    kept = nbformat.read(root / "_work" / "quick" / "failed" / "02_bad.ipynb", as_version=4)
    assert "the magnet quenched" in text_of(kept)


@pytest.mark.parametrize("tag", sorted(pages.NOT_SHOWN))
def test_stderr_that_is_not_on_the_page_fails_no_chapter(tag, tmp_path):
    output = nbformat.v4.new_output("stream", name="stderr", text="a warning")
    for tags, is_said in (([tag], False), ([], True)):
        cell = nbformat.v4.new_code_cell("f()", outputs=[output], metadata={"tags": tags})
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "01_one.ipynb")
        assert bool(pages.complaint_in(tmp_path / "01_one.ipynb")) == is_said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--profile", "fast"], "Unknown profile 'fast': PROFILE is quick, standard or paper."),
        (["--profile", "paper"], "PROFILE=paper needs a GPU, and there is none here: PROFILE=quick runs without."),
        (["--chapters", "01 7"], "Unknown chapter '7': the chapters are 01_one."),
        (["--chapters", "²"], "Unknown chapter '²': the chapters are 01_one."),
        (["--jobs", "²"], "JOBS must be a positive whole number, not '²'."),
        (["--jobs", "0"], "JOBS must be a positive whole number, not '0'."),
        (["--data", "no/such/place"], "The data folder 'no/such/place' does not exist (DATA=dir, see data/README.md)."),
        (["--data", __file__], f"The data folder '{__file__}' is not a folder (DATA=dir, see data/README.md)."),
    ],
)
def test_an_argument_that_makes_no_sense_is_one_sentence_and_exit_code_2(root, capsys, arguments, sentence):
    before = sorted(root.rglob("*"))
    assert run.main(["notebooks", *arguments], root) == 2
    assert capsys.readouterr().err == f"{sentence}\n"
    assert sorted(root.rglob("*")) == before


def test_a_data_folder_without_a_raw_file_of_a_needed_set_is_refused(root, capsys):
    write_chapter(root, "04_knee", parameters="knee_dir, brain_dir = '', ''")
    scans = root / "scans"
    (scans / "mridata").mkdir(parents=True)
    assert run.main(["data", "--data", str(scans)], root) == 2
    assert f"'{scans}' has no raw file mridata/*.h5 or fastmri/multicoil_val/*.h5" in capsys.readouterr().err
    (scans / "mridata" / "a.h5").touch()
    data.check_folder("scans", scans, data.needed_by(chapters.discover(root)))
    with pytest.raises(ValueError, match="fastmri/multicoil_val/"):
        data.check_folder("scans", scans, [data.sets()[1]])


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ("01_one: {n_stepz: 3}", "01_one is given the parameter 'n_stepz'"),
        ("09_nine: {a: 1}", "a section '09_nine'"),
        ("5: {a: 1}\nx: {}", "a section '5'"),
        ("01_one: {n_steps: 3", "notebooks/quick.yaml, line 1 is not valid YAML: "),
        ("\0", "notebooks/quick.yaml is not valid YAML: "),
        ("- 01_one", "notebooks/quick.yaml must hold sections"),
        ("01_one: 3", "the section '01_one' must hold 'name: value', not 3."),
        ("01_one: {n_steps: 2020-01-01}", "notebooks/quick.yaml holds a value that is no number"),
        ("01_one: {n_steps: 3e1}", "n_steps='3e1' in the YAML file, a str, and its cell has 1, a int"),
        ("01_one: {n_steps: 2.5}", "n_steps=2.5 in the YAML file, a float"),
        ("01_one: " + 600 * "[", "notebooks/quick.yaml"),
        (
            "a: &a0 [1]\n" + "\n".join(f"b{i}: &a{i + 1} [{', '.join(9 * [f'*a{i}'])}]" for i in range(9)),
            "notebooks/quick.yaml holds more than 10000 values",
        ),
    ],
)
def test_a_parameter_or_section_that_nobody_reads_or_that_is_broken_is_an_error(root, capsys, settings, part):
    (root / "notebooks" / "quick.yaml").write_text(settings)
    assert run.main(["notebooks"], root) == 2
    assert part in capsys.readouterr().err
    assert not (root / "book" / "chapters").exists()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ("{n_train: 1, n_val: 1, n_test: 1, n_slice: 4}", "'n_slice' is unknown; expected n_train, n_val, n_test, "),
        ("{n_train: 1, n_val: 1, n_test: 1}", "'n_slices' is missing; expected n_train, n_val, n_test, "),
        ("4", "expected 'name: value', not 4."),
    ],
)
def test_settings_that_the_phantoms_do_not_take_are_an_error_before_any_is_written(root, capsys, settings, sentence):
    write_chapter(root, "04_both", parameters="knee_dir, brain_dir = '', ''")
    knee = "{n_train: 1, n_val: 1, n_test: 1, n_slices: 4}"
    (root / "notebooks" / "quick.yaml").write_text(f"phantoms:\n  knee: {knee}\n  brain: {settings}\n")
    assert run.main(["data"], root) == 2
    assert f"notebooks/quick.yaml, phantoms, brain: {sentence}" in capsys.readouterr().err
    assert list((root / "data").iterdir()) == []


def test_folders_of_runs_that_were_killed_are_removed(tmp_path):
    for name in (f"run-{os.getpid()}-a", "run-999999999-b", "run-new", "run-old"):
        (tmp_path / name).mkdir()
    os.utime(tmp_path / "run-old", (0, 0))
    execute.remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"run-{os.getpid()}-a", "run-new"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cells": [{"cell_type": "co', '{"cells": [{}], "nbformat": 4}'])
def test_a_damaged_notebook_is_named(root, capsys, text):
    (root / "notebooks" / "02_torn.ipynb").write_text(text)
    assert run.main(["notebooks"], root) == 1
    assert capsys.readouterr().err == "notebooks/02_torn.ipynb is not a whole notebook: restore it.\n"


def test_a_parameters_cell_that_is_not_python_is_named(root, capsys):
    write_chapter(root, "02_torn", parameters="n_steps = (1")
    assert run.main(["notebooks"], root) == 1
    assert "notebooks/02_torn.ipynb: the parameters cell is not Python" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["_work", "_work/quick", "book/chapters", "data/phantoms"])
def test_a_file_in_the_place_of_a_folder_is_named_before_anything_runs(root, capsys, name):
    write_chapter(root, "04_knee", parameters="knee_dir = ''")
    knee = "{n_train: 1, n_val: 1, n_test: 1, n_slices: 4}"
    (root / "notebooks" / "quick.yaml").write_text(f"phantoms:\n  knee: {knee}\n")
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).touch()
    assert run.main(["notebooks"], root) == 1
    captured = capsys.readouterr()
    assert captured.err == f"{name} is a file, but must be a folder to write in: move it away.\n"
    assert "running" not in captured.out


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(root, capsys):
    (root / "_work").mkdir(mode=0o500)
    assert run.main(["notebooks"], root) == 1
    assert capsys.readouterr().err == "The folder _work cannot be written: change its permissions.\n"


def test_common_parameters_reach_only_the_chapters_that_declare_them(root):
    write_chapter(root, "02_two", parameters="seed, (n_steps, other) = 1, (2, 3)")
    one, two = chapters.discover(root)
    settings = {"common": {"seed": 5, "n_steps": 6}, "phantoms": {}, "02_two": {"n_steps": 7}}
    assert profiles.check_parameters(one, settings) == {"n_steps": 6}
    assert profiles.check_parameters(two, settings) == {"seed": 5, "n_steps": 7}


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ("", ["01_one", "04_mridata"]),
        ("4", ["04_mridata"]),
        ("01,04_mri", ["01_one", "04_mridata"]),
        ("01_one.ipynb", ["01_one"]),
    ],
)
def test_chapters_are_chosen_by_number_or_beginning(root, wanted, names):
    write_chapter(root, "04_mridata")
    assert [chapter.name for chapter in chapters.select(chapters.discover(root), wanted)] == names


def test_staleness_names_what_changed(root):
    def key(parameters, profile="quick"):
        chapter = chapters.discover(root)[0]
        return chapter, staleness.current_key(chapter, parameters, profile, {}, root)

    chapter, first = key({"n_steps": 3})
    executed = root / "executed.ipynb"
    executed.write_bytes(chapter.source.read_bytes())
    pages.publish(executed, chapter, first, root)
    assert staleness.why_stale(*key({"n_steps": 3})) == ""
    assert staleness.why_stale(*key({"n_steps": 4})) == "stale (parameter n_steps changed)"
    assert staleness.why_stale(*key({"n_steps": 3}, "paper")) == "stale (made with the profile quick)"
    (root / "gleam" / "training.py").write_text("lr = 2\n")  # golden numbers guard it, and the results version
    (root / "gleam" / "records" / "figures.py").write_text('"""Figures."""\n\nwidth = 1  # inch\n')
    assert staleness.why_stale(*key({"n_steps": 3})) == ""
    (root / "gleam" / "records" / "figures.py").write_text("width = 2\n")
    assert staleness.why_stale(*key({"n_steps": 3})) == "stale (gleam/records/figures.py changed)"
    write_chapter(root, "01_one", "print('other')")
    assert staleness.why_stale(*key({"n_steps": 3})) == "stale (the notebook changed, gleam/records/figures.py changed)"


def test_a_new_results_version_makes_every_chapter_stale(root, monkeypatch):
    publish_as(root, "01_one", "quick")
    monkeypatch.setattr("gleam.training.identity.RESULTS_VERSION", -1)
    chapter = chapters.discover(root)[0]
    key = staleness.current_key(chapter, {}, "quick", {}, root)
    assert staleness.why_stale(chapter, key) == "stale (the results version changed)"


@pytest.mark.parametrize("name", ["data/published/tables.csv", "gleam/datasets/lists/knee.csv", "requirements.lock"])
def test_published_numbers_lists_and_pinned_versions_are_part_of_the_key(root, name):
    chapter = chapters.discover(root)[0]
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("1")
    before = staleness.current_key(chapter, {}, "quick", {}, root)
    (root / name).write_text("2")
    assert before["files"].keys() == {"gleam/records/figures.py", name}
    assert staleness.current_key(chapter, {}, "quick", {}, root) != before


@pytest.mark.parametrize(
    "call",
    ["records.archived('../results', 'x')", "records.seeds_text('../results', 'x', 'a', 'b')", "build.report(x, runs)"],
)
def test_an_archived_run_is_part_of_the_key_of_a_chapter_that_shows_it(call, root):
    write_chapter(root, "02_two", call)
    keys = lambda: [staleness.current_key(c, {}, "quick", {}, root)["files"] for c in chapters.discover(root)]  # noqa: E731
    before = keys()
    for folder, profile in (("cpu", "quick"), ("gpu", "paper")):
        path = root / "results" / folder / "x" / "gleam.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"profile": profile}, indent=1))
    assert keys() == [before[0], before[1] | {"results/gpu/x/gleam.json": digest(path)}]


def test_another_split_list_is_other_data(root):
    (root / "data" / "mridata").mkdir()
    (root / "data" / "mridata" / "a.h5").touch()
    papers = data.identity("knee_dir", root / "data", root)
    write_split(root / "data" / "splits", ["a.h5"])
    own = data.identity("knee_dir", root / "data", root)
    write_split(root / "data" / "splits", ["a.h5", "b.h5"])
    assert len({papers, own, data.identity("knee_dir", root / "data", root)}) == 3


@pytest.mark.parametrize(
    ("declared", "given", "n_jobs"),
    [
        ("n_jobs = 1", {}, {"n_jobs": 8}),
        ("n_jobs, device = 1, 'cpu'", {"device": "cpu"}, {"n_jobs": 8}),
        ("n_jobs, device = 1, 'cpu'", {"device": "cuda"}, {"n_jobs": 1}),
        ("n_jobs = 1\ndevice = 'cpu'", {}, {"n_jobs": 8}),
        ("n_jobs = 1\ndevice = 'cuda:1'", {}, {"n_jobs": 1}),
        ("device = 'cpu'", {}, {}),
    ],
)
def test_networks_are_trained_at_the_same_time_on_the_cpu_only(root, declared, given, n_jobs):
    write_chapter(root, "01_one", parameters=declared)
    chapter = chapters.discover(root)[0]
    supplied = {"profile": "quick"}
    assert profiles.parameters_for(chapter, given, supplied, 8) == (given, n_jobs)


@pytest.mark.parametrize("is_fast", [True, False])
def test_the_number_format_is_decided_once_for_the_whole_build(tmp_path, is_fast, monkeypatch):
    monkeypatch.setattr(execution, "has_fast_bf16", lambda device_type: is_fast)
    chapter = chapters.Chapter("01_first", tmp_path, tmp_path, {"precision": "fp32", "device": "cpu"})
    found, _ = profiles.parameters_for(chapter, {"precision": "auto"}, {}, 1)
    assert found == {"precision": "bf16" if is_fast else "fp32"}
    assert profiles.parameters_for(chapter, {"precision": "tf32"}, {}, 1)[0] == {"precision": "tf32"}


def test_a_chapter_whose_records_are_gone_runs_again(root, capfd):
    """Even if those of other chapters, or others of its own, are there."""
    for name in ("one", "two"):
        source = f"import os\nfolder = '../_work/quick/records/{name}_a'\nos.makedirs(folder, exist_ok=True)\n"
        source += "[open(f'{folder}/{method}.json', 'w').close() for method in ('cs', 'gleam')]"
        write_chapter(root, {"one": "01_one", "two": "02_two"}[name], source)
    assert run.main(["notebooks"], root) == 0
    assert run.main(["notebooks"], root) == 0
    assert "02_two: up to date" in capfd.readouterr().out
    (root / "_work" / "quick" / "records" / "two_a" / "cs.json").unlink()
    assert run.main(["notebooks"], root) == 0
    out = capfd.readouterr().out
    assert "02_two: stale (its records are gone), running" in out
    assert "01_one: up to date" in out


@pytest.mark.parametrize(
    ("name", "experiments"),
    [
        ("04_mridata", ["mridata_modl_R4", "mridata_pgd_R12"]),
        ("05_fastmri", ["fastmri_pgd"]),
        ("06_cine", ["cine_modl", "cine_pgd"]),
        ("07_timing", ["parallel_modl_R4"]),
        ("08_interpretation", ["iterations_modl_R16", "iterations_pgd_R16"]),
        ("09_real_anatomy", ["real_brains", "real_knees_pgd_fold1"]),
        ("15_beyond", ["beyond_phantoms"]),
        ("17_advice", []),  # quotes the records of other chapters
    ],
)
def test_each_chapter_knows_the_records_that_it_makes(name, experiments, tmp_path):
    every = "mridata_pgd_R12 mridata_modl_R4 fastmri_pgd cine_pgd cine_modl parallel_modl_R4 iterations_pgd_R16 "
    every += "iterations_modl_R16 real_brains real_knees_pgd_fold1 beyond_phantoms"
    for experiment in every.split():
        (tmp_path / "_work" / "quick" / "records" / experiment).mkdir(parents=True)
        (tmp_path / "_work" / "quick" / "records" / experiment / "gleam.json").touch()
    source = REAL / f"{name}.ipynb"
    chapter = chapters.Chapter(name, source, tmp_path / "page.ipynb", {})
    pages.publish(source, chapter, {"profile": "quick", "parameters": {}}, tmp_path)
    made_from = nbformat.read(chapter.published, as_version=4).metadata["made_from"]
    assert made_from["records"] == [f"{experiment}/gleam.json" for experiment in experiments]


def publish_as(root, name, profile):
    """Publish a chapter as if a run with the profile had made it."""
    chapter = next(chapter for chapter in chapters.discover(root) if chapter.name == name)
    executed = root / "executed.ipynb"
    executed.write_bytes(chapter.source.read_bytes())
    pages.publish(executed, chapter, staleness.current_key(chapter, {}, profile, {}, root), root)


def test_pages_alone_take_the_profile_of_the_published_chapters(root, monkeypatch, capsys):
    built = []
    monkeypatch.setattr(run.book, "build", lambda profile, root: built.append(profile) or True)
    write_chapter(root, "02_two")
    assert run.main(["book"], root) == 0  # nothing published: as for a run
    publish_as(root, "01_one", "paper")
    assert run.main(["book"], root) == 0
    assert run.main(["book", "--profile", "quick"], root) == 0
    assert built == ["quick", "paper", "quick"]
    publish_as(root, "02_two", "quick")
    capsys.readouterr()
    assert run.main(["book"], root) == 2
    assert capsys.readouterr().err == "The chapters were made with the profiles paper and quick: give PROFILE.\n"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (
            "\rtrain:  40%|####      | 4/10 [00:01<00:02,  3.1it/s, loss=0.1]\rtrain: 100%|#| 10/10 [00:03<00:00]\n",
            None,
        ),
        ("0it [00:00, ?it/s]\r12it [00:01, 9.3it/s]\x1b[A\n", None),
        ("\n", None),
        ("UserWarning: 40% of the mask is empty\n", "UserWarning: 40% of the mask is empty\n"),
        ("  0%|    | 0/2 [00:00<?, ?it/s]\nUserWarning: look\n100%|####| 2/2 [00:00<00:00]\n", "UserWarning: look\n"),
    ],
)
def test_progress_bars_leave_the_page_and_warnings_stay(text, left):
    output = pages.without_progress(nbformat.v4.new_output("stream", name="stderr", text=text))
    assert (output and output.text) == left
    stdout = nbformat.v4.new_output("stream", name="stdout", text=text)
    assert pages.without_progress(stdout).text == text


def write_split(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "mridata_knee.csv").open("w", newline="") as lines:
        csv.writer(lines).writerows([["file", "split"], *([name, "train"] for name in names)])


@pytest.mark.parametrize(("gpu", "files", "profile"), [(True, 2, "paper"), (True, 1, "quick"), (False, 2, "quick")])
def test_paper_is_chosen_only_with_a_gpu_and_all_the_data(root, monkeypatch, gpu, files, profile):
    write_chapter(root, "04_knee", parameters="knee_dir = '../data'")
    write_split(root / "data" / "splits", ["a.h5", "b.h5"])
    (root / "data" / "mridata").mkdir()
    for name in ["a.h5", "b.h5"][:files]:
        (root / "data" / "mridata" / name).touch()
    monkeypatch.setattr(data, "has_gpu", lambda: gpu)
    needed = data.needed_by(chapters.discover(root))
    assert [dataset.name for dataset in needed] == ["knee"]
    chosen, why = data.choose_profile("", needed, root / "data", root)
    assert chosen == profile
    assert ("GPU" in why and "no GPU" not in why) == (gpu and files == 2)
    assert ("not complete" in why) == (files == 1)


def test_phantoms_are_written_once_and_again_when_their_settings_change(root, monkeypatch):
    from gleam import phantoms

    calls = []

    def knee(out_dir, *, n_train, n_jobs=None):
        calls.append({"n_train": n_train, "n_jobs": n_jobs})
        (Path(out_dir) / "mridata").mkdir(parents=True, exist_ok=True)
        (Path(out_dir) / "mridata" / "p.h5").touch()
        write_split(Path(out_dir) / "splits", ["p.h5"])

    monkeypatch.setattr(phantoms, "knee", knee)
    provide = lambda n: data.provide(data.sets()[:1], root / "data", "quick", {"knee": {"n_train": n}}, root, 2)  # noqa: E731
    folders = provide(1)
    first = data.identity("knee_dir", folders["knee_dir"], root)
    assert provide(1) == folders == {"knee_dir": root / "data" / "phantoms" / "quick"}
    assert calls == [{"n_jobs": 2, "n_train": 1}]
    provide(4)
    assert len(calls) == 2
    assert data.identity("knee_dir", folders["knee_dir"], root) != first


def test_hearts_without_a_list_are_complete_if_there_are_any(root):
    folder, heart = root / "data", data.sets()[2]
    assert not heart.is_complete(folder) and data.needed_by(chapters.discover(root)) == []
    (folder / "ocmr").mkdir()
    (folder / "ocmr" / "fs_0001.h5").touch()
    assert heart.is_complete(folder)
    series = folder / "cmrxrecon" / "FullSample" / "P001" / "cine_sax.mat"
    series.parent.mkdir(parents=True)
    series.touch()
    assert len(heart.files(folder)) == 2
    found = data.identity("heart_dir", folder, root)
    (folder / "splits").mkdir()
    names = ["ocmr/fs_0001.h5", series.relative_to(folder).as_posix()]
    for listed, complete in ((names, True), ([*names, "ocmr/fs_0002.h5"], False)):
        (folder / "splits" / heart.splits).write_text("\n".join(["file,split", *(f"{name},test" for name in listed)]))
        assert heart.is_complete(folder) is complete
        assert data.identity("heart_dir", folder, root) != found


def test_hearts_that_the_loader_refuses_leave_the_set_to_phantoms_and_it_is_said(root, monkeypatch, capsys):
    write_chapter(root, "06_cine", parameters="heart_dir = '../data'")
    (root / "data" / "ocmr").mkdir()
    (root / "data" / "ocmr" / "us_0001.h5").touch()
    (root / "notebooks" / "quick.yaml").write_text("phantoms: {heart: {}}")
    monkeypatch.setattr(data, "_phantom", lambda *_: "phantoms")
    monkeypatch.setattr(data, "_check_settings", lambda *_: None)
    why = "1 files are left out: by their names they are undersampled, single-coil or masks."
    assert data.provide(data.sets()[2:3], root / "data", "quick", {"heart": {}}, root, 1) == {"heart_dir": "phantoms"}
    assert f"heart data: none in data. {why}" in capsys.readouterr().out
    assert run.main(["data", "--profile", "quick"], root=root) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "left out: 1 files, by their names undersampled, single-coil or masks: ocmr/us_0001.h5 chapters" in said
    assert run.main(["data", "--data", str(root / "data")], root=root) == 2
    assert why in capsys.readouterr().err


def test_files_that_are_not_on_the_split_list_leave_the_set_to_phantoms(root, monkeypatch, capsys):
    folder = root / "data"
    (folder / "mridata").mkdir()
    (folder / "mridata" / "mine.h5").touch()
    monkeypatch.setattr(data, "_phantom", lambda *_: "phantoms")
    provide = lambda: data.provide(data.sets()[:1], folder, "quick", {"knee": {}}, root, 1)  # noqa: E731
    monkeypatch.setattr(data, "_check_settings", lambda *_: None)
    assert provide() == {"knee_dir": "phantoms"}
    assert "knee data: 1 real files in data, none on mridata_knee.csv" in capsys.readouterr().out
    write_split(folder / "splits", ["mine", "other.h5"])
    assert provide() == {"knee_dir": folder}, "what is missing is said by the reader"


def test_make_data_says_what_is_there_of_each_set_and_writes_phantoms(root, monkeypatch, capsys):
    write_chapter(root, "04_knee", parameters="knee_dir = '../data'")
    (root / "notebooks" / "quick.yaml").write_text("phantoms: {knee: {}}")
    written = []
    monkeypatch.setattr(data, "_check_settings", lambda *_: None)
    monkeypatch.setattr(data, "_phantom", lambda *_: written.append("knee"))
    assert run.main(["data", "--profile", "quick"], root=root) == 0 and written == ["knee"]
    said = " ".join(capsys.readouterr().out.split())
    assert "knee: mridata.org" in said and "chapters: 04_knee next: python -m gleam.datasets.download mridata" in said
    assert "brain: " not in said, "no chapter needs it"


@pytest.fixture
def anatomy():
    return next(dataset for dataset in data.sets() if dataset.name == "anatomy")


def test_a_set_without_phantoms_is_given_only_where_it_is(root, anatomy, capsys):
    write_chapter(root, "09_real", "records.evaluate_all()", parameters="anatomy_dir = ''")
    needed = data.needed_by(chapters.discover(root))
    assert needed == [anatomy]
    assert data.choose_profile("", needed, root / "data", root) == ("quick", "there is no GPU")
    assert data.provide(needed, root / "data", "quick", {}, root, 1) == {}
    assert "anatomy data: none in data, so archived records are shown" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"no raw file knees/\*\.npy or fastmri/multicoil_val/\*\.h5 \("):
        data.check_folder("data", root / "data", needed)
    (root / "data" / "knees").mkdir()
    (root / "data" / "knees" / "a.npy").touch()
    data.check_folder("data", root / "data", needed)
    folders = data.provide(needed, root / "data", "quick", {}, root, 1)
    assert folders == {"anatomy_dir": root / "data"}
    found = data.identity("anatomy_dir", root / "data", root)
    (root / "data" / "knees" / "b.npy").touch()
    assert data.identity("anatomy_dir", root / "data", root) != found


def test_a_gpu_and_the_other_data_are_enough_for_the_papers_profile(root, monkeypatch, anatomy):
    monkeypatch.setattr(data, "has_gpu", lambda: True)
    assert data.choose_profile("", [anatomy], root / "data", root)[0] == "paper"


def test_a_chapter_whose_data_are_missing_runs_once(root, capfd):
    write_chapter(
        root, "09_real", "print(anatomy_dir or 'archive')  # records.evaluate_all()", parameters="anatomy_dir = ''"
    )
    (root / "notebooks" / "01_one.ipynb").unlink()
    (root / "notebooks" / "quick.yaml").write_text("")
    assert run.main(["notebooks"], root) == 0
    assert text_of(published(root, "09_real")) == "archive\n"
    assert run.main(["notebooks"], root) == 0
    assert "09_real: up to date" in capfd.readouterr().out
    (root / "data" / "knees").mkdir()
    (root / "data" / "knees" / "a.npy").touch()
    assert run.main(["notebooks"], root) == 0
    assert "09_real: stale (" in capfd.readouterr().out
    assert text_of(published(root, "09_real")) == "../data\n"


def test_a_folder_of_results_that_a_chapter_names_is_part_of_its_key(root):
    write_chapter(root, "02_two", "archive = '../results/real'")
    keys = lambda: [staleness.current_key(c, {}, "quick", {}, root)["files"] for c in chapters.discover(root)]  # noqa: E731
    before = keys()
    for name in ("real/x/cs.json", "real/x/compare.png", "other/x/cs.json"):
        (root / "results" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "results" / name).write_text("{}")
    (root / "results" / "real" / "noise_0.5").mkdir()  # a dot does not make a folder a file
    names = {"results/real/x/cs.json", "results/real/x/compare.png"}
    assert keys()[0] == before[0] and keys()[1].keys() - before[1].keys() == names


def test_a_data_folder_elsewhere_is_reached_through_a_link(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("scans")
    (elsewhere / "mridata").mkdir()
    (elsewhere / "mridata" / "a.h5").write_text("raw")
    path = data.relative(elsewhere, "quick", root)
    assert path == data.relative(elsewhere, "quick", root) == "../_work/quick/real_data"
    assert (root / "notebooks" / path / "mridata" / "a.h5").read_text() == "raw"
    assert data.relative(root / "data", "quick", root) == "../data"


def test_a_chapter_without_results_gets_a_page_that_says_so_and_keeps_its_labels(root):
    notebook = nbformat.read(root / "notebooks" / "01_one.ipynb", as_version=4)
    notebook.cells[2].metadata["mystnb"] = {"figure": {"name": "fig-a", "caption": "A."}}
    tables = "[table(f'tab-{name}') for name in names]; table('tab-b')"
    notebook.cells += [
        nbformat.v4.new_markdown_cell("See {numref}`tab-a`, {numref}`tab-b`, {numref}`tab-of-another-chapter`."),
        nbformat.v4.new_code_cell(tables, metadata={"mystnb": {"markdown_format": "myst"}}),
    ]
    nbformat.write(notebook, root / "notebooks" / "01_one.ipynb")
    found = chapters.discover(root)
    pages.fill_in_missing(found)
    labels = re.findall(r":name: (tab-[\w-]+)", found[0].published.read_text())
    assert sorted(labels) == ["tab-a", "tab-b"], "one that code composes, one that it spells out, each once"
    page = found[0].published.read_text()
    assert "has not been run in this build" in page
    assert ":name: fig-a" in page
    pages.fill_in_missing(found)
    assert found[0].published.read_text() == page
    assert staleness.why_stale(found[0], {}) == "never run"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_leaves_nothing_half_done(root, number):
    write_chapter(root, "01_one", "import time\nprint('asleep', flush=True)\ntime.sleep(60)")
    (root / "notebooks" / "run.py").write_text((REAL / "run.py").read_text())
    (root / "notebooks" / "quick.yaml").write_text("")
    command = [sys.executable, "notebooks/run.py", "notebooks", "--profile", "quick"]
    child = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        deadline = time.monotonic() + 120
        while not list((root / "_work").glob("run-*/01_one.ipynb")) and time.monotonic() < deadline:
            time.sleep(0.1)
        started = psutil.Process(child.pid).children(recursive=True)
        child.send_signal(number)
        output, _ = child.communicate(timeout=30)
    finally:
        child.kill()
    assert started
    assert psutil.wait_procs(started, timeout=30)[1] == []
    assert not (root / "book" / "chapters").exists()
    if number == signal.SIGTERM:
        assert child.returncode == 130, output
        assert "Interrupted" in output
        assert list((root / "_work").glob("run-*")) == []


@pytest.mark.parametrize(("gpu", "threads"), [(True, "4"), (False, "1")])
def test_threads_are_shared_out_between_chapters_with_a_gpu_and_one_each_without(root, monkeypatch, gpu, threads):
    monkeypatch.setattr(execute, "n_cores", lambda: 8)
    monkeypatch.setattr(data, "has_gpu", lambda: gpu)
    seen = {}

    def note(task, profile, root, scratch, n_threads, children, progress):
        seen[task] = execute._environment(root, n_threads)["OMP_NUM_THREADS"]
        return True

    monkeypatch.setattr(execute, "_run", note)
    assert execute.run_all(["a", "b"], "quick", root, jobs=16)
    assert seen == {"a": threads, "b": threads}
    assert os.environ.get("JUPYTER_PREFER_ENV_PATH") is None


def test_a_page_from_another_program_counts_as_never_run(root):
    chapter = chapters.discover(root)[0]
    chapter.published.parent.mkdir(parents=True)
    for text in ("", "{", "[]", json.dumps({"metadata": {}})):
        chapter.published.write_text(text)
        assert staleness.why_stale(chapter, {}) == "never run"


@pytest.mark.parametrize(
    ("folder", "caption"),
    [
        ("../data/phantoms/quick", "A knee. Numerical phantom."),
        ("../_work/quick/real_data", "A knee. Measured data."),
        (None, "A knee."),
    ],
)
def test_captions_say_what_the_data_were(folder, caption):
    cell = nbformat.v4.new_code_cell("", metadata={"mystnb": {"figure": {"caption": "A knee. {knee}"}}})
    pages.label_caption(cell, {"knee_dir": folder} if folder else None)
    assert cell.metadata["mystnb"]["figure"]["caption"] == caption
    real = nbformat.v4.new_code_cell("", metadata={"mystnb": {"figure": {"caption": "A knee. {anatomy}"}}})
    pages.label_caption(real, {"anatomy_dir": folder} if folder else None)
    said = "A knee. Real anatomy, simulated coils and noise."
    assert real.metadata["mystnb"]["figure"]["caption"] == said, "whether it was run here or is archived"


@pytest.mark.parametrize(
    ("device", "given", "at_once"), [("cuda", [], 1), ("cuda", ["--jobs", "3"], 3), ("cpu", [], 5)]
)
def test_chapters_share_cores_but_not_a_gpu_unless_asked(root, monkeypatch, device, given, at_once):
    for number in range(1, 7):
        write_chapter(root, f"0{number}_one", "pass", parameters=f"device = '{device}'")
    (root / "notebooks" / "quick.yaml").write_text(f"common: {{device: {device}}}\n")
    monkeypatch.setattr(execute, "n_cores", lambda: 5)
    seen = []
    monkeypatch.setattr(execute, "run_all", lambda tasks, profile, root, jobs: seen.append(jobs) or True)
    assert run.main(["notebooks", *given], root) == 0
    assert seen == [at_once]


@pytest.mark.parametrize("profile", ["quick", "standard", "paper"])
def test_chapters_that_share_networks_have_the_same_parameters(profile):
    """Else the second one would train its own."""
    root = REAL.parent
    settings = profiles.read_settings(root, profile)
    knee, inside = (c for c in chapters.discover(root) if c.name in ("04_mridata", "08_interpretation"))
    one, other = (c.declared | profiles.check_parameters(c, settings) for c in (knee, inside))
    shared = set(one) & set(other) - {"n_jobs", "acceleration", "mu"}
    assert {"n_steps", "modl_steps", "learning_rate", "batch_size"} <= shared
    assert [name for name in sorted(shared) if one[name] != other[name]] == []


def test_a_notebook_by_itself_has_the_parameters_of_the_profile_quick():
    """Else a class would train its own networks, though the book's lie there."""
    settings = profiles.read_settings(REAL.parent, "quick")
    for chapter in chapters.discover(REAL.parent):
        cells = chapters.read_notebook(chapter.source).cells
        own: dict = {}
        for cell in cells:
            if "parameters" in cell.metadata.get("tags", []):
                exec(cell.source, own)
        given = profiles.check_parameters(chapter, settings)
        given.pop("precision", None)  # "auto" and "fp32" are what the driver decides
        assert {name: own[name] for name in given} == given, chapter.name


@pytest.mark.parametrize("profile", ["quick", "standard", "paper"])
def test_real_brains_are_reconstructed_by_the_networks_of_the_chapter_on_brains(profile):
    """Else the chapter on real anatomy would train its own."""
    settings = profiles.read_settings(REAL.parent, profile)
    given = settings["09_real_anatomy"]["brain_settings"]
    brain = next(c for c in chapters.discover(REAL.parent) if c.name == "05_fastmri")
    assert given == settings["05_fastmri"]
    own = {"seed", "device", "precision", "n_jobs", "brain_dir", "work_dir", "profile"}
    assert set(given) == set(brain.declared) - own


@pytest.mark.parametrize("profile", ["quick", "standard", "paper"])
def test_every_parameter_of_the_profiles_is_declared_by_its_chapter(profile):
    root = REAL.parent
    settings = profiles.read_settings(root, profile)
    for chapter in chapters.discover(root):
        profiles.check_parameters(chapter, settings)


def test_a_chapter_that_dies_is_said_though_its_processes_live_on(root, capfd):
    """What it left behind holds its output open, and must not keep the driver waiting."""
    left_behind = "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    write_chapter(root, "01_one", left_behind, "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)")
    started = time.monotonic()
    try:
        assert run.main(["notebooks", "--jobs", "1"], root) == 1
        assert time.monotonic() - started < 50
        assert "01_one: FAILED" in capfd.readouterr().out
    finally:
        for process in psutil.process_iter(["cmdline"]):
            if "import time; time.sleep(60)" in (process.info["cmdline"] or []):
                process.kill()


def test_a_chapter_that_times_processes_has_the_machine_to_itself(root, monkeypatch):
    for name, parameters in {"01_one": "a = 1", "02_two": "n_processes = 2", "03_three": "b = 2"}.items():
        write_chapter(root, name, "pass", parameters=parameters)
    (root / "notebooks" / "quick.yaml").write_text("")
    monkeypatch.setattr(execute, "n_cores", lambda: 2)
    seen = []
    monkeypatch.setattr(
        execute, "run_all", lambda tasks, p, r, n: seen.append(([t.chapter.name for t in tasks], n)) or len(seen) > 1
    )
    assert run.main(["notebooks"], root) == 1, "the first lot failed"
    assert seen == [(["01_one", "03_three"], 2), (["02_two"], 1)]


def test_chapters_side_by_side_share_the_cores(root, monkeypatch):
    for name in ("01_one", "02_two", "03_three"):
        write_chapter(root, name, "pass", parameters="n_jobs = 1")
    (root / "notebooks" / "quick.yaml").write_text("")
    monkeypatch.setattr(execute, "n_cores", lambda: 2)
    seen = []
    monkeypatch.setattr(
        execute, "run_all", lambda tasks, *_: seen.append([t.parameters["n_jobs"] for t in tasks]) or True
    )
    assert run.main(["notebooks"], root) == 0
    assert run.main(["notebooks", "--chapters", "02"], root) == 0
    assert seen == [[1, 1, 1], [2]]


def test_a_seed_is_for_weights_masks_and_phantoms_and_has_folders_of_its_own():
    settings = {"common": {"seed": 0, "a": 1}, "phantoms": {"knee": {"n": 1, "seed": 0}}, "x": {}}
    assert profiles.with_seed(settings, "") is settings
    changed = profiles.with_seed(settings, "2")
    assert changed["common"] == {"seed": 2, "a": 1} and changed["phantoms"]["knee"] == {"n": 1, "seed": 2}
    assert [run.build_name("standard", seed) for seed in ("", "0", "2")] == ["standard", "standard", "standard-seed2"]
    with pytest.raises(ValueError, match="SEED must be a whole number of at least 0, not 'x'"):
        run.build_name("standard", "x")


def test_archiving_needs_a_profile_and_records(root, capsys):
    assert run.main(["archive"], root) == 2
    assert "PROFILE=quick or standard or paper" in capsys.readouterr().err
    assert run.main(["archive", "--profile", "standard", "--seed", "1"], root) == 1
    assert "standard-seed1/records: holds no record" in capsys.readouterr().err


def test_caches_of_libraries_lie_in_the_work_folder(root):
    """A home that cannot be written would have Matplotlib complain, on the page."""
    found = execute._environment(root, 1)
    assert all(Path(found[name]).is_relative_to(root / "_work") for name in ("IPYTHONDIR", "MPLCONFIGDIR"))
