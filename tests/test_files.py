"""Files are written whole or not at all, and what a killed process left is removed by the next."""

import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest

from gleam import files, masks
from gleam.processes.sending import packed

KILLED = """
import sys, time
from gleam.files import written_whole
with written_whole(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print(temporary.name, flush=True)
    time.sleep(100)
"""


def begin(path):
    """A process that writes `path` and does not end; (process, name of its unfinished file)."""
    command = [sys.executable, "-c", KILLED, path]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline().strip()


def unfinished(folder):
    return {path.name for path in folder.glob(".*.part")}


def test_leftovers_of_a_kill_are_removed_by_the_next_write_and_files_in_progress_stay(tmp_path):
    (dead, left), (living, in_progress) = begin(tmp_path / "a.h5"), begin(tmp_path / "b.h5")
    try:
        dead.send_signal(signal.SIGKILL)
        dead.communicate()
        assert unfinished(tmp_path) == {left, in_progress}
        files.write_json(tmp_path / "other.json", {})
        assert unfinished(tmp_path) == {in_progress}
    finally:
        living.kill()
        living.communicate()


@pytest.mark.parametrize("number", ["", "0000-1-"], ids=["unnamed", "another machine"])
def test_leftovers_whose_process_is_unknown_are_removed_after_a_day_and_files_of_other_programs_never(number, tmp_path):
    names = f".a.{number}01234567.part", f".b.{number}01234567.part", ".c.part"
    old, new, others = (tmp_path / name for name in names)
    for path in (old, new, others):
        path.touch()
    for path in (old, others):
        os.utime(path, (time.time() - 2 * files.DAY,) * 2)
    files.write_json(tmp_path / "c.json", {})
    assert unfinished(tmp_path) == {new.name, others.name}


def test_an_interrupt_at_any_line_leaves_no_unfinished_file(tmp_path):
    """A notebook's stop button may hit between the making of the file and the first line of the block."""

    def interrupt(frame, event, argument):
        is_ours = frame.f_code.co_name in ("written_whole", "remove_leftovers", "_writable")
        lines.append(frame.f_lineno) if is_ours and event == "line" else None
        if len(lines) == stop_at:
            sys.settrace(None)
            raise KeyboardInterrupt
        return interrupt

    stop_at, n_interrupted = 1, 0
    while stop_at < 40:
        lines = []
        sys.settrace(interrupt)
        try:
            files.write_json(tmp_path / "a.json", {})
        except KeyboardInterrupt:
            n_interrupted += 1
        finally:
            sys.settrace(None)
        if len(lines) < stop_at:
            break
        assert unfinished(tmp_path) == set(), f"line {lines[-1]} of {files.__file__}"
        stop_at += 1
    assert n_interrupted > 5


def of_a_cell(source):
    """The function `mask` of a notebook's cell, whose source is kept nowhere."""
    cell = {"__name__": "__main__"}
    exec(source, cell)
    return cell["mask"]


def test_functions_of_one_name_that_do_something_else_are_two_keys():
    one = of_a_cell("def mask(shape, seed=0):\n    return shape if seed in {'a', 'b'} else 1")
    same = of_a_cell("def mask(shape, seed=0):\n    # said\n    return shape if seed in {'b', 'a'} else 1")
    other = of_a_cell("def mask(shape, seed=0):\n    return shape if seed in {'a', 'b'} else 2")
    inner = of_a_cell("def mask(shape, seed=0):\n    return [i + 1 for i in shape]")
    changed = of_a_cell("def mask(shape, seed=0):\n    return [i + 2 for i in shape]")
    assert files.described(one) == files.described(same) != files.described(other)
    assert files.described(partial(inner, seed=1)) != files.described(partial(changed, seed=1))


def test_a_function_of_a_cell_has_the_same_key_in_another_process():
    source = "def mask(shape, seed=0):\n    return shape if seed in {'a', 'b', 'c'} else [i for i in shape]"
    work = packed(of_a_cell(source)).hex()
    reading = (
        f"import pickle; from gleam import files; print(files.described(pickle.loads(bytes.fromhex('{work}')))['code'])"
    )
    there = subprocess.run([sys.executable, "-c", reading], capture_output=True, text=True, check=True).stdout.strip()
    assert there == files.described(of_a_cell(source))["code"]


def test_functions_of_the_project_are_known_by_their_name_alone():
    assert set(files.described(masks.random_columns)) == {"function", "arguments", "positional"}


@pytest.mark.parametrize(
    ("value", "is_whole"),
    [(1, True), (np.int64(3), True), (4, False), (0, False), (2.0, False), ("2", False), (True, False)],
)
def test_whole_numbers_are_those_of_python_and_numpy_within_their_limits(value, is_whole):
    assert files.is_whole_number(value, most=3) is is_whole
