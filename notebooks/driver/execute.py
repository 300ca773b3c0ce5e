"""Run chapters, several at a time, each in its own process; publish each on success only."""

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from driver import chapters, data, pages
from driver.files import write_text
from driver.progress import Progress

PATIENCE = 10  # seconds that a process has to stop when it is asked


@dataclass(frozen=True)
class Task:
    """One chapter to run, with its parameters and the key that its result will carry."""

    chapter: chapters.Chapter
    parameters: dict
    key: dict


def n_cores():
    """Cores this process may use."""
    from gleam import files  # brings torch along

    return files.n_cores()


def run_all(tasks, profile, root, jobs):
    """Run the tasks, `jobs` at a time; True if all succeeded. The results of those that did are kept in any case."""
    remove_leftovers(root / "_work")
    if not tasks:
        return True
    (root / "_work").mkdir(exist_ok=True)
    # without a GPU the cores serve processes (n_jobs in the chapters): threads that wait for each other are slow
    n_threads = max(1, n_cores() // min(jobs, len(tasks))) if data.has_gpu() else 1
    children = Children()
    with (
        tempfile.TemporaryDirectory(dir=root / "_work", prefix=f"run-{os.getpid()}-") as scratch,
        Progress() as progress,
    ):
        pool = ThreadPoolExecutor(jobs)
        try:
            runs = [pool.submit(_run, t, profile, root, Path(scratch), n_threads, children, progress) for t in tasks]
            results = [run.result() for run in runs]
        except BaseException:
            children.end()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return all(results)


def remove_leftovers(work):
    """Remove the folders of runs that were killed: their process is gone or, where no name tells, a day old."""
    from gleam.files import is_running  # brings torch along

    for folder in work.glob("run-*"):
        pid = re.match(r"run-(\d+)-", folder.name)
        if is_running(int(pid[1])) if pid else time.time() - folder.stat().st_mtime < 24 * 3600:
            continue
        shutil.rmtree(folder, ignore_errors=True)


def _run(task, profile, root, scratch, n_threads, children, progress):
    name, start = task.chapter.name, time.monotonic()
    executed = scratch / f"{name}.ipynb"
    order = scratch / f"{name}.json"
    order.write_text(json.dumps(task.parameters))
    command = [sys.executable, "driver/papermill_one.py", task.chapter.source.name]
    command += [os.path.relpath(path, root / "notebooks") for path in (executed, order)]
    child = children.start(command, cwd=root / "notebooks", env=_environment(root, n_threads))
    last = ""
    with child.stdout:
        for line in _lines(child):
            last = line
            progress.show(name, line)
    failure = pages.complaint_in(executed) if child.wait() == 0 else None
    if failure == "":
        pages.publish(executed, task.chapter, task.key, root)
        progress.done(name, f"done in {time.monotonic() - start:.0f} s")
        return True
    if not children.ended:
        kept = root / "_work" / profile / "failed" / f"{name}.ipynb"
        where = ""
        if executed.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            os.replace(executed, kept)
            where = f" (see {kept.relative_to(root).as_posix()})"
        progress.done(name, f"FAILED: {failure or error_in(kept) or last or 'the kernel died'}{where}")
    return False


# widget bars of tqdm.auto reach neither the driver's live line nor a static page; text bars do
TEXT_PROGRESS = """from tqdm import auto as _auto, std as _std
_auto.tqdm, _auto.trange = _std.tqdm, _std.trange
del _auto, _std
"""


def _environment(root, n_threads):
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    # the venv's kernel and no personal start-up files, so that a chapter gives the same pages everywhere
    profile = root / "_work" / "ipython"
    write_text(profile / "profile_default" / "startup" / "00-text-progress.py", TEXT_PROGRESS)
    own = {"JUPYTER_PREFER_ENV_PATH": "1", "IPYTHONDIR": str(profile), "PYTHONUNBUFFERED": "1"}
    own["MPLCONFIGDIR"] = str(root / "_work" / "matplotlib")  # a read-only home would be complained about on the page
    return os.environ | dict.fromkeys(threads, str(n_threads)) | own


def _lines(child):
    """Lines of a process as they come, where a carriage return ends a line too."""
    rest = b""
    while chunk := _chunk(child):
        *whole, rest = re.split(rb"(?:\r|\n|\x1b\[[0-9;]*[A-Za-z])+", rest + chunk)
        yield from (line.decode(errors="replace").strip() for line in whole if line.strip())
    if rest.strip():
        yield rest.decode(errors="replace").strip()


def _chunk(child):
    """The next bytes of a process; none at its end, also if something that it left behind holds its output open."""
    stream = child.stdout.fileno()
    while not select.select([stream], [], [], 0.5)[0]:
        if child.poll() is not None:
            return b""
    return os.read(stream, 65536)


def error_in(path):
    """One line on the error in a half-run notebook: type, message and the line of the cell; "" if there is none."""
    if not path.exists():
        return ""
    try:
        cells = chapters.read_notebook(path).cells
    except OSError:  # the process died while it wrote
        return ""
    for cell in cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(output.traceback))
                line = re.search(r"^-+> *\d+ (.*)$", trace, re.MULTILINE)
                message = " ".join(output.evalue.split())
                return f"{output.ename}: {message}" + (f" [in the cell line: {line[1].strip()}]" if line else "")
    return ""


class Children:
    """The processes started so far, so that an interrupt ends them all, and starts no more."""

    def __init__(self):
        self._all, self._lock, self.ended = [], threading.Lock(), False

    def start(self, command, **options):
        """Start a process in a session of its own, its two output streams joined in one pipe."""
        with self._lock:
            if self.ended:
                raise KeyboardInterrupt
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                # Ctrl-C reaches the driver alone, which then ends the whole session
                start_new_session=True,
                **options,
            )
            self._all.append(child)
            return child

    def end(self):
        """Ask every process to stop (papermill then stops its kernel), and kill those that do not."""
        with self._lock:
            self.ended = True
            running = [child for child in self._all if child.poll() is None]
        for child in running:
            os.killpg(child.pid, signal.SIGTERM)
        for child in running:
            try:
                child.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
