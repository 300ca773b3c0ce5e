import multiprocessing
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import psutil
import pytest
import torch
import torch.distributed as dist

from gleam import processes
from gleam.processes import allocator, reaching, watching
from gleam.processes.launching import launch
from gleam.processes.team import ALONE, Team, TeamError


@pytest.fixture
def watches():
    """Two watches of one team on one store, as two processes have them."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    return [watching.Watch(store, rank, 2) for rank in range(2)]


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


def test_silence_is_counted_in_rounds_unless_the_process_has_left(watches):
    first, second = watches
    first.listen()
    second.beat()
    n_rounds = int(30 / watching.BEAT)
    for _ in range(n_rounds):
        assert first.silence(30) == ""
        first.listen()
    assert first.silence(30) == "", "it was heard of one round later"
    first.listen()
    assert first.silence(30).startswith("process 1 of 2 gave no sign of life for 30 s")
    second.leave()
    first.listen()
    assert first.silence(30) == ""


def test_a_store_that_is_gone_ends_the_process_unless_all_is_over(watches, monkeypatch, capsys):
    ended = []
    monkeypatch.setattr(watching, "BEAT", 0.01)
    monkeypatch.setattr(os, "_exit", lambda code: ended.append(code))
    first, second = watches

    def gone(*_):
        if ended:
            second.over.set()
        raise RuntimeError("Broken pipe")

    monkeypatch.setattr(second, "beat", gone)
    second.run()
    assert ended and "the store where the processes meet is gone" in capsys.readouterr().err
    ended.clear()
    second.over.clear()
    first.leave()
    second.listen()
    second.run()
    assert not ended


def test_a_frozen_store_is_noticed_by_a_thread_that_does_not_use_it(watches, monkeypatch, capsys):
    first, _ = watches
    monkeypatch.setattr(watching, "BEAT", 0.01)
    monkeypatch.setattr(watching, "PATIENCE", 0.05)
    monkeypatch.setattr(os, "_exit", lambda code: first.over.set())
    monkeypatch.setattr(first, "is_alive", lambda: True)
    first._guard()
    assert "does not answer" in capsys.readouterr().err


def test_every_attempt_has_a_name_of_its_own_whatever_lies_in_the_store():
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    names = []
    for _ in range(3):
        with ThreadPoolExecutor(3) as pool:
            met = [pool.submit(processes.team._meet, other(store), rank, 3) for rank in (2, 0, 1)]
            names.append({one.result(timeout=20) for one in met})
    assert all(len(one) == 1 for one in names) and len(set.union(*names)) == 3


def other(store):
    """Another connection to ``store``, as another process has it."""
    return dist.TCPStore("127.0.0.1", store.port, is_master=False, wait_for_workers=False)


def test_who_waits_in_vain_is_told(monkeypatch):
    monkeypatch.setattr(processes.team, "_TO_MEET", 0.2)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with pytest.raises(OSError, match=r"process 0 of 2: not all of the others came within 0\.2 s"):
        processes.team._meet(store, 0, 2)


def test_a_watch_ends_its_process_and_says_why(watches, monkeypatch, capsys):
    first, second = watches
    ended = []
    monkeypatch.setattr(watching, "BEAT", 0.01)
    monkeypatch.setattr(os, "_exit", lambda code: (ended.append(code), first.leave()))
    second.tell("ValueError: the magnet quenched")
    first.run()
    assert ended == [1]
    assert "process 0 ends, because process 1 of 2 stopped: ValueError: the magnet quenched" in capsys.readouterr().err


ENDING = """
import atexit
import time
from contextlib import suppress
from datetime import timedelta

import torch.distributed as dist

from gleam.processes import watching


def listen():
    with suppress(RuntimeError):
        store.wait(["never set"], timedelta(milliseconds=30))


