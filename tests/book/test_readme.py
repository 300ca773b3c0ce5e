"""The README's table is the committed record, number by number."""

import re
from pathlib import Path

from gleam import records

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
COLUMNS = ["PSNR (dB)", "SSIM", "SSIM of the object", "Memory", "Time per step"]
SCORES = ["psnr", "ssim", "ssim_object"]
BLOCKS = {records.THIS_BUILD: "ours", records.PAPER: "paper"}
METHODS = ["Zero-filled", "CS", "End-to-end", "GLEAM"]


def rows(folder):
    """The table as README lines."""
    experiment = records.load_experiment(ROOT / folder, "mridata_pgd_R12", METHODS)
    paper = records.published(ROOT / "data" / "published" / "tables.csv", table="I", acceleration=12)
    frame = records.table(experiment, paper, over=["slices"], metrics=SCORES)[COLUMNS]
    places = [(m, block, word) for m in METHODS for block, word in BLOCKS.items() if (block, m) in frame.index]
    return ["| " + " | ".join([method, word, *frame.loc[(block, method)]]) + " |" for method, block, word in places]


def test_every_row_of_the_table_is_in_the_readme():
    (folder,) = re.findall(r"<!-- records: (\S+) -->", README)
    expected = rows(folder)
    found = [line for line in README.splitlines() if line.startswith(("| Zero", "| CS", "| End", "| GLEAM"))]
    assert found == expected


def test_pictures_and_pages_that_it_links_to_are_there():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert any(link.endswith(".png") for link in links)
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_page_of_the_package_index_needs_no_clone_and_its_code_runs(tmp_path, monkeypatch, capsys):
    page = (ROOT / ".github" / "index_page.md").read_text()
    assert re.findall(r"\]\((?!https://)", page) == [] and "![" not in page
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    for large, small in {
        "n_steps=400": "n_steps=2",
        "n_features=24": "n_features=2",
        "n_slices=8": "n_slices=4",
    }.items():
        assert large in code
        code = code.replace(large, small)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert "psnr" in capsys.readouterr().out
