import contextlib
import csv
import functools
import http.server
import io
import os
import threading
import time

import h5py
import numpy as np
import pytest

from gleam.datasets import download, fetching, splits

UUIDS = ["1b197efe-9865-43be-ac24-f237c380513e", "226e710b-725b-4bec-840e-bf47be2b8a44"]


@pytest.fixture
def server(tmp_path):
    """Serves tmp_path/server on the loopback; .paths are the requests it got."""
    folder = tmp_path / "server"
    folder.mkdir()
    for i, uuid in enumerate(UUIDS):
        with h5py.File(folder / uuid, "w") as file:
            file["number"] = i

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            self.server.paths.append(self.path)
            if self.server.answer is None:
                super().do_GET()
            else:
                self.server.answer(self)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as httpd:
        httpd.paths, httpd.folder, httpd.answer = [], folder, None
        httpd.url = f"http://127.0.0.1:{httpd.server_port}"
        thread = threading.Thread(target=httpd.serve_forever, args=(0.02,))
        thread.start()
        yield httpd
        httpd.shutdown()
        thread.join()


def get(server, data_dir, files=UUIDS, **more):
    return download.mridata(data_dir, files, base_url=server.url, progress=False, **more)


def checksums(data_dir):
    with open(data_dir / "mridata" / "checksums.csv", newline="") as file:
        return {row["file"]: row["sha256"] for row in csv.DictReader(file)}


def test_files_are_fetched_once_and_their_hashes_recorded(server, tmp_path):
    paths = get(server, tmp_path)
    assert [path.read_bytes() for path in paths] == [(server.folder / uuid).read_bytes() for uuid in UUIDS]
    assert sorted(checksums(tmp_path)) == [f"{uuid}.h5" for uuid in UUIDS]
    assert get(server, tmp_path) == paths
    assert server.paths == [f"/{uuid}" for uuid in UUIDS]


def test_goes_on_where_it_stopped(server, tmp_path):
    with pytest.raises(OSError, match=r"ffffffff.* could not be downloaded to .*; run again"):
        get(server, tmp_path, [UUIDS[0], "ffffffff-ffff-ffff-ffff-ffffffffffff"])
    assert sorted(checksums(tmp_path)) == [f"{UUIDS[0]}.h5"]
    get(server, tmp_path)
    assert server.paths.count(f"/{UUIDS[0]}") == 1


def test_files_of_the_split_list_are_the_default(server, tmp_path):
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / splits.KNEES).write_text(f"file,split\n{UUIDS[1]}.h5,train\n")
    assert [path.stem for path in get(server, tmp_path, None)] == UUIDS[1:]


def test_a_file_that_changed_is_named(server, tmp_path):
    path = get(server, tmp_path)[0]
    path.write_bytes(path.read_bytes() + b"!")
    with pytest.raises(ValueError, match=r"13e\.h5: its SHA-256 is .* is on record; delete it and run again"):
        get(server, tmp_path)
    path.unlink()
    get(server, tmp_path)


def test_a_given_list_of_hashes_goes_first(server, tmp_path):
    listed = tmp_path / "hashes.csv"
    listed.write_text(f"file,sha256\n{UUIDS[0]}.h5,{'0' * 64}\n")
    with pytest.raises(ValueError, match=r"000000000000\.\.\. is on record"):
        get(server, tmp_path, checksums=listed)
    assert not (tmp_path / "mridata" / "checksums.csv").exists()


def test_a_page_instead_of_data_is_not_kept(server, tmp_path):
    (server.folder / UUIDS[0]).write_text("<html>please log in</html>")
    with pytest.raises(OSError, match="did not give an HDF5 file"):
        get(server, tmp_path)
    assert not list((tmp_path / "mridata").glob("*.h5"))


def answered(status, body, **headers):
    """An answer of the server that need not keep to what it announces; a body of several pieces comes slowly."""

    def answer(handler):
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        with contextlib.suppress(ConnectionError):  # the other side may have had enough
            for piece in [body] if isinstance(body, bytes) else body:
                handler.wfile.write(piece)
                time.sleep(0 if isinstance(body, bytes) else 0.1)

    return answer


