import multiprocessing
import os
import time

import pytest
import torch
import torch.distributed as dist

from gleam import allocator, processes
from gleam.processes import ALONE, Team, TeamError, launch


@pytest.fixture
def watches():
    """Two watches of one team on one store, as two processes have them."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    return [processes._Watch(store, rank, 2) for rank in range(2)]


def test_a_team_of_one_has_nothing_to_exchange():
    entries = {"a": torch.ones(2), 3: "text"}
    assert ALONE.merge(entries) == entries and ALONE.is_first and ALONE.shows_progress
    with ALONE.telling_failures(), ALONE.talking():
        ALONE.wait_for_all()
    with pytest.raises(KeyError), ALONE.telling_failures():
        raise KeyError


def test_the_first_failure_is_what_everybody_hears(watches):
    first, second = watches
    assert first.failure() == second.failure() == ""
    team = Team(1, 2, second)
    with pytest.raises(ValueError), team.telling_failures():
        raise ValueError("the magnet quenched")
    first.tell("something else, later")
    assert first.failure() == "process 1 of 2 stopped: ValueError: the magnet quenched"
    assert second.failure() == "", "one's own failure is no reason to end by it"


def test_a_lost_connection_has_the_reason_that_the_other_gave(watches):
    first, second = watches
    second.tell("ValueError: no helium")
    with pytest.raises(TeamError, match="process 1 of 2 stopped: ValueError: no helium"), Team(0, 2, first).talking():
        raise RuntimeError("Connection closed by peer")
    with pytest.raises(KeyError), Team(0, 2, first).talking():
        raise KeyError("not of the network")


def test_silence_is_noticed_unless_the_process_has_left(watches, monkeypatch):
    first, second = watches
    now = [100.0]
    monkeypatch.setattr(processes.time, "monotonic", lambda: now[0])
    assert first._silent(30) == ""
    now[0] += 20
    second._beat(1)
    assert first._silent(30) == ""
    now[0] += 29
    assert first._silent(30) == "", "it was heard of 29 s ago"
    now[0] += 2
    assert first._silent(30).startswith("process 1 of 2 gave no sign of life for 30 s")
    second.leave()
    assert first._silent(30) == ""


def test_a_watch_ends_its_process_and_says_why(watches, monkeypatch, capsys):
    first, second = watches
    ended = []
    monkeypatch.setattr(processes, "_BEAT", 0.01)
    monkeypatch.setattr(os, "_exit", lambda code: (ended.append(code), first.leave()))
    second.tell("ValueError: the magnet quenched")
    first.run()
    assert ended == [1]
    assert "process 0 ends, because process 1 of 2 stopped: ValueError: the magnet quenched" in capsys.readouterr().err


def test_launched_processes_give_their_results_and_end():
    assert launch(os.path.join, 1, "a", "b") == ["a/b"]
    with pytest.raises(FileNotFoundError, match="no_such_folder"):
        launch(os.listdir, 1, "/no_such_folder")
    assert not multiprocessing.active_children()


def test_one_that_ends_by_itself_is_told_by_its_exit_code():
    started = time.monotonic()
    with pytest.raises(OSError, match="process 0 of 1 ended with exit code 3; training goes on from its checkpoint"):
        launch(os._exit, 1, 3)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("n", [0, -1, 1.5, "2"])
def test_a_senseless_number_of_processes_is_refused(n):
    with pytest.raises(ValueError, match=r"n_processes=.* must be a whole number of at least 1"):
        launch(os.getpid, n)


def test_incomplete_variables_of_a_launcher_are_named(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with pytest.raises(ValueError, match=r"MASTER_PORT.*start the processes with torchrun"):
        processes.join.__wrapped__()


def test_without_a_launcher_one_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert processes.join.__wrapped__() is ALONE


def test_the_allocator_takes_the_setting_or_says_that_it_cannot(monkeypatch):
    assert allocator.keep_freed_memory() in (True, False)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert allocator.keep_freed_memory.__wrapped__() is False