watching.BEAT = 0.0
store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
watch = watching.Watch(store, 0, 3)
watch.listen = listen
watch.start()
atexit.register(watch.leave)
time.sleep(0.1)
"""


@pytest.mark.slow
def test_a_process_that_has_left_does_not_abort_while_its_watch_asks_the_store():
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", ENDING], capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr


def test_launched_processes_give_their_results_and_end():
    assert launch(os.path.join, 1, "a", "b") == ["a/b"]
    with pytest.raises(FileNotFoundError, match="no_such_folder"):
        launch(os.listdir, 1, "/no_such_folder")
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_what_ends_a_program_does_not_end_the_one_that_launched_it():
    with pytest.raises(OSError, match="SystemExit: 0"):
        launch(sys.exit, 1, 0)


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


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"RANK": "5"}, "RANK=5 of WORLD_SIZE=2: ranks are counted from 0 to 1"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE='0' must be the number of processes"),
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE='abc' must be the number of processes"),
        ({"MASTER_PORT": "99999"}, "MASTER_PORT=99999 is no port"),
    ],
    ids=str,
)
def test_variables_of_a_launcher_that_make_no_sense_are_named_at_once(change, says, monkeypatch):
    variables = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in (variables | change).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=says):
        processes.join.__wrapped__()


def listeners(process):
    return {one.laddr for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN}


def listening(before):
    """Addresses at which processes of this one's parent, with it, listen, without those of `before`."""
    team = processes.join()
    team.merge({team.rank: torch.ones(1)})
    family = [psutil.Process(os.getppid()), *psutil.Process(os.getppid()).children()]
    found = {address for process in family for address in listeners(process)} - before
    team.wait_for_all()
    return sorted({address.ip for address in found})


@pytest.mark.slow
def test_launched_processes_listen_on_the_loopback_interface_only():
    """What arrives there is unpickled, which runs what the sender likes."""
    before = listeners(psutil.Process())  # of other tests in this process
    assert launch(partial(listening, before), 2) == [["127.0.0.1"]] * 2


@pytest.fixture
def other_program():
    """The port of a program that listens and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("rank", "host", "says"),
    [
        (0, "127.0.0.1", r"MASTER_PORT=\d+ is taken by another program on this machine: choose another"),
        (1, "127.0.0.1", r"MASTER_PORT=\d+ of 127\.0\.0\.1 does not answer .*; another program may use it"),
        (0, "no-such-host.invalid", r"MASTER_ADDR=no-such-host\.invalid cannot be reached \(.*\): expected the name"),
        (1, "no-such-host.invalid", r"MASTER_ADDR=no-such-host\.invalid cannot be reached \(.*\): expected the name"),
    ],
)
def test_a_place_to_meet_that_is_taken_or_unknown_is_said_soon(rank, host, says, other_program, monkeypatch):
    monkeypatch.setattr(reaching, "PATIENCE", 2)
    variables = {"WORLD_SIZE": "2", "RANK": str(rank), "MASTER_ADDR": host, "MASTER_PORT": str(other_program)}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    started = time.monotonic()
    with pytest.raises(OSError, match=says):
        processes.join.__wrapped__()
    assert time.monotonic() - started < 15


def test_a_process_that_comes_late_is_waited_for():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with ThreadPoolExecutor(1) as pool:
        client = pool.submit(reaching.connect, "127.0.0.1", port, False, 20)
        time.sleep(1)
        assert not client.done()
        server = reaching.connect("127.0.0.1", port, True, 20)
        server.set("a", "b")
        assert client.result(20).get("a") == b"b"
    with (
        pytest.raises(OSError, match=r"process 0 did not come to 127\.0\.0\.1:.* within 0\.3 s"),
        socket.socket() as closed,
    ):
        closed.bind(("127.0.0.1", 0))  # and nobody listens
        reaching.connect("127.0.0.1", closed.getsockname()[1], False, 0.3)


def test_without_a_launcher_one_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert processes.join.__wrapped__() is ALONE


def test_the_allocator_takes_the_setting_or_says_that_it_cannot(monkeypatch):
    assert allocator.keep_freed_memory() in (True, False)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert allocator.keep_freed_memory.__wrapped__() is False