def whole(size=40_000):
    """The bytes of an HDF5 file of about `size` bytes."""
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file["x"] = np.arange(size // 8)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (answered(200, whole()[:20_000]), "it did not give a whole HDF5 file .*cut short or damaged"),
        (answered(200, whole()[:20_000], Content_Length=len(whole())), "Connection broken"),
        (answered(206, whole(), Content_Length=len(whole())), "status 206, not with the whole file"),
        (answered(200, whole()[:8] + bytes(40_000)), "it did not give a whole HDF5 file"),
        (answered(200, whole() + bytes(9 * len(whole()))), "and the HDF5 file in them has"),
        (answered(200, whole(), Content_Length=10**15), "larger than 64 GB"),
        (answered(200, b"<html>please log in</html>"), "did not give an HDF5 file"),
        (answered(200, [b"x"] * 30), "not complete after 0.000138"),
    ],
    ids=["cut", "cut, length known", "part", "zeros", "long", "huge", "page", "slow"],
)
def test_what_is_not_a_whole_file_is_not_kept(answer, says, server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "MAX_SECONDS", 0.5)
    server.answer = answer
    with pytest.raises(OSError, match=rf"^http.* could not be downloaded to .*{says}"):
        get(server, tmp_path, UUIDS[:1])
    assert not [path for path in (tmp_path / "mridata").iterdir() if path.is_file()]
    server.answer = None
    assert get(server, tmp_path, UUIDS[:1])[0].is_file()


def test_a_truncated_file_that_was_accepted_before_is_named_and_leftovers_are_removed(server, tmp_path):
    (path,) = get(server, tmp_path, UUIDS[:1])
    path.write_bytes(path.read_bytes()[:-100])
    (path.parent / "checksums.csv").unlink()
    leftovers = [path.with_name(name) for name in (".a.h5.01234567.part", ".b.h5.01234567.part")]
    for leftover in leftovers:
        leftover.touch()
    os.utime(leftovers[0], (0, 0))
    with pytest.raises(OSError, match=r"13e\.h5 is not a whole HDF5 file .*; delete it to fetch it again"):
        get(server, tmp_path, UUIDS[:1])
    assert [leftover.exists() for leftover in leftovers] == [False, True]  # the other may be in progress


def test_no_uuid_is_named(server, tmp_path):
    with pytest.raises(ValueError, match=r"'\.\./x' is no file of mridata.org"):
        get(server, tmp_path, ["../x"])
    assert server.paths == []


def test_missing_fastmri_files_are_named(tmp_path):
    (tmp_path / "splits").mkdir()
    names = [f"file_brain_AXT2_{i}.h5" for i in range(5)]
    (tmp_path / "splits" / splits.BRAINS).write_text("\n".join(["file,split", *(f"{name},val" for name in names)]))
    folder = tmp_path / download.FOLDER
    folder.mkdir(parents=True)
    (folder / names[0]).touch()
    assert download.fastmri_missing(tmp_path) == names[1:]
    with pytest.raises(FileNotFoundError, match=r"4 files are missing .*_1\.h5.* and 1 more.*fastmri\.med\.nyu\.edu"):
        download.check_fastmri(tmp_path)
    for name in names:
        (folder / name).touch()
    download.check_fastmri(tmp_path)


HEARTS = ["fs_0001_1_5T.h5", "fs_0012_3T.h5"]


@pytest.fixture
def ocmr(server):
    """OCMR's bucket on the same server: a table of three series, one of them undersampled."""
    (server.folder / "data").mkdir()
    for i, name in enumerate([*HEARTS, "us_0001_3T.h5"]):
        with h5py.File(server.folder / "data" / name, "w") as file:
            file["number"] = i
    rows = [
        "file name,scn,smp,ech",
        *(f"{name},30pris,fs,sym" for name in HEARTS),
        ",,,",
        "us_0001_3T.h5,30pris,pse,asy",
    ]
    (server.folder / "ocmr_data_attributes.csv").write_text("\n".join(rows))
    return server


def get_hearts(server, data_dir, files=None, **more):
    return download.ocmr(data_dir, files, base_url=server.url, progress=False, **more)


