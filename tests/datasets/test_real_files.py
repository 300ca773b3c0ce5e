"""What scanners, disks, spreadsheets and keyboards do to files: read aright, or refused in our own words."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from faults.isolated import isolated
from problems import write_prepared
from raw_files import (
    coil_images,
    header,
    line,
    noise,
    raster,
    relative_maps,
    write_fastmri,
    write_ismrmrd,
    write_mat,
)

from gleam import masks
from gleam.datasets import Slices, cine, fastmri, files_by_split, formats, hdf5, headers, load, mridata, prepare
from gleam.phantoms.write import write_mridata
from gleam.physics import Batch
from gleam.physics.fourier import fft2c

SIZES = (10, 6, 4)  # readout, step 1, step 2


@pytest.fixture
def knee(tmp_path):
    kspace = noise((3, *SIZES))
    return lambda xml=None, **more: write_ismrmrd(tmp_path / "knee.h5", xml or header(SIZES), raster(kspace, **more))


def test_exchanged_axes_are_exchanged_back_and_said(tmp_path):
    kspace = noise((2, 3, 64, 40))
    xml = header((64, 40, 1), (32, 32, 1))
    right = fastmri.read(write_fastmri(tmp_path / "right.h5", kspace, xml))
    read = fastmri.read(write_fastmri(tmp_path / "a.h5", kspace.swapaxes(2, 3), xml))
    np.testing.assert_array_equal(read.kspace, right.kspace)
    assert (right.notes, right.spacing) == ((), read.spacing)
    assert "40 x 64 samples" in read.notes[0] and "64 x 40: the two axes of k-space were exchanged" in read.notes[0]
    measured = fastmri.read_measured(tmp_path / "a.h5")
    np.testing.assert_array_equal(measured.kspace, right.kspace)


def test_a_matrix_that_agrees_neither_way_is_said_and_pixels_are_those_of_the_array(tmp_path):
    read = fastmri.read(write_fastmri(tmp_path / "a.h5", noise((1, 2, 20, 10)), header((20, 8, 1))))
    assert "20 x 10 samples" in read.notes[0] and "20 x 8: rows are taken for the readout" in read.notes[0]
    assert read.spacing == (200, 10, 20)


def test_exchanged_axes_of_lines_are_refused(tmp_path):
    kspace = noise((3, 2, 14, 8))  # (coil, frame, line, sample)
    lines = [line(kspace[:, t, y], step_1=y, phase=t) for t in range(2) for y in range(14)]
    path = write_ismrmrd(tmp_path / "fs.h5", header((14, 8, 1)), lines)
    with pytest.raises(ValueError, match=r"14 lines of 8 samples, and the header's matrix has 8 lines of 14 samples"):
        cine.read(path)


def test_notes_of_the_reader_are_kept_and_printed(tmp_path, capsys):
    kspace = fft2c(coil_images((24, 20), 3))[None].swapaxes(2, 3)
    path = write_fastmri(tmp_path / "a.h5", kspace, header((24, 20, 1)))
    options = {"read": fastmri.read, "calibrate": relative_maps, "cache_dir": tmp_path / "cache", "n_jobs": 1}
    prepare.prepare([path], **options)
    assert "a.h5: k-space has 20 x 24 samples" in capsys.readouterr().out


def test_the_subject_that_folders_name_is_part_of_the_key(tmp_path):
    kspace = np.stack([fft2c(coil_images((24, 20), 3, seed=t)) for t in range(2)], axis=1)
    paths = [write_mat(tmp_path / name / "cine_sax.mat", kspace) for name in ("P001", "P002")]
    options = {"read": cine.read, "calibrate": relative_maps, "cache_dir": tmp_path / "cache", "n_jobs": 1}
    prepared = prepare.prepare(paths, progress=False, **options)
    assert Slices("test", tuple(prepared), masks.random_columns).subjects == ["P001", "P002"]


def test_a_raw_file_replaced_by_one_of_equal_size_and_time_is_read_again(tmp_path):
    options = {"read": fastmri.read, "calibrate": relative_maps, "cache_dir": tmp_path / "cache", "n_jobs": 1}
    path = write_fastmri(tmp_path / "a.h5", fft2c(coil_images((24, 20), 3))[None])
    before, old = path.stat(), prepare.prepare([path], progress=False, **options)
    path.unlink()
    write_fastmri(path, fft2c(coil_images((24, 20), 3, seed=1))[None])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert prepare.prepare([path], progress=False, **options) != old


UNUSED = {
    "a number of NumPy": (
        "<encoding>", "<sequenceParameters><TR>NP.FLOAT64(1250.0)</TR></sequenceParameters><encoding>",
    ),
    "a weight with a unit": (
        "<acquisitionSystemInformation>",
        "<subjectInformation><patientWeight_kg>70 kg</patientWeight_kg></subjectInformation>"
        "<studyInformation><studyDate>20200101</studyDate></studyInformation><acquisitionSystemInformation>",
    ),
    "waveform and user parameters": (
        "</ismrmrdHeader>",
        "<userParameters><userParameterLong><name>a</name><value>1.5</value></userParameterLong></userParameters>"
        "<waveformInformation><waveformName>ecg</waveformName></waveformInformation></ismrmrdHeader>",
    ),
    "no limits": ("<encodingLimits></encodingLimits>", ""),
    "no conditions": (
        "<experimentalConditions><H1resonanceFrequency_Hz>0</H1resonanceFrequency_Hz></experimentalConditions>", "",
    ),
    "no field of view": ("<fieldOfView_mm><x>200</x><y>200</y><z>200</z></fieldOfView_mm>", ""),
    "no vendor": ("<acquisitionSystemInformation></acquisitionSystemInformation>", ""),
    "no name space": (' xmlns="http://www.ismrm.org/ISMRMRD"', ""),
}  # fmt: skip


@pytest.mark.parametrize("change", UNUSED.values(), ids=UNUSED)
def test_only_what_is_used_of_a_header_has_to_be_right(tmp_path, knee, change):
    xml = header(SIZES)
    assert change[0] in xml
    read = mridata.read(knee(xml.replace(*change)))
    np.testing.assert_array_equal(read.kspace[:, 0, 0, 0], mridata.read(tmp_path / "knee.h5").kspace[:, 0, 0, 0])
    assert (read.field_strength, read.acquisition, read.is_phantom) == (None, "3D FSE", False)
    assert read.spacing == ((1, 1, 1) if "fieldOfView" in change[0] else (20, 200 / 6, 50))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("<x>10</x>", "<x>1000000000</x>"), "Space/matrixSize/x is '1000000000'; expected a whole number from 1"),
        (("<x>10</x>", "<x>-10</x>"), "matrixSize/x is '-10'"),
        (("<x>10</x>", "<x>0</x>"), "matrixSize/x is '0'"),
        (("<x>10</x>", "<x>60000</x>"), "holds 6 lines of 10 samples, and the header's matrix has 6 lines of 60000"),
        (("<x>200</x>", "<x>inf</x>"), "fieldOfView_mm/x is 'inf'; expected a finite number"),
        (("<x>200</x>", "<x>NaN</x>"), "fieldOfView_mm/x is 'NaN'"),
        (("<encoding>", "<acquisitionSystemInformation><systemFieldStrength_T>inf</systemFieldStrength_T>"
          "</acquisitionSystemInformation><encoding>"), "systemFieldStrength_T is 'inf'"),
        (('<ismrmrdHeader', '<!DOCTYPE a [<!ENTITY b "c">]><ismrmrdHeader'), "it declares a document type"),
    ],
)  # fmt: skip
def test_sizes_of_a_header_that_cannot_be_are_refused(knee, change, words):
    xml = header(SIZES).replace("<acquisitionSystemInformation></acquisitionSystemInformation>", "")
    with pytest.raises(ValueError, match=rf"knee\.h5: .*{words}"):
        mridata.read(knee(xml.replace(*change)))


@pytest.mark.parametrize("read", [mridata.read, mridata.read_measured])
@pytest.mark.parametrize("post", [10, 12, 65535])
def test_discarding_a_whole_line_is_refused(tmp_path, read, post):
    lines = raster(noise((3, *SIZES)))
    for one in lines:
        one.discard_post = post
    path = write_ismrmrd(tmp_path / "knee.h5", header(SIZES), lines)
    with pytest.raises(ValueError, match=f"discard_pre 0 and discard_post {post} leave none of the 10 samples"):
        read(path)


def test_more_than_a_file_can_hold_is_refused_before_memory_is_taken(tmp_path, knee):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("kspace", (2**40, 2, 4, 4), np.complex64, chunks=(1, 2, 4, 4))[0] = 1
    with pytest.raises(ValueError, match=r"a\.h5: 'kspace', .* would take .* GB, and the file has"):
        fastmri.read(tmp_path / "a.h5")
    with h5py.File(knee(), "a") as file:
        file["dataset/data"].resize(50_000_000, axis=0)
    with pytest.raises(ValueError, match=r"knee\.h5: 'dataset/data', .* would take"):
        mridata.read(tmp_path / "knee.h5")


def test_a_huge_matrix_of_an_undersampled_scan_is_refused(knee):
    with pytest.raises(ValueError, match=r"knee\.h5: k-space of \d+ lines would take"):
        mridata.read_measured(knee(header((10, 60000, 60000))))


@pytest.mark.parametrize("value", [3e38, np.inf, np.nan])
def test_samples_too_large_to_compute_with_are_refused(tmp_path, value):
    kspace = noise((1, 3, 12, 12))
    kspace[0, 1, 3] = value
    paths = [
        write_fastmri(tmp_path / "a.h5", kspace),
        write_fastmri(tmp_path / "b.h5", kspace.astype(complex)),
        write_ismrmrd(tmp_path / "c.h5", header((12, 12, 1)), [line(kspace[0, :, y], step_1=y) for y in range(12)]),
        write_mat(tmp_path / "cine.mat", np.stack([kspace, kspace], axis=2)),
    ]
    for path in paths:
        with pytest.raises(ValueError, match=rf"{path.name}: the k-space.* holds NaN or infinite values, or larger"):
            formats.read(path)
    maps, mask = np.ones((3, 12, 12), np.complex64), np.ones((12, 12))
    with pytest.raises(ValueError, match=r"kspace is .* or holds NaN or infinite values"):
        Batch.from_slice(kspace[0], mask, maps)


def test_every_second_column_of_zeros_is_undersampled_also_without_a_mask(tmp_path):
    kspace = noise((2, 3, 16, 12))
    kspace[..., 1::2] = 0
    path = write_fastmri(tmp_path / "a.h5", kspace, header((16, 12, 1), (8, 8, 1)))
    with pytest.raises(ValueError, match=r"a\.h5: is undersampled"):
        fastmri.read(path)
    assert not fastmri.read_measured(path).is_full


def linked(file, name, other):
    file[name] = h5py.ExternalLink(other.name, name)


def virtual(file, name, other):
    layout = h5py.VirtualLayout((2, 3, 8, 8), np.complex64)
    layout[:] = h5py.VirtualSource("gone.h5", name, layout.shape)
    file.create_virtual_dataset(name, layout)


def external(file, name, other):
    file.create_dataset(name, (2, 3, 8, 8), np.float32, external=[("gone.bin", 0, h5py.h5f.UNLIMITED)])


def group(file, name, other):
    file.create_group(f"{name}/a")


def unwritten(file, name, other):
    file.create_dataset(name, (2, 3, 8, 8), np.complex64)


def dangling(file, name, other):
    file[name] = h5py.SoftLink("/nowhere")


ELSEWHERE = {
    linked: "is a link to other.h5; expected the data in the file itself", virtual: "lie in other files",
    external: "lie in other files", group: "is a group; expected a data set", unwritten: "were never written",
    dangling: "holds no",
}  # fmt: skip


@pytest.mark.parametrize(("kind", "words"), ELSEWHERE.items(), ids=[kind.__name__ for kind in ELSEWHERE])
def test_values_that_are_not_in_the_file_are_refused(tmp_path, kind, words):
    other = write_fastmri(tmp_path / "other.h5", noise((2, 3, 8, 8)))
    path = tmp_path / "a.h5"
    for name, place, suffix in ((fastmri, "kspace", ".h5"), (mridata, "dataset/data", ".h5"), (cine, "kspace", ".mat")):
        with h5py.File(path.with_suffix(suffix), "w") as file:
            kind(file, place, other)
            if name is mridata:
                file["dataset/xml"] = [header((8, 8, 1)).encode()]
        with pytest.raises(ValueError, match=rf"a\{suffix}: .*{words}"):
            name.read(path.with_suffix(suffix))
    prepared = write_prepared(tmp_path / "p.h5")
    with h5py.File(prepared, "a") as file:
        del file["target"]
        kind(file, "target", other)
    with pytest.raises(OSError, match=rf"p\.h5 is no prepared file or damaged .*{words}"):
        _ = Slices("test", (prepared,), masks.random_columns).shapes
    assert not prepare.is_whole(prepared)


@pytest.mark.parametrize("wrapped", [lambda text: [text], lambda text: np.array([text.encode()]), str.encode])
def test_texts_in_arrays_of_one_are_unwrapped(tmp_path, knee, wrapped):
    kspace, xml = noise((1, 2, 6, 6)), header((6, 6, 1), tesla=3)
    path = write_fastmri(tmp_path / "a.h5", kspace, wrapped(xml), acquisition=wrapped("AXT2"), patient_id=wrapped("p"))
    read = fastmri.read(path)
    assert (read.subject, read.acquisition, read.field_strength) == ("p", "AXT2", 3.0)
    assert fastmri.stated(path) == ("AXT2", 3.0)
    with h5py.File(knee(), "a") as file:
        xml = file["dataset/xml"][0]
        del file["dataset/xml"]
        file["dataset/xml"] = wrapped(xml.decode())
    assert mridata.read(tmp_path / "knee.h5").kspace.shape == (10, 3, 6, 4)


CHANGES = {
    "flipped": lambda x: x[..., ::-1].copy()[..., ::-1], "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "transposed": lambda x: np.asfortranarray(x), "a list": lambda x: x.tolist(),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_arrays_of_any_layout_make_the_same_batch(change):
    kspace = fft2c(coil_images((12, 10), 3))
    maps = relative_maps(kspace).astype(np.complex64)
    mask = np.random.default_rng(0).random((12, 10)) < 0.5
    plain, changed = Batch.from_slice(kspace, mask, maps), Batch.from_slice(*map(change, (kspace, mask, maps)))
    torch.testing.assert_close(changed.kspace, plain.kspace, rtol=0, atol=0)
    torch.testing.assert_close(changed.target, plain.target, rtol=0, atol=0)
    frozen = [np.broadcast_to(x, x.shape) for x in (kspace, mask, maps)]
    measured = Batch.from_measured(frozen[0] * mask, *frozen[:0:-1])
    torch.testing.assert_close(measured.kspace, plain.kspace, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="an array of object cannot be taken"):
        Batch.from_slice(kspace.astype(object), mask, maps)


def test_a_file_that_another_program_writes_to_is_not_called_damaged(tmp_path):
    path = write_fastmri(tmp_path / "a.h5", noise((1, 2, 6, 6)))
    command = "import h5py, sys; file = h5py.File(sys.argv[1], 'a'); print('open', flush=True); sys.stdin.read()"
    writer = subprocess.Popen([sys.executable, "-c", command, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with writer:
        assert writer.stdout.readline()
        with pytest.raises(BlockingIOError, match=r"a\.h5: cannot be read, another program writes to it; close that"):
            fastmri.read(path)
        writer.stdin.close()
    assert fastmri.read(path).kspace.shape == (1, 2, 6, 6)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.EIO])
def test_what_the_system_refuses_is_not_called_damaged(tmp_path, monkeypatch, number):
    raw, prepared = write_fastmri(tmp_path / "a.h5", noise((1, 2, 6, 6))), write_prepared(tmp_path / "p.h5")

    def refused(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(h5py, "File", refused)
    reads = [
        (raw, partial(fastmri.read, raw)),
        (prepared, partial(prepare.is_whole, prepared)),
        (prepared, lambda: Slices("test", (prepared,), masks.random_columns).shapes),
    ]
    for path, read in reads:
        with pytest.raises(OSError, match=rf"{path.name}: cannot be read, ") as error:
            read()
        assert error.value.errno == number and "delete" not in str(error.value) and "damaged" not in str(error.value)


def test_more_prepared_files_than_may_be_open_are_read(tmp_path):
    write_prepared(tmp_path / "p0.h5", n_slices=1, shape=(8, 8))
    for i in range(1, 100):
        (tmp_path / f"p{i}.h5").hardlink_to(tmp_path / "p0.h5") if i % 2 else (tmp_path / f"p{i}.h5").write_bytes(
            (tmp_path / "p0.h5").read_bytes()
        )
    command = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "from pathlib import Path\n"
        "from gleam.datasets.scans import PreparedFiles\n"
        "print(len(PreparedFiles(tuple(sorted(Path(sys.argv[1]).glob('p*.h5')))).shapes))"
    )
    done = subprocess.run([sys.executable, "-c", command, tmp_path], capture_output=True, text=True)
    assert done.stdout == "100\n", done.stderr


def test_a_file_that_is_prepared_again_is_read_again(tmp_path):
    path = write_prepared(tmp_path / "p.h5", seed=1)
    slices = Slices("test", (path,), partial(masks.random_columns, acceleration=2, center_fraction=0.2))
    before = slices[0].target
    path.unlink()
    write_prepared(path, seed=2)
    assert not torch.equal(slices[0].target, before)


def test_hidden_files_are_no_data(tmp_path):
    kspace = noise((1, 2, 6, 6))
    for folder, name in (("ocmr", "fs_0001.h5"), ("fastmri/multicoil_val", "a.h5"), ("cmrxrecon/P001", "cine_sax.mat")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / f"._{name}").write_bytes(b"\0\5\x16\7")
    with pytest.raises(FileNotFoundError, match="no cine series"):
        cine.find(tmp_path)
    assert fastmri.find(tmp_path, "AXT2") == []
    path = write_fastmri(tmp_path / fastmri.FOLDER / "a.h5", kspace, acquisition="AXT2")
    (tmp_path / "ocmr" / "fs_0001.h5").touch()
    assert fastmri.find(tmp_path, "AXT2") == [path] and cine.find(tmp_path) == [tmp_path / "ocmr" / "fs_0001.h5"]


LISTS = {
    "BOM and blanks": "\ufefffile, split\r\na.h5, train\r\nb.h5 ,val\r\nc.h5,test \r\n",
    "empty rows": "file,split,\r\na.h5,train,\r\n,,\r\nb.h5,val,\r\nc.h5,test,\r\n,,\r\n\r\n",
    "semicolons": "file;split\na.h5;train\nb.h5;val\nc.h5;test\n",
    "quotes": '"file", "split"\n"a.h5", "train"\nb.h5,val\nc.h5,test',
}


@pytest.mark.parametrize("text", LISTS.values(), ids=LISTS)
def test_lists_are_read_as_spreadsheets_save_them(tmp_path, text):
    (tmp_path / "splits").mkdir()
    for name in "abc":
        (tmp_path / f"{name}.h5").touch()
    (tmp_path / "splits" / "list.csv").write_text(text, newline="")
    found = files_by_split(tmp_path, "", "list.csv")
    assert {split: [path.name for path in paths] for split, paths in found.items()} == {
        "train": ["a.h5"], "val": ["b.h5"], "test": ["c.h5"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("file,split\nä.h5,train\n".encode("utf-16"), "cannot be read .*; save it as CSV in UTF-8"),
        (b"file,split\n\xe4.h5,train\n", "cannot be read"),
        (b"", "has no column file, split"),
        (b"file,split\n,train\n", "row 1 below the head names no file"),
    ],
)
def test_lists_that_cannot_be_read_are_named(tmp_path, content, words):
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "list.csv").write_bytes(content)
    with pytest.raises(ValueError, match=rf"list\.csv: {words}"):
        files_by_split(tmp_path, "", "list.csv")


def test_one_scan_in_two_splits_is_refused_whatever_its_name(tmp_path):
    paths = [write_fastmri(tmp_path / f"{k}.h5", fft2c(coil_images((24, 20), 3, seed=k))[None]) for k in range(3)]
    (tmp_path / "copy.h5").write_bytes(paths[0].read_bytes())
    make = partial(masks.random_columns, acceleration=2, center_fraction=0.2)
    splits = {"train": paths[:1], "val": paths[1:2], "test": paths[2:]}
    options = {"masks": make, "cache_dir": tmp_path / "cache", "calibrate": relative_maps}
    load.files(splits, **options)
    with pytest.raises(ValueError, match=r"copy\.h5: is the same scan as .*0\.h5, and they are in test and train"):
        load.files(splits | {"test": [paths[2], tmp_path / "copy.h5"]}, **options)


def test_zeros_over_the_lines_of_a_file_are_damage_and_no_endless_loop(tmp_path):
    sizes = (64, 24, 4)
    write_mridata(tmp_path / "whole.h5", noise((3, *sizes)), header(sizes))
    content = (tmp_path / "whole.h5").read_bytes()
    hdf5.check_heaps(tmp_path / "whole.h5")
    begun, n = time.monotonic(), len(content) // 4096
    for block in range(1, n, n // 12):
        path = tmp_path / f"{block}.h5"
        path.write_bytes(content[: 4096 * block] + bytes(4096) + content[4096 * (block + 1) :])
        try:
            mridata.read(path)
        except (OSError, ValueError) as error:
            assert str(error).startswith(str(path))
    assert time.monotonic() - begun < 60


def test_a_header_says_nothing_where_nothing_is_said():
    found = headers.parse("<a><encoding/></a>", "a.h5")
    assert (found.centers, found.trajectory, found.protocol, found.field_strength) == ((None, None), None, None, None)
    assert found.oversampling == 1 and not found.is_phantom
    with pytest.raises(ValueError, match=r"a\.h5: the ISMRMRD header cannot be read \(no encoding/encodedSpace"):
        _ = found.encoded


def no_file_beyond(n_bytes):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))


def test_a_disk_that_fills_while_a_file_is_prepared_is_one_sentence_and_no_crash(tmp_path):
    raw = write_fastmri(tmp_path / "a.h5", np.stack([fft2c(coil_images((32, 32), 4, seed=s)) for s in range(9)]))
    options = {"read": fastmri.read, "calibrate": relative_maps, "cache_dir": tmp_path / "cache"}
    limits = partial(no_file_beyond, 100_000)
    write = partial(prepare._prepare_one, raw, recipe={}, **options)
    outcome = isolated(write, named="cannot write", limit=limits, seconds=60)
    assert outcome.kind == "error" and "File too large; make room there and call again" in outcome.words, outcome
    assert not list((tmp_path / "cache").glob("*.h5")) and not list((tmp_path / "cache").glob(".*.part"))
    (prepared,) = prepare.prepare([raw], n_jobs=1, progress=False, **options)
    before = prepared.read_bytes()
    with pytest.raises(OSError, match="make room"), hdf5.written(prepared, 10**18):
        pass
    assert prepared.read_bytes() == before


def test_a_disk_without_room_for_a_prepared_file_is_told_before_it_is_calibrated(tmp_path, monkeypatch):
    raw = write_fastmri(tmp_path / "a.h5", noise((2, 3, 16, 16)))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=8 * 2 * 7 * 256 - 1))
    options = {"read": fastmri.read, "calibrate": relative_maps, "cache_dir": tmp_path / "cache"}
    with (
        monkeypatch.context() as patch,
        pytest.raises(OSError, match=r"cannot write .*a-.*\.h5: it needs 0\.0 MB and 0\.0"),
    ):
        patch.setattr(prepare, "coil_maps", None)
        prepare._prepare_one(raw, recipe={}, **options)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=8 * 2 * 7 * 256))
    assert prepare.is_whole(prepare._prepare_one(raw, recipe={}, **options)[0])
