"""What users are told of the book's data sets: what is there, what is missing, how large it is, what to do next."""

import csv
import math

from gleam.datasets.__main__ import main
from gleam.datasets.sets import SETS, report
from gleam.datasets.splits import PAPER_LISTS

KNEE, BRAIN, HEART, ANATOMY = SETS


def put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(2_000_000))


def section(text, name):
    """Words of one set, on one line."""
    lines, found = text.splitlines(), []
    for line in lines[lines.index(next(line for line in lines if line.startswith(f"{name}: "))) + 1 :]:
        if not line.startswith(" "):
            break
        found.append(line.strip())
    return " ".join(found)


def test_an_empty_folder_gets_for_each_set_its_size_and_the_next_step(tmp_path, capsys):
    assert main([str(tmp_path / "none")]) == 0
    said = capsys.readouterr().out
    wanted = {
        "knee": ("0 files of the 19", "32 GB", f"python -m gleam.datasets.download mridata {tmp_path}", "phantoms"),
        "brain": ("154 files", "89 GB", "https://fastmri.med.nyu.edu", "/fastmri/multicoil_val", "phantoms stand in"),
        "heart": ("download ocmr", "https://cmrxrecon.github.io", "no file ocmr/*.h5, cmrxrecon/", "phantoms stand in"),
        "anatomy": ("magnitude_14x320x256.npy", "2.3 MB", "/knees", "archived records are shown"),
    }
    for name, words in wanted.items():
        assert all(word in section(said, name) for word in words), section(said, name)


def test_what_is_there_and_what_is_missing_is_counted(tmp_path):
    first, *others = KNEE.listed(tmp_path)
    put(tmp_path, f"mridata/{first}", "mridata/mine.h5", "mridata/._mine.h5")
    said = section(report(tmp_path), "knee")
    assert "1 files of the 19 that mridata_knee.csv names, 2 MB" in said and "1 more that it does not name" in said
    assert f"missing: 18 files: {others[0]}, {others[1]} and 16 more" in " ".join(said.split())
    assert "until then" not in said and KNEE.missing(tmp_path) == others and not KNEE.is_complete(tmp_path)
    put(tmp_path, *(f"mridata/{name}" for name in others))
    said = section(report(tmp_path), "knee")
    assert "missing: nothing" in " ".join(said.split()) and "next" not in said and KNEE.is_complete(tmp_path)


def test_either_set_of_hearts_is_enough_and_real_anatomy_has_two_parts(tmp_path):
    put(tmp_path, "cmrxrecon/P001/cine_sax.mat", "knees/magnitude_14x320x256.npy")
    assert HEART.missing(tmp_path) == [] and HEART.is_complete(tmp_path)
    assert ANATOMY.missing(tmp_path) == ["fastmri/multicoil_val/*.h5"] and ANATOMY.is_complete(tmp_path)
    assert "fastmri/multicoil_val" in section(report(tmp_path), "anatomy").partition("next:")[2]


def test_chapters_and_another_name_of_the_folder_are_told_where_they_are_given(tmp_path):
    said = report(tmp_path, SETS[:2], place="scans", chapters={"knee": ["01_one", "04_knee"]})
    assert "chapters:   01_one, 04_knee" in section(said, "knee") and "chapters:   none" in section(said, "brain")
    assert "download mridata scans" in said and str(tmp_path) not in said and "heart" not in said


def test_a_list_that_cannot_be_read_is_one_sentence(tmp_path, capsys):
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "mridata_knee.csv").write_bytes(b"name\n\xe4\n")
    assert main([str(tmp_path)]) == 2
    assert "mridata_knee.csv: cannot be read" in capsys.readouterr().err


def test_sizes_are_those_of_the_lists():
    """Complex64 samples of the scans; files of brains hold images too, 2 % more."""
    samples = {KNEE: ("n_x", "n_y", "n_z", "n_coils"), BRAIN: ("n_slices", "n_coils", "encoded_x", "encoded_y")}
    for one, columns in samples.items():
        with open(PAPER_LISTS / one.splits) as file:
            rows = list(csv.DictReader(file))
        gigabytes = sum(8 * math.prod(int(row[column]) for column in columns) for row in rows) / 1e9
        assert abs(float(one.size.split(" GB")[0]) - gigabytes) < 0.025 * gigabytes
        assert str(len(rows)) in one.size
