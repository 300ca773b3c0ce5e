"""Make the book: phantoms where real data are missing, chapters that are stale, then the pages.

Called by `make reproduce`; `python notebooks/run.py --help` lists what it takes. Exit codes: 0 all done, 1 a chapter
or the book failed (everything that finished is kept), 2 an argument makes no sense, 130 interrupted.
"""

import argparse
import signal
import sys
from pathlib import Path

from driver import book, chapters, data, execute

ROOT = Path(__file__).resolve().parent.parent


def parse(argv):
    """Read the command line; an empty value means "not given", so that make can pass its variables through."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="all", choices=["all", "data", "notebooks", "book"])
    parser.add_argument("--profile", default="", help="quick or paper; default: paper with a GPU and the real data")
    parser.add_argument("--data", default="", help="folder with real data (data/README.md); default: data")
    parser.add_argument("--chapters", default="", help='some chapters, for example "01 04_mridata"; default: all')
    parser.add_argument("--jobs", default="", help="chapters run at the same time; default: the number of cores")
    return parser.parse_args(argv)


def plan(arguments, root):
    """Turn the arguments into (profile, chapters, data folder, jobs), or raise ValueError with one sentence."""
    selected = chapters.select(chapters.discover(root), arguments.chapters)
    data_dir = Path(arguments.data).expanduser().resolve() if arguments.data else root / "data"
    if not data_dir.is_dir():
        raise ValueError(f"The data folder '{arguments.data or 'data'}' does not exist (DATA=dir, see data/README.md).")
    if arguments.jobs and not (arguments.jobs.isdigit() and int(arguments.jobs) > 0):
        raise ValueError(f"JOBS must be a positive whole number, not '{arguments.jobs}'.")
    jobs = int(arguments.jobs or execute.n_cores())
    needed = data.needed_by(selected)
    profile, why = data.choose_profile(arguments.profile, needed, data_dir, root)
    print(f"Profile: {profile} ({why})", flush=True)
    return profile, selected, data_dir, jobs


def make(arguments, root):
    """Do what the arguments ask for; True if everything asked for is there at the end."""
    profile, selected, data_dir, jobs = plan(arguments, root)
    if arguments.what != "book":
        settings = chapters.read_settings(root, profile)
        given = {chapter.name: chapters.check_parameters(chapter, settings) for chapter in selected}
        folders = data.provide(data.needed_by(selected), data_dir, profile, settings["phantoms"], root, jobs)
        if arguments.what == "data":
            return True
        tasks = []
        for chapter in selected:
            supplied = {"profile": profile, "work_dir": f"../_work/{profile}"}
            supplied |= {name: data.relative(folder, profile, root) for name, folder in folders.items()}
            parameters = given[chapter.name] | {k: v for k, v in supplied.items() if k in chapter.declared}
            key = chapters.current_key(chapter, parameters, profile, folders, root)
            parameters |= {"n_jobs": jobs} if "n_jobs" in chapter.declared else {}  # does not change a result
            stale = chapters.why_stale(chapter, key)
            print(f"{chapter.name}: {f'{stale}, running' if stale else 'up to date'}", flush=True)
            if stale:
                tasks.append(execute.Task(chapter, parameters, key))
        if not execute.run_all(tasks, profile, root, jobs):
            return False
    if arguments.what == "notebooks":
        return True
    chapters.fill_in_missing(chapters.discover(root))
    return book.build(profile, root)


def main(argv=None, root=ROOT):
    """Run the driver and return its exit code."""
    arguments = parse(argv)
    try:
        return 0 if make(arguments, root) else 1
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted: what had finished is kept, and the next run goes on from there.", file=sys.stderr)
        return 130


def _interrupt(*_):
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(main())