def test_fully_sampled_hearts_of_the_table_are_fetched_once_and_their_hashes_recorded(ocmr, tmp_path):
    paths = get_hearts(ocmr, tmp_path)
    assert paths == [tmp_path / "ocmr" / name for name in HEARTS]
    assert [path.read_bytes() for path in paths] == [(ocmr.folder / "data" / name).read_bytes() for name in HEARTS]
    with open(tmp_path / "ocmr" / "checksums.csv", newline="") as file:
        assert [row["file"] for row in csv.DictReader(file)] == HEARTS
    assert get_hearts(ocmr, tmp_path) == paths
    assert ocmr.paths == ["/ocmr_data_attributes.csv", *(f"/data/{name}" for name in HEARTS)]
    paths[0].write_bytes(b"other")
    with pytest.raises(ValueError, match=r"fs_0001_1_5T\.h5: its SHA-256 is .* is on record"):
        get_hearts(ocmr, tmp_path)


def test_hearts_of_the_split_list_go_first(ocmr, tmp_path):
    (tmp_path / "splits").mkdir()
    rows = ["file,split", f"ocmr/{HEARTS[1]},train", "cmrxrecon/FullSample/P001/cine_sax.mat,test"]
    (tmp_path / "splits" / splits.HEARTS).write_text("\n".join(rows))
    assert [path.name for path in get_hearts(ocmr, tmp_path)] == HEARTS[1:]
    assert ocmr.paths == [f"/data/{HEARTS[1]}"]


@pytest.mark.parametrize("name", ["us_0001_3T.h5", "../fs_0001.h5", "fs_0001_1_5T"])
def test_no_fully_sampled_heart_is_named(ocmr, tmp_path, name):
    with pytest.raises(ValueError, match=rf"'{name}' is none of OCMR's fully sampled series"):
        get_hearts(ocmr, tmp_path, [name])
    assert ocmr.paths == []


def test_a_table_that_is_none_is_not_kept(ocmr, tmp_path):
    (ocmr.folder / "ocmr_data_attributes.csv").write_text("<html>moved</html>")
    with pytest.raises(ValueError, match=r"ocmr_data_attributes\.csv: has no column file name, smp"):
        get_hearts(ocmr, tmp_path)
    assert not list((tmp_path / "ocmr").glob("*.csv"))


def test_missing_cmrxrecon_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cmrxrecon: no fully sampled cine_\*\.mat is there; .* registration"):
        download.check_cmrxrecon(tmp_path)
    undersampled = tmp_path / "cmrxrecon" / "AccFactor04" / "P001" / "cine_sax.mat"
    undersampled.parent.mkdir(parents=True)
    undersampled.touch()
    with pytest.raises(FileNotFoundError, match="no fully sampled"):
        download.check_cmrxrecon(tmp_path)
    path = tmp_path / "cmrxrecon" / "FullSample" / "P001" / "cine_sax.mat"
    path.parent.mkdir(parents=True)
    path.touch()
    download.check_cmrxrecon(tmp_path)
    (tmp_path / "splits").mkdir()
    other = "cmrxrecon/FullSample/P002/cine_sax.mat"
    (tmp_path / "splits" / splits.HEARTS).write_text(f"file,split\n{path.relative_to(tmp_path)},train\n{other},val\n")
    with pytest.raises(FileNotFoundError, match=rf"1 files are missing, such as {other}; .*cmrxrecon\.github\.io"):
        download.check_cmrxrecon(tmp_path)


@pytest.mark.parametrize("text", [None, "name,split\na,b\n"])
def test_missing_or_wrong_split_list_is_named(tmp_path, text):
    path = tmp_path / "list.csv"
    if text:
        path.write_text(text)
    with pytest.raises((FileNotFoundError, ValueError), match=r"list\.csv: (no such list|has no column file)"):
        splits.read_csv(path, ("file",))


def test_command_line(server, ocmr, tmp_path):
    download.main(["mridata", str(tmp_path), UUIDS[0], "--base-url", server.url])
    assert (tmp_path / "mridata" / f"{UUIDS[0]}.h5").is_file()
    download.main(["ocmr", str(tmp_path), HEARTS[0], "--base-url", ocmr.url])
    assert (tmp_path / "ocmr" / HEARTS[0]).is_file()
    for data, words in {"fastmri": "154 files are missing", "cmrxrecon": "need registration"}.items():
        with pytest.raises(SystemExit) as stopped:
            download.main([data, str(tmp_path)])
        assert words in stopped.value.code
