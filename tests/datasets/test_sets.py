"""What users are told of the book's data sets: what is there, what is missing, how large it is, what to do next."""

import csv
import math

from gleam.datasets import cine
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


def test_hearts_that_the_loader_leaves_out_by_their_names_do_not_count(tmp_path):
    others = [
        "cmrxrecon/AccFactor04/P001/cine_sax.mat", "cmrxrecon/FullSample/P001/cine_sax_mask.mat",
        "cmrxrecon/SingleCoil/FullSample/P001/cine_sax.mat", "ocmr/us_0001_3T.h5",
    ]  # fmt: skip
    put(tmp_path, *others)
    assert HEART.files(tmp_path) == [] and not HEART.is_complete(tmp_path)
    assert HEART.missing(tmp_path) == HEART.patterns
    said = " ".join(section(report(tmp_path), "heart").split())
    assert "there: 0 files, 0 MB" in said and "until then: phantoms stand in" in said
    assert f"left out: 4 files, by their names undersampled, single-coil or masks: {others[0]}, " in said
    put(tmp_path, "ocmr/fs_0001_3T.h5")
    assert HEART.is_complete(tmp_path) and HEART.files(tmp_path) == cine.find(tmp_path)
    assert "there: 1 files, 2 MB" in " ".join(section(report(tmp_path), "heart").split())


def test_a_heart_on_the_list_counts_whatever_its_name(tmp_path):
    put(tmp_path, "ocmr/us_0001_3T.h5", "ocmr/us_0002_3T.h5", "splits/cine_heart.csv")
    (tmp_path / "splits" / "cine_heart.csv").write_text("file,split\nocmr/us_0001_3T.h5,train\n")
    assert HEART.is_complete(tmp_path) and HEART.files(tmp_path) == [tmp_path / "ocmr" / "us_0001_3T.h5"]
    assert "left out: 1 files, " in " ".join(section(report(tmp_path), "heart").split())


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
